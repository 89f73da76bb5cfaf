"""RealismFaceMask and RealismFaceMaskParts: semantic masks from pictures and masks, and back to masks."""

from __future__ import annotations

from torch import Tensor

from ..realism_core.conditioning.mask_pictures import MAX_TOLERANCE, PALETTES, from_parts, from_picture
from ..realism_core.conditioning.masks import FITS, SemanticMask
from ..realism_core.conditioning.regions import find_classes, find_regions, titles
from ..realism_core.plots.mask import mask_preview, percentage
from .comfy import blocked, io, schema, show_text, ui
from .sockets import FaceMask

ON_EMPTY = ["error", "empty", "block"]
MASK_TOOLTIP = "The semantic mask: 19 classes, for Realism Conditioner and the other mask nodes."
PREVIEW_TOOLTIP = "The mask in CelebAMask-HQ's colours, with a legend and how much each class covers."


class RealismFaceMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismFaceMask",
            display_name="Face Mask",
            category="realism/face",
            description=(
                "Makes a semantic mask of a face, with the 19 classes of CelebAMask-HQ, from a label map, a "
                "picture in its colours, or painted masks of single parts, which can also be laid over an "
                "existing semantic mask."
            ),
            search_aliases=[
                "semantic mask", "segmentation map", "label map", "face parsing", "celebamask", "bisenet",
            ],
            inputs=[
                io.Image.Input(
                    "label_map", optional=True,
                    tooltip="A grey picture whose values 0 to 18 are labels, or one in CelebAMask-HQ's "
                    "colours. Lossless and not resized.",
                ),
                io.Mask.Input(
                    "parts", optional=True,
                    tooltip="Masks of parts: a batch of one mask for each name in part_names, or one name "
                    "and a mask for each picture. They lie over label_map or mask, higher labels over lower.",
                ),
                io.Combo.Input(
                    "palette", options=list(PALETTES), default="auto",
                    tooltip="How label_map is read. auto: grey as labels, else as colours. labels: "
                    "CelebAMask-HQ's order. bisenet labels: the order of face-parsing.PyTorch, which most "
                    "face parsing nodes give. colours: CelebAMask-HQ's.",
                ),
                io.String.Input(
                    "part_names", default="", optional=True,
                    tooltip="What the masks in parts are, such as: hair, left eye, hat.",
                ),
                FaceMask.Input(
                    "mask", optional=True,
                    tooltip="A semantic mask to lay the parts over, instead of label_map.",
                ),
                io.Int.Input(
                    "tolerance", default=0, min=0, max=MAX_TOLERANCE, optional=True,
                    tooltip="colours: by how many of 255 levels a channel may differ from its class, for "
                    "pictures that were compressed.",
                ),
                io.Int.Input(
                    "width", default=0, min=0, max=16384, optional=True,
                    tooltip="Width of the mask in pixels; 0 keeps it, or follows from height.",
                ),
                io.Int.Input(
                    "height", default=0, min=0, max=16384, optional=True,
                    tooltip="Height of the mask in pixels; 0 keeps it, or follows from width.",
                ),
                io.Combo.Input(
                    "fit", options=list(FITS), default="refuse", optional=True,
                    tooltip="If width x height is another aspect. refuse: an error. crop: cut both sides "
                    "alike. pad: add background. stretch: distort.",
                ),
            ],
            outputs=[
                FaceMask.Output(display_name="mask", tooltip=MASK_TOOLTIP),
                io.Image.Output(display_name="preview", tooltip=PREVIEW_TOOLTIP),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, palette, label_map=None, parts=None, part_names="", mask=None, tolerance=0, width=0, height=0,
        fit="refuse",
    ) -> io.NodeOutput:  # fmt: skip
        if label_map is not None and mask is not None:
            raise ValueError("label_map and mask are both connected: disconnect one, the parts lie over one.")
        if label_map is None and mask is None and parts is None:
            raise ValueError("There is nothing to make a mask of: connect label_map, or parts.")
        if part_names.strip() and parts is None:
            raise ValueError("part_names names parts, but no masks are connected: connect parts.")
        made, notes = mask, []
        if label_map is not None:
            made = from_picture(label_map, palette, tolerance)
        if parts is not None:
            named = _named(parts, part_names)
            made = from_parts(named, made)
            notes = _empty_parts(named)
        covered = made.coverage()[:, 0] < 1
        if not covered.any():
            raise ValueError("The mask is background everywhere: connect a picture or masks with parts.")
        notes += [f"picture {place + 1} is background everywhere" for place in (~covered).nonzero().flatten()]
        tall, wide = made.size
        if width or height:
            width = width or max(1, round(wide * height / tall))
            height = height or max(1, round(tall * width / wide))
            made = made.fitted(height, width, fit)
        return with_preview(cls, made, notes)


