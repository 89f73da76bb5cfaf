"""Which pictures of a data set the names in a list mean: its rows of attributes, and the held-out faces."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .faces_attributes import States, is_number
from .faces_problems import Problem


class PictureNames:
    """The names of pictures, to be looked up as lists write them; by_number: 5, 5.jpg and 00005.png are one.

    Slashes of both kinds, a leading ./ and the two ways to write accents in Unicode make no difference.
    """

    def __init__(self, names: Sequence[str], by_number: bool = False) -> None:
        self._by_number = by_number
        self._levels: list[dict[str, list[int]]] = [defaultdict(list) for _ in range(4)]
        for index, name in enumerate(names):
            whole = self._plain(name)
            base = posixpath.basename(whole)
            keys = (whole, posixpath.splitext(whole)[0], base, posixpath.splitext(base)[0])
            for level, key in zip(self._levels, keys, strict=True):
                level[key].append(index)

    def meant(self, name: str) -> tuple[int, list[int]]:
        """Return how a name was found, and the indices of all pictures that it fits so; none: (4, []).

        0: as a whole. 1: without its suffix. 2: without its folder. 3: without both. The first counts.
        """
        key = self._plain(name)
        for way, level in enumerate(self._levels):
            if key in level:
                return way, list(level[key])
        return len(self._levels), []

    def _plain(self, name: str) -> str:
        number = os.path.splitext(name)[0]
        if self._by_number and is_number(number):
            return str(int(number))
        return posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))


class Matched(NamedTuple):
    """What a list says of each picture: states, or file and reason why they cannot be used, or nothing."""

    states: list[States | None]
    wrong: list[tuple[str, str] | None]
    problems: list[Problem]


def match_rows(
    names: Sequence[str], places: Sequence[int], rows: Mapping[str, States], problems: Sequence[Problem],
    by_number: bool = False,
) -> Matched:  # fmt: skip
    """Return what the rows of an attribute file, read with these problems, say of the pictures in order.

    A row serves one picture, the one that has its whole name first of all. A row that fits several pictures
    serves none. The problems of rows are moved to the pictures that they are about; places: of these.
    """
    pictures = PictureNames(names, by_number)
    told: list[Problem] = []
    bad: dict[str, Problem] = {}
    for problem in problems:
        if problem.row is not None and problem.row not in rows and problem.row not in bad:
            bad[problem.row] = problem
        elif problem.row is not None:
            told.append(_placed(problem, pictures, places))
        else:
            told.append(problem)
    meant = {row: pictures.meant(row) for row in (*rows, *bad)}
    row_of: dict[int, str] = {}
    several: dict[int, tuple[str, str]] = {}
    for row in sorted(meant, key=lambda row: meant[row][0]):
        found = meant[row][1]
        if len(found) > 1:
            named = " and ".join(names[index] for index in found[:2])
            about = f"fits {len(found)} pictures, such as {named}: give each one's folder and suffix"
            free = [index for index in found if index not in row_of]
            for index in free:
                several.setdefault(index, (names[index], f"the row {row} {about}"))
            if not free:
                told.append(Problem("wrong attributes", row, about, left_out=False, place=places[found[0]]))
        elif found and found[0] in row_of:
            about = f"{names[found[0]]} has the row {row_of[found[0]]} already, which is used"
            told.append(Problem("wrong attributes", row, about, left_out=False, place=places[found[0]]))
        elif found:
            row_of[found[0]] = row
    told += [
        Problem("unused row", problem.file, problem.about, left_out=False)
        for row, problem in bad.items()
        if not meant[row][1]
    ]
    told += _without_picture(rows, meant, places)
    every = [row_of.get(index) for index in range(len(names))]
    return Matched(
        [rows.get(row) for row in every],
        [
            (bad[row].file, bad[row].about) if row in bad else several.get(index) if row is None else None
            for index, row in enumerate(every)
        ],
        told,
    )


def _without_picture(
    rows: Iterable[str], meant: Mapping[str, tuple[int, list[int]]], places: Sequence[int]
) -> list[Problem]:
    before, missing = -1.0, []
    for row in rows:
        found = meant[row][1]
        if found:
            before = places[found[0]]
        else:
            about = "has a row of attributes, but no file"
            missing.append(Problem("missing picture", row, about, place=before + 0.5))
    return missing


def _placed(problem: Problem, pictures: PictureNames, places: Sequence[int]) -> Problem:
    found = pictures.meant(problem.row)[1]
    return problem._replace(place=places[found[0]]) if found else problem
