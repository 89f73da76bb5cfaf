"""Forward methods of modules, exchanged for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

Forward = Callable[..., Any]


@contextlib.contextmanager
def exchanged_forwards(
    parts: Iterable[nn.Module], make: Callable[[nn.Module, Forward], Forward]
) -> Iterator[None]:
    """Give each module the forward that `make` returns for the module and its forward, then take it back.

    A forward that was set on the module itself, as ComfyUI's bypass LoRAs do, is put back; one that others
    set while the context was open is left alone.
    """
    exchanged: list[tuple[nn.Module, Forward, Forward | None]] = []
    try:
        for part in parts:
            own = part.__dict__.get("forward")
            new = make(part, part.forward)
            part.forward = new
            exchanged.append((part, new, own))
        yield
    finally:
        for part, new, own in exchanged:
            if part.__dict__.get("forward") is not new:
                continue
            if own is None:
                del part.forward
            else:
                part.forward = own
