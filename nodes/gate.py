"""RealismGate: keep or reroute pictures by score."""

from __future__ import annotations

import torch

from ..realism_core.evidence import ScoreTable
from ..realism_core.gate import RULES, best, check_rule, select
from .comfy import blocked, io, schema
from .sockets import Scores, check_counts, split

ON_EMPTY = ["block", "best", "error"]


class RealismGate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def both(kind, suffix, what):
            return [
                kind.Output(side + suffix, display_name=side + suffix, is_output_list=True,
                            tooltip=f"{what} that {did}.")
                for side, did in (("passed", "passed"), ("rejected", "did not pass"))
            ]

        return schema(
            node_id="RealismGate",
            display_name="Realism Gate",
            category="realism/gate",
            description=(
                "Sorts pictures by one of their scores into passed and rejected. Latents, masks and scores "
                "go with their pictures; nothing is dropped. A side without pictures does not run, and the "
                "queue goes on."
            ),
            search_aliases=["filter images", "image switch by score", "reject bad images", "best of n"],
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images", tooltip="The pictures to sort: a batch, or a list of batches of any sizes."
                ),
                Scores.Input("scores", tooltip="Their scores, from Realism Score."),
                io.String.Input(
                    "metric", default="typicality",
                    tooltip="The column to judge by: typicality, irs, radius_..., percentile_... or a "
                    "measure such as canny_edge_density. A wrong name lists them all.",
                ),
                io.Combo.Input(
                    "rule", options=list(RULES), default="threshold",
                    tooltip="threshold: value or better. band: from low to high. top_k: the `value` best of "
                    "all. top_fraction: the best share `value` of all.",
                ),
                io.Float.Input(
                    "value", default=0.05, min=-1e9, max=1e9, step=0.01,
                    tooltip="The threshold, the number of pictures (top_k) or the share 0 to 1 "
                    "(top_fraction).",
                ),
                io.Float.Input(
                    "low", default=0.0, min=-1e9, max=1e9, step=0.01, optional=True,
                    tooltip="Lower end of the band.",
                ),
                io.Float.Input(
                    "high", default=1.0, min=-1e9, max=1e9, step=0.01, optional=True,
                    tooltip="Upper end of the band.",
                ),
                io.Latent.Input("latents", optional=True, tooltip="Latents of these pictures, kept in step."),
                io.Mask.Input("masks", optional=True, tooltip="Masks of these pictures, kept in step."),
                io.Combo.Input(
                    "on_empty", options=ON_EMPTY, default="block",
                    tooltip="If no picture passes: block what hangs on passed, pass the best one, or stop "
                    "with an error.",
                ),
                io.Combo.Input(
                    "keep", options=["high", "low"], default="high", optional=True,
                    tooltip="Which end is better, for threshold, top_k and top_fraction.",
                ),
            ],
            outputs=[
                *both(io.Image, "", "The pictures"),
                *both(Scores, "_scores", "The scores of the pictures"),
                *both(io.Latent, "_latents", "The latents of the pictures"),
                *both(io.Mask, "_masks", "The masks of the pictures"),
                io.Int.Output("passed_count", display_name="passed_count", tooltip="How many passed."),
                io.Int.Output("rejected_count", display_name="rejected_count", tooltip="How many did not."),
            ],
        )

    @classmethod
    def execute(
        cls, images, scores, metric, rule, value, on_empty,
        low=None, high=None, latents=None, masks=None, keep=None,
    ) -> io.NodeOutput:
        metric, rule, value, on_empty = metric[0].strip(), rule[0], value[0], on_empty[0]
        low, high, keep = (low or [None])[0], (high or [None])[0], (keep or ["high"])[0]
        pictures = sum(len(batch) for batch in images)
        for name, batches in (("scores", scores), ("latents", latents), ("masks", masks)):
            if batches is not None:
                check_counts(name, batches, pictures)
        try:
            column = torch.cat([table[metric].cpu() for table in scores])
        except ValueError as error:
            raise ValueError(f"metric: {error}") from None
        check_rule(rule, value, low, high, keep)
        passed = select(column, rule, value, low, high, keep)
        if not passed.any():
            if on_empty == "error":
                raise ValueError(
                    f"none of {pictures} pictures passed {metric} by rule {rule}: loosen the rule, or set "
                    "on_empty to 'block' or 'best'."
                )
            if on_empty == "best":
                passed[best(column, rule, low, high, keep)] = True
        outputs = []
        for batches, name in ((images, "images"), (scores, "scores"), (latents, "latents"), (masks, "masks")):
            if batches is None:
                missing = blocked(
                    f"{name} are not connected to Realism Gate, so it has none to give: connect them."
                )
                outputs += [[missing], [missing]]
                continue
            outputs += [side or [blocked()] for side in split(batches, passed)]
        kept = int(passed.sum())
        text = f"{kept} of {pictures} passed\n{metric}: {_spread(scores, metric)}"
        return io.NodeOutput(*outputs, kept, pictures - kept, ui={"text": (text,)})


def _spread(scores: list[ScoreTable], metric: str) -> str:
    values = torch.cat([table[metric].cpu() for table in scores])
    known = values[~torch.isnan(values)]
    if known.numel() == 0:
        return "applies to none"
    middle = known.median()
    return f"{known.min():.3g} to {known.max():.3g}, median {middle:.3g}"


NODES = [RealismGate]
