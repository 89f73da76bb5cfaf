"""The semantic mask: which of 19 classes each pixel of a face is, for certain or by shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .vocabulary import LABELS, MASK_CLASSES

CLASSES = len(MASK_CLASSES)
# how far from 1 the shares of a pixel may add up
_SUM = 1e-3
Fit = Literal["refuse", "crop", "pad", "stretch"]
FITS = ("refuse", "crop", "pad", "stretch")


@dataclass(frozen=True, eq=False)
class SemanticMask:
    """The classes of the pixels of B pictures, immutable; make one with `from_labels` or `from_classes`.

    stored: uint8 labels [B,H,W] of a hard mask, or float32 shares [B,19,H,W] of a soft one, which add up to
    1.
    """

    stored: Tensor

    @classmethod
    def from_labels(cls, labels: Tensor) -> SemanticMask:
        """Return the hard mask of labels 0..18, [B,H,W] of any integer type.

        Raises ValueError for another shape or type, and for unknown labels, with their numbers of pixels.
        """
        if labels.ndim != 3 or 0 in labels.shape:
            raise ValueError(f"labels have shape {_shape(labels)}: give [B,H,W], one label a pixel.")
        if labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"labels are of type {labels.dtype}: give whole numbers.")
        labels = labels.to(torch.int64)
        wrong = (labels < 0) | (labels >= CLASSES)
        if wrong.any():
            raise ValueError(
                f"{counted(labels, wrong, 'the label')}; labels are 0 (background) to 18 (cloth)."
            )
        return cls(labels.to(torch.uint8))

    @classmethod
    def from_classes(cls, classes: Tensor) -> SemanticMask:
        """Return the mask of shares [B,19,H,W] in 0..1, hard if all are 0 or 1.

        The shares of a pixel must add up to 1 within 0.001 and are scaled to do so exactly. Raises ValueError
        for another shape, for values that are no shares, and where they do not add up.
        """
        if classes.ndim != 4 or classes.shape[1] != CLASSES or 0 in classes.shape:
            raise ValueError(f"classes have shape {_shape(classes)}: give [B,{CLASSES},H,W].")
        classes = classes.to(torch.float32)
        low, high = torch.aminmax(classes)
        if not (low >= 0 and high <= 1 + _SUM):  # NaN too
            raise ValueError(f"classes hold values from {low:g} to {high:g}: give shares from 0 to 1.")
        total = classes.sum(1, keepdim=True)
        off = ((total - 1).abs() > _SUM).sum().item()
        if off:
            raise ValueError(f"the shares of {off} pixels do not add up to 1: divide them by their sum.")
        if ((classes == 0) | (classes == 1)).all():
            return cls(_strongest(classes))
        return cls(classes / total)

    def __len__(self) -> int:
        return self.stored.shape[0]

    def __getitem__(self, rows: slice) -> SemanticMask:
        """mask[i:j] are the masks of pictures i to j."""
        return SemanticMask(self.stored[rows])

    @property
    def is_hard(self) -> bool:
        """Whether each pixel is of one class for certain."""
        return self.stored.ndim == 3

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.stored.shape[-2:])

    @property
    def classes(self) -> Tensor:
        """The shares of the classes, float32 [B,19,H,W]; one-hot for a hard mask."""
        if not self.is_hard:
            return self.stored
        labels = torch.arange(CLASSES, dtype=torch.uint8, device=self.stored.device)
        return (self.stored[:, None] == labels[:, None, None]).to(torch.float32)

    @property
    def labels(self) -> Tensor:
        """The strongest class of each pixel, uint8 [B,H,W]; of equal ones that with the higher label.

        Higher labels lie over lower ones in CelebAMask-HQ: eyes over skin, hair over background.
        """
        return self.stored if self.is_hard else _strongest(self.stored)

    def hard(self) -> SemanticMask:
        """Return the mask of the strongest classes."""
        return self if self.is_hard else SemanticMask(self.labels)

    def coverage(self) -> Tensor:
        """Return the share of each picture that each class covers, float64 [B,19]."""
        if self.is_hard:
            flat = self.stored.flatten(1).long()
            counts = torch.zeros(len(self), CLASSES, dtype=torch.int64, device=flat.device)
            counts.scatter_add_(1, flat, torch.ones_like(flat))
            return counts.cpu().double() / flat.shape[1]
        return torch.stack([picture.flatten(1).cpu().double().mean(1) for picture in self.stored])

    def region(self, regions: Iterable[str | int]) -> Tensor:
        """Return how far each pixel belongs to any of the classes (names or labels), float32 [B,H,W]."""
        labels = sorted({LABELS[region] if isinstance(region, str) else region for region in regions})
        if self.is_hard:
            wanted = torch.tensor(labels, dtype=torch.uint8, device=self.stored.device)
            return torch.isin(self.stored, wanted).to(torch.float32)
        return self.stored[:, labels].sum(1).clamp(max=1)

    def resized(self, height: int, width: int, soft: bool = False) -> SemanticMask:
        """Return the mask at another size, by the area that each class covers of each new pixel.

        A hard mask stays hard, with the class that covers most of a pixel (of equal ones the higher label),
        unless soft asks for the shares. No class appears where there was none. Any aspect: see `fitted`.
        """
        if (height, width) == self.size:
            return self
        if self.is_hard and not soft:
            return SemanticMask(_resized_labels(self.stored, height, width))
        shares = []
        for place in range(len(self)):
            whole = self[place : place + 1].classes[0].cpu().double()
            area = _overlaps(_overlaps(whole, width).mT, height).mT / (self.size[0] * self.size[1])
            area = area.clamp_(min=0)
            shares.append((area / area.sum(0)).to(torch.float32))
        return SemanticMask(torch.stack(shares).to(self.stored.device))

    def fitted(self, height: int, width: int, fit: Fit = "refuse", soft: bool = False) -> SemanticMask:
        """Return the mask at the size of a picture, as `resized` does.

        fit, for a picture of another aspect: crop cuts off at both sides what is too much, pad adds
        background there, stretch distorts, refuse raises ValueError.
        """
        tall, wide = self.size
        if fit not in FITS:
            raise ValueError(f"fit is {fit!r}: use {', '.join(FITS)}.")
        # of one aspect, as far as whole pixels can be
        alike = abs(tall * width - wide * height) <= max(tall, wide, height, width)
        if not alike and fit == "refuse":
            raise ValueError(
                f"the mask is {wide} x {tall}, which is another aspect than {width} x {height}: set fit to "
                "crop, pad or stretch, or make the mask at the aspect of the picture."
            )
        if alike or fit == "stretch":
            return self.resized(height, width, soft)
        if (tall * width > wide * height) == (fit == "crop"):
            target = (max(1, round(wide * height / width)), wide)
        else:
            target = (tall, max(1, round(tall * width / height)))
        return SemanticMask(_centred(self.stored, target)).resized(height, width, soft)

    @classmethod
    def concat(cls, masks: Sequence[SemanticMask]) -> SemanticMask:
        """Return one batch of all masks, soft if one is; raises ValueError if their sizes differ."""
        sizes = sorted({mask.size for mask in masks})
        if len(sizes) != 1:
            told = " and ".join(f"{wide} x {tall}" for tall, wide in sizes) or "no masks"
            raise ValueError(f"the masks are {told}: one batch needs one size.")
        device = masks[0].stored.device
        if all(mask.is_hard for mask in masks):
            return cls(torch.cat([mask.stored.to(device) for mask in masks]))
        return cls(torch.cat([mask.classes.to(device) for mask in masks]))


def counted(values: Tensor, wrong: Tensor, what: str) -> str:
    """Return "picture 2 has 5 pixels with the label 200 ...": the most frequent wrong values [B,H,W]."""
    picture = int(wrong.flatten(1).any(1).nonzero()[0])
    found, counts = torch.unique(values[wrong], return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    named = [f"{int(counts[i])} with {what} {found[i]:g}" for i in order[:4].tolist()]
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return f"{int(wrong.sum())} pixels are unknown, from picture {picture + 1} on: {', '.join(named)}{more}"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _strongest(classes: Tensor) -> Tensor:
    # argmax takes the first of equal ones
    return (CLASSES - 1 - classes.flip(1).argmax(1)).to(torch.uint8)


def _resized_labels(labels: Tensor, height: int, width: int) -> Tensor:
    best = torch.full((len(labels), height, width), -1, dtype=torch.int64, device=labels.device)
    for label in torch.unique(labels).tolist():
        plane = (labels == label).to(torch.int32)
        area = _overlaps(_overlaps(plane, width).long().mT, height).mT
        # whole numbers: equal areas are equal, and then the higher label is the greater
        best = torch.maximum(best, area * CLASSES + label)
    return (best % CLASSES).to(torch.uint8)


def _overlaps(values: Tensor, count: int) -> Tensor:
    """Return sums [...,count] of values [...,N] over count equal parts of their length.

    In units of 1/count of a value, so that whole numbers stay whole: each part is N units long.
    """
    length = values.shape[-1]
    edges = torch.arange(count + 1, device=values.device) * length
    whole, rest = edges // count, edges % count
    sums = torch.nn.functional.pad(values.cumsum(-1, dtype=values.dtype), (1, 0))
    behind = torch.nn.functional.pad(values, (0, 1))
    return (sums[..., whole] * count + behind[..., whole] * rest).diff(dim=-1)


def _centred(stored: Tensor, target: tuple[int, int]) -> Tensor:
    """Return labels or shares cut to, or surrounded with background up to, target (height, width)."""
    tall, wide = stored.shape[-2:]
    top, left = abs(target[0] - tall) // 2, abs(target[1] - wide) // 2
    if target[0] <= tall and target[1] <= wide:
        return stored[..., top : top + target[0], left : left + target[1]].contiguous()
    larger = stored.new_zeros(*stored.shape[:-2], *target)
    if stored.ndim == 4:
        larger[:, LABELS["background"]] = 1
    larger[..., top : top + tall, left : left + wide] = stored
    return larger
