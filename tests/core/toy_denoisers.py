"""Small networks that the loop trains as it would a diffusion or flow model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from realism_core.training.data import Dataset, LatentExample
from realism_core.training.lora import LoraAdapters, LoraConfig, attach
from realism_core.training.objective import Objective
from realism_core.training.timesteps import stable_diffusion_sigmas

CHANNELS, WIDTH, TEXT = 2, 6, 5


class Block(nn.Module):
    """A residual block that is told the noise level and the conditioning."""

    def __init__(self) -> None:
        super().__init__()
        self.told = nn.Linear(TEXT + 2, WIDTH)
        self.near = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.mixed = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        shift = self.told(told)[:, :, None, None]
        return x + self.mixed(torch.nn.functional.silu(self.near(x) + shift))


class Network(nn.Module):
    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, WIDTH, 1)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.last = nn.Conv2d(WIDTH, CHANNELS, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x, told)
        return self.last(x)


class ToyDenoiser:
    """A `Denoiser` of a few hundred weights.

    calls: how often it predicted. shaky: in training it throws torch's global dice, as a dropout layer does.
    """

    device = torch.device("cpu")
    shaky = False

    def __init__(self, kind: str = "eps", dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.module = Network().to(dtype)
        self.objective, self.dtype, self.calls = Objective(kind), dtype, 0

    def sigmas(self, u: Tensor) -> Tensor:
        return u if self.objective.kind == "flow" else stable_diffusion_sigmas(u)

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Sequence[Tensor]) -> Tensor:
        self.calls += 1
        noisy, sigma = noisy.to(self.dtype), sigma.to(self.dtype)
        level = torch.stack([sigma / (1 + sigma), (1 + sigma**2).rsqrt()], 1)
        told = torch.cat([level, torch.stack(list(conditioning)).to(self.dtype)], 1)
        if self.shaky and torch.is_grad_enabled():
            told = torch.nn.functional.dropout(told, 0.2)
        scale = 1 if self.objective.kind == "flow" else level[:, 1, None, None, None]
        return self.module(noisy * scale, told)


def toy_adapters(denoiser: ToyDenoiser, rank: int = 2, dropout: float = 0.0, seed: int = 1) -> LoraAdapters:
    """Attach adapters to all layers, in the network's own dtype, both matrices away from 0."""
    adapters = attach(
        denoiser.module, LoraConfig(rank=rank, alpha=rank, dropout=dropout, targets="all"), seed
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapters.parameters():
        start = parameter.data + 0.02 * torch.randn(parameter.shape, generator=generator)
        parameter.data = start.to(denoiser.dtype)
    return adapters


def toy_data(count: int = 6, sizes: Sequence[int] = (6,), seed: int = 2, **options) -> Dataset:
    """Images of smooth colours, each with its own conditioning, in turn of the given side lengths."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(count):
        side = sizes[index % len(sizes)]
        text = torch.randn(TEXT, generator=generator)
        latent = text[:CHANNELS, None, None] + 0.1 * torch.randn(
            CHANNELS, side, side + 1, generator=generator
        )
        examples.append(LatentExample(latent, text))
    return Dataset(examples, buckets=len(sizes) > 1, **options)


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Tell whether both hold the same names and, bit for bit, the same values."""
    return set(one) == set(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )
