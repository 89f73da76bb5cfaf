"""RealismAdapterGuidance: attributes and mask each with their own weight beside the prompt's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid5

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
        before = model.model_options.get("sampler_post_cfg_function", ())
        if any(isinstance(one, Guidance) for one in before):
            raise ValueError(
                "model is guided by a Realism Adapter Guidance already, and the two would add up: connect "
                "the model from before it."
            )
        guided = model.clone()
        guided.set_model_sampler_post_cfg_function(Guidance(attribute_cfg, mask_cfg))
        return io.NodeOutput(guided)


@dataclass(frozen=True)
class Guidance:
    """What brings ComfyUI's guided picture to weights of its own for attributes and mask.

    With w the sampler's cfg that picture is x(none) + w (x(prompt, attributes, mask) - x(none)). It becomes
    x(none) + w (x(prompt) - x(none)) + attributes (x(prompt, attributes) - x(prompt))
    + mask (x(prompt, attributes, mask) - x(prompt, attributes)); only the terms that differ are computed.
    """

    attributes: float
    mask: float

    def __call__(self, args: Mapping[str, Any]) -> Tensor:
        """Return the picture for what ComfyUI hands to a function after its guidance."""
        conds = args["cond"]
        said = [cond[KEY] for cond in conds if KEY in cond]
        if not said:
            raise ValueError(
                "positive carries no tokens of an adapter: connect the prompts of Realism Conditioner with "
                "an adapter to the sampler, or remove Realism Adapter Guidance."
            )
        if any(told.channels for told in said):
            raise ValueError(
                "adapter: its mask enters as channels, which cannot be guided apart: remove Realism Adapter "
                "Guidance, or use an adapter with mask tokens."
            )
        more_attributes, more_mask = self.attributes - args["cond_scale"], self.mask - args["cond_scale"]
        whole = tuple(len(cond[KEY].null) if KEY in cond else 0 for cond in conds)
        # by how many of each prompt's tokens stay; all weights add up to 0
        weights = {whole: more_mask}
        for stay, weight in ((0, -more_attributes), (1, more_attributes - more_mask)):
            kept = tuple(stay * cond[KEY].attributes if KEY in cond else 0 for cond in conds)
            weights[kept] = weights.get(kept, 0.0) + weight
        picture = args["denoised"]
        for kept, weight in weights.items():
            if abs(weight) > 1e-9:
                found = args["cond_denoised"] if kept == whole else _found(args, conds, kept)
                picture = picture + weight * found
        return picture


def _found(args: Mapping[str, Any], conds: Sequence[dict], kept: Sequence[int]) -> Tensor:
    """Return the picture of prompts of whose tokens only the first `kept` say something."""
    asked = [_nulled(*pair) if KEY in pair[0] else pair[0] for pair in zip(conds, kept, strict=True)]
    # each in a call of its own: what stands second counts as the negative side for other nodes' patches
    (found,) = predicted(args["model"], [asked], args["input"], args["sigma"], args["model_options"])
    return found


def _nulled(cond: dict, kept: int) -> dict:
    told, given = cond[KEY], cond["model_conds"]
    words = given.get("c_crossattn")
    if words is None or words.cond.ndim != 3 or words.cond.shape[1:] != cond["cross_attn"].shape[1:]:
        raise ValueError(
            "model: this kind changes a prompt's words before its attention, so that attributes and mask "
            "cannot be guided apart: remove Realism Adapter Guidance."
        )
    start, null = told.start + kept, told.null[kept:]
    changed = words.cond.clone()
    changed[:, start : start + len(null)] = null.to(changed)
    # what ComfyUI wraps a tensor in makes the like of itself; caches tell prompts apart by uuid
    other = {**given, "c_crossattn": words._copy_with(changed)}
    return {**cond, "model_conds": other, "uuid": uuid5(cond["uuid"], str(kept))}


NODES = [RealismAdapterGuidance]
