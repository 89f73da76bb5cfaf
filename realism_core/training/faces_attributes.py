"""The attributes of a data set's faces from its files: CelebA's own list, a CSV, or a JSON file a face."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ..conditioning.attributes import FaceAttributes, from_states
from ..conditioning.spellings import look_up, nearest
from ..conditioning.vocabulary import NAMES
from .faces_problems import Problem

# no, don't care and yes, one byte an attribute in CelebA's order: 200,000 faces take 15 MB
States = bytes
_NO, _ANY, _YES = 2, 0, 1
_STATES = {_NO: -1.0, _ANY: 0.0, _YES: 1.0}
_WORDS = {
    "1": _YES, "+1": _YES, "1.0": _YES, "true": _YES, "yes": _YES,
    "-1": _NO, "-1.0": _NO, "false": _NO, "no": _NO,
    "": _ANY, "nan": _ANY, "none": _ANY, "null": _ANY, "?": _ANY,
}  # fmt: skip
_ZEROS = ("0", "0.0", "+0", "-0")
_DELIMITERS = ",;\t"
_BELOW_ZERO = ("-1", "-1.0")
_DIGITS = 9
_DECIMALS = 6  # of strengths, so that float32 gives back what was read


def read_attribute_file(path: Path) -> tuple[dict[str, States], list[Problem]]:
    """Return the states of the faces by the name in the first column, and the problems of single rows.

    CelebA's list (a line with the count, one with the names, then name and -1 or 1, with spaces between), as
    in list_attr_celeba.txt and CelebAMask-HQ-attribute-anno.txt, or a CSV with a head line (comma, semicolon
    or tab; attributes in any spelling that `parse_attributes` knows; -1/1, 0/1, true/false, yes/no). An empty
    cell and an attribute without a column are don't care; 0 is too if there is a -1 in the file, and means no
    otherwise. Raises ValueError for a file that cannot be read as a whole, naming the column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            if is_number(first.strip()):
                return _celeba(path, file, int(first))
            file.seek(0)
            return _csv(path, first)
    except OSError as error:
        raise ValueError(
            f"the attribute file {path} cannot be read ({error.strerror}): check the path."
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"the attribute file {path} is no UTF-8 text: save it as UTF-8.") from None
    except csv.Error as error:
        raise ValueError(f"the attribute file {path} is no CSV ({error}): save it again.") from None


def read_json(path: Path) -> FaceAttributes:
    """Return the attributes of a JSON object such as {"Smiling": 1, "Bald": false}.

    0 and null are don't care. Raises ValueError for anything else, and for strengths too small to be kept.
    """
    try:
        states = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise ValueError('is no JSON object such as {"Smiling": 1, "Bald": false}') from None
    if not isinstance(states, dict):
        raise ValueError('is no JSON object such as {"Smiling": 1, "Bald": false}')
    try:
        attributes = from_states(states)
    except OverflowError:
        raise ValueError("has a number that is too large: use -2 to 2") from None
    for name, strength in attributes.strengths.items():
        if abs(strength) < 10**-_DECIMALS:
            raise ValueError(f"has {strength:g} for {name}: use 0 for don't care, or 0.000001 or more")
    return attributes


def to_attributes(states: Sequence[float]) -> FaceAttributes:
    """Return the attributes of 40 signed strengths, up to float32, in CelebA's order; 0 is don't care."""
    rounded = {name: round(value, _DECIMALS) for name, value in zip(NAMES, states, strict=True)}
    return FaceAttributes({name: value for name, value in rounded.items() if value})


def to_strengths(states: States) -> list[float]:
    """Return 40 signed strengths of a face's states."""
    return [_STATES[state] for state in states]


def is_number(text: str) -> bool:
    """Tell whether a text is a whole number in plain digits, of the size that files and rows have."""
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS


def _celeba(path: Path, file: Iterator[str], count: int) -> tuple[dict[str, States], list[Problem]]:
    order = _columns(path, next(file, "").split())
    rows: dict[str, States] = {}
    problems = []
    for number, line in enumerate(file, 3):
        cells = line.split()
        if cells:
            _add(rows, problems, path, number, cells[0], cells[1:], order, _ANY)
    if len(rows) != count:
        about = f"its first line says {count} faces, but it has {len(rows)}"
        problems.append(Problem("wrong attributes", path.name, about, left_out=False))
    return rows, problems


def _csv(path: Path, head: str) -> tuple[dict[str, States], list[Problem]]:
    delimiter = max(_DELIMITERS, key=head.count)
    if delimiter not in head:
        raise ValueError(
            f"the attribute file {path} has no columns in its first line: give CelebA's list, or a CSV whose "
            "first line names the columns."
        )
    zero = _ANY if _has_negative(path, delimiter) else _NO
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter=delimiter)
        order = _columns(path, next(lines)[1:])
        rows: dict[str, States] = {}
        problems: list[Problem] = []
        for cells in lines:
            if any(cells):
                name = cells[0].strip()
                _add(rows, problems, path, lines.line_num, name, cells[1:], order, zero)
    return rows, problems


def _has_negative(path: Path, delimiter: str) -> bool:
    """Tell whether a CSV has a -1 in a column of states."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter=delimiter)
        return any(cell.strip() in _BELOW_ZERO for line in islice(lines, 1, None) for cell in line[1:])


def _columns(path: Path, names: Sequence[str]) -> list[tuple[int, bool]]:
    """Return for each column the place of its attribute, and whether it says the opposite."""
    found = []
    for name in names:
        known = look_up(name)
        if known is None:
            near = nearest(name)
            hint = f"Did you mean {' or '.join(near)}?" if near else "Remove the column, or rename it."
            raise ValueError(f"the attribute file {path} has the column {name!r}, no attribute. {hint}")
        found.append((NAMES.index(known[0]), known[1] < 0))
    twice = {place for place, _ in found if sum(place == other for other, _ in found) > 1}
    if twice or not found:
        which = NAMES[min(twice)] if twice else "no attribute"
        raise ValueError(
            f"the attribute file {path} has {'two columns of ' if twice else ''}{which}: give one a column."
        )
    return found


def _add(
    rows: dict[str, States], problems: list[Problem], path: Path, number: int, name: str,
    cells: Sequence[str], order: Sequence[tuple[int, bool]], zero: int,
) -> None:  # fmt: skip
    """Add a row's states, or the problem that it has."""
    where = f"{path.name} line {number}"
    if len(cells) != len(order):
        about = f"{name} has {len(cells)} values for {len(order)} attributes"
        problems.append(Problem("wrong attributes", where, about, left_out=False, row=name))
        return
    states = bytearray(len(NAMES))
    for cell, (place, opposite) in zip(cells, order, strict=True):
        word = cell.strip().lower()
        state = zero if word in _ZEROS else _WORDS.get(word)
        if state is None:
            about = f"{name} has {cell.strip()!r} for {NAMES[place]}: use -1, 0, 1, true or false"
            problems.append(Problem("wrong attributes", where, about, left_out=False, row=name))
            return
        states[place] = {_YES: _NO, _NO: _YES}.get(state, state) if opposite else state
    if name in rows:
        about = f"{name} has a row already, which is used"
        problems.append(Problem("wrong attributes", where, about, left_out=False, row=name))
        return
    rows[name] = bytes(states)
