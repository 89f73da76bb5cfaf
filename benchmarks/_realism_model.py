"""A small latent diffusion of photographs for benchmarks/realism_term.py: data, denoiser and decoder.

Pictures of 64 x 64 pixels are 8 x 8 latents of the small autoencoder of _tiny_decoders.py, 8 channels deep
and scaled to variance 1. Only crops with detail are used: over all crops, sky and walls included, the
profile is so wide that whatever a model makes lies inside. The start learns from all photographs but those
of animals, the adapters from some of the animals; the other animals are held out.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import _tiny_decoders as tiny_decoders
from benchmarks._p2_model import FREQUENCIES, HEADS, Attention, Block
from devtools.environment import cache_folder
from devtools.pictures import photographs
from realism_core.irs import Profile
from realism_core.irs.measures import channels_equal, measure
from realism_core.irs.tiles import cut_tiles
from realism_core.pictures import read_picture
from realism_core.training.data import Dataset, LatentExample
from realism_core.training.objective import Objective
from realism_core.training.timesteps import stable_diffusion_sigmas

ANIMALS = ("erase.rcc", "explore_farm_animals.rcc", "explore_world_animals.rcc")
SIDE, CELLS, CHANNELS = 64, 8, tiny_decoders.LATENT
MAX_SIDE = 768  # that of the pictures which the autoencoder learned from
HELD_OUT = 0.4  # share of the animals
EDGES = 0.04  # edge density above which a crop counts as one with detail
ENCODER_LAYERS = 13


@dataclass(frozen=True)
class Material:
    """Photographs as latents and what belongs to them.

    start, training: crops of the photographs that these trainings see. held_out: of those that none sees;
    real: the same crops as pixels, uint8 [n,3,64,64]. profile: of the crops of start and training.
    mean, deviation [8,1,1]: of the autoencoder's own latents, by which they are scaled.
    """

    start: Dataset
    training: Dataset
    held_out: Dataset
    real: Tensor
    profile: Profile
    autoencoder: nn.Sequential
    mean: Tensor
    deviation: Tensor

    def decode(self, latents: Tensor) -> Tensor:
        """Return pictures [B,3,H,W] of latents in the denoiser's scaling, around 0..1, with gradient."""
        return self.autoencoder[ENCODER_LAYERS:](latents * self.deviation + self.mean)

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        """Return the same as a saved picture would have them, uint8."""
        made = [self.decode(part) for part in latents.split(32)]
        return torch.cat(made).clamp(0, 1).mul(255).round().to(torch.uint8)


def read_material(crops: int, held_out_crops: int) -> Material:
    """Return the material from the photographs of the cache; SetupError says how to have them."""
    found = [p for p in photographs(cache_folder(), sys.executable) if p.source != "scikit-image"]
    planes = [read_picture(picture.path, max_side=MAX_SIDE).movedim(-1, 0) for picture in found]
    autoencoder = tiny_decoders.trained("nearest", planes, cache_folder()).requires_grad_(False)
    animals = [n for n, picture in enumerate(found) if set(picture.path.parts) & set(ANIMALS)]
    others = sorted(set(range(len(found))) - set(animals))
    random.Random(0).shuffle(animals)
    held, seen = animals[: round(HELD_OUT * len(animals))], animals[round(HELD_OUT * len(animals)) :]
    start, training, real = (
        torch.cat([_crops(planes[n], count, n) for n in group])
        for group, count in ((others, crops), (seen, crops), (held, held_out_crops))
    )
    raw = _encoded(autoencoder, start)
    mean, deviation = raw.mean((0, 2, 3))[:, None, None], raw.std((0, 2, 3))[:, None, None]

    def latents(pixels: Tensor) -> Dataset:
        return Dataset([LatentExample((z - mean) / deviation) for z in _encoded(autoencoder, pixels)])

    profile = Profile.fit(torch.cat((start, training)).movedim(1, -1).split(64), name="what is trained on")
    return Material(
        latents(start), latents(training), latents(real), real, profile, autoencoder, mean, deviation
    )


def _crops(plane: Tensor, count: int, number: int) -> Tensor:
    """Return at most `count` crops with detail [n,3,64,64] of a photograph."""
    tiles = cut_tiles(plane[None], SIDE, SIDE)[0]
    edges = measure(tiles.movedim(1, -1)).canny_edge_density
    tiles = tiles[(edges > EDGES) & ~channels_equal(tiles)]
    return tiles[sorted(random.Random(number).sample(range(len(tiles)), min(count, len(tiles))))]


@torch.no_grad()
def _encoded(autoencoder: nn.Sequential, pixels: Tensor) -> Tensor:
    return torch.cat([autoencoder[:ENCODER_LAYERS](part.float() / 255) for part in pixels.split(32)])


class Network(nn.Module):
    """Residual blocks on 8 x 8 places and, between them, on 4 x 4, told the noise level."""

    def __init__(self, width: int) -> None:
        super().__init__()
        told = 4 * width
        self.level = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, told), nn.SiLU(), nn.Linear(told, told), nn.SiLU()
        )
        self.first = nn.Conv2d(CHANNELS, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, width, told) for _ in range(4))
        self.low = nn.ModuleList(Block(width, width, told) for _ in range(2))
        self.attention = nn.ModuleList(Attention(width, HEADS) for _ in range(2))
        self.join = Block(2 * width, width, told)
        self.norm, self.last = nn.GroupNorm(8, width), nn.Conv2d(width, CHANNELS, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        told = self.level(level)
        x = self.blocks[1](self.blocks[0](self.first(x), told), told)
        y = functional.avg_pool2d(x, 2)
        for block, attention in zip(self.low, self.attention, strict=True):
            y = attention(block(y, told))
        x = self.join(torch.cat((x, functional.interpolate(y, scale_factor=2.0)), 1), told)
        x = self.blocks[3](self.blocks[2](x, told), told)
        return self.last(functional.silu(self.norm(x)))


class LatentDenoiser:
    """An eps model on Stable Diffusion's schedule, as `realism_core.training.denoiser.Denoiser` asks."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, width: int, seed: int = 0) -> None:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.module = Network(width)
        self.objective = Objective("eps")

    def sigmas(self, u: Tensor) -> Tensor:
        return stable_diffusion_sigmas(u)

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Sequence[Any]) -> Tensor:
        # the log of sigma runs over about -3.5 to 2.7: waves from one turn to many over that range
        turns = sigma.log()[:, None] * torch.arange(1, FREQUENCIES + 1) * (math.pi / 7)
        level = torch.cat((turns.sin(), turns.cos()), 1)
        return self.module(noisy * (1 + sigma**2).rsqrt()[:, None, None, None], level)
