"""Drawn faces with exact labels and attributes by number and seed, kept in the cache once drawn."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import _faces_choices, _faces_packages, _faces_svg
from devtools.environment import cache_folder
from realism_core.conditioning.attributes import FaceAttributes
from realism_core.conditioning.masks import SemanticMask

PER_FILE = 100


class DrawnFaces(NamedTuple):
    """Faces as pictures, uint8 [n,128,128,3], with the class of every pixel and the attributes of each."""

    images: Tensor
    mask: SemanticMask
    attributes: list[FaceAttributes]


def drawn_faces(count: int, seed: int = 0, first: int = 0) -> DrawnFaces:
    """Return faces `first` to `first` + `count` - 1 of a seed; each depends on seed and number alone.

    Attributes that a face's parts settle are yes or no, the others don't care. Classes without parts of their
    own never occur: lips, earrings and necklaces. Raises SetupError where the parts cannot be installed.
    """
    if count < 1 or first < 0:
        raise ValueError(f"count is {count} and first {first}: use 1 and 0, or more.")
    parts = [_kept(seed, number) for number in range(first // PER_FILE, -(-(first + count) // PER_FILE))]
    rows = slice(first % PER_FILE, first % PER_FILE + count)
    images = torch.cat([part["images"] for part in parts])[rows]
    labels = torch.cat([part["labels"] for part in parts])[rows]
    chosen = [_faces_choices.choose(seed, number) for number in range(first, first + count)]
    return DrawnFaces(images, SemanticMask.from_labels(labels), [choice.attributes for choice in chosen])


def version() -> str:
    """Return ten hex digits that change with whatever pictures, labels and attributes follow from."""
    files = [Path(module.__file__) for module in (_faces_choices, _faces_svg, sys.modules[__name__])]
    told = b"".join(file.read_bytes() for file in files) + repr(_faces_packages.PINS).encode()
    return hashlib.sha256(told).hexdigest()[:10]


def _kept(seed: int, number: int) -> dict[str, Tensor]:
    """Return a file of faces, drawing them if it is not there; its name follows from what is drawn."""
    chosen = [_faces_choices.choose(seed, face) for face in range(number * PER_FILE, (number + 1) * PER_FILE)]
    told = repr([choice[:-1] for choice in chosen]) + repr(_faces_packages.PINS)
    sha = hashlib.sha256(told.encode() + Path(_faces_svg.__file__).read_bytes())
    path = cache_folder() / "faces" / f"drawn-{sha.hexdigest()[:16]}.safetensors"
    if not path.is_file():
        drawn = [_faces_svg.draw(choice) for choice in chosen]
        pictures, labels = (torch.stack(some) for some in zip(*drawn, strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file({"images": pictures, "labels": labels}, part)
        os.replace(part, path)
    return load_file(path)
