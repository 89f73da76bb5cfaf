"""Layers that compute with another weight than they hold: quantised, or kept off the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .forwards import Forward, exchanged_forwards
from .inference_weights import inner_tensors
from .memory import is_out_of_memory
from .targets import is_linear


@contextlib.contextmanager
def cast_again(module: nn.Module) -> Iterator[None]:
    """Let layers bring their weights to the device a second time for the backward pass.

    In its low-memory modes ComfyUI copies a weight into a buffer that the next layers use again, and adds
    other LoRAs to it there. Autograd would keep that copy: the whole model on the device, or, where the
    buffer has been used again, a wrong gradient or none. Here such a layer keeps its input and computes
    itself again on the way back. Asked at each call, since ComfyUI moves weights at any time. Every
    `forward` is as it was afterwards.
    """
    layers = [part for part in module.modules() if hasattr(part, "weight_function")]
    with exchanged_forwards(layers, _casting):
        yield


def _casting(layer: nn.Module, forward: Forward) -> Forward:
    def casting(*args: Any, **kwargs: Any) -> Any:
        x = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        with_gradient = x is not None and x.requires_grad and torch.is_grad_enabled()
        if with_gradient and _is_cast(layer, x.device):
            return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        return forward(*args, **kwargs)

    return casting


def _is_cast(layer: nn.Module, device: torch.device) -> bool:
    """Tell whether the weight that a layer applies is another tensor at each call.

    _v: the layer's place in the memory that ComfyUI's dynamic loading fills and empties.
    """
    if layer.weight_function or layer.bias_function or hasattr(layer, "_v"):
        return True
    return any(weight.device != device for weight in layer._parameters.values() if weight is not None)


def check_quantised(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ValueError, naming a layer, for quantised weights of a kind that no gradient comes through.

    Tries one layer of each kind on one number a channel.
    """
    tried = set()
    for path, layer in module.named_modules():
        weight = layer._parameters.get("weight")
        parts = {} if weight is None or not is_linear(layer) else inner_tensors(weight)
        form = getattr(layer, "quant_format", type(weight).__name__)
        if not parts or form in tried:
            continue
        tried.add(form)
        x = torch.zeros(1, 1, layer.in_features, device=device, dtype=dtype, requires_grad=True)
        try:
            layer.forward(x).sum().backward()
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            why = str(error).rstrip(". ")
            raise ValueError(
                f"model: no gradient comes through the {form} weight of layer {path!r} ({why}): load the "
                "model in another format."
            ) from error
