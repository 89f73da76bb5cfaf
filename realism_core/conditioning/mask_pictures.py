"""Semantic masks from pictures and to pictures: label maps, colours, part files and masks of single parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .masks import CLASSES, SemanticMask, counted
from .regions import titles
from .vocabulary import CLASS_NAMES, LABELS, MASK_CLASSES

# of face-parsing.PyTorch (BiSeNet) and what is built on it
_BISENET = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)  # fmt: skip
PALETTES = ("auto", "labels", "bisenet labels", "colours")
# two colours of the palette are at least 51 apart in some channel
MAX_TOLERANCE = 25
# how far off a label and the ends of a mask may be: some versions of ComfyUI load a grey 255 as 254
_WHOLE, _END = 0.2, 0.01


def from_picture(pictures: Tensor, palette: str = "auto", tolerance: int = 0) -> SemanticMask:
    """Return the mask of pictures [B,H,W,C], float 0..1: label maps or CelebAMask-HQ's colours.

    palette: labels (grey values 0..18 of 255 in the order of CelebAMask-HQ), bisenet labels (the order of
    face-parsing.PyTorch), colours, or auto: labels if all pictures are grey, else colours. tolerance: how
    many of 255 levels a colour may be off in each channel. Alpha is left out. Raises ValueError for unknown
    labels and colours, naming them with their numbers of pixels, and the nearest class of a colour.
    """
    if pictures.ndim != 4 or pictures.shape[-1] not in (1, 3, 4) or 0 in pictures.shape:
        raise ValueError(
            f"label_map has shape {'x'.join(map(str, pictures.shape))}: give pictures [B,H,W,C]."
        )
    if not 0 <= tolerance <= MAX_TOLERANCE:
        raise ValueError(f"tolerance is {tolerance}: use 0 to {MAX_TOLERANCE}, so that colours stay apart.")
    levels = pictures[..., :3].to(torch.float32) * 255
    if not torch.isfinite(levels).all():
        raise ValueError("label_map contains NaN or infinite values: load the picture again.")
    grey = bool((levels.amax(-1) - levels.amin(-1) < 0.5).all())
    if palette == "auto":
        palette = "labels" if grey else "colours"
    if palette == "colours":
        return _from_colours(levels.round().to(torch.int64).expand(*levels.shape[:3], 3), tolerance)
    if palette not in PALETTES:
        raise ValueError(f"palette is {palette!r}: use {', '.join(PALETTES)}.")
    if not grey:
        raise ValueError(
            f"label_map is coloured, and palette is {palette}: set palette to colours, or connect a grey "
            "picture whose values 0 to 18 are labels."
        )
    return _from_grey(levels[..., 0], palette)


def to_colours(mask: SemanticMask) -> Tensor:
    """Return the mask in CelebAMask-HQ's colours, [B,H,W,3] float32 0..1; shares mix the colours."""
    colours = torch.tensor([entry.colour for entry in MASK_CLASSES], device=mask.stored.device) / 255
    if mask.is_hard:
        return colours[mask.stored.long()]
    return torch.einsum("bchw,cd->bhwd", mask.stored, colours).clamp(0, 1)


