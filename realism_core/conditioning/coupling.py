"""Attention coupling: which of a prompt's tokens each part of a picture sees, as a bias on attention.

A phrase's tokens follow the base prompt's in one context, and its bias is log(how far the pixel lies in the
phrase's regions), added to the attention's logits: softmax then takes the tokens by that share, 1 as in a
plain prompt, 0 not at all. One forward pass does for all regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from .masks import Fit, SemanticMask

# the last position of a region that still counts as the whole picture
_WHOLE = 1 - 1e-6


class Phrase(NamedTuple):
    """Tokens that follow the base prompt's, and who sees them.

    tokens: how many. weight: what their attention is multiplied by; 0: nobody sees them (null tokens).
    mask, labels: the regions they are bound to, at any size; mask None: the whole picture. floor: how far
    pixels outside see them, 0..1. fit: as in `SemanticMask.fitted`.
    """

    tokens: int
    weight: float = 1.0
    mask: SemanticMask | None = None
    labels: tuple[int, ...] = ()
    floor: float = 0.0
    fit: Fit = "refuse"


class Coupling(NamedTuple):
    """A context of `base` tokens that all see, the phrases after them, and any further tokens all see."""

    base: int
    phrases: tuple[Phrase, ...]

    @property
    def tokens(self) -> int:
        """Tokens up to the last phrase's last."""
        return self.base + sum(phrase.tokens for phrase in self.phrases)


class Part(NamedTuple):
    """A part of a batch that shares one context: `rows` latents.

    length: tokens of its context before repetition. area: height, width, top, left in the latent, or None for
    all of it.
    """

    coupling: Coupling | None
    length: int
    rows: int
    area: tuple[int, int, int, int] | None = None


class Placed(NamedTuple):
    """Groups of tokens on the latents of a batch; group 0 is what all see.

    covers: how far each latent pixel belongs to each group, float32 [R,G,H,W]. weights: float32 [R,G].
    groups: the group of each token, int64 [R,T].
    """

    covers: Tensor
    weights: Tensor
    groups: Tensor


