"""RealismEditFaceMask: move, grow, shrink, drop, merge and mirror parts of a semantic mask."""

from __future__ import annotations

from ..realism_core.conditioning import mask_edits
from ..realism_core.conditioning.masks import CLASSES, SemanticMask
from ..realism_core.conditioning.regions import find_classes, titles
from .comfy import io, schema
from .face_mask import MASK_TOOLTIP, PREVIEW_TOOLTIP, nothing_of, regions, with_preview
from .sockets import FaceMask

ACTIONS = ["move", "grow", "shrink", "drop", "merge", "mirror"]


class RealismEditFaceMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismEditFaceMask",
            display_name="Edit Face Mask",
            category="realism/face",
            description=(
                "Changes parts of a semantic mask: moves, grows, shrinks, drops, merges or mirrors them. "
                "What they leave behind is filled with the class beside it, so that no hole remains."
            ),
            search_aliases=[
                "move face part", "grow semantic mask", "dilate", "erode", "remove hat", "flip face",
            ],
            inputs=[
                FaceMask.Input("mask", tooltip="The semantic mask to change; it stays as it is."),
                io.String.Input(
                    "part", default="hair",
                    tooltip="What to change: classes such as hair or left eye, with commas between, and "
                    "groups: eyes, brows, ears, lips, face, head, everything.",
                ),
                io.Combo.Input(
                    "action", options=ACTIONS, default="move",
                    tooltip="move by dx and dy. grow and shrink by pixels. drop: fill with what lies beside, "
                    "or with into. merge: make one class of the parts, into. mirror: left to right about the "
                    "middle of the face, sides swapped; `everything` mirrors the picture.",
                ),
                io.Float.Input(
                    "dx", default=0.0, min=-1.0, max=1.0, step=0.005, round=False,
                    tooltip="move: to the right, as a share of the width. Below 0: to the left.",
                ),
                io.Float.Input(
                    "dy", default=0.0, min=-1.0, max=1.0, step=0.005, round=False,
                    tooltip="move: down, as a share of the height. Below 0: up.",
                ),
                io.Int.Input(
                    "pixels", default=8, min=0, max=4096,
                    tooltip="grow, shrink: by how many pixels of the mask.",
                ),
                io.String.Input(
                    "into", default="", optional=True,
                    tooltip="merge: the class that the parts become. drop: the class that their pixels go "
                    "to; empty is the nearest that can lie there.",
                ),
            ],
            outputs=[
                FaceMask.Output(display_name="mask", tooltip=MASK_TOOLTIP),
                io.Image.Output(display_name="preview", tooltip=PREVIEW_TOOLTIP),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, mask, part, action, dx, dy, pixels, into="") -> io.NodeOutput:
        parts = regions("part", part)
        missing = mask_edits.absent(mask, parts)
        if len(missing) == len(parts) and action not in ("drop", "merge"):
            raise ValueError(f"part: {nothing_of(mask, parts)} Name another part.")
        named = len(parts) < CLASSES
        notes = [f"not in this mask: {titles(missing)}"] if missing and named else []
        edited = _edited(mask, parts, action, dx, dy, pixels, into)
        lost = set(mask_edits.absent(edited, parts)) - set(missing)
        if action in ("move", "shrink", "mirror") and lost:
            notes.append(f"nothing is left of: {titles(sorted(lost))}")
        return with_preview(cls, edited, notes)


def _edited(mask: SemanticMask, parts, action, dx, dy, pixels, into) -> SemanticMask:
    if action == "move":
        return mask_edits.move(mask, parts, dx, dy)
    if action == "grow":
        return mask_edits.grow(mask, parts, pixels)
    if action == "shrink":
        return mask_edits.shrink(mask, parts, pixels)
    if action == "mirror":
        return mask_edits.mirror(mask, parts if len(parts) < CLASSES else None)
    if action == "drop" and not into.strip():
        return mask_edits.drop(mask, parts)
    target = _target(into)
    if action == "drop" and target in parts:
        raise ValueError(f"into: {titles([target])} is dropped itself: name another class, or none.")
    return mask_edits.merge(mask, parts, target)


def _target(into: str) -> int:
    try:
        labels = find_classes(into)
    except ValueError as error:
        raise ValueError(f"into: {error}") from None
    if len(labels) > 1:
        raise ValueError(f"into: {titles(labels)} are {len(labels)} classes: name one.")
    return labels[0]


NODES = [RealismEditFaceMask]
