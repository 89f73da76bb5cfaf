"""The faces that workflows ship: what Face Data reads, with every class, and small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import example_faces
from realism_core.conditioning.vocabulary import CLASS_NAMES
from realism_core.training.faces_files import find_faces
from realism_core.training.faces_read import Task, read_face

INPUTS = Path(__file__).resolve().parents[2] / "workflows" / "inputs"
FACES = find_faces(INPUTS / "faces", "folder")


def test_nothing_is_wrong_with_them() -> None:
    assert len(FACES.faces) == len(example_faces.LOOKS) and not FACES.problems
    shown = np.zeros(len(CLASS_NAMES), dtype=int)
    for face in FACES.faces:
        read = read_face(Task(face, 512, 512))
        assert not read.problems and any(read.attributes)
        shown += np.bincount(read.labels.ravel(), minlength=len(CLASS_NAMES))
    assert (shown > 500).all()


@pytest.mark.parametrize("number", range(len(example_faces.LOOKS)))
def test_they_are_what_is_drawn(number: int) -> None:
    """Up to how a version of Pillow rounds at edges."""
    drawn = example_faces.draw(example_faces.LOOKS[number])
    for made, name in zip(drawn, ("png", "mask.png"), strict=True):
        with Image.open(INPUTS / "faces" / f"face-{number + 1}.{name}") as kept:
            off = np.array(made.convert("RGB"), dtype=int) - np.array(kept.convert("RGB"))
        assert (np.abs(off).max(-1) > 24).mean() < 0.01


def test_the_label_map_is_that_of_the_first_face() -> None:
    mask = INPUTS / "mask" / "realism-kit-face.png"
    assert mask.read_bytes() == (INPUTS / "faces" / "face-1.mask.png").read_bytes()


def test_they_are_small() -> None:
    assert sum(file.stat().st_size for file in (INPUTS / "faces").iterdir()) < 100_000
