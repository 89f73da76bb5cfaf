"""What a training asks of its device: a precision, and dice that come back as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

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
