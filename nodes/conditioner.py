"""RealismConditioner: face attributes said to a model in the regions they speak of."""

from __future__ import annotations

from ..realism_core.conditioning.masks import FITS
from ..realism_core.conditioning.regions import titles
from ..realism_core.conditioning.wording import Wording, word
from .adapters import apply_adapter, described
from .binding import COUPLING, MODES, bound, encode
from .comfy import blocked, io, schema, show_text
from .coupling import coupled
from .sockets import Adapter, Attributes, FaceMask

ON_EMPTY = ["leave out", "whole picture", "error"]


class RealismConditioner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismConditioner",
            display_name="Realism Conditioner",
            category="realism/face",
            description=(
                "Adds face attributes to a prompt, each seen only by the parts of the picture that it speaks "
                "of: hair colour by the hair, lipstick by the lips. Needs no training, and one pass of the "
                "model for all regions. Models of the SD 1.5, SDXL, SD3 and Flux families; any other by mask "
                "conditioning."
            ),
            search_aliases=[
                "attention couple", "regional prompt", "attribute conditioning", "semantic conditioning",
                "face control", "区域提示词", "領域プロンプト",
            ],
            inputs=[
                Attributes.Input(
                    "attributes", optional=True, tooltip="What the face is to look like, of Face Attributes.",
                ),
                FaceMask.Input(
                    "mask", optional=True,
                    tooltip="Where the parts of the face are. Without it, attributes are said to the whole "
                    "picture. One mask for all pictures of a batch, or one each.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The CLIP that encoded the prompts; it encodes the "
                    "attributes.",
                ),
                io.Conditioning.Input(
                    "positive", optional=True,
                    tooltip="The prompt, seen by the whole picture. Without it: an empty prompt.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True,
                    tooltip="The negative prompt. Unwanted attributes without an opposite, such as -Goatee, "
                    "are added to it. Without it: an empty prompt.",
                ),
                io.Model.Input(
                    "model", optional=True,
                    tooltip="The model that is to sample. Sample with the MODEL that this node gives: any "
                    "other shows the attributes to the whole picture.",
                ),
                Adapter.Input(
                    "adapter", optional=True, tooltip="A trained adapter: its tokens say the attributes "
                    "and the mask in place of phrases. mode and on_empty are for phrases and stay as they "
                    "were.",
                ),
                io.Float.Input(
                    "attribute_strength", default=1.0, min=0.0, max=4.0, step=0.05,
                    tooltip="What the strengths of the attributes are multiplied by: how much of the "
                    "attention they take. 1 as words in a prompt, 0 none. With an adapter: how far its "
                    "tokens say them, 1 as it was trained.",
                ),
                io.Float.Input(
                    "mask_strength", default=1.0, min=0.0, max=1.0, step=0.05,
                    tooltip="How firmly attributes are kept to their regions: 1 only there, 0 everywhere. "
                    "With an adapter: how far its tokens say the mask, 1 as it was trained, 0 not at all.",
                ),
                io.Combo.Input(
                    "mode", options=MODES, default=COUPLING, optional=True,
                    tooltip="attention coupling: one pass of the model, in which each attribute is seen by "
                    "its region only. mask conditioning: ComfyUI's own, a pass for each region, mixed by "
                    "masks; works with every model, and with nodes that replace attention or cut the picture "
                    "into tiles.",
                ),
                io.Combo.Input(
                    "fit", options=list(FITS), default="refuse", optional=True,
                    tooltip="If the picture has another aspect than the mask. refuse: an error when "
                    "sampling. crop, pad, stretch: the mask is cut, widened or distorted. Mask conditioning "
                    "and adapters always stretch.",
                ),
                io.Combo.Input(
                    "on_empty", options=ON_EMPTY, default=ON_EMPTY[0], optional=True,
                    tooltip="For an attribute whose regions are in no picture of the mask. leave out: it is "
                    "not said. whole picture: all of the picture sees it. error: stop and name it. Not for "
                    "adapters, whose attributes have no regions.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The model with the attributes bound to their regions; "
                    "blocked if no model is connected.",
                ),
                io.Conditioning.Output(display_name="positive", tooltip="The prompt with the attributes."),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="The negative prompt, as long as the positive one, so that both take one pass.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, attribute_strength, mask_strength, attributes=None, mask=None, clip=None, positive=None,
        negative=None, model=None, adapter=None, mode=COUPLING, fit="refuse", on_empty="leave out",
    ) -> io.NodeOutput:  # fmt: skip
        if mode != COUPLING or adapter is not None:
            _check_stretched(fit, "mask conditioning" if adapter is None else "an adapter")
        if adapter is not None:
            _check_unused(mode, on_empty)
            return cls.by_adapter(
                adapter, attributes, mask, clip, positive, negative, model, attribute_strength, mask_strength
            )
        if attributes is None:
            raise ValueError(
                "attributes is missing: connect Face Attributes. A mask alone has nothing to bind to its "
                "regions without a trained adapter."
            )
        wording, notes = _bindable(
            word(attributes, mask, attribute_strength, 1 - mask_strength, fit), on_empty
        )
        if clip is None and (wording.words or positive is None or negative is None):
            raise ValueError(
                "clip is missing: connect the CLIP that belongs to the model; it encodes the attributes."
            )
        if model is None and mode == COUPLING and wording.needs_model:
            raise ValueError(
                "model is missing: attention coupling binds attributes in it. Connect the model, or set mode "
                "to mask conditioning."
            )
        positive = encode(clip, "") if positive is None else positive
        negative = encode(clip, "") if negative is None else negative
        positive, negative = bound(wording, clip, positive, negative, mode)
        if model is not None and mode == COUPLING and wording.words:
            model = coupled(model)
        told = "\n".join([wording.to_text() or "No attributes: the prompts are as they were.", *notes])
        show_text(cls.hidden.unique_id, told)
        given = blocked() if model is None else model
        return io.NodeOutput(given, positive, negative, ui={"text": (told,)})

    @classmethod
    def by_adapter(
        cls, adapter, attributes, mask, clip, positive, negative, model, attribute_strength, mask_strength
    ) -> io.NodeOutput:  # fmt: skip
        """Return the prompts with a trained adapter's tokens behind their words; the model as it came."""
        if attributes is None and mask is None:
            raise ValueError("attributes and mask are both missing: connect one for the adapter.")
        if clip is None and (positive is None or negative is None):
            raise ValueError("clip is missing: connect the model's CLIP, or both prompts.")
        positive = encode(clip, "") if positive is None else positive
        negative = encode(clip, "") if negative is None else negative
        positive, negative = apply_adapter(
            adapter, positive, negative, attributes, mask, attribute_strength, mask_strength
        )
        told = f"{sum(adapter.adapter.config.counts)} tokens of the adapter ({described(adapter)})"
        show_text(cls.hidden.unique_id, told)
        given = blocked() if model is None else model
        return io.NodeOutput(given, positive, negative, ui={"text": (told,)})


