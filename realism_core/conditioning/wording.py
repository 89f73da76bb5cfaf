"""What a face's attributes say in prompts, and which regions of its mask each phrase is bound to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .attributes import FaceAttributes
from .coupling import Phrase
from .masks import Fit, SemanticMask
from .regions import titles
from .vocabulary import CLASS_NAMES, LABELS, Attribute


@dataclass(frozen=True)
class Words:
    """A phrase with the attribute it is of, what its attention is multiplied by, and its labels.

    labels: of the regions that see it, or empty for the whole picture.
    """

    attribute: str
    text: str
    weight: float
    labels: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Wording:
    """Phrases for the positive and the negative prompt.

    floor: how far pixels outside a phrase's regions see it, 0..1. fit: as in `SemanticMask.fitted`.
    """

    wanted: tuple[Words, ...]
    unwanted: tuple[Words, ...]
    mask: SemanticMask | None = None
    floor: float = 0.0
    fit: Fit = "refuse"

    @property
    def words(self) -> tuple[Words, ...]:
        """The phrases of both prompts."""
        return self.wanted + self.unwanted

    @property
    def needs_model(self) -> bool:
        """Whether some phrase is bound to regions or weighed, which only a coupled model does."""
        return any(words.labels or words.weight != 1 for words in self.words)

    def phrase(self, words: Words, tokens: int) -> Phrase:
        """Return what an encoded phrase of so many tokens is bound to."""
        mask = self.mask if words.labels else None
        return Phrase(tokens, words.weight, mask, words.labels, self.floor, self.fit)

    def missing(self) -> list[Words]:
        """Return the phrases whose regions are in no picture of the mask."""
        if self.mask is None:
            return []
        there = (self.mask.coverage() > 0).any(0)
        return [words for words in self.words if words.labels and not there[list(words.labels)].any()]

    def missing_in(self) -> dict[str, list[int]]:
        """Return the pictures (from 1) that lack the regions of phrases other pictures have, by attribute."""
        if self.mask is None:
            return {}
        there = self.mask.coverage() > 0
        found = {}
        for words in self.words:
            lacking = (~there[:, list(words.labels)].any(1)).nonzero().flatten().tolist()
            if words.labels and 0 < len(lacking) < len(there):
                found[words.attribute] = [place + 1 for place in lacking]
        return found

    def without(self, gone: list[Words]) -> Wording:
        """Return the wording without some phrases."""
        return self._each(lambda words: () if words in gone else (words,))

    def everywhere(self, these: list[Words]) -> Wording:
        """Return the wording with some phrases said to the whole picture."""
        return self._each(lambda words: (replace(words, labels=()) if words in these else words,))

    def to_text(self) -> str:
        """Return a line for each phrase: what is said to which regions, and how strongly."""
        lines = []
        for sign, side in (("", self.wanted), ("not ", self.unwanted)):
            for words in side:
                where = titles(words.labels) if words.labels else "whole picture"
                lines.append(f"{sign}{words.text} ({words.weight:g}): {where}")
        return "\n".join(lines)

    def _each(self, change) -> Wording:
        sides = (
            tuple(new for words in side for new in change(words)) for side in (self.wanted, self.unwanted)
        )
        return Wording(*sides, self.mask, self.floor, self.fit)


def word(
    attributes: FaceAttributes, mask: SemanticMask | None, strength: float = 1.0, floor: float = 0.0,
    fit: Fit = "refuse",
) -> Wording:  # fmt: skip
    """Return what attributes say, bound to the regions of a mask if there is one.

    strength: multiplies the attributes' own; 0 says nothing.
    """

    def side(said: list[tuple[Attribute, str, float]]) -> tuple[Words, ...]:
        return tuple(
            Words(attribute.name, text, weight * strength, _labels(attribute) if mask is not None else ())
            for attribute, text, weight in said
            if weight * strength
        )

    return Wording(side(attributes.phrases()), side(attributes.unwanted()), mask, floor, fit)


def _labels(attribute: Attribute) -> tuple[int, ...]:
    if len(attribute.regions) == len(CLASS_NAMES):
        return ()
    return tuple(sorted(LABELS[name] for name in attribute.regions))
