"""RealismScoreWeights: how much each image counts in training, by its score."""

from __future__ import annotations

import json

import torch

from ..realism_core.plots.score_weights import score_weight_plot
from ..realism_core.training import score_weights as weighting
from .comfy import io, schema, show_text, ui
from .gating import column_of, first
from .sockets import Scores


class RealismScoreWeights(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismScoreWeights",
            display_name="Realism Score Weights",
            category="realism/train",
            description=(
                "Turns the scores of training images into a weight for each, so that Realism Train LoRA "
                "learns more from the better ones: by rank, by softmax, or only from those that reach a "
                "threshold. Their mean is 1, so that the learning rate keeps its meaning."
            ),
            search_aliases=[
                "reward weighted training", "weight images by score", "rank weights", "softmax weights",
                "self improve",
            ],
            is_input_list=True,
            inputs=[
                Scores.Input(
                    "scores",
                    tooltip="The scores of the training images, in the order of their latents: one table or "
                    "a list, from Realism Score or Realism Score Column.",
                ),
                io.String.Input(
                    "metric", default="typicality",
                    tooltip="The column to weight by: typicality, p_photo, radius_..., one that Realism "
                    "Score Column joined, or `combined`. A wrong name lists them all.",
                ),
                io.Combo.Input(
                    "kind", options=list(weighting.KINDS), default="rank",
                    tooltip="rank: by the place among the images, whatever the scores' unit. softmax: by how "
                    "far scores are apart. threshold: those that reach `value` alike, the others not at "
                    "all.",
                ),
                io.Float.Input(
                    "value", default=1.0, min=-1e9, max=1e9, step=0.01, round=False,
                    tooltip="rank: the power; 1 is linear, 2 prefers the best more, 0.5 less. softmax: the "
                    "temperature, in standard deviations of the scores; lower prefers the best more. "
                    "threshold: the score to reach (real_band: how far outside is still good).",
                ),
                io.Combo.Input(
                    "better", options=list(weighting.BETTER), default="auto", optional=True,
                    tooltip="Which scores are the better ones. auto: as the column itself says. real_band: "
                    "the nearer to the middle 90 % of the profile's photographs; all inside are alike.",
                ),
                io.Combo.Input(
                    "on_unknown", options=list(weighting.UNKNOWN), default="leave_out", optional=True,
                    tooltip="An image for which the metric has no value. leave_out: weight 0. average: "
                    "weight 1, as the mean of the others. error: stop and say which.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="weights", is_output_list=True,
                    tooltip="One weight an image, with mean 1: for image_weights of Realism Train LoRA.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="What was done, in numbers, as JSON: how many images count, are left out, are "
                    "unknown, and how many equally weighted ones they are worth.",
                ),
                io.Image.Output(
                    display_name="plot", tooltip="The weights, from the image that counts most on."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, scores, metric, kind, value, better=None, on_unknown=None) -> io.NodeOutput:
        metric, on_unknown = metric[0].strip(), first(on_unknown, "leave_out")
        column = column_of(scores, metric)
        columns = [table.columns[table.names.index(metric)] for table in scores]
        end, real = weighting.better_end(columns, first(better, "auto"))
        weights = weighting.score_weights(column, kind[0], value[0], end, real, on_unknown)
        unknown = int(torch.isnan(column).sum())
        report = {
            "metric": metric,
            "kind": kind[0],
            "value": value[0],
            "better": end,
            "real_band": real,
            "on_unknown": on_unknown,
            "images": len(weights),
            "unknown": unknown,
            "with_weight_0": int((weights == 0).sum()),
            "worth_images": weighting.effective_count(weights),
            "lowest": float(weights.min()),
            "highest": float(weights.max()),
        }
        left_out = f", {report['with_weight_0']} with weight 0" if report["with_weight_0"] else ""
        told = (
            f"{len(weights)} images{left_out}, {unknown} without a value\n"
            f"weights {report['lowest']:.3g} to {report['highest']:.3g}, worth {report['worth_images']:.3g} "
            "images of equal weight"
        )
        show_text(cls.hidden.unique_id, told)
        plot = score_weight_plot(weights, unknown, metric)
        preview = ui.PreviewImage(plot, cls=cls).as_dict()
        return io.NodeOutput(
            weights.tolist(), json.dumps(report, indent=2), plot, ui={**preview, "text": (told,)}
        )


NODES = [RealismScoreWeights]