def _check_stretched(fit: str, what: str) -> None:
    if fit in ("crop", "pad"):
        raise ValueError(
            f"fit is {fit}, but {what} always stretches masks: set fit to stretch, and make the mask at the "
            "aspect of the picture."
        )


def _check_unused(mode: str, on_empty: str) -> None:
    for name, value, usual in (("mode", mode, COUPLING), ("on_empty", on_empty, ON_EMPTY[0])):
        if value != usual:
            raise ValueError(
                f"{name} is for attributes without an adapter, which has tokens of its own: set it to "
                f"{usual}, or disconnect adapter."
            )


def _bindable(wording: Wording, on_empty: str) -> tuple[Wording, list[str]]:
    """Return the wording with what is done about regions that are not there, and what was done."""
    missing = wording.missing()
    notes = [
        f"{name}: its regions are not in picture {', '.join(map(str, pictures))}, which does not see it"
        for name, pictures in wording.missing_in().items()
    ]
    if not missing:
        return wording, notes
    told = "; ".join(f"{words.attribute} ({titles(words.labels)})" for words in missing)
    if on_empty == "error":
        raise ValueError(
            f"mask: nothing of the regions is there for {told}: add them to the mask, remove the attributes, "
            "or set on_empty."
        )
    if on_empty == "leave out":
        return wording.without(missing), [*notes, f"left out, as the mask has no such region: {told}"]
    return wording.everywhere(missing), [*notes, f"said to the whole picture, for want of a region: {told}"]


NODES = [RealismConditioner]
