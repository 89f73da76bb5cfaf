"""Reconstruction distance: how much of a picture's fine detail a VAE loses when it encodes and decodes it.

A latent-diffusion model's pictures come out of its VAE's decoder, so that VAE gives them back unusually
well; a photograph holds detail that no latent can carry. The idea is AEROBLADE's (Ricker, Lukovnikov and
Fischer, CVPR 2024). Nothing is fitted, but the VAE has to be the one (or a near relative of the one) that
made the picture, and resizing or hard recompression after decoding destroys the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..images import to_planes
from .perceptual import Features
from .table import Column

TILE = 1024
# a tile is cut and its margin dropped on this grid, so that every VAE's latent cells stay where they were
ALIGN = 64
MIN_SIDE = 16
MIN_FEATURE_SIDE = 64
# below this many levels the fine detail is mostly rounding to 8 bits, which alone is worth 0.2
MIN_DETAIL = 0.5
_RING = 2

COLUMNS = (
    Column(
        "reconstruction", "share of fine detail", "higher", 0.0, math.inf,
        "How much of the picture's fine detail the VAE failed to give back, the least over the VAEs: small "
        "where that VAE's decoder made the picture, about 1 or more where it did not. Says nothing of "
        "pictures made by other VAEs, or resized or compressed hard since.",
    ),
    Column(
        "reconstruction_levels", "8-bit levels", "none", 0.0, 255.0,
        "Mean absolute difference in fine detail between the picture and its reconstruction. Grows with "
        "texture, so it does not compare one picture with another.",
    ),
    Column(
        "reconstruction_vae", "index", "none", 0.0, math.inf,
        "Which VAE reconstructed the picture best: 0 is the first, 1 the second.",
    ),
)  # fmt: skip
PERCEPTUAL = Column(
    "reconstruction_perceptual", "perceptual distance", "higher", 0.0, math.inf,
    "Distance between the picture and its reconstruction as a network's features see it, the least over "
    "the VAEs: small where that VAE's decoder made the picture. Plain pictures are small too.",
)  # fmt: skip


class Reconstruct(Protocol):
    """Encode and decode pictures by a VAE: float32 [B,H,W,3] in 0..1 to floats of the same shape and range.

    Two attributes are read where there are any: `downscale` (pixels a latent cell, 8 if absent; sides
    passed in are multiples of it) and `name` (what errors call it).
    """

    def __call__(self, images: Tensor, /) -> Tensor: ...


class ReconstructionDistance(NamedTuple):
    """Float64 tensors [B]; NaN where nothing can be said.

    detail: share of the fine detail that was lost. levels: the same in 8-bit levels, unnormalised.
    vae: index of the VAE with the least `detail`, which both belong to.
    perceptual: the least distance by `features`, None without them.
    """

    detail: Tensor
    levels: Tensor
    vae: Tensor
    perceptual: Tensor | None


def reconstruction_distance(
    images: Tensor,
    reconstruct: Reconstruct | Sequence[Reconstruct],
    *,
    tile: int = TILE,
    features: Features | None = None,
) -> ReconstructionDistance:
    """Return how far each picture is from its reconstruction by the nearest of several VAEs.

    images: [B,H,W,C] as `realism_core.irs.measure` takes them; they are compared as 8-bit pictures.
    reconstruct: one VAE or several. tile: pictures with a longer side go through in overlapping tiles of at
    most this many pixels a side, a multiple of 64 from 256 on; the overlap (64 pixels) is not compared.
    features: (pictures, reconstructions), both [B,H,W,3] in 0..1, to distances [B]; tiles count by area.

    Fine detail is h(x) = x - (1,4,6,4,1)/16 blur, on each channel in levels. With sums over channels and
    pixels, all but the outer two: detail = sum |h(x - x')| / sum |h(x)|, levels = mean |h(x - x')|. The
    quotient keeps its value when contrast changes, so rich texture alone does not raise it; absolute values
    keep few hard edges from outweighing the rest.
    Sides are cropped at the right and bottom to whole latent cells. NaN: a side below 16 pixels or two
    latent cells, mean |h(x)| below half a level (flat), and `perceptual` below 64 pixels a side.
    Raises ValueError with the fix: no VAE, a reconstruction of another shape, or NaN or infinite values.
    """
    return _distance(to_planes(images), reconstruct, tile, features)


def measure_reconstruction(
    planes: Tensor,
    vaes: Reconstruct | Sequence[Reconstruct],
    *,
    tile: int = TILE,
    features: Features | None = None,
) -> Tensor:
    """Return float64 [B,columns] of uint8 planes [B,3,H,W]: COLUMNS, and PERCEPTUAL last if features came.

    The rest as for `reconstruction_distance`.
    """
    return torch.stack(
        [values for values in _distance(planes, vaes, tile, features) if values is not None], 1
    )


def high_pass(images: Tensor) -> Tensor:
    """Return images [B,H,W,C] less their binomial blur of 5 x 5, [B,H-4,W-4,C]: without the outer ring."""
    blurred = images
    for dim in (1, 2):
        size = blurred.shape[dim] - 2 * _RING
        a, b, c, d, e = (blurred.narrow(dim, start, size) for start in range(5))
        blurred = (a + e + 4 * (b + d) + 6 * c) / 16
    return images[:, _RING:-_RING, _RING:-_RING] - blurred


class Span(NamedTuple):
    """One side of a tile, in pixels of the picture: what goes through the VAE, and what of it is kept."""

    covered: slice
    kept: slice

    def part(self, length: int, grow: int = 0) -> slice:
        """Return the kept part, grown by some pixels inside the picture, in pixels of the tile."""
        start, stop = max(0, self.kept.start - grow), min(length, self.kept.stop + grow)
        return slice(start - self.covered.start, stop - self.covered.start)


def tiles(length: int, tile: int) -> list[Span]:
    """Return the tiles along one side; their kept parts cover it once.

    Every tile begins on a multiple of ALIGN and is at most `tile` long.
    """
    count = 1 if length <= tile else -(-length // (tile - 2 * ALIGN))
    ends = [ALIGN * (index * length // (count * ALIGN)) for index in range(count)] + [length]
    return [
        Span(slice(max(0, start - ALIGN), min(length, end + ALIGN)), slice(start, end))
        for start, end in zip(ends[:-1], ends[1:], strict=True)
    ]


@torch.no_grad()
def _distance(
    planes: Tensor,
    reconstruct: Reconstruct | Sequence[Reconstruct],
    tile: int,
    features: Features | None,
) -> ReconstructionDistance:
    vaes = [reconstruct] if callable(reconstruct) else list(reconstruct)
    if not vaes:
        raise ValueError("no VAE came in, and the reconstruction distance needs one: connect a VAE.")
    if tile < 4 * ALIGN or tile % ALIGN:
        raise ValueError(f"tile is {tile}, but must be a multiple of {ALIGN} from {4 * ALIGN} on.")
    found = torch.stack(
        [torch.stack([_compare(plane, vae, n, tile, features) for plane in planes])
         for n, vae in enumerate(vaes)]
    )  # fmt: skip
    broken = ~torch.isfinite(found[:, :, 3])
    if broken.any():
        number, picture = broken.nonzero()[0].tolist()
        raise ValueError(
            f"{_name(vaes[number], number)} gave NaN or infinite values for picture {picture}: run the VAE "
            "in fp32 or bf16 (fp16 often does this), or choose another one."
        )
    detail, winner = found[:, :, 0].nan_to_num(math.inf, math.inf).min(0)
    nothing = torch.isinf(detail)
    return ReconstructionDistance(
        detail.masked_fill(nothing, math.nan),
        found[:, :, 1].gather(0, winner[None])[0].masked_fill(nothing, math.nan),
        winner.double().masked_fill(nothing, math.nan),
        None if features is None else _least(found[:, :, 2]),
    )


def _least(values: Tensor) -> Tensor:
    least = values.nan_to_num(math.inf, math.inf).amin(0)
    return least.masked_fill(torch.isinf(least), math.nan)


def _compare(
    plane: Tensor, vae: Reconstruct, number: int, tile: int, features: Features | None
) -> Tensor:
    """Return (detail, levels, perceptual, 0 or NaN after a broken reconstruction) of one uint8 [3,H,W]."""
    downscale = _downscale(vae, number)
    height, width = (side // downscale * downscale for side in plane.shape[1:])
    featured = min(height, width) >= MIN_FEATURE_SIDE
    lost, own, seen, check = torch.zeros(4, dtype=torch.float64, device=plane.device)
    if min(height, width) < max(MIN_SIDE, 2 * downscale):
        return torch.stack((lost + math.nan, lost + math.nan, lost + math.nan, check))
    for rows, columns in _grid(height, width, tile):
        picture = (plane[:, rows.covered, columns.covered].movedim(0, -1)[None].float() / 255).contiguous()
        answer = _reconstruct(vae, number, picture)
        check = check + (answer - answer).sum(dtype=torch.float64)
        answer = answer.clamp(0, 1)
        window = (slice(None), rows.part(height, _RING), columns.part(width, _RING))
        lost = lost + (high_pass((picture - answer)[window]) * 255).abs().sum(dtype=torch.float64)
        own = own + (high_pass(picture[window]) * 255).abs().sum(dtype=torch.float64)
        if features is not None and featured:
            part = (slice(None), rows.part(height), columns.part(width))
            seen = seen + _feature_distance(features, picture[part], answer[part])
    count = 3 * (height - 2 * _RING) * (width - 2 * _RING)
    says = own >= MIN_DETAIL * count
    perceptual = seen / (height * width) if featured else seen + math.nan
    values = torch.stack((lost / own, lost / count, perceptual))
    return torch.cat((values.masked_fill(~says, math.nan), check[None]))


def _grid(height: int, width: int, tile: int) -> Iterator[tuple[Span, Span]]:
    for rows in tiles(height, tile):
        for columns in tiles(width, tile):
            yield rows, columns


def _feature_distance(features: Features, picture: Tensor, answer: Tensor) -> Tensor:
    """Return the distance of one tile times its pixels."""
    distance = features(picture, answer)
    if distance.shape != (1,):
        raise ValueError(
            f"features gave shape {tuple(distance.shape)} for 1 picture: return one distance a picture."
        )
    return distance[0].to(picture.device, torch.float64) * (picture.shape[1] * picture.shape[2])


def _reconstruct(vae: Reconstruct, number: int, picture: Tensor) -> Tensor:
    answer = vae(picture)
    if not isinstance(answer, Tensor) or answer.shape != picture.shape:
        shape = "x".join(map(str, getattr(answer, "shape", ()))) or type(answer).__name__
        raise ValueError(
            f"{_name(vae, number)} gave {shape} for a picture {'x'.join(map(str, picture.shape))}: choose "
            "a VAE of an image model, which decodes to the size that it encodes."
        )
    return answer.to(picture.device, torch.float32)


def _downscale(vae: Reconstruct, number: int) -> int:
    downscale = getattr(vae, "downscale", 8)
    if downscale < 1 or ALIGN % downscale:
        raise ValueError(
            f"{_name(vae, number)} has {downscale} pixels a latent cell, but only divisors of {ALIGN} can "
            "be tiled: choose a VAE of an image model."
        )
    return downscale


def _name(vae: Reconstruct, number: int) -> str:
    return getattr(vae, "name", f"VAE {number}")
