"""Gradient checkpointing: blocks forget their activations and compute them again on the way back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_CONTAINERS = (nn.ModuleList, nn.Sequential)


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Return a model's repeated blocks: what its outermost lists and sequences of modules hold.

    Lists within lists are descended into, and so are sequences, whose members a model may call one by one.
    Single layers, which have no modules inside, are left out.
    """
    blocks: dict[int, nn.Module] = {}
    for child in module.children():
        members = blocks_of(child)
        if isinstance(module, _CONTAINERS) and not isinstance(child, _CONTAINERS):
            members = [child] if any(True for _ in child.children()) else []
        blocks.update((id(member), member) for member in members)
    return list(blocks.values())


@contextlib.contextmanager
def recomputed(module: nn.Module) -> Iterator[int]:
    """Recompute the activations of a model's blocks while the context is open; gives their number.

    Trades about a third more time for the memory of all but one block's activations. Raises ValueError for
    a model without blocks. Every `forward` is as it was afterwards.
    """
    blocks = blocks_of(module)
    if not blocks:
        raise ValueError(
            "recompute: this model has no repeated blocks whose activations could be computed again. Turn "
            "it off; lower batch_size if memory is short."
        )
    try:
        for block in blocks:
            block.forward = _Recomputing(block.forward, block.__dict__.get("forward"))
        yield len(blocks)
    finally:
        for block in blocks:
            wrapped = block.__dict__.get("forward")
            if isinstance(wrapped, _Recomputing):
                if wrapped.own is None:
                    del block.forward
                else:
                    block.forward = wrapped.own


class _Recomputing:
    """A block's forward that keeps its inputs only; own: the one that was set on the instance, if any."""

    def __init__(self, forward, own) -> None:
        self.forward, self.own = forward, own

    def __call__(self, *args, **kwargs):
        return checkpoint(self._on_copies, *args, use_reentrant=False, **kwargs)

    def _on_copies(self, *args, **kwargs):
        # some models (Flux) add to their inputs in place, and these are what is computed from again
        return self.forward(*map(_copy, args), **{name: _copy(value) for name, value in kwargs.items()})


def _copy(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value
