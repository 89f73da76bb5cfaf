"""Drawn faces as latents: a small autoencoder of 64 x 64 pixels to 16 channels of 16 x 16, learned once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks import _faces_drawn
from benchmarks._faces_drawn import drawn_faces
from benchmarks._faces_judges import down
from devtools.environment import cache_folder

SIDE, CHANNELS, CELLS = 64, 16, 16
SEED, FACES = 3, 5500  # of the faces that codec and generators learn from; the judges learn from others
STEPS, BATCH, RATE = 9000, 16, 3e-3
WIDTH = 32
_NOISE = 0.2  # added to latents, in their deviations, so that a small part of a face has a say in many
_SMALL = 1e-3  # how much their size costs
_RARE = 1e-3  # a class that covers less of the faces counts as if it covered this much


class Codec(nn.Module):
    """An encoder and a decoder: latents of mean 0 and variance 1 over the faces it learned from."""

    def __init__(self) -> None:
        super().__init__()
        wide = 2 * WIDTH
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, WIDTH, 3, padding=1), nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.SiLU(), nn.Conv2d(WIDTH, wide, 2, 2), nn.SiLU(),
            nn.Conv2d(wide, wide, 3, padding=1), nn.SiLU(), nn.Conv2d(wide, CHANNELS, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(CHANNELS, wide, 3, padding=1), nn.SiLU(),
            nn.Conv2d(wide, wide, 3, padding=1), nn.SiLU(), nn.Conv2d(wide, 4 * WIDTH, 1), nn.PixelShuffle(2),
            nn.SiLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.SiLU(),
            nn.Conv2d(WIDTH, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(1, CHANNELS, 1, 1))
        self.register_buffer("deviation", torch.ones(1, CHANNELS, 1, 1))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return latents [n,16,16,16] of pictures uint8 [n,H,W,3]."""
        parts = (self.encoder(2 * part - 1) for part in down(images, SIDE).split(100))
        return (torch.cat([*parts]) - self.mean) / self.deviation

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return pictures [n,64,64,3] in 0..1 of latents."""
        scaled = latents * self.deviation + self.mean
        planes = torch.cat([self.decoder(part) for part in scaled.split(100)])
        return (planes / 2 + 0.5).clamp(0, 1).movedim(1, -1)


def codec(say: bool = True) -> Codec:
    """Return the trained codec, from the cache or trained now, some minutes of one core."""
    told = _faces_drawn.version().encode() + Path(__file__).read_bytes()
    path = cache_folder() / "faces" / f"codec-{hashlib.sha256(told).hexdigest()[:16]}.safetensors"
    made = Codec()
    if not path.is_file():
        _train(made, say)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file({name: value.contiguous() for name, value in made.state_dict().items()}, part)
        os.replace(part, path)
    made.load_state_dict(load_file(path))
    return made.requires_grad_(False)


def _train(made: Codec, say: bool) -> None:
    faces = drawn_faces(FACES, SEED)
    planes = 2 * down(faces.images, SIDE) - 1
    weights = _weights(faces.mask.resized(SIDE, SIDE).labels)
    dice = torch.Generator().manual_seed(0)
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=dice)
            nn.init.zeros_(layer.bias)
    optimiser = torch.optim.AdamW(made.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS, pct_start=0.1)
    for step in range(STEPS):
        rows = torch.randint(len(planes), (BATCH,), generator=dice)
        batch = planes[rows]
        latents = made.encoder(batch)
        spread = latents.detach().std((0, 2, 3), keepdim=True)
        noise = _NOISE * spread * torch.randn(latents.shape, generator=dice)
        off = (weights[rows] * (made.decoder(latents + noise) - batch).abs()).mean()
        optimiser.zero_grad()
        (off + _SMALL * latents.square().mean()).backward()
        optimiser.step()
        rate.step()
        if say and (step + 1) % 500 == 0:
            print(f"  codec: step {step + 1} of {STEPS}, {off.item() / 2:.4f} off a pixel", flush=True)
    latents = made.encode(faces.images)
    made.mean.copy_(latents.mean((0, 2, 3), keepdim=True))
    made.deviation.copy_(latents.std((0, 2, 3), keepdim=True))


def _weights(labels: Tensor) -> Tensor:
    """Return how much each pixel counts [n,1,H,W], 1 on average: by the root of how rare its class is."""
    counts = torch.bincount(labels.flatten().long()).float()
    share = counts / counts.sum()
    weights = share.clamp(min=_RARE).rsqrt()
    return (weights / (weights * share).sum())[labels.long()][:, None]
