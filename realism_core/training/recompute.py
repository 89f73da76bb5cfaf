"""Gradient checkpointing: blocks forget their activations and compute them again on the way back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .forwards import Forward, exchanged_forwards
from .norm_inputs import copied_norm_inputs

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
    # what checkpointing keeps is not watched for changes in place
    with exchanged_forwards(blocks, _recomputing), copied_norm_inputs(module):
        yield len(blocks)


def _recomputing(block: nn.Module, forward: Forward) -> Forward:
    """Return a block's forward that keeps its inputs only."""

    def on_copies(*args: Any, **kwargs: Any) -> Any:
        # some models (Flux) add to their inputs in place, and these are what is computed from again
        return forward(*map(_copy, args), **{name: _copy(value) for name, value in kwargs.items()})

    def recomputing(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(on_copies, *args, use_reentrant=False, **kwargs)

    return recomputing


def _copy(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value
