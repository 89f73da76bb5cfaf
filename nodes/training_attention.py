"""Attention that a training can go back through, whatever ComfyUI was started with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .comfy import torch_attention

Attention = Callable[..., Tensor]


def with_gradient(given: Attention | None = None) -> Attention:
    """Return an attention override for transformer_options: torch's own attention, which has a gradient.

    What ComfyUI computes with otherwise may have none (SageAttention: layers before it would silently stop
    learning) or keep every attention matrix for the backward pass (sub-quadratic, its choice on a
    processor). given: the MODEL's own override, which stays where it gives a gradient.
    """

    def attention(chosen: Attention, *args: Any, **kwargs: Any) -> Tensor:
        if given is None:
            return torch_attention(*args, **kwargs)
        output = given(chosen, *args, **kwargs)
        if output.requires_grad or not torch.is_grad_enabled():
            return output
        asked = any(isinstance(value, Tensor) and value.requires_grad for value in args)
        return torch_attention(*args, **kwargs) if asked else output

    return attention
