"""The five statistics of a picture, batched."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..images import check_mask, to_planes
from .blur import grey_variance, laplacian_variance
from .canny import canny_edges
from .glcm import cooccurrence, glcm_asm, glcm_contrast
from .grey import opencv_grey, pillow_grey
from .pentagon import check_definition
from .spectrum import mean_log_spectrum, mean_magnitude_spectrum

PAPER_SIDE = 512


class Measures(NamedTuple):
    """Five float64 tensors [B], one number an image."""

    canny_edge_density: Tensor
    glcm_contrast: Tensor
    glcm_energy: Tensor
    blur_variance: Tensor
    mean_spectrum: Tensor


def measure(images: Tensor, definition: str = "reference", mask: Tensor | None = None) -> Measures:
    """Return the five measures of each picture, by the research code (`reference`) or by the paper (`paper`).

    images: [B,H,W,C], C of 1, 3 or 4, float 0..1 or uint8, H and W >= 3; any device. Floats become 8 bits by
    floor(255 x + 0.5) after a clamp to 0..1; grey is repeated to RGB; alpha is left out.
    mask: [H,W], [1,H,W] or [B,H,W], above 0.5 = measured; `reference` only. Edges are found on the whole
    picture and counted inside; pairs count with both pixels inside; rows of the spectrum weigh by their
    masked share. `paper` first crops the centre square and brings it to 512 x 512 (bicubic, antialiased).
    Values: edge density 0..1, contrast and variance in squared grey levels, energy 0..1, spectrum 20 ln
    magnitude (reference) or magnitude (paper). Raises ValueError with the input and the fix.
    Source: arXiv 2309.14756 and its research code; see README, "What the score is".
    """
    check_definition(definition)
    planes = to_planes(images)
    if definition == "reference":
        return measure_reference(planes, check_mask(mask, planes))
    if mask is not None:
        raise ValueError(
            "mask works with definition 'reference' only: the two-dimensional spectrum of 'paper' is one of "
            "whole pictures. Switch the definition, or crop the pictures to the region."
        )
    return measure_paper(fit_paper_size(planes))


def measure_reference(planes: Tensor, mask: Tensor | None = None) -> Measures:
    """The research code's five measures of uint8 planes [B,3,H,W], at their own size; mask bool [B,H,W]."""
    swapped = opencv_grey(planes, swapped=True)
    counts = cooccurrence(pillow_grey(planes), mask)
    return Measures(
        _edge_density(swapped, mask),
        glcm_contrast(counts),
        glcm_asm(counts).sqrt(),
        grey_variance(swapped, mask),
        mean_log_spectrum(planes, mask),
    )


def measure_paper(planes: Tensor) -> Measures:
    """The paper's five measures of uint8 planes [B,3,H,W] as they are, without the fixed size."""
    grey = opencv_grey(planes)
    counts = cooccurrence(pillow_grey(planes))
    return Measures(
        _edge_density(grey, None),
        glcm_contrast(counts),
        glcm_asm(counts),
        laplacian_variance(grey),
        mean_magnitude_spectrum(grey),
    )


def fit_paper_size(planes: Tensor) -> Tensor:
    """Return the centre squares of uint8 planes at 512 x 512; pictures of that size pass untouched."""
    height, width = planes.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(planes[:, :, top : top + side, left : left + side], PAPER_SIDE, PAPER_SIDE)


def resize(planes: Tensor, height: int, width: int) -> Tensor:
    """Return uint8 planes at another size, bicubic and antialiased, rounded half up."""
    if planes.shape[2:] == (height, width):
        return planes.contiguous()
    resized = interpolate(planes.float(), size=(height, width), mode="bicubic", antialias=True)
    return resized.clamp_(0, 255).add_(0.5).to(torch.uint8)


def channels_equal(planes: Tensor) -> Tensor:
    """Return bool [B]: the three channels are equal everywhere, so the reference spectrum means nothing."""
    red, green, blue = planes.unbind(1)
    return ((red ^ green) | (green ^ blue)).flatten(1).amax(1) == 0


def _edge_density(grey: Tensor, mask: Tensor | None) -> Tensor:
    edges = canny_edges(grey)
    if mask is None:
        return torch.count_nonzero(edges, (1, 2)).double() / (grey.shape[1] * grey.shape[2])
    return torch.count_nonzero(edges & mask, (1, 2)).double() / torch.count_nonzero(mask, (1, 2))
