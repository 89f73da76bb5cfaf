"""The optimisers: AdamW, a memory-light Adafactor, SGD with momentum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

OPTIMISERS = ("adamw", "adafactor", "sgd")


def make_optimiser(
    kind: str, parameters: Iterable[Tensor | dict], learning_rate: float, weight_decay: float = 0.0
) -> Optimizer:
    """Return an optimiser whose step never waits for the device.

    kind: adamw (two numbers a weight), adafactor (one a row and one a column), sgd (momentum 0.9, one
    number a weight). parameters: or groups of them, as torch takes these. Raises ValueError for another kind.
    """
    if kind == "adamw":
        return _adamw(parameters, learning_rate, weight_decay)
    if kind == "adafactor":
        return Adafactor(parameters, learning_rate, weight_decay)
    if kind == "sgd":
        return SGD(parameters, lr=learning_rate, momentum=0.9, weight_decay=weight_decay)
    raise ValueError(f"optimiser is {kind!r}; use one of {', '.join(OPTIMISERS)}.")


def _adamw(parameters: Iterable[Tensor | dict], lr: float, weight_decay: float) -> AdamW:
    """Return AdamW that makes its step in one kernel where torch has it for the device."""
    given = [dict(group) if isinstance(group, dict) else group for group in parameters]
    copies = [dict(group) if isinstance(group, dict) else group for group in given]
    try:
        return AdamW(given, lr=lr, weight_decay=weight_decay, fused=True)
    except RuntimeError:
        return AdamW(copies, lr=lr, weight_decay=weight_decay)


def state_numbers(kind: str, shape: Sequence[int]) -> int:
    """Return how many numbers the optimiser keeps for a weight of this shape."""
    if kind == "adafactor" and len(shape) > 1:
        return shape[0] + math.prod(shape[1:])
    return math.prod(shape) * (2 if kind == "adamw" else 1)


class Adafactor(Optimizer):
    """Adafactor with the learning rate as given: no relative steps, no scaling by the weights' size.

    Relative steps would hold a LoRA's second matrix, which starts at 0, near 0. torch.optim.Adafactor
    always takes them, waits for the device twice a weight, and is missing before torch 2.5. Kernels of
    convolutions are factored as matrices [out, in * height * width]. Source: Shazeer and Stern, arXiv
    1804.04235, algorithms 4 and 5, with decay 1 - t^-0.8 and clipping of the update at RMS 1.
    """

    def __init__(self, parameters: Iterable[Tensor | dict], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Make one step; closure: computes the loss and its gradients anew, as torch.optim has it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["weight_decay"])
        return loss

    def _update(self, parameter: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[parameter]
        state["step"] = state.get("step", 0) + 1
        share = state["step"] ** -0.8
        gradient = parameter.grad
        square = gradient.square().add_(1e-30)
        if gradient.ndim > 1:
            square = square.flatten(1)
            rows = _averaged(state, "rows", square.mean(1), share)
            columns = _averaged(state, "columns", square.mean(0), share)
            scale = torch.outer((rows / rows.mean()).rsqrt(), columns.rsqrt()).view_as(gradient)
        else:
            scale = _averaged(state, "squares", square, share).rsqrt()
        update = scale.mul_(gradient)
        update.div_(update.square().mean().sqrt().clamp_(min=1.0))
        if weight_decay:
            parameter.mul_(1 - lr * weight_decay)
        parameter.sub_(update, alpha=lr)


def _averaged(state: dict, name: str, value: Tensor, share: float) -> Tensor:
    """Return the running average of a value, taking this one in with its share (1 at the first step)."""
    if name in state:
        state[name].lerp_(value, share)
    else:
        state[name] = value
    return state[name]