def place(
    parts: Sequence[Part], tokens: int, size: tuple[int, int], device: torch.device | str = "cpu"
) -> Placed | None:
    """Return the groups of a batch made of parts, whose contexts were repeated up to `tokens`.

    size: height and width of the whole latent. None if no token is bound to anything. Raises ValueError for a
    mask of another aspect, as `SemanticMask.fitted` does, for masks that do not come out even with the
    pictures, and for contexts that no repetition explains.
    """
    bound = [part.coupling for part in parts if part.coupling is not None]
    told = [phrase for coupling in bound for phrase in coupling.phrases]
    if all(phrase.weight == 1 and phrase.mask is None for phrase in told):
        return None
    count = 1 + max(len(coupling.phrases) for coupling in bound)
    fitted: dict[tuple[int, str], SemanticMask] = {}
    covers, weights, groups = [], [], []
    for part in parts:
        phrases = part.coupling.phrases if part.coupling else ()
        tall, wide, top, left = part.area or (*size, 0, 0)
        cover = torch.zeros(part.rows, count, tall, wide)
        cover[:, 0] = 1
        weight = torch.zeros(part.rows, count)
        weight[:, 0] = 1
        for group, phrase in enumerate(phrases, 1):
            weight[:, group] = phrase.weight
            cover[:, group] = 1.0 if phrase.weight else 0.0
            if phrase.mask is not None and phrase.weight:
                key = (id(phrase.mask), phrase.fit)
                if key not in fitted:
                    fitted[key] = phrase.mask.fitted(*size, phrase.fit, soft=True)
                share = fitted[key].region(phrase.labels).cpu()
                if part.rows % len(share):
                    raise ValueError(
                        f"mask holds {len(share)} pictures, but {part.rows} are sampled at once: connect one "
                        "for all, or one for each picture of the batch."
                    )
                share = share.repeat(part.rows // len(share), 1, 1)
                share = share[:, top : top + tall, left : left + wide]
                cover[:, group] = phrase.floor + (1 - phrase.floor) * share
        if tokens % part.length or (part.coupling and part.coupling.tokens > part.length):
            raise ValueError(
                f"positive or negative was changed behind Realism Conditioner from {part.length} to {tokens} "
                "tokens, so that its phrases cannot be found: connect what changes it before this node."
            )
        covers.append(cover)
        weights.append(weight)
        groups.append(_groups(part, tokens).expand(part.rows, -1))
    return Placed(*(torch.cat(values).to(device) for values in (covers, weights, groups)))


def at_grid(covers: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return covers [R,G,H,W] as means over the cells of a coarser grid, [R,G,h,w].

    Cells are 1, 2, 4 ... latent pixels a side, the last of a row or column fewer where the size is no
    multiple, as networks' strides and patches divide them; any other grid divides the sides evenly.
    """
    step = 1
    while step <= max(covers.shape[-2:]):
        if tuple(-(-side // step) for side in covers.shape[-2:]) == tuple(grid):
            return covers if step == 1 else avg_pool2d(covers, step, ceil_mode=True)
        step *= 2
    return interpolate(covers, grid, mode="area")


def cross_bias(placed: Placed, grid: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return the bias [R,1,h*w,T] of cross-attention: queries are the pixels of a grid, keys the context."""
    seen = _log(at_grid(placed.covers, grid).flatten(2) * placed.weights[..., None])
    index = placed.groups[..., None].expand(-1, -1, seen.shape[-1])
    return _finite(seen.gather(1, index).mT, dtype)[:, None]


def joint_bias(placed: Placed, grid: tuple[int, int], rest: int, dtype: torch.dtype) -> Tensor:
    """Return the bias [R,1,S,S] of joint attention over the context, the pixels of a grid, and rest tokens.

    Pixels see a phrase as in `cross_bias`, and a phrase sees the pixels of its regions, the base prompt,
    itself, and phrases whose regions contain its own; the base prompt and the rest (reference pictures) see
    only phrases of the whole picture, and are seen by all, the rest by phrases of the whole picture only.
    """
    covers = at_grid(placed.covers, grid).flatten(2)
    groups = placed.groups
    tokens, pixels = groups.shape[1], covers.shape[-1]
    # [R,G,G]: whether the second group's regions contain the first's
    inside = (covers[:, None] >= covers[:, :, None].clamp(max=_WHOLE)).all(-1)
    own = torch.eye(covers.shape[1], dtype=torch.bool, device=covers.device)
    weighed = inside * placed.weights[:, None]
    among = _log(torch.where(own, torch.ones_like(weighed), weighed))
    whole = inside[:, 0]

    total = tokens + pixels + rest
    bias = covers.new_zeros(len(covers), total, total)
    text, image, other = slice(0, tokens), slice(tokens, tokens + pixels), slice(tokens + pixels, total)
    rows = groups[..., None].expand(-1, -1, covers.shape[1])
    bias[:, text, text] = among.gather(1, rows).gather(2, groups[:, None].expand(-1, tokens, -1))
    places = groups[..., None].expand(-1, -1, pixels)
    bias[:, image, text] = _log(covers * placed.weights[..., None]).gather(1, places).mT
    bias[:, text, image] = _log(covers).gather(1, places)
    if rest:
        bias[:, other, text] = among[:, 0].gather(1, groups)[:, None]
        bias[:, text, other] = _log(whole.to(covers)).gather(1, groups)[..., None]
    return _finite(bias, dtype)[:, None]


def _groups(part: Part, tokens: int) -> Tensor:
    groups = torch.zeros(part.length, dtype=torch.int64)
    start = part.coupling.base if part.coupling else 0
    for group, phrase in enumerate(part.coupling.phrases if part.coupling else (), 1):
        groups[start : start + phrase.tokens] = group
        start += phrase.tokens
    return groups.repeat(tokens // part.length)


def _log(shares: Tensor) -> Tensor:
    return shares.to(torch.float32).log()


def _finite(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """-inf would be NaN where attention is computed in chunks of keys, of which a row may see none."""
    return bias.to(dtype).clamp_(min=torch.finfo(dtype).min / 2)
