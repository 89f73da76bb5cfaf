"""What a training asks of its device: a precision, its own dice, and short gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from .denoiser import Denoiser

# enough for losses a thousand times smaller than usual, with as much room above
HALF_SCALE = 2.0**10


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


def loss_scale_of(precision: str, denoiser: Denoiser) -> float:
    """Return what the loss is multiplied by on its way back: a power of two for a network in fp16, else 1.

    The gradients of large pictures and of small weights lie below what fp16 holds. They are divided by it
    again before anything looks at them; overflow shows as an infinite gradient, as it would without.
    """
    return HALF_SCALE if denoiser.dtype == torch.float16 and precision == "fp32" else 1.0


def scale_gradients(parameters: Sequence[Tensor], factor: float) -> None:
    """Multiply the gradients of parameters by a factor in place; 1 costs nothing."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if factor != 1 and gradients:
        torch._foreach_mul_(gradients, factor)


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
