"""The adapters that a configuration asks for, layer by layer, and what they take of memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from .targets import TARGETS, choose_layers

Shape = tuple[int, ...]
FLOAT_BYTES = 4


@dataclass(frozen=True)
class LoraConfig:
    """Adapters of y = base(x) + scale B A x, and the layers that they go on.

    rank: width of A x, from 1. alpha: above 0; scale is alpha / rank, as in kohya's files and ComfyUI, or
    alpha / sqrt(rank) if rank_stabilised (arXiv 2312.03732). dropout: chance in [0, 1) with which a number
    of x is left out of the adapter's input, the others scaled up, in training only. dora: train the length
    of each row of the matrix apart from its direction (arXiv 2402.09353). targets, pattern: see
    `choose_layers`. clamp_rank: a layer too small for the rank gets the largest that it can hold, with the
    same scale; otherwise such a layer is an error. Raises ValueError for numbers out of their ranges.
    """

    rank: int = 16
    alpha: float = 16.0
    rank_stabilised: bool = False
    dropout: float = 0.0
    dora: bool = False
    targets: str = "attention"
    pattern: str = ""
    clamp_rank: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"rank is {self.rank!r}; it is a whole number from 1 up.")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha is {self.alpha!r}; it is a number above 0, often the rank.")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout!r}; it is from 0 up to, but not, 1.")
        if self.targets not in TARGETS:
            raise ValueError(f"targets is {self.targets!r}; choose one of {', '.join(TARGETS)}.")
        if self.pattern.strip() and self.targets != "pattern":
            raise ValueError(
                f"The pattern has no effect with targets {self.targets!r}. Choose 'pattern', or empty it."
            )

    @property
    def scale(self) -> float:
        """The factor on B A x."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


class LayerPlan(NamedTuple):
    """The adapter of one layer: shapes of A, B and DoRA's magnitude (None without), and its rank."""

    layer: nn.Module
    down: Shape
    up: Shape
    magnitude: Shape | None
    rank: int

    @property
    def shapes(self) -> list[Shape]:
        return [self.down, self.up] + ([self.magnitude] if self.magnitude else [])


class LoraMemory(NamedTuple):
    """Bytes that adapters take in training, apart from activations."""

    parameters: int
    weights: int
    gradients: int
    optimiser: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser


def plan_layers(module: nn.Module, config: LoraConfig) -> dict[str, LayerPlan]:
    """Return the adapter of each chosen layer by path; looks at sizes only, not at weights.

    A is [rank, in] or [rank, in, kh, kw], B [out, rank] or [out, rank, 1, 1], the magnitude [out, 1] or
    [out, 1, 1, 1]. Raises ValueError for grouped convolutions and, unless the configuration clamps, for a
    rank above min(out, in kh kw); both name the layer.
    """
    chosen = choose_layers(module, config.targets, config.pattern)
    plans = {path: _plan(path, layer, config) for path, layer in chosen.items()}
    room = {path: min(plan.up[0], math.prod(plan.down[1:])) for path, plan in plans.items()}
    small = {path: most for path, most in room.items() if most < config.rank}
    if small and not config.clamp_rank:
        path = min(small, key=small.__getitem__)
        more = f" and {len(small) - 1} more" if len(small) > 1 else ""
        raise ValueError(
            f"rank {config.rank} is more than layer {path!r}{more} can hold; the largest for {path!r} is "
            f"{small[path]}. Lower the rank to it, choose other targets, or switch clamp_rank on."
        )
    return plans


def estimate_memory(
    module: nn.Module, config: LoraConfig, optimiser_numbers: Callable[[Shape], int] | None = None
) -> LoraMemory:
    """Return what the adapters of a configuration take, from shapes alone: nothing is allocated.

    optimiser_numbers: how many float32 numbers the optimiser keeps for a parameter of a given shape;
    those of AdamW if None. Besides, a forward pass keeps for the backward pass what enters each adapted
    layer and `rank` numbers for each position of it. Raises ValueError as `plan_layers` does.
    """
    numbers = optimiser_numbers or adamw_numbers
    shapes = [shape for plan in plan_layers(module, config).values() for shape in plan.shapes]
    count = sum(math.prod(shape) for shape in shapes)
    kept = sum(numbers(shape) for shape in shapes)
    return LoraMemory(count, FLOAT_BYTES * count, FLOAT_BYTES * count, FLOAT_BYTES * kept)


def adamw_numbers(shape: Shape) -> int:
    """Return how many numbers AdamW keeps for a parameter: two moments."""
    return 2 * math.prod(shape)


def _plan(path: str, layer: nn.Module, config: LoraConfig) -> LayerPlan:
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1:
            raise ValueError(
                f"Layer {path!r} is a convolution of {layer.groups} groups, which adapters do not support. "
                "Choose targets, or a pattern, without it."
            )
        inputs, outputs, kernel = layer.in_channels, layer.out_channels, tuple(layer.kernel_size)
    else:
        inputs, outputs, kernel = layer.in_features, layer.out_features, ()
    rank = min(config.rank, outputs, inputs * math.prod(kernel)) if config.clamp_rank else config.rank
    ones = (1,) * len(kernel)
    magnitude = (outputs, 1, *ones) if config.dora else None
    return LayerPlan(layer, (rank, inputs, *kernel), (outputs, rank, *ones), magnitude, rank)
