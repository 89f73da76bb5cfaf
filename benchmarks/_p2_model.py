"""A small U-Net that predicts the noise of 32 x 32 colour pictures: training it, and sampling from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from realism_core.training.objective import Objective
from realism_core.training.timesteps import stable_diffusion_sigmas

SIDE = 32
GROUPS, FREQUENCIES, HEADS = 8, 16, 4


class Block(nn.Module):
    """Two convolutions around a residual, told the noise level."""

    def __init__(self, width_in: int, width: int, told: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.GroupNorm(GROUPS, width_in), nn.GroupNorm(GROUPS, width)
        self.conv_in = nn.Conv2d(width_in, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)
        self.told = nn.Linear(told, 2 * width)
        self.past = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.told(told)[:, :, None, None].chunk(2, 1)
        y = self.conv_in(functional.silu(self.norm_in(x)))
        y = self.norm_out(y) * (1 + scale) + shift
        return self.past(x) + self.conv_out(functional.silu(y))


class Attention(nn.Module):
    """Self-attention over all places."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, width)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.zeros_(self.to_out.weight)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.norm(x).flatten(2).transpose(1, 2)
        parts = self.to_qkv(flat).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        return x + self.to_out(y).transpose(1, 2).reshape(x.shape)


class Network(nn.Module):
    """Three levels of 16, 8 and 4 places a side for pictures of 32 x 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        told, wide = 4 * width, 2 * width
        self.level = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, told), nn.SiLU(), nn.Linear(told, told), nn.SiLU()
        )
        self.first = nn.Conv2d(12, width, 3, padding=1)
        self.down = nn.ModuleList(
            (Block(width, width, told), Block(width, wide, told), Block(wide, wide, told))
        )
        self.attention = nn.ModuleList(Attention(wide, HEADS) for _ in range(3))
        self.middle = Block(wide, wide, told)
        self.up = nn.ModuleList(
            (Block(2 * wide, wide, told), Block(2 * wide, width, told), Block(2 * width, width, told))
        )
        self.norm, self.last = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, 12, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        told = self.level(level)
        x = self.first(functional.pixel_unshuffle(x, 2))
        kept = []
        for number, block in enumerate(self.down):
            if number:
                x = functional.avg_pool2d(x, 2)
            x = block(x, told)
            if number:
                x = self.attention[number - 1](x)
            kept.append(x)
        x = self.attention[2](self.middle(x, told))
        for number, block in enumerate(self.up):
            if number:
                x = functional.interpolate(x, scale_factor=2.0)
            x = block(torch.cat((x, kept.pop()), 1), told)
        return functional.pixel_shuffle(self.last(functional.silu(self.norm(x))), 2)


class SmallDenoiser:
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
        waves = torch.arange(1, FREQUENCIES + 1) * (math.pi / 7)
        turns = sigma.log()[:, None] * waves
        level = torch.cat((turns.sin(), turns.cos()), 1)
        return self.module(noisy * (1 + sigma**2).rsqrt()[:, None, None, None], level)


class WholeNetwork:
    """All weights of a network, trained as `realism_core.training.denoiser.Trainable` asks."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def parameters(self) -> list[nn.Parameter]:
        return list(self.module.parameters())

    def rate_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        return [(1.0, self.parameters())]

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.module.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(dict(state))

    def train(self, mode: bool = True) -> WholeNetwork:
        self.module.train(mode)
        return self

    def begin_pass(self, number: int) -> None:
        """The network draws nothing of its own: there is nothing to set."""


@torch.no_grad()
def sample(denoiser: SmallDenoiser, noise: Tensor, steps: int, batch: int = 32) -> Tensor:
    """Return what the model makes of noise [N,3,32,32], by DDIM without added noise: as its latents.

    Deterministic: Euler's method on sample = x0 + sigma eps, over evenly spaced steps from pure noise.
    """
    sigmas = [*denoiser.sigmas(torch.linspace(1, 0, steps, dtype=torch.float64)).float(), torch.tensor(0.0)]
    made = []
    for x in noise.split(batch):
        x = x * sigmas[0]
        for sigma, lower in zip(sigmas, sigmas[1:], strict=False):
            x = x + (lower - sigma) * denoiser.predict(x, sigma.repeat(len(x)), [None] * len(x))
        made.append(x)
    return torch.cat(made)
