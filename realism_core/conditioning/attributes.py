"""Which of the 40 attributes a face is to have, and how strongly: read from text or a dict, and checked."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from numbers import Real

import torch
from torch import Tensor

from .spellings import look_up, nearest
from .vocabulary import BY_NAME, NAMES, Attribute

MAX_STRENGTH = 2.0
_SEPARATORS = r"[,;\n\r、。]+"  # after NFKC, which makes the full-width ones ASCII
_MINUS = "-‐‑‒–—−ー"
_LINES = 8
_RANGE = f"a number above 0 and up to {MAX_STRENGTH:g}"
# no face has two of one row; what is common in CelebA (a bald crown with grey sides, a mustache without a
# beard, sideburns on shaven cheeks) is none
_APART = (
    ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"),
    ("Straight_Hair", "Wavy_Hair"),
    ("Bald", "Bangs"),
    ("Bald", "Straight_Hair"),
    ("Bald", "Wavy_Hair"),
    ("No_Beard", "Goatee"),
    ("No_Beard", "5_o_Clock_Shadow"),
)


@dataclass(frozen=True)
class FaceAttributes:
    """The attributes of a face; those that are not named may be as they like.

    strengths: by name, in the order of CelebA; above 0 for yes, below 0 for no, up to +-2.
    """

    strengths: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, strength in self.strengths.items():
            if name not in BY_NAME:
                raise ValueError(f"attributes: {_unknown(name)}")
            if not (math.isfinite(strength) and 0 < abs(strength) <= MAX_STRENGTH):
                raise ValueError(
                    f"attributes: {name} has the strength {strength:g}: use {_RANGE}, or leave {name} out."
                )
        ordered = {name: float(self.strengths[name]) for name in NAMES if name in self.strengths}
        object.__setattr__(self, "strengths", ordered)

    def __hash__(self) -> int:
        return hash(tuple(self.strengths.items()))

    def values(self) -> Tensor:
        """Return the signed strengths of all attributes in CelebA's order, float32 [40]; 0 = don't care."""
        return torch.tensor([self.strengths.get(name, 0.0) for name in NAMES])

    def phrases(self) -> list[tuple[Attribute, str, float]]:
        """Return (attribute, what a positive prompt says of it, strength above 0) for all that it can say."""
        said = []
        for name, strength in self.strengths.items():
            attribute = BY_NAME[name]
            phrase = attribute.yes if strength > 0 else attribute.no
            if phrase:
                said.append((attribute, phrase, abs(strength)))
        return said

    def unwanted(self) -> list[tuple[Attribute, str, float]]:
        """Return (attribute, what a negative prompt says of it, strength) for those without an opposite."""
        return [
            (BY_NAME[name], BY_NAME[name].yes, -strength)
            for name, strength in self.strengths.items()
            if strength < 0 and not BY_NAME[name].no
        ]

    def contradictions(self) -> list[str]:
        """Return a sentence for each pair of wanted attributes that no face has together."""
        wanted = {name for name, strength in self.strengths.items() if strength > 0}
        pairs = [pair for group in _APART for pair in combinations(group, 2)]
        return [
            f"{one} and {other} contradict each other: leave one of them out."
            for one, other in pairs
            if one in wanted and other in wanted
        ]

    def to_text(self) -> str:
        """Return the text that `parse_attributes` reads as these."""
        parts = []
        for name, strength in self.strengths.items():
            size = "" if abs(strength) == 1 else f":{abs(strength)!r}"
            parts.append(f"{'-' if strength < 0 else ''}{name}{size}")
        return ", ".join(parts)


def parse_attributes(text: str) -> FaceAttributes:
    """Return the attributes of a text such as "Smiling, Eyeglasses:0.8, -Bald".

    Names of CelebA and usual words, English, Japanese or Chinese, in any case and width; a minus sign, "no"
    or an opposite such as "woman" says no; "(smiling:1.2)" is read as in prompts. Strength 0 is don't care,
    as is what is not named; an empty text has no attributes. Raises ValueError with a line for each item that
    is no attribute (naming the nearest ones), has no strength from 0 to 2, or is asked for otherwise before.
    """
    found: list[tuple[str, float]] = []
    wrong = []
    for part in re.split(_SEPARATORS, unicodedata.normalize("NFKC", text)):
        try:
            if part.strip():
                found.append(_read(part.strip()))
        except ValueError as error:
            wrong.append(str(error))
    return _joined(found, wrong)


def from_states(states: Mapping[str, object]) -> FaceAttributes:
    """Return the attributes of a dict such as {"Smiling": 1, "Bald": False, "Eyeglasses": 0.8}.

    Names as for `parse_attributes`. True and numbers above 0 mean yes, False and numbers below 0 no, 0 and
    None don't care. Raises ValueError for anything else, as `parse_attributes` does.
    """
    found, wrong = [], []
    for key, state in states.items():
        known = look_up(str(key))
        if known is None:
            wrong.append(_unknown(str(key)))
            continue
        name, sign = known
        if isinstance(state, bool):
            found.append((name, sign * (1.0 if state else -1.0)))
        elif isinstance(state, Real):
            if abs(float(state)) <= MAX_STRENGTH:
                found.append((name, sign * float(state)))
            else:
                wrong.append(
                    f"{key} is {float(state):g}: use a number from -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}."
                )
        elif state is not None:
            wrong.append(f"{key} is {state!r}: use true, false, a number, or null.")
    return _joined(found, wrong)


def find(name: str) -> str:
    """Return CelebA's name of an attribute; raises ValueError with the nearest names if there is none."""
    found = look_up(name)
    if found is None or found[1] < 0:
        raise ValueError(f"attributes: {_unknown(name)}")
    return found[0]


def _joined(found: Iterable[tuple[str, float]], wrong: list[str]) -> FaceAttributes:
    strengths: dict[str, float] = {}
    for name, strength in found:
        if strengths.setdefault(name, strength) != strength:
            wrong.append(f"{name} is asked for twice, as {strengths[name]:g} and as {strength:g}: keep one.")
    if wrong:
        more = f"\n... and {len(wrong) - _LINES} more." if len(wrong) > _LINES else ""
        raise ValueError("attributes: " + "\n".join(wrong[:_LINES]) + more)
    return FaceAttributes({name: strength for name, strength in strengths.items() if strength})


def _read(part: str) -> tuple[str, float]:
    name = part
    if name[0] == "(" and name[-1] == ")":
        name = name[1:-1].strip()
    sign = 1
    if name[:1] and name[0] in _MINUS:
        sign, name = -1, name[1:].strip()
    elif name[:1] == "+":
        name = name[1:].strip()
    strength = 1.0
    if ":" in name:
        name, _, number = name.rpartition(":")
        strength = _strength(part, number.strip())
    known = look_up(name)
    if known is None:
        raise ValueError(_unknown(name))
    return known[0], sign * known[1] * strength


def _strength(part: str, number: str) -> float:
    try:
        strength = float(number)
    except ValueError:
        raise ValueError(
            f"{part!r} has {number!r} where a strength is expected: write {_RANGE}, such as Smiling:0.8."
        ) from None
    if not 0 <= strength <= MAX_STRENGTH:
        raise ValueError(
            f"{part!r} has a strength out of range: use {_RANGE}; a minus sign before the name says no."
        )
    return strength


def _unknown(name: str) -> str:
    near = nearest(name)
    hint = f"Did you mean {' or '.join(near)}?" if near else "The node's help page lists all 40."
    name = name.strip()
    shown = name if len(name) <= 60 else name[:57] + "..."
    return f"{shown!r} is none of the 40 attributes. {hint}"
