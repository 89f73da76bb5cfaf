"""The token adapter: attributes and a semantic mask as further tokens of a model's cross-attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .adapter_parts import (
    AttributeTokens,
    MaskChannels,
    MaskTokens,
    PooledAttributes,
    PooledMask,
    nearest_planes,
)
from .masks import SemanticMask

ATTRIBUTE_FORMS = ("tokens", "pooled", "none")
MASK_FORMS = ("tokens", "pooled", "channels", "none")
# what no adapter needs more of; a file that says more is damaged
_MOST = {"context": 65536, "width": 4096, "grid": 32, "patch": 16, "channels": 64}


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter is made of.

    context: numbers of a token of the model, such as 768 (SD1.5), 2048 (SDXL), 4096 (SD3, Flux). attributes,
    mask: tokens; pooled, the published baseline; none; channels: the mask beside the latent. width: of the
    inner vectors. grid: mask tokens a side. patch: parts of a mask token a side. scale: of the tokens, the
    root mean square of the model's own words. channels: of the latent, where mask is channels. Raises
    ValueError with the name and the fix.
    """

    context: int
    attributes: str = "tokens"
    mask: str = "tokens"
    width: int = 256
    grid: int = 8
    patch: int = 4
    scale: float = 1.0
    channels: int = 4

    def __post_init__(self) -> None:
        for name, forms in (("attributes", ATTRIBUTE_FORMS), ("mask", MASK_FORMS)):
            if vars(self)[name] not in forms:
                raise ValueError(f"{name} is {vars(self)[name]!r}; use one of {', '.join(forms)}.")
        if self.attributes == self.mask == "none":
            raise ValueError("attributes and mask are both none: nothing would be learned. Choose one.")
        for name, most in _MOST.items():
            value = vars(self)[name]
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"{name} is {value!r}: it must be a whole number from 1 to {most}.")
        if not (isinstance(self.scale, (int, float)) and math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale is {self.scale!r}: it must be a number above 0.")

    @property
    def counts(self) -> tuple[int, int]:
        """How many tokens the attributes and the mask have."""
        attributes = {"tokens": 40, "pooled": 1, "none": 0}[self.attributes]
        return attributes, {"tokens": 19 + self.grid**2, "pooled": 19}.get(self.mask, 0)


class Conditions(NamedTuple):
    """What an adapter makes of a batch.

    tokens: [B,N,context], those of the attributes first. null: [N,context], what the negative side gets.
    channels: [B,C,64,64] beside the latent, and their null [C,64,64]; None but where mask is channels.
    """

    tokens: Tensor
    null: Tensor
    channels: Tensor | None = None
    null_channels: Tensor | None = None


class TokenAdapter(nn.Module):
    """40 signed attribute tokens, 19 region tokens and a grid of mask tokens, as wide as the model's words.

    An inner vector is null + strength * what is said, so that strength 0, or nothing said, is null bit for
    bit; a small network and a projection make a token of it. seed: of the first weights.
    """

    def __init__(self, config: AdapterConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._make(config)

    def _make(self, config: AdapterConfig) -> None:
        width = config.width
        attributes = {"tokens": AttributeTokens, "pooled": PooledAttributes}.get(config.attributes)
        self.attributes = attributes(width) if attributes else None
        if config.mask == "tokens":
            self.mask = MaskTokens(width, config.grid, config.patch)
        elif config.mask == "pooled":
            self.mask = PooledMask(width)
        else:
            self.mask = MaskChannels(config.channels) if config.mask == "channels" else None
        self.inner = self.outer = None
        if sum(config.counts):
            self.inner = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            self.outer = nn.Linear(width, config.context)
            # tokens start somewhat smaller than words
            nn.init.normal_(self.outer.weight, std=0.5 * width**-0.5)
            nn.init.zeros_(self.outer.bias)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def planes(self, mask: SemanticMask) -> Tensor:
        """Return what `forward` takes of a mask of any size: shares [B,19,side,side], on its device.

        Raises ValueError for an adapter that takes no mask.
        """
        if self.mask is None:
            raise ValueError("adapter: it was trained without a mask: disconnect mask, or load another.")
        side = self.mask.side
        if self.config.mask == "pooled":
            return nearest_planes(mask.labels, side)
        return mask.resized(side, side, soft=True).classes

    def forward(
        self,
        values: Tensor | None,
        planes: Tensor | None,
        count: int,
        attribute_strength: Tensor | float = 1.0,
        mask_strength: Tensor | float = 1.0,
    ) -> Conditions:
        """Return the tokens of `count` pictures.

        values: signed strengths of the attributes [B,40]; planes: as `planes` gives them; each for `count`
        pictures or one, or None: nothing is said. The strengths: numbers, or [B], 0 for a picture that is to
        have the null tokens of that group. An adapter without a group passes over what is said of it.
        """
        parts = []
        if self.attributes is not None:
            said = None if values is None else self.attributes(values)
            parts.append(_moved(self.attributes.null, said, attribute_strength, count))
        if self.config.counts[1]:
            said = None if planes is None else self.mask(planes)
            parts.append(_moved(self.mask.null, said, mask_strength, count))
        tokens, null = self._tokens(parts, count)
        if self.config.mask != "channels":
            return Conditions(tokens, null)
        side = self.mask.side
        empty = self.mask.null[:, None, None].expand(-1, side, side)
        said = None if planes is None else self.mask(planes)
        return Conditions(tokens, null, _moved(empty, said, mask_strength, count), empty)

    def _tokens(self, parts: list[Tensor], count: int) -> tuple[Tensor, Tensor]:
        if not parts:
            empty = self.mask.null.new_zeros(0, self.config.context)
            return empty.expand(count, -1, -1), empty
        groups = [part for part in (self.attributes, self.mask) if isinstance(part, nn.Module)]
        null = torch.cat([group.null for group in groups[: len(parts)]])
        inner = torch.cat(parts, 1)
        tokens, empty = (self.config.scale * self.outer(x + self.inner(x)) for x in (inner, null))
        # one matrix product need not round as another does
        return torch.where((inner == null).all(-1, keepdim=True), empty, tokens), empty


def _moved(null: Tensor, said: Tensor | None, strength: Tensor | float, count: int) -> Tensor:
    """Return null + strength * said for `count` pictures; exactly null where the strength is 0."""
    whole = null.expand(count, *null.shape)
    if said is None:
        return whole
    if isinstance(strength, Tensor):
        strength = strength.to(said).reshape(-1, *[1] * (said.ndim - 1))
    return whole + strength * said
