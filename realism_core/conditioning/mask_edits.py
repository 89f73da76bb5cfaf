"""Edits of a semantic mask: move, grow, shrink, drop, merge and mirror its parts.

Hard masks are edited as labels [H,W] and soft ones as shares [19,H,W]; hard ones stay hard. What is taken
away leaves a hole, which the nearest class that can lie there fills; what is laid on top hides what is below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage

from .masks import SemanticMask
from .regions import titles
from .vocabulary import EYES, LABELS, LIPS, MIRRORED

_BACKGROUND = LABELS["background"]
_NOTHING = 255  # no label
# what fills holes, if it is in the picture: a hole in hair is no place for more earring
_SPREADING = [LABELS[name] for name in ("background", "skin", "mouth", *LIPS, "hair", "neck", "cloth")]
# whose middle is the middle of the face: the first of these that is there
_MIDDLE = (("nose",), ("mouth", *LIPS), EYES, ("skin",))


def move(mask: SemanticMask, parts: Sequence[int], dx: float, dy: float) -> SemanticMask:
    """Return the mask with parts (labels) moved right by dx and down by dy, in shares of width and height.

    They move by whole pixels, as one; what they leave behind is filled as `drop` does, and they hide what
    they come upon. What leaves the picture is lost. Raises ValueError for the background.
    """
    _check(parts, "moved")
    across, down = round(dx * mask.size[1]), round(dy * mask.size[0])
    if not across and not down:
        return mask
    return _each(
        mask, lambda layer: _over(_filled(layer, parts), _shifted(_only(layer, parts), across, down))
    )


def grow(mask: SemanticMask, parts: Sequence[int], pixels: int) -> SemanticMask:
    """Return the mask with parts (labels) grown by a disc of a radius in pixels, over all other classes.

    Parts named together do not grow over each other: what is near to two goes to the nearer one.
    """

    def edit(layer: np.ndarray) -> np.ndarray:
        union = _union(layer, parts)
        if not union.any():
            return layer
        gained = _dilated(union, pixels) - union
        near = tuple(_nearest(union >= union.max() / 2))
        if layer.ndim == 2:
            return np.where(gained > 0, layer[near], layer)
        named = layer[list(parts)]
        owner = np.asarray(parts)[named.argmax(0)][near]
        grown = layer * _ratio(1 - union - gained, 1 - union)
        grown[list(parts)] = named
        grown[(owner, *np.indices(owner.shape, sparse=True))] += gained
        return grown

    return _each(mask, edit) if pixels else mask


def shrink(mask: SemanticMask, parts: Sequence[int], pixels: int) -> SemanticMask:
    """Return the mask with parts (labels) shrunk, as one, by a disc of a radius in pixels.

    What they leave is filled as `drop` does. The edge of the picture does not shrink them: a neck that is cut
    off there stays so.
    """

    def edit(layer: np.ndarray) -> np.ndarray:
        union = _union(layer, parts)
        left = 1 - _dilated(1 - union, pixels)
        kept = _only(layer, parts)
        kept = np.where(left > 0, kept, _NOTHING) if layer.ndim == 2 else kept * _ratio(left, union)
        return _over(_filled(layer, parts), kept)

    return _each(mask, edit) if pixels else mask


def drop(mask: SemanticMask, parts: Sequence[int]) -> SemanticMask:
    """Return the mask without parts (labels): their pixels go to the nearest other class that can lie there.

    Those are the background, skin, hair, neck, clothing, mouth and lips; where a picture has none of them,
    any class; where it has nothing else, the background. Raises ValueError if that too is to be dropped.
    """
    return _each(mask, lambda layer: _filled(layer, parts))


def merge(mask: SemanticMask, parts: Sequence[int], into: int) -> SemanticMask:
    """Return the mask with parts (labels) made into one class, `into`."""

    def edit(layer: np.ndarray) -> np.ndarray:
        if layer.ndim == 2:
            return np.where(np.isin(layer, parts), np.uint8(into), layer)
        merged = layer.copy()
        merged[list(parts)] = 0
        merged[into] = layer[sorted({*parts, into})].sum(0)
        return merged

    return _each(mask, edit)


def mirror(mask: SemanticMask, parts: Sequence[int] | None = None) -> SemanticMask:
    """Return the mask mirrored left to right, left and right eyes, brows and ears swapping their classes.

    parts (labels): only these, about the middle of the face (the nose's; else the mouth's, eyes' or skin's).
    Of a pair, one side named alone takes the other side's place too; both named change places. Raises
    ValueError for the background.
    """
    if parts is None:
        return SemanticMask(torch.from_numpy(_swapped(mask.stored.cpu().numpy())).to(mask.stored.device))
    _check(parts, "mirrored alone")
    targets = [MIRRORED[part] for part in parts]

    def edit(layer: np.ndarray) -> np.ndarray:
        further = _twice_middle(layer) - (layer.shape[-1] - 1)
        mirrored = _shifted(_swapped(_only(layer, parts)), further, 0)
        return _over(_filled(layer, targets), mirrored)

    return _each(mask, edit)


def absent(mask: SemanticMask, parts: Sequence[int]) -> tuple[int, ...]:
    """Return those of parts (labels) that cover nothing in any picture."""
    covered = (mask.coverage() > 0).any(0)
    return tuple(part for part in parts if not covered[part])


def _check(parts: Sequence[int], done: str) -> None:
    if _BACKGROUND in parts:
        raise ValueError(f"the background cannot be {done}: it is what lies behind the parts. Name parts.")


def _each(mask: SemanticMask, edit: Callable[[np.ndarray], np.ndarray]) -> SemanticMask:
    """Return the mask of what an edit makes of each picture's labels or shares."""
    edited = torch.stack([torch.from_numpy(edit(picture)) for picture in mask.stored.cpu().numpy()])
    edited = edited.to(mask.stored.device)
    return SemanticMask(edited) if mask.is_hard else SemanticMask.from_classes(edited)


