"""Small latent decoders, trained on photographs for a few minutes: pictures with a decoder's trace and a
photograph's content, for benchmarks/fit_detector.py. The weights are cached by a hash of this file and of
the pictures.

They are far from a real VAE (fewer channels, blurred detail), but they upsample by 8 in the three ways that
real ones do: nearest neighbour and convolution, transposed convolution, pixel shuffle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

KINDS = ("nearest", "transposed", "shuffle")
WIDTH, LATENT = 32, 8
STEPS, BATCH, CROP, RATE = 1000, 8, 64, 2e-3
VERSION = 1  # of the training, for the cache


class _Up(nn.Module):
    """Twice the size, by one of the three ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "nearest":
            self.way = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
        elif kind == "transposed":
            self.way = nn.ConvTranspose2d(WIDTH, WIDTH, 4, stride=2, padding=1)
        else:
            self.way = nn.Sequential(nn.Conv2d(WIDTH, 4 * WIDTH, 3, padding=1), nn.PixelShuffle(2))
        self.after = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        values = nn.functional.silu(self.way(values))
        return values + nn.functional.silu(self.after(values))


def autoencoder(kind: str) -> nn.Sequential:
    """Return an untrained autoencoder [B,3,H,W] -> the same, sides a multiple of 8; 0..1."""
    down: list[nn.Module] = []
    for channels in (3, WIDTH, WIDTH):
        down += [nn.Conv2d(channels, WIDTH, 4, stride=2, padding=1), nn.SiLU()]
        down += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.SiLU()]
    encoder = [*down, nn.Conv2d(WIDTH, LATENT, 1)]
    decoder = [nn.Conv2d(LATENT, WIDTH, 3, padding=1), nn.SiLU(), *(_Up(kind) for _ in range(3))]
    model = nn.Sequential(*encoder, *decoder, nn.Conv2d(WIDTH, 3, 3, padding=1))
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def train(kind: str, photographs: Sequence[Tensor], steps: int = STEPS) -> nn.Sequential:
    """Return an autoencoder of this kind trained on crops of uint8 photographs [3,H,W], seeded."""
    torch.manual_seed(KINDS.index(kind))
    model = autoencoder(kind)
    random = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        batch = torch.stack([_crop(photographs, random) for _ in range(BATCH)])
        loss = (model(batch) - batch).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _crop(photographs: Sequence[Tensor], random: torch.Generator) -> Tensor:
    picture = photographs[int(torch.randint(len(photographs), (1,), generator=random))]
    top, left = (int(torch.randint(side - CROP + 1, (1,), generator=random)) for side in picture.shape[1:])
    return picture[:, top : top + CROP, left : left + CROP].float() / 255


def folder(photographs: Sequence[Tensor], cache: Path) -> Path:
    """Return the cache's folder for autoencoders trained so on these very pictures."""
    state = hashlib.sha256(repr((VERSION, KINDS, WIDTH, LATENT, STEPS, BATCH, CROP, RATE)).encode())
    for picture in photographs:
        state.update(picture.numpy().tobytes())
    return cache / "tiny-decoders" / state.hexdigest()[:16]


def trained(kind: str, photographs: Sequence[Tensor], cache: Path) -> nn.Sequential:
    """Return the trained autoencoder of this kind, from the cache if these very pictures trained it
    before.
    """
    path = folder(photographs, cache) / f"{kind}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(train(kind, photographs).state_dict(), path)
    return load(kind, path.parent)


def load(kind: str, where: Path) -> nn.Sequential:
    """Return the trained autoencoder of this kind from a folder of `trained`."""
    model = autoencoder(kind)
    model.load_state_dict(load_file(where / f"{kind}.safetensors"))
    return model.eval()


@torch.no_grad()
def reconstruct(model: nn.Sequential, picture: Tensor) -> Tensor:
    """Return a uint8 picture [3,H,W] as the autoencoder gives it back, cropped to a multiple of 8."""
    height, width = (side // 8 * 8 for side in picture.shape[1:])
    decoded = model(picture[None, :, :height, :width].float() / 255)[0]
    return decoded.clamp(0, 1).mul(255).add(0.5).to(torch.uint8)
