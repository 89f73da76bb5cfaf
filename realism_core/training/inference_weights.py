"""Weights that were loaded in torch's inference mode, lent to a training without a copy."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn


class WeightAliases:
    """Stands in for a network's inference tensors with ordinary tensors on the same memory.

    ComfyUI loads models in inference mode; autograd refuses to keep such tensors for a backward pass, even
    of weights that get no gradient. Parameters (frozen), buffers, tensors that hang on modules as plain
    attributes, and those of LoRAs that ComfyUI applies beside the weights, are replaced, quantised tensors by
    ones that share data and scales; tensor subclasses that do not tell their parts (`__tensor_flatten__`)
    are left as they are. `restore` puts the very same objects back.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []
        aliases: dict[int, Tensor] = {}
        self._adapters: list[tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = []
        for part in module.modules():
            for held in (part._parameters, part._buffers, part.__dict__):
                for name, tensor in held.items():
                    if not _is_to_be_lent(tensor):
                        continue
                    # a tensor in two places stays one tensor
                    if id(tensor) not in aliases:
                        aliases[id(tensor)] = _alias(tensor)
                    self._places.append((held, name, tensor, aliases[id(tensor)]))
            # comfy.weight_adapter.bypass: a layer's forward is the method of an object that has the LoRA
            adapter = getattr(getattr(part.__dict__.get("forward"), "__self__", None), "adapter", None)
            weights = getattr(adapter, "weights", None)
            if isinstance(weights, tuple):
                lent = tuple(_alias(weight) if _is_to_be_lent(weight) else weight for weight in weights)
                self._adapters.append((adapter, weights, lent))
        for held, name, _, alias in self._places:
            held[name] = alias
        for adapter, _, lent in self._adapters:
            adapter.weights = lent

    def restore(self) -> None:
        """Put the original objects back; what was moved or replaced meanwhile stays as it is now."""
        for held, name, tensor, alias in self._places:
            if held.get(name) is alias and _address(alias) == _address(tensor):
                held[name] = tensor
        for adapter, weights, lent in self._adapters:
            if adapter.weights is lent:
                adapter.weights = weights
        self._places, self._adapters = [], []


def inner_tensors(tensor: Tensor) -> dict[str, Tensor]:
    """Return the tensors that a subclass such as a quantised one is made of; none for a plain tensor."""
    if type(tensor) in (Tensor, nn.Parameter) or not hasattr(tensor, "__tensor_flatten__"):
        return {}
    names, _ = tensor.__tensor_flatten__()
    return {name: attrgetter(name)(tensor) for name in names}


def _is_to_be_lent(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_inference() and _can_be_lent(value)


def _can_be_lent(tensor: Tensor) -> bool:
    inner = inner_tensors(tensor)
    if inner:
        return all(map(_can_be_lent, inner.values()))
    return not tensor.is_meta and tensor.layout is torch.strided and type(tensor) in (Tensor, nn.Parameter)


def _alias(tensor: Tensor) -> Tensor:
    inner = inner_tensors(tensor)
    with torch.inference_mode(False), torch.no_grad():
        if inner:
            _, context = tensor.__tensor_flatten__()
            shared = {name: _alias(part) for name, part in inner.items()}
            alias = type(tensor).__tensor_unflatten__(shared, context, tensor.shape, tensor.stride())
            # what nn.Parameter sets on a subclass, without the copy of the scales that it would make
            alias._is_param = isinstance(tensor, nn.Parameter)
            return alias
        alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
        return nn.Parameter(alias, requires_grad=False) if isinstance(tensor, nn.Parameter) else alias


def _address(tensor: Tensor) -> tuple[int, ...]:
    inner = inner_tensors(tensor)
    return tuple(part.data_ptr() for part in inner.values()) or (tensor.data_ptr(),)
