"""How attributes and masks become inner vectors of the adapter: token by token, or pooled as published.

Each part has `null`, [N,width], what stands there when nothing is said, and gives what a condition adds to
it, [B,N,width].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from .masks import CLASSES
from .vocabulary import NAMES

ATTRIBUTES = len(NAMES)
# the sides of a region's shape and of the published mask encoder's planes
_SHAPE, POOLED_SIDE = 8, 32
_SAID = 0.5  # how large, for a null of 1, what is said starts out


class AttributeTokens(nn.Module):
    """One token an attribute: unknown, moved towards present or absent by its signed strength."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.null = _normal(1.0, ATTRIBUTES, width)
        self.present = _normal(_SAID, ATTRIBUTES, width)
        self.absent = _normal(_SAID, ATTRIBUTES, width)

    def forward(self, values: Tensor) -> Tensor:
        """Return [B,40,width] for strengths [B,40]: above 0 yes, below 0 no, 0 adds nothing."""
        said = values[..., None]
        return said.clamp(min=0) * self.present + (-said).clamp(min=0) * self.absent


class PooledAttributes(nn.Module):
    """The published baseline: a multi-hot vector to one token, by layers of 112 and 184.

    Of what is unwanted it knows nothing. Source: Tin-Hoang/humanfaces-diffusion-generation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.null = _normal(1.0, 1, width)
        self.layers = nn.Sequential(
            nn.Linear(ATTRIBUTES, 112), nn.SiLU(), nn.Linear(112, 184), nn.SiLU(), nn.Linear(184, width)
        )

    def forward(self, values: Tensor) -> Tensor:
        """Return [B,1,width] for strengths [B,40], of which those above 0 count."""
        return self.layers(values.clamp(min=0))[:, None]


class MaskTokens(nn.Module):
    """A token for each class, by how much it covers, where and in what shape; then a grid of places.

    The grid has grid x grid tokens; each sees the shares of all classes in patch x patch parts of its cell.
    Where a cell lies is in its null, which starts as sines and cosines.
    """

    def __init__(self, width: int, grid: int, patch: int) -> None:
        super().__init__()
        self.grid, self.patch = grid, patch
        null = torch.cat([torch.randn(CLASSES, width), _places(grid, width)])
        self.null = nn.Parameter(null)
        self.present = _normal(_SAID, CLASSES, width)
        self.absent = _normal(_SAID, CLASSES, width)
        self.shape = nn.Linear(5 + _SHAPE**2, width, bias=False)
        self.cell = nn.Linear(CLASSES * patch**2, width, bias=False)
        # a cell of one class has patch^2 ones among its inputs
        nn.init.normal_(self.cell.weight, std=_SAID / patch)

    @property
    def side(self) -> int:
        """How many pixels a side the planes have that this reads."""
        return self.grid * self.patch

    def forward(self, planes: Tensor) -> Tensor:
        """Return [B,19 + grid^2,width] for the shares of the classes [B,19,side,side]."""
        found = (planes.amax((2, 3)) > 0).to(planes.dtype)[..., None]
        regions = found * (self.present + self.shape(region_features(planes))) + (1 - found) * self.absent
        patches = planes.unflatten(3, (self.grid, self.patch)).unflatten(2, (self.grid, self.patch))
        cells = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return torch.cat([regions, self.cell(cells)], 1)


class PooledMask(nn.Module):
    """The published baseline: each class flattened at 32 x 32 to one token, without a place of its own.

    Source: ziqihuangg/Collaborative-Diffusion, SegMaskEncoder.
    """

    side = POOLED_SIDE

    def __init__(self, width: int) -> None:
        super().__init__()
        self.null = _normal(1.0, CLASSES, width)
        self.layer = nn.Linear(POOLED_SIDE**2, width)

    def forward(self, planes: Tensor) -> Tensor:
        """Return [B,19,width] for the shares of the classes [B,19,32,32]."""
        return self.layer(planes.flatten(2))


class MaskChannels(nn.Module):
    """The mask as further channels beside the latent, for models that take some in: a mix of the classes.

    null: [channels]. Channels start at 0, as those of such models do where nothing is given.
    """

    side = 64

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.zeros(channels))
        self.mix = nn.Parameter(torch.zeros(channels, CLASSES))

    def forward(self, planes: Tensor) -> Tensor:
        """Return [B,channels,64,64] for the shares of the classes [B,19,64,64], to be added to null."""
        return torch.einsum("ck,bkhw->bchw", self.mix, planes)


def region_features(planes: Tensor) -> Tensor:
    """Return what a region token sees of each class [B,19,5 + 64]; zeros for a class that is not there.

    planes: shares [B,19,H,W]. Root of the share of the picture, middle in x and y (-1..1), spread in x and y,
    and the class at 8 x 8, as roots of shares, so that small parts count too.
    """
    # a spread is a difference of squares, too fine for bf16
    with torch.autocast(planes.device.type, enabled=False):
        rows, columns = (_axis(planes, length) for length in planes.shape[-2:])
        whole = planes.sum((2, 3))
        share = planes / whole.clamp(min=torch.finfo(planes.dtype).tiny)[..., None, None]
        across, down = share.sum(2), share.sum(3)
        x, y = across @ columns, down @ rows
        spread_x = (across @ columns.square() - x.square()).clamp(min=0)
        spread_y = (down @ rows.square() - y.square()).clamp(min=0)
        size = planes.mean((2, 3))
        shape = adaptive_avg_pool2d(planes, _SHAPE).flatten(2)
        numbers = torch.stack([size.sqrt(), x, y, spread_x.sqrt(), spread_y.sqrt()], -1)
        return torch.cat([numbers, shape.sqrt()], -1)


def nearest_planes(labels: Tensor, side: int) -> Tensor:
    """Return one-hot planes [B,19,side,side] of the labels [B,H,W] nearest to each pixel's middle."""
    small = interpolate(labels[:, None].float(), (side, side), mode="nearest-exact")[:, 0]
    return (small[:, None] == torch.arange(CLASSES, device=labels.device)[:, None, None]).float()


def _axis(planes: Tensor, length: int) -> Tensor:
    return (torch.arange(length, device=planes.device, dtype=planes.dtype) * 2 + 1) / length - 1


def _places(grid: int, width: int) -> Tensor:
    """Return sines and cosines [grid^2,width] of the cells' rows and columns, of variance 1."""
    numbers = max(1, math.ceil(width / 4))
    at = (torch.arange(grid) + 0.5) / grid
    waves = at[:, None] * math.pi * torch.linspace(1, max(1, grid / 2), numbers)
    line = torch.cat([waves.sin(), waves.cos()], 1) * math.sqrt(2)
    down = line[:, None].expand(grid, grid, -1)
    across = line[None].expand(grid, grid, -1)
    return torch.cat([down, across], 2).flatten(0, 1)[:, :width]


def _normal(size: float, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * size)
