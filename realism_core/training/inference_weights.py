"""Weights that were loaded in torch's inference mode, lent to a training without a copy."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightAliases:
    """Stands in for a network's inference tensors with ordinary tensors on the same memory.

    ComfyUI loads models in inference mode; autograd refuses to keep such tensors for a backward pass, even
    of weights that get no gradient. Parameters (frozen) and buffers are replaced; quantised and other
    subclassed tensors are left as they are. `restore` puts the very same objects back.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places: list[tuple[dict[str, Tensor | None], str, Tensor, Tensor]] = []
        aliases: dict[int, Tensor] = {}
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                for name, tensor in held.items():
                    if tensor is None or not tensor.is_inference() or not _is_plain(tensor):
                        continue
                    # a tensor in two places stays one tensor
                    alias = aliases.setdefault(id(tensor), _alias(tensor))
                    self._places.append((held, name, tensor, alias))
        for held, name, _, alias in self._places:
            held[name] = alias

    def restore(self) -> None:
        """Put the original objects back; what was moved or replaced meanwhile stays as it is now."""
        for held, name, tensor, alias in self._places:
            if held.get(name) is alias and alias.data_ptr() == tensor.data_ptr():
                held[name] = tensor
        self._places = []


def _is_plain(tensor: Tensor) -> bool:
    return not tensor.is_meta and tensor.layout is torch.strided and type(tensor) in (Tensor, nn.Parameter)


def _alias(tensor: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
        return nn.Parameter(alias, requires_grad=False) if isinstance(tensor, nn.Parameter) else alias
