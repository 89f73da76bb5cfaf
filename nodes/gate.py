"""RealismGate: keep or reroute pictures by score."""

from __future__ import annotations

import torch

from ..realism_core.gate import RULES, UNKNOWN, apply, decide, picture_codes, read_choices, suggest_cut
from . import audit as auditing
from .comfy import io, schema, show_text, ui
from .gating import (
    band_of,
    column_of,
    face,
    first,
    in_parts,
    not_empty,
    outputs_of,
    sides_of,
    summary,
    without_nan,
)
from .sockets import Scores, band_inputs, check_counts

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
                    tooltip="The column to judge by: typicality, irs, p_photo, radius_..., one that Realism "
                    "Score Column joined, or its weighted sum `combined`. A wrong name lists them all.",
                ),
                io.Combo.Input(
                    "rule", options=list(RULES), default="threshold",
                    tooltip="threshold: value or better. band: from low to high. top_k: the `value` best of "
                    "all. top_fraction: the best share `value` of all. profile_band: inside the middle 90 % "
                    "of the profile's photographs (for typicality the most typical 5 % do not pass either).",
                ),
                io.Float.Input(
                    "value", default=0.05, min=-1e9, max=1e9, step=0.001, round=False,
                    tooltip="The threshold, the number of pictures (top_k) or the share 0 to 1 "
                    "(top_fraction).",
                ),
                *band_inputs(),
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
                io.String.Input(
                    "keep_by_hand", default="", optional=True,
                    tooltip="Codes of pictures that pass whatever their score, as the preview shows them "
                    "(such as kobalitu, tusenari). A code means that very picture, not one in its place.",
                ),
                io.String.Input(
                    "reject_by_hand", default="", optional=True,
                    tooltip="Codes of pictures that are rejected whatever their score. The node then says "
                    "which cut would explain your choices best.",
                ),
                io.Combo.Input(
                    "audit", options=list(auditing.SWITCH), default=auditing.SWITCH[0], optional=True,
                    tooltip="Log every decision in user/realism/audit.sqlite: scores, rule, seeds, models, "
                    "never the pictures. 'as set' follows Settings > Realism Kit (of the default user), off "
                    "unless you switch it on there. Each model file is read once, for its hash.",
                ),
                io.String.Input(
                    "purpose", default="", optional=True,
                    tooltip="What the pictures are for, as the audit log shall say. Left empty: the purpose "
                    "in Settings > Realism Kit.",
                ),
            ],
            hidden=[
                io.Hidden.prompt, io.Hidden.dynprompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id,
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
        keep_by_hand=None, reject_by_hand=None, audit=None, purpose=None,
    ) -> io.NodeOutput:  # fmt: skip
        given = {"latents": latents, "masks": masks}
        pictures = sum(len(batch) for batch in images)
        for name, batches in (("scores", scores), *given.items()):
            if batches is not None:
                check_counts(name, batches, pictures)
        metric = metric[0].strip()
        column = column_of(scores, metric)
        limits = {
            "rule": rule[0],
            "value": value[0],
            "low": first(low, None),
            "high": first(high, None),
            "keep": first(keep, "high"),
            "real": band_of(scores, metric) if rule[0] == "profile_band" else None,
        }
        on_unknown = first(on_unknown, "reject")
        by_rule = decide(column, **limits, on_unknown=on_unknown)
        shown = without_nan(images)
        codes = picture_codes(in_parts(shown))
        choices = read_choices(first(keep_by_hand, ""), first(reject_by_hand, ""), codes)
        decision = not_empty(apply(by_rule, choices), column, metric, limits, on_empty[0], choices)
        suggestion = suggest_cut(column, choices, **limits, on_unknown=on_unknown)
        picture = face(shown, codes, column, metric, limits, by_rule, decision, choices, suggestion)
        preview = ui.PreviewImage(picture, cls=cls).as_dict()
        unknown = int(torch.isnan(column).sum())
        text = summary(decision, column, metric, unknown, on_unknown, choices, suggestion)
        if auditing.wanted(first(audit, auditing.SWITCH[0])):
            # last, so that only decisions are logged that take effect
            scores = auditing.log_decisions(
                scores, sides_of(decision), column, metric, codes.digests, {*choices.keep, *choices.reject},
                {**limits, "on_unknown": on_unknown, "on_empty": on_empty[0]}, first(purpose, ""), cls.hidden,
            )  # fmt: skip
        outputs, held = outputs_of({"images": images, "scores": scores, **given}, decision)
        show_text(cls.hidden.unique_id, text)
        return io.NodeOutput(
            *outputs, int(decision.passed.sum()), int(decision.rejected.sum()), *held, unknown,
            ui={**preview, "text": (text,)},
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, audit=None, purpose=None, **_) -> str:
        """Run again, although nothing else changed, when the settings of the audit log did."""
        return auditing.fingerprint(first(audit, auditing.SWITCH[0]), first(purpose, ""))


NODES = [RealismGate]
