"""Phrases encoded by a CLIP and added to conditioning, bound to regions by coupling or by ComfyUI's masks."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ..realism_core.conditioning.coupling import Coupling, Phrase
from ..realism_core.conditioning.tokens import lengthened, word_places
from ..realism_core.conditioning.wording import Wording, Words
from .coupling import KEY

COUPLING, MASKS = "attention coupling", "mask conditioning"
MODES = [COUPLING, MASKS]
# how often ComfyUI repeats a prompt at most, for it to share a pass with a longer one
_REPEATS = 4
Conditioning = list  # of [context, extras], as ComfyUI has it


def encode(clip: Any, text: str) -> Conditioning:
    """Return what CLIP Text Encode gives."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def bound(
    wording: Wording, clip: Any, positive: Conditioning, negative: Conditioning, mode: str
) -> tuple[Conditioning, Conditioning]:
    """Return both prompts with what is said of the face; with coupling, of one length."""
    if not wording.words:
        return positive, negative
    if mode == MASKS:
        return _masked(wording, wording.wanted, clip, positive), _masked(
            wording, wording.unwanted, clip, negative
        )
    sides = [
        (side, [(_encoded(clip, words.text), words) for words in said])
        for side, said in ((positive, wording.wanted), (negative, wording.unwanted))
    ]
    length = max(
        context.shape[1] + sum(piece.shape[1] for piece, _ in said)
        for side, said in sides
        for context, _ in side
    )
    bases = {context.shape[1] for side, _ in sides for context, _ in side}
    null = encode(clip, "")[0][0][:1, -1:]
    joinable = math.lcm(*bases) <= _REPEATS * min(bases)
    return tuple(
        [
            _coupled(entry, [(piece, wording.phrase(words, piece.shape[1])) for piece, words in said],
                     null, length, joinable)
            for entry in side
        ]
        for side, said in sides
    )  # fmt: skip


def _coupled(
    entry: list, said: list[tuple[Tensor, Phrase]], null: Tensor, length: int, joinable: bool
) -> list:
    context, extras = entry
    before = extras.get(KEY)
    phrases = [phrase for _, phrase in said]
    pieces = [piece for piece, _ in said]
    lacking = length - context.shape[1] - sum(piece.shape[1] for piece in pieces)
    if lacking:
        pieces.append(null.expand(-1, lacking, -1))
        phrases.append(Phrase(lacking, weight=0.0))
    if before is None:
        coupling = Coupling(context.shape[1], tuple(phrases))
    else:
        # tokens that another node appended since all may see
        between = context.shape[1] - before.tokens
        added = (Phrase(between),) if between else ()
        coupling = Coupling(before.base, (*before.phrases, *added, *phrases))
    changed = {**extras, KEY: coupling, **_longer_mask(extras, context.shape[1], length)}
    if joinable:
        changed.setdefault("cross_attn_controlnet", context)  # nothing is bound in a ControlNet
    return [lengthened(context, *pieces), changed]


def _masked(wording: Wording, said: tuple[Words, ...], clip: Any, side: Conditioning) -> Conditioning:
    """Return prompts with ComfyUI's mask conditioning: each with and without what is said to each region."""
    made = list(side)

    def where(words: Words) -> tuple:
        return words.labels, words.weight

    for (labels, weight), group in groupby(sorted(said, key=where), where):
        pieces = [_encoded(clip, words.text) for words in group]
        for context, extras in side:
            context_of = lengthened(context, *pieces)
            longer = _longer_mask(extras, context.shape[1], context_of.shape[1])
            changed = {**extras, **longer, "strength": extras.get("strength", 1.0) * weight}
            if labels:
                plane = wording.floor + (1 - wording.floor) * wording.mask.region(labels)
                changed |= {"mask": _both(plane, extras.get("mask")), "set_area_to_bounds": False}
            made.append([context_of, changed])
    return made


def _both(plane: Tensor, mask: Tensor | None) -> Tensor:
    """Return masks [B,H,W] multiplied, at the size of the first."""
    if mask is None:
        return plane
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.shape[1:] != plane.shape[1:]:
        mask = torch.nn.functional.interpolate(mask[:, None], plane.shape[1:], mode="bilinear")[:, 0]
    count = max(len(plane), len(mask))
    rows = [torch.arange(count) % len(planes) for planes in (plane, mask)]
    return plane[rows[0]] * mask.to(plane)[rows[1]]


def _longer_mask(extras: dict, tokens: int, length: int) -> dict:
    """Return the attention mask of a context for more tokens, if it has one."""
    mask = extras.get("attention_mask")
    if mask is None:
        return {}
    if mask.ndim != 2 or mask.shape[-1] != tokens:
        raise ValueError(
            "positive or negative comes with an attention mask (of Apply Style Model, for example): connect "
            "the node that makes it behind Realism Conditioner."
        )
    return {"attention_mask": torch.nn.functional.pad(mask, (0, length - tokens), value=1)}


def _encoded(clip: Any, text: str) -> Tensor:
    """Return the encoding [1,t,C] of a phrase, without the padding and the start that the prompt has too."""
    context = encode(clip, text)[0][0][:1]
    places = word_places(_ids(clip, text), _ids(clip, ""), context.shape[1])
    return context if places is None else context[:, places]


def _ids(clip: Any, text: str) -> dict[str, list[int]]:
    tokens = clip.tokenize(text)
    return {
        name: [int(token[0]) for chunk in chunks for token in chunk] for name, chunks in tokens.items()
    }
