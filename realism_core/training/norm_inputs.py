"""Right gradients for networks that add to their activations in place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextlib.contextmanager
def copied_norm_inputs(module: nn.Module) -> Iterator[CopyingNorms]:
    """Let a network's norms work on copies of their inputs while the context is open.

    CLIP and T5 in ComfyUI, and Flux, add each layer's output in place to what its norm has read and needs
    again for the gradient. Autograd refuses that, and within `recomputed` it cannot even notice: gradients
    would be wrong. Values stay as they are, bit for bit; without a gradient nothing is copied.

    What it gives can end the copying where it is not needed, see `CopyingNorms.settle`. Not for `recomputed`,
    where an overlooked change goes unnoticed.
    """
    norms = CopyingNorms()
    with contextlib.ExitStack() as stack:
        for part in module.modules():
            if type(part).__name__.endswith("Norm") and not any(True for _ in part.children()):
                norms.hooks[part] = part.register_forward_pre_hook(norms.copy)
                stack.callback(norms.hooks[part].remove)
        yield norms


class CopyingNorms:
    """The norms of a network that work on copies."""

    def __init__(self) -> None:
        self.hooks: dict[nn.Module, RemovableHandle] = {}
        self._seen: list[tuple[nn.Module, Tensor, int]] | None = None

    def watch(self) -> CopyingNorms:
        """Remember what the norms read from now on, and in which version; returns itself."""
        self._seen = []
        return self

    def settle(self) -> None:
        """Go on with only those norms whose input was changed since `watch`; the others then cost nothing."""
        if not self._seen:
            return
        changed = {norm for norm, read, version in self._seen if read._version != version}
        for norm, _, _ in self._seen:
            if norm not in changed:
                self.hooks[norm].remove()
        self._seen = None

    def copy(self, norm: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return a norm's inputs with the first one copied; a forward hook that comes before."""
        if not (torch.is_grad_enabled() and args and isinstance(args[0], Tensor)):
            return None
        if self._seen is not None:
            self._seen.append((norm, args[0], args[0]._version))
        return (args[0].clone(), *args[1:])