def _union(layer: np.ndarray, parts: Sequence[int]) -> np.ndarray:
    """Return how far each pixel belongs to parts, float32 [H,W] in 0..1."""
    if layer.ndim == 2:
        return np.isin(layer, parts).astype(np.float32)
    return layer[list(parts)].sum(0).clip(max=1)


def _only(layer: np.ndarray, parts: Sequence[int]) -> np.ndarray:
    """Return a layer of parts alone: no label, or shares of 0, elsewhere."""
    if layer.ndim == 2:
        return np.where(np.isin(layer, parts), layer, np.uint8(_NOTHING))
    alone = np.zeros_like(layer)
    alone[list(parts)] = layer[list(parts)]
    return alone


def _over(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    if below.ndim == 2:
        return np.where(above == _NOTHING, below, above)
    return below * (1 - above.sum(0)).clip(min=0) + above


def _filled(layer: np.ndarray, parts: Sequence[int]) -> np.ndarray:
    """Return the layer without parts, each hole filled from the nearest pixel that can lie there."""
    others = [label for label in range(len(LABELS)) if label not in parts]
    for fillers in ([label for label in _SPREADING if label in others], others):
        source = _union(layer, fillers)
        if source.any():
            break
    else:
        if _BACKGROUND in parts:
            raise ValueError(
                f"there is nothing but {titles(sorted(parts))} in a picture, so that nothing is left to fill "
                "it with: name the class that its pixels go to."
            )
        return _background(layer)
    near = _nearest(source >= source.max() / 2)
    if layer.ndim == 2:
        holes = np.nonzero(np.isin(layer, parts))
        filled = layer.copy()
        filled[holes] = layer[tuple(near[(slice(None), *holes)])]
        return filled
    rest = layer.copy()
    rest[list(parts)] = 0
    missing = (1 - rest.sum(0)).clip(min=0)
    holes = np.nonzero(missing)
    row, column = near[(slice(None), *holes)]
    shares = np.stack([layer[label][row, column] for label in fillers]) / source[row, column]
    for label, share in zip(fillers, shares, strict=True):
        rest[label][holes] += missing[holes] * share
    return rest


def _background(layer: np.ndarray) -> np.ndarray:
    empty = np.zeros_like(layer)
    if layer.ndim == 3:
        empty[_BACKGROUND] = 1
    return empty


def _nearest(source: np.ndarray) -> np.ndarray:
    """Return the rows and columns [2,H,W] of the pixel of source that is nearest to each pixel."""
    return ndimage.distance_transform_edt(~source, return_distances=False, return_indices=True)


def _dilated(values: np.ndarray, radius: int) -> np.ndarray:
    """Return the greatest of values [H,W] within a radius of each pixel, all inside the picture."""
    if ((values == 0) | (values == 1)).all():
        if not values.any():
            return values
        return (ndimage.distance_transform_edt(values == 0) <= radius).astype(values.dtype)
    height, width = values.shape
    greatest = values.copy()
    for down in range(-min(radius, height - 1), min(radius, height - 1) + 1):
        across = min(math.isqrt(radius**2 - down**2), width - 1)
        rows = ndimage.maximum_filter1d(values, 2 * across + 1, axis=1, mode="nearest")
        to, source = _overlap(height, down)
        np.maximum(greatest[to], rows[source], out=greatest[to])
    return greatest


def _overlap(length: int, shift: int) -> tuple[slice, slice]:
    """Return (where things come to lie, where they come from) of things shifted along a side."""
    shift = max(-length, min(length, shift))
    return slice(max(0, shift), length + min(0, shift)), slice(max(0, -shift), length - max(0, shift))


def _shifted(layer: np.ndarray, across: int, down: int) -> np.ndarray:
    to_row, row = _overlap(layer.shape[-2], down)
    to_column, column = _overlap(layer.shape[-1], across)
    shifted = np.full_like(layer, _NOTHING if layer.ndim == 2 else 0)
    shifted[..., to_row, to_column] = layer[..., row, column]
    return shifted


def _swapped(layer: np.ndarray) -> np.ndarray:
    """Return labels [...,H,W] or shares [...,19,H,W] mirrored, left and right classes swapped."""
    if layer.dtype == np.uint8:
        table = np.full(_NOTHING + 1, _NOTHING, np.uint8)
        table[: len(MIRRORED)] = MIRRORED
        return table[layer][..., ::-1].copy()
    return layer[..., list(MIRRORED), :, ::-1].copy()


def _twice_middle(layer: np.ndarray) -> int:
    """Return the sum of the columns of a pixel and of its mirror image about the middle of the face."""
    for names in _MIDDLE:
        columns = _union(layer, [LABELS[name] for name in names]).sum(0, dtype=np.float64)
        if columns.sum() > 0:
            return round(2 * float((columns * np.arange(len(columns))).sum() / columns.sum()))
    return layer.shape[-1] - 1


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0).clip(0, 1)
