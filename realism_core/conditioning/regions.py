"""Names of regions as people write them: classes of the mask, their titles, and groups such as "eyes"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

from .spellings import plain
from .vocabulary import CLASS_NAMES, GROUPS, LABELS, MASK_CLASSES

_GROUPS = {**GROUPS, "everything": CLASS_NAMES}

_ALSO = {
    "glasses": "eye_g", "spectacles": "eye_g", "face skin": "skin",
    "left eyebrow": "l_brow", "right eyebrow": "r_brow", "l_eyebrow": "l_brow", "r_eyebrow": "r_brow",
    "inner mouth": "mouth", "teeth": "mouth", "earrings": "ear_r", "clothes": "cloth",
}  # fmt: skip
_GROUPS_ALSO = {"eyebrows": "brows", "all": "everything"}


def find_regions(text: str) -> tuple[int, ...]:
    """Return the labels of a text such as "hair, left eye, lips", each once, in label order.

    Class names, titles and groups (eyes, brows, ears, lips, face, head) in any case. Raises ValueError for a
    text without names, and for what is no region, naming the nearest ones.
    """
    labels = {label for _, found in _read(text) for label in found}
    if not labels:
        raise ValueError(f"no region is named: use {', '.join(_OFFERED)}.")
    return tuple(sorted(labels))


def find_classes(text: str) -> tuple[int, ...]:
    """Return the label of each name of a text such as "hat, left eye", in its order.

    As `find_regions`, but each name must be of one class and stand there once.
    """
    labels: list[int] = []
    for name, found in _read(text):
        if len(found) > 1:
            raise ValueError(f"{name!r} is {len(found)} classes ({titles(found)}): name one.")
        if found[0] in labels:
            raise ValueError(f"{titles(found)} is named twice: name each class once.")
        labels += found
    if not labels:
        raise ValueError(f"no class is named: use {', '.join(_OFFERED[:-1])}.")
    return tuple(labels)


def titles(labels: Sequence[int]) -> str:
    """Return the titles of labels in a row, such as "left eye, hair"."""
    return ", ".join(MASK_CLASSES[label].title for label in labels)


def _read(text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in filter(None, map(str.strip, re.split(r"[,;\n，、；]+", text))):
        found = _KNOWN.get(plain(part))
        if found is None:
            near = difflib.get_close_matches(plain(part[:60]), _KNOWN, n=3)
            names = list(dict.fromkeys(_SHOWN[key] for key in near))
            hint = f"Did you mean {' or '.join(names)}?" if names else f"Use {', '.join(_OFFERED)}."
            raise ValueError(f"{part[:60]!r} is no region of the mask. {hint}")
        yield part, found


def _names() -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    known, shown = {}, {}
    groups = {**{name: name for name in _GROUPS}, **_GROUPS_ALSO}
    singles = {**{name: name for name in CLASS_NAMES}, **{c.title: c.name for c in MASK_CLASSES}, **_ALSO}
    for spelling, group in groups.items():
        known[plain(spelling)] = tuple(LABELS[name] for name in _GROUPS[group])
        shown[plain(spelling)] = group
    for spelling, name in singles.items():
        known[plain(spelling)] = (LABELS[name],)
        shown[plain(spelling)] = MASK_CLASSES[LABELS[name]].title
    return known, shown


_KNOWN, _SHOWN = _names()
_OFFERED = (*(entry.title for entry in MASK_CLASSES), "or a group: " + ", ".join(_GROUPS))
