"""RealismGate: keep or reroute pictures by score."""

from __future__ import annotations

import torch

from ..realism_core.gate import RULES, UNKNOWN, best, decide
from .comfy import blocked, io, schema
from .sockets import Scores, check_counts, split

ON_EMPTY = ["block", "best", "error"]


class RealismGate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def side(kind, name, suffix, what):
            return kind.Output(
                name + suffix, display_name=name + suffix, is_output_list=True, tooltip=f"{what}."
            )

        def both(kind, suffix, what):
            return [
                side(kind, "passed", suffix, f"{what} that passed"),
                side(kind, "rejected", suffix, f"{what} that did not pass"),
            ]

        def unknown(kind, suffix, what):
            return side(kind, "unknown", suffix, f"{what} without a value, where on_unknown is block")

        return schema(
            node_id="RealismGate",
            display_name="Realism Gate",
            category="realism/gate",
            description=(
                "Sorts pictures by one of their scores into passed and rejected, and those that the score "
                "says nothing about where you want them. Latents, masks and scores go with their pictures; "
                "nothing is dropped. A side without pictures does not run, and the queue goes on."
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
                io.Combo.Input(
                    "on_unknown", options=list(UNKNOWN), default="reject", optional=True,
                    tooltip="A picture is unknown where the metric has no value for it: it is grey or "
                    "flat, or its evidence is gone. That speaks neither for it nor against it. reject: it "
                    "does not pass. pass: it passes, beside those that the rule chooses. block: it leaves "
                    "by the unknown outputs only. With pass and block, top_k and top_fraction count known "
                    "pictures only.",
                ),
            ],
            outputs=[
                *both(io.Image, "", "The pictures"),
                *both(Scores, "_scores", "The scores of the pictures"),
                *both(io.Latent, "_latents", "The latents of the pictures"),
                *both(io.Mask, "_masks", "The masks of the pictures"),
                io.Int.Output("passed_count", display_name="passed_count", tooltip="How many passed."),
                io.Int.Output("rejected_count", display_name="rejected_count", tooltip="How many did not."),
                unknown(io.Image, "", "The pictures"),
                unknown(Scores, "_scores", "The scores of the pictures"),
                unknown(io.Latent, "_latents", "The latents of the pictures"),
                unknown(io.Mask, "_masks", "The masks of the pictures"),
                io.Int.Output(
                    "unknown_count", display_name="unknown_count",
                    tooltip="How many had no value, wherever on_unknown sent them.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, images, scores, metric, rule, value, on_empty,
        low=None, high=None, latents=None, masks=None, keep=None, on_unknown=None,
    ) -> io.NodeOutput:
        metric, rule, value, on_empty = metric[0].strip(), rule[0], value[0], on_empty[0]
        low, high, keep = (low or [None])[0], (high or [None])[0], (keep or ["high"])[0]
        on_unknown = (on_unknown or ["reject"])[0]
        pictures = sum(len(batch) for batch in images)
        for name, batches in (("scores", scores), ("latents", latents), ("masks", masks)):
            if batches is not None:
                check_counts(name, batches, pictures)
        try:
            column = torch.cat([table[metric].cpu() for table in scores])
        except ValueError as error:
            raise ValueError(f"metric: {error}") from None
        passed, _, held = decide(column, rule, value, low, high, keep, on_unknown)
        unknown = int(torch.isnan(column).sum())
        if not passed.any():
            if on_empty == "error":
                without = f" ({unknown} have no value)" if unknown else ""
                raise ValueError(
                    f"none of {pictures} pictures passed {metric} by rule {rule}{without}: loosen the "
                    "rule, or set on_empty to 'block' or 'best'."
                )
            if on_empty == "best":
                passed[best(column, rule, low, high, keep)] = True
        outputs, held_outputs = [], []
        for batches, name in ((images, "images"), (scores, "scores"), (latents, "latents"), (masks, "masks")):
            if batches is None:
                missing = blocked(
                    f"{name} are not connected to Realism Gate, so it has none to give: connect them."
                )
                sides = [[missing]] * 3
            else:
                sides = [side or [blocked()] for side in _split(batches, passed, held)]
            outputs += sides[:2]
            held_outputs.append(sides[2])
        kept, left = int(passed.sum()), int(held.sum())
        text = f"{kept} of {pictures} passed{_went(unknown, on_unknown)}\n{metric}: {_spread(column)}"
        return io.NodeOutput(
            *outputs, kept, pictures - kept - left, *held_outputs, unknown, ui={"text": (text,)}
        )


def _split(batches: list, passed: torch.Tensor, held: torch.Tensor) -> tuple[list, list, list]:
    """Return the batches' passed, rejected and held pictures."""
    if not held.any():
        return *split(batches, passed), []
    left, others = split(batches, held)
    return *split(others, passed[~held]), left


def _went(unknown: int, on_unknown: str) -> str:
    done = {"reject": "rejected", "pass": "passed", "block": "blocked"}[on_unknown]
    return f", {unknown} unknown ({done})" if unknown else ""


def _spread(values: torch.Tensor) -> str:
    known = values[~torch.isnan(values)]
    if known.numel() == 0:
        return "applies to none"
    middle = known.median()
    return f"{known.min():.3g} to {known.max():.3g}, median {middle:.3g}"


NODES = [RealismGate]
