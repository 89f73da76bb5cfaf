"""RealismAdapterGuidance: attributes and mask each with their own weight beside the prompt's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .adapters import KEY
from .comfy import io, predicted, schema


class RealismAdapterGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismAdapterGuidance",
            display_name="Realism Adapter Guidance",
            category="realism/face",
            description=(
                "Guides attributes and mask of an adapter each with a weight of its own, beside the cfg of "
                "the sampler, which is then the prompt's. A weight equal to the cfg costs nothing; others "
                "cost one or two more passes of the model a step."
            ),
            search_aliases=["composed cfg", "mask guidance", "attribute guidance"],
            inputs=[
                io.Model.Input("model", tooltip="The model that samples with the adapter's prompts."),
                io.Float.Input(
                    "attribute_cfg", default=4.0, min=0.0, max=100.0, step=0.1,
                    tooltip="Weight of the attributes; 0 leaves them out.",
                ),
                io.Float.Input(
                    "mask_cfg", default=4.0, min=0.0, max=100.0, step=0.1,
                    tooltip="Weight of the mask; 0 leaves it out.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, so guided.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, attribute_cfg, mask_cfg) -> io.NodeOutput:
        guided = model.clone()
        guided.set_model_sampler_post_cfg_function(guidance(attribute_cfg, mask_cfg))
        return io.NodeOutput(guided)


def guidance(attributes: float, mask: float) -> Callable[[Mapping[str, Any]], Tensor]:
    """Return what brings ComfyUI's guided picture to weights of its own for attributes and mask.

    With w the sampler's cfg that picture is x(none) + w (x(prompt, attributes, mask) - x(none)). It becomes
    x(none) + w (x(prompt) - x(none)) + attributes (x(prompt, attributes) - x(prompt))
    + mask (x(prompt, attributes, mask) - x(prompt, attributes)); only the terms that differ are computed.
    """

    def guided(args: Mapping[str, Any]) -> Tensor:
        more_attributes, more_mask = attributes - args["cond_scale"], mask - args["cond_scale"]
        conds = args["cond"]
        if not any(KEY in cond for cond in conds):
            raise ValueError(
                "positive carries no tokens of an adapter: connect the prompts of Realism Conditioner with "
                "an adapter to the sampler, or remove Realism Adapter Guidance."
            )
        # by whether the attributes stay, without the mask; all three weights add up to 0
        all_weights = {False: -more_attributes, True: more_attributes - more_mask}
        weights = {stay: weight for stay, weight in all_weights.items() if abs(weight) > 1e-9}
        if not weights:
            return args["denoised"]
        asked = [_without(conds, stay) for stay in weights]
        found = predicted(args["model"], asked, args["input"], args["sigma"], args["model_options"])
        picture = args["denoised"] + more_mask * args["cond_denoised"]
        for weight, one in zip(weights.values(), found, strict=True):
            picture = picture + weight * one
        return picture

    return guided


def _without(conds: Sequence[dict], attributes: bool) -> list[dict]:
    """Return conditionings without the mask, and without the attributes too unless these are to stay."""
    return [_nulled(cond, attributes) if KEY in cond else cond for cond in conds]


def _nulled(cond: dict, attributes: bool) -> dict:
    told, given = cond[KEY], cond["model_conds"]
    words = given.get("c_crossattn")
    kept = told.attributes if attributes else 0
    start, null = told.start + kept, told.null[kept:]
    if words is None or words.cond.ndim != 3 or words.cond.shape[1:] != cond["cross_attn"].shape[1:]:
        raise ValueError(
            "model: this kind changes a prompt's words before its attention, so that attributes and mask "
            "cannot be guided apart: remove Realism Adapter Guidance."
        )
    if "concat_latent_image" in cond:
        raise ValueError(
            "adapter: its mask enters as channels, which cannot be guided apart: remove Realism Adapter "
            "Guidance, or use an adapter with mask tokens."
        )
    changed = words.cond.clone()
    changed[:, start : start + len(null)] = null.to(changed)
    # what ComfyUI wraps a tensor in makes the like of itself
    return {**cond, "model_conds": {**given, "c_crossattn": words._copy_with(changed)}}


NODES = [RealismAdapterGuidance]
