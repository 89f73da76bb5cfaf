"""What a training asks of its device: a precision, its own dice, and short gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from .denoiser import Denoiser


def autocast_of(precision: str, denoiser: Denoiser) -> Callable[[], AbstractContextManager]:
    """Return what a prediction runs in: nothing for fp32, bf16 autocast where the device has it.

    Raises ValueError where bf16 is not to be had, or would change nothing.
    """
    if precision == "fp32":
        return contextlib.nullcontext
    kind = denoiser.device.type
    has = getattr(vars(torch).get(kind), "is_bf16_supported", lambda: True)()
    with contextlib.suppress(RuntimeError):
        torch.autocast(kind, torch.bfloat16)
        if has and denoiser.dtype != torch.float64:
            return lambda: torch.autocast(kind, torch.bfloat16)
    raise ValueError(f"precision bf16 does not work with {denoiser.dtype} on {kind}: use fp32.")


def own_dice(device: torch.device) -> AbstractContextManager:
    """Return a context after which torch's global dice are as they were before."""
    if device.type in ("cpu", "mps"):
        return torch.random.fork_rng([])
    return torch.random.fork_rng([device], device_type=device.type)


def seed_own_dice(device: torch.device, seed: int) -> None:
    """Seed torch's global dice for a device.

    torch.manual_seed also takes down the call stack for every kind of device that the machine lacks, which
    takes longer than a small layer.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def clip_gradients(parameters: Sequence[Tensor], longest: float) -> Tensor:
    """Scale gradients to a norm of at most `longest` (infinite: any) and return the norm that they had."""
    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
    # torch itself joins the tensors' operations on accelerators only
    return nn.utils.clip_grad_norm_(parameters, longest, foreach=True if on_cpu else None)
