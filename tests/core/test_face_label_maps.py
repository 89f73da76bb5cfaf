"""Label maps of one's own: grey of 8 and 16 bits, coloured, palettes, and those that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from realism_core.conditioning.mask_pictures import to_colours
from realism_core.conditioning.masks import SemanticMask
from realism_core.pictures import PictureError, read_label_map
from realism_core.training.faces_entry import FaceFile
from realism_core.training.faces_read import Reading, Task, read_face
from tests.core import face_trees as trees

COLOURS = (to_colours(SemanticMask.from_labels(torch.from_numpy(trees.LABELS)[None]))[0] * 255).round()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.own(tmp_path_factory.mktemp("maps") / "own", 1, apart=False)


def read(root: Path, picture: Image.Image | np.ndarray) -> Reading:
    """Return what is read of a face with this label map."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    mask, attributes = root / "p0.mask.png", root / "p0.json"
    picture.save(mask)
    return read_face(Task(FaceFile(0, "p0", str(root / "p0.png"), str(mask), None, str(attributes)), 32, 16))


@settings(deadline=None, max_examples=25)
@given(labels=arrays(np.uint8, (16, 16), elements=st.integers(0, 18)))
def test_labels_are_read_by_value_however_deep_they_are_saved(root: Path, labels: np.ndarray) -> None:
    deep = labels.astype(np.uint16)
    for values in (labels, deep, deep * 257, np.stack([labels] * 3, -1)):
        reading = read(root, values)
        if labels.any():
            assert not reading.problems and np.array_equal(reading.labels, labels)
        else:
            assert [problem.kind for problem in reading.problems] == ["empty mask"]


@settings(deadline=None, max_examples=25)
@given(value=st.integers(19, 65535))
def test_other_values_of_16_bits_are_unknown(root: Path, value: int) -> None:
    deep = trees.LABELS.astype(np.uint16)
    deep[3, 4:6] = value
    (problem,) = read(root, deep).problems
    assert problem.kind == "unknown label"
    assert problem.about == f"has 2 pixels of no class: 2 with the label {value}"


def test_colours_are_read(root: Path) -> None:
    reading = read(root, COLOURS.numpy().astype(np.uint8))
    assert not reading.problems and np.array_equal(reading.labels, trees.LABELS)


def palette_map() -> Image.Image:
    picture = Image.fromarray(trees.LABELS)
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette([place * step % 256 for place in range(256) for step in (37, 91, 151)])
    return picture


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (COLOURS.clamp(max=252).add(3).numpy().astype(np.uint8), "pixels of colours that no class has"),
        (palette_map(), "pixels of colours that no class has"),
        ((trees.LABELS == 1).astype(np.uint8) * 255, "black and white, the mask of one part"),
        (Image.fromarray(trees.LABELS == 1), "black and white, the mask of one part"),
        (trees.LABELS + np.uint8(40), "with the label 40"),
    ],
)
def test_sentences_name_nothing_that_the_node_has_not(
    root: Path, picture: Image.Image | np.ndarray, told: str
) -> None:
    (problem,) = read(root, picture).problems
    assert problem.kind == "unknown label" and told in problem.about
    for name in ("tolerance", "part_names", "connect", "label_map", "palette"):
        assert name not in problem.about


def test_pictures_that_hold_no_labels_are_broken(root: Path) -> None:
    path = root / "q.tif"
    for values in (np.full((4, 4), 0.5, np.float32), np.full((4, 4), -1, np.int32)):
        Image.fromarray(values).save(path)
        with pytest.raises(PictureError, match=r"q\.tif holds"):
            read_label_map(path)
    with pytest.raises(PictureError, match="does not exist"):
        read_label_map(root / "none.png")