class RealismFaceMaskParts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismFaceMaskParts",
            display_name="Face Mask Parts",
            category="realism/face",
            description=(
                "Takes parts of a semantic mask out as ordinary masks, such as the hair with the hat, for "
                "inpainting, compositing or ComfyUI's own mask conditioning."
            ),
            search_aliases=["semantic mask to mask", "select region", "hair mask", "inpaint face part"],
            inputs=[
                FaceMask.Input("mask", tooltip="The semantic mask."),
                io.String.Input(
                    "parts", default="hair, hat",
                    tooltip="The parts to take, with commas between: classes such as hair or left eye, and "
                    "groups: eyes, brows, ears, lips, face, head, everything.",
                ),
                io.Combo.Input(
                    "on_empty", options=ON_EMPTY, default="error",
                    tooltip="If no picture has any of the parts. error: stop and say what there is. empty: "
                    "black masks. block: what comes behind this node does not run.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="All the parts together, one mask a picture."),
                io.Mask.Output(
                    display_name="masks", is_output_list=True,
                    tooltip="A list: for each of the parts, in label order, one mask a picture.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, mask, parts, on_empty) -> io.NodeOutput:
        labels = regions("parts", parts)
        covered = mask.coverage()[:, list(labels)].sum(1)
        told = f"{titles(labels)}: {', '.join(percentage(share) for share in covered[:8].tolist())}"
        if not covered.any():
            if on_empty == "error":
                raise ValueError(f"parts: {nothing_of(mask, labels)} Name others, or set on_empty.")
            if on_empty == "block":
                return io.NodeOutput(blocked(), [blocked()], ui={"text": (told,)})
        show_text(cls.hidden.unique_id, told)
        return io.NodeOutput(
            mask.region(labels), [mask.region([label]) for label in labels], ui={"text": (told,)}
        )


def regions(name: str, text: str) -> tuple[int, ...]:
    """Return the labels that an input names; its name stands in front of an error."""
    try:
        return find_regions(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def nothing_of(mask: SemanticMask, labels: tuple[int, ...]) -> str:
    """Return a sentence on parts that a mask does not have, and those that it has."""
    there = (mask.coverage() > 0).any(0).nonzero().flatten().tolist()
    return f"{titles(labels)}: nothing of it is in this mask, which has {titles(there)}."


def with_preview(cls: type, mask: SemanticMask, notes: list[str]) -> io.NodeOutput:
    """Return a node's output of a mask and its preview, with notes shown on the node."""
    preview = mask_preview(mask)
    shown = ui.PreviewImage(preview, cls=cls).as_dict()
    if notes:
        show_text(cls.hidden.unique_id, "\n".join(notes))
        shown["text"] = ("\n".join(notes),)
    return io.NodeOutput(mask, preview, ui=shown)


def _named(parts: Tensor, names: str) -> dict[int, Tensor]:
    if parts.ndim == 2:
        parts = parts[None]
    try:
        labels = find_classes(names)
    except ValueError as error:
        raise ValueError(f"part_names: {error}") from None
    if len(labels) == 1:
        return {labels[0]: parts}
    if len(labels) != len(parts):
        raise ValueError(
            f"part_names names {len(labels)} parts, but parts holds {len(parts)} masks: name as many as "
            "there are. For several pictures, lay part after part over mask with more of these nodes."
        )
    return {label: parts[place : place + 1] for place, label in enumerate(labels)}


def _empty_parts(named: dict[int, Tensor]) -> list[str]:
    notes = []
    for label, part in named.items():
        empty = (~part.flatten(1).any(1)).nonzero().flatten().tolist()
        if len(empty) == len(part):
            notes.append(f"{titles([label])} covers nothing")
        elif empty:
            places = ", ".join(str(place + 1) for place in empty)
            notes.append(f"{titles([label])} covers nothing in picture {places}")
    return notes


NODES = [RealismFaceMask, RealismFaceMaskParts]