def from_parts(parts: Mapping[int, Tensor], below: SemanticMask | None = None) -> SemanticMask:
    """Return the mask of masks [B,H,W] in 0..1 by label, each laid over those of lower labels.

    That is the order of the data set's own code. What none covers is as in the mask `below`, or background.
    Masks and `below` of batch 1 serve all pictures. Hard if all are 0 or 1, within 0.01. Raises ValueError
    for sizes and batches that differ, values outside 0..1 and masks that are all empty, naming the parts.
    """
    if not parts:
        raise ValueError("parts: there is no mask: connect at least one.")
    shapes = {titles([label]): tuple(part.shape) for label, part in parts.items()}
    if below is not None:
        shapes["the mask below"] = (len(below), *below.size)
    for name, shape in shapes.items():
        if len(shape) != 3 or 0 in shape:
            raise ValueError(f"parts: {name} has shape {'x'.join(map(str, shape))}: give a mask [B,H,W].")
    _check_alike({name: f"{shape[2]} x {shape[1]} pixels" for name, shape in shapes.items()}, "resize them")
    batches = {name: shape[0] for name, shape in shapes.items() if shape[0] > 1}
    _check_alike({name: f"{count} pictures" for name, count in batches.items()}, "give one, or one a picture")
    for label, part in parts.items():
        low, high = torch.aminmax(part.to(torch.float32))
        if not (low >= 0 and high <= 1):
            raise ValueError(f"parts: {titles([label])} has values from {low:g} to {high:g}: use 0 to 1.")
    parts = {label: _with_sharp_ends(part) for label, part in parts.items()}
    if not any(part.any() for part in parts.values()):
        raise ValueError(f"parts: {titles(sorted(parts))} cover nothing: paint at least one of them.")
    first = next(iter(parts.values()))
    count = max(batches.values(), default=1)
    if below is None:
        below = SemanticMask.from_labels(torch.zeros_like(first[:1], dtype=torch.uint8))
    if below.is_hard and all(((part == 0) | (part == 1)).all() for part in parts.values()):
        labels = below.stored.to(first.device).repeat(count // len(below), 1, 1)
        for label in sorted(parts):
            labels[parts[label].expand(count, -1, -1) == 1] = label
        return SemanticMask.from_labels(labels)
    classes = below.classes.to(first.device).repeat(count // len(below), 1, 1, 1)
    for label in sorted(parts):
        classes *= 1 - parts[label][:, None]
        classes[:, label] += parts[label]
    return SemanticMask.from_classes(classes)


def read_parts(folder: Path, number: int) -> SemanticMask:
    """Return the mask of a picture of CelebAMask-HQ from its part files, such as 00012_hair.png, in a folder.

    A pixel that is not 0 belongs to the part. Parts without a file are not there. Raises FileNotFoundError if
    no part has a file, and ValueError, naming the file, for broken files and sizes that differ.
    """
    labels, first = None, ""
    for label, name in enumerate(CLASS_NAMES[1:], 1):
        file = folder / f"{number:05d}_{name}.png"
        if not file.is_file():
            continue
        try:
            with Image.open(file) as picture:
                part = np.asarray(picture.convert("RGB"))[..., 0] != 0
        except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ValueError(f"{file} cannot be read ({error}): copy it from the data set again.") from None
        if labels is None:
            labels, first = np.zeros(part.shape, np.uint8), file.name
        if part.shape != labels.shape:
            sizes = [f"{shape[1]} x {shape[0]}" for shape in (part.shape, labels.shape)]
            raise ValueError(f"{file} is {sizes[0]} pixels and {first} is {sizes[1]}: make them one size.")
        labels[part] = label
    if labels is None:
        raise FileNotFoundError(
            f"{folder} has no part of picture {number}, such as {number:05d}_skin.png: check folder and "
            "number."
        )
    return SemanticMask.from_labels(torch.from_numpy(labels)[None])


def _from_grey(levels: Tensor, palette: str) -> SemanticMask:
    labels = levels.round()
    between = ((levels - labels).abs() > _WHOLE) & (levels < CLASSES)
    if between.any():
        raise ValueError(
            f"label_map has values between two labels ({counted(levels, between, 'the value')}): it was "
            "resized smoothly or compressed. Load it as saved, from a lossless file."
        )
    labels = labels.to(torch.int64)
    if ((labels == 0) | (labels >= 254)).all() and labels.any():
        raise ValueError(
            "label_map is black and white, which is the mask of one part: connect it to parts and name the "
            "part in part_names."
        )
    if palette == "bisenet labels":
        order = torch.tensor([LABELS[name] for name in _BISENET], device=labels.device)
        known = (labels >= 0) & (labels < len(order))
        labels = torch.where(known, order[labels.clamp(0, len(order) - 1)], labels)
    try:
        return SemanticMask.from_labels(labels)
    except ValueError as error:
        raise ValueError(f"label_map: {error}") from None


def _from_colours(levels: Tensor, tolerance: int) -> SemanticMask:
    # every colour as one number, so that each is looked at once
    coded = (levels * torch.tensor([65536, 256, 1], device=levels.device)).sum(-1)
    codes, places = torch.unique(coded, return_inverse=True)
    found = torch.stack((codes >> 16, (codes >> 8) & 255, codes & 255), 1)
    colours = torch.tensor([entry.colour for entry in MASK_CLASSES], device=levels.device)
    distance, nearest = _farthest_channel(found, colours)
    unknown = distance > tolerance
    if unknown.any():
        counts = torch.bincount(places.flatten(), minlength=len(codes))
        order = torch.where(unknown, counts, 0).argsort(descending=True, stable=True)
        order = order[: int(unknown.sum())]
        named = [
            f"{int(counts[i])} pixels of {tuple(found[i].tolist())}, nearest "
            f"{MASK_CLASSES[nearest[i]].title} {MASK_CLASSES[nearest[i]].colour}"
            for i in order[:4].tolist()
        ]
        more = f"; and {len(order) - 4} more colours" if len(order) > 4 else ""
        off = int(distance[unknown].max())
        hint = "load it from a lossless file, not resized"
        if off <= MAX_TOLERANCE:
            hint = f"raise tolerance to {off}"
        raise ValueError(
            f"label_map has {int(counts[unknown].sum())} pixels of colours that no class has: "
            f"{'; '.join(named)}{more}. If the picture is CelebAMask-HQ's, {hint}."
        )
    return SemanticMask.from_labels(nearest[places])


def _farthest_channel(found: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each colour [N,3], how far in its worst channel the nearest of colours is, and which."""
    parts = [(part[:, None] - colours).abs().amax(-1).min(1) for part in found.split(65536)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _with_sharp_ends(part: Tensor) -> Tensor:
    part = part.to(torch.float32)
    return torch.where(part < _END, 0.0, torch.where(part > 1 - _END, 1.0, part))


def _check_alike(told: Mapping[str, str], fix: str) -> None:
    if len(set(told.values())) > 1:
        each = " and ".join(f"{name} has {what}" for name, what in told.items())
        raise ValueError(f"parts: {each}: {fix}.")
