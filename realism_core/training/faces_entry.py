"""A face of a data set as it lies on disk, before anything is read of it."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

from ..conditioning.vocabulary import CLASS_NAMES
from .faces_attributes import States


class FaceFile(NamedTuple):
    """A face on disk.

    place: in the whole data set, from 0. name: of its picture. mask: the label map, or the folder of the
    parts of picture `number`. attributes: states, or the path of a JSON file; None where they are missing.
    wrong: why its row of attributes cannot be used, and where that stands.
    """

    place: int
    name: str
    picture: str
    mask: str | None = None
    number: int | None = None
    attributes: States | str | None = None
    wrong: tuple[str, str] | None = None


def mark_of(face: FaceFile) -> str:
    """Return 16 hex digits that change with the name, size or time of a face's files, or with its row."""
    files = [face.picture]
    if face.mask is not None:
        files += part_files(face).values() if face.number is not None else [face.mask]
    states = face.attributes
    if isinstance(states, str):
        files.append(states)
    told = [(os.path.basename(file), *_size_and_time(file)) for file in files]
    row = states if isinstance(states, bytes) else states is not None
    return hashlib.sha256(repr((told, row)).encode()).hexdigest()[:16]


def part_files(face: FaceFile) -> dict[str, str]:
    """Return the path of every part that a face of CelebAMask-HQ may have, by its class."""
    return {
        name: os.path.join(face.mask or "", f"{face.number:05d}_{name}.png") for name in CLASS_NAMES[1:]
    }


def _size_and_time(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
