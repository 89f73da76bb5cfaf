"""Which places of an encoded prompt hold its words, and contexts put together from pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def word_places(
    ids: Mapping[str, Sequence[int]], empty: Mapping[str, Sequence[int]], length: int
) -> list[int] | None:
    """Return the places of a prompt's words, with the end token that sums them up, in its encoding.

    ids, empty: by text encoder, the token ids of the prompt and of an empty one, padded as they are encoded.
    length: tokens of the encoding. Encoders share places, or the T5's follow the others' (SD3). None if the
    length is explained by neither.
    """
    spans = {name: _span(list(found), list(empty[name])) for name, found in ids.items() if name in empty}
    same = [span for name, span in spans.items() if len(ids[name]) == length]
    if same:
        return list(range(min(first for first, _ in same), max(end for _, end in same)))
    behind = [name for name in spans if "t5" in name]
    before = [name for name in spans if name not in behind]
    offset = max((len(ids[name]) for name in before), default=0)
    if len(behind) != 1 or offset + len(ids[behind[0]]) != length:
        return None
    first, end = spans[behind[0]]
    places = range(min(spans[name][0] for name in before), max(spans[name][1] for name in before))
    return [*places, *range(offset + first, offset + end)]


def lengthened(context: Tensor, *pieces: Tensor) -> Tensor:
    """Return a context [B,T,C] with pieces [1,t,C] after it, in its type and on its device.

    Raises ValueError if a piece is of another width.
    """
    for piece in pieces:
        if piece.shape[-1] != context.shape[-1]:
            raise ValueError(
                f"clip gives {piece.shape[-1]} numbers a token, positive and negative have "
                f"{context.shape[-1]}: connect the CLIP that encoded the prompts."
            )
    return torch.cat([context, *(piece.to(context).expand(len(context), -1, -1) for piece in pieces)], 1)


def _span(ids: list[int], empty: list[int]) -> tuple[int, int]:
    """Return the first place of the words and the one after their end token."""
    pad = empty[-1]
    last = max((place for place, id in enumerate(ids) if id != pad), default=0)
    # the end token is either one of the empty prompt's, or the padding itself
    end = last + 1 if ids[last] in empty else last + 2
    first = 1 if len(empty) > 1 and ids[0] == empty[0] and end > 1 else 0
    return first, min(end, len(ids))
