"""Choices by hand: codes that name pictures by what they show, and decisions changed by them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..images import to_planes
from .select import Decision

# no letters that are easily taken for others (c and k, q, x)
CONSONANTS, VOWELS = "bdfghjklmnprstvwyz", "aeiou"
SHOWN = 8
SHORTEST = 6
# enough syllables for 256 bits, so that different pictures always get different letters
_SYLLABLES = 40


class PictureCodes(NamedTuple):
    """Names of pictures made of their pixels, in order.

    codes: the letters shown, such as "kobalitu": equal for equal pictures only. digests: hexadecimal SHA-256
    of the picture as a binary PPM file with 8 bits a channel: the lines "P6", "{width} {height}" and "255",
    then the RGB bytes.
    """

    codes: list[str]
    digests: list[str]


class Choices(NamedTuple):
    """What was chosen by hand: positions of pictures, ascending.

    unused: what was written but names none of these pictures, as it was made for others.
    """

    keep: tuple[int, ...] = ()
    reject: tuple[int, ...] = ()
    unused: tuple[str, ...] = ()


def picture_codes(images: Iterable[Tensor]) -> PictureCodes:
    """Return the names of all pictures of a list of batches [B,H,W,C], as 8-bit RGB without alpha.

    Six letters are shown, more for all if two different pictures would share theirs. There are 729,000
    codes of six letters. Raises ValueError for what is no picture.
    """
    digests = [digest for batch in images for digest in _digests(batch)]
    return PictureCodes(_shown(digests), digests)


def read_choices(keep: str, reject: str, pictures: PictureCodes) -> Choices:
    """Return which of the pictures two texts name: codes with commas, spaces or line ends between them.

    Letter case does not matter, and the first six letters or more are enough if no other picture has them.
    A code chooses all pictures that are equal. Raises ValueError naming keep_by_hand or reject_by_hand
    where a code is too short, fits several different pictures, or is in both.
    """
    letters = [_letters(digest) for digest in pictures.digests]
    found, unused = {}, []
    for name, text in (("keep_by_hand", keep), ("reject_by_hand", reject)):
        found[name] = set()
        for word in re.split(r"[\s,;]+", text.strip(" \t\r\n,;").lower()):
            if not word:
                continue
            if len(word) < SHORTEST:
                raise ValueError(f"{name}: {word!r} is too short: write at least {SHORTEST} letters.")
            named = [place for place, code in enumerate(letters) if code.startswith(word)]
            if len({letters[place] for place in named}) > 1:
                fitting = ", ".join(dict.fromkeys(pictures.codes[place] for place in named))
                raise ValueError(f"{name}: {word!r} fits {fitting}: write more letters of one.")
            found[name].update(named)
            if not named:
                unused.append(word)
    both = sorted(found["keep_by_hand"] & found["reject_by_hand"])
    if both:
        raise ValueError(
            f"{pictures.codes[both[0]]} is in keep_by_hand and in reject_by_hand: take it out of one."
        )
    return Choices(
        tuple(sorted(found["keep_by_hand"])),
        tuple(sorted(found["reject_by_hand"])),
        tuple(dict.fromkeys(unused)),
    )


def apply(decision: Decision, choices: Choices) -> Decision:
    """Return the decision with the chosen pictures on the side they were put by hand, scored or not."""
    sides = [side.clone() for side in decision]
    passed, rejected, blocked = sides
    for positions, side in ((choices.keep, passed), (choices.reject, rejected)):
        places = torch.tensor(positions, dtype=torch.long, device=side.device)
        for other in (passed, rejected, blocked):
            other[places] = other is side
    return Decision(passed, rejected, blocked)


def _digests(batch: Tensor) -> list[str]:
    planes = to_planes(batch)
    height, width = planes.shape[2:]
    header = f"P6\n{width} {height}\n255\n".encode()
    digests = []
    for picture in planes:
        sha = hashlib.sha256(header)
        sha.update(picture.movedim(0, -1).contiguous().cpu().numpy())
        digests.append(sha.hexdigest())
    return digests


def _letters(digest: str) -> str:
    number, syllables = int(digest, 16), []
    for _ in range(_SYLLABLES):
        number, place = divmod(number, len(CONSONANTS) * len(VOWELS))
        consonant, vowel = divmod(place, len(VOWELS))
        syllables.append(CONSONANTS[consonant] + VOWELS[vowel])
    return "".join(syllables)


def _shown(digests: list[str]) -> list[str]:
    letters = [_letters(digest) for digest in digests]
    different, length = set(letters), SHOWN
    while len({code[:length] for code in different}) < len(different):
        length += 2
    return [code[:length] for code in letters]
