"""NIQE and BRISQUE of other packages, as the detection benchmark calls them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from benchmarks import _peers as peers

COFFEE = Path(__file__).resolve().parents[2] / "workflows" / "inputs" / "coffee.png"
BOTH = pytest.mark.parametrize("measure", [peers.niqe, peers.brisque])


@pytest.fixture
def fetched() -> Path:
    """The packages' folder, fetched once (under 5 MB)."""
    return peers.folder()


@pytest.fixture
def photograph() -> Image.Image:
    return Image.open(COFFEE).convert("RGB").crop((0, 0, 400, 400))


def test_support_vectors_are_read_and_absent_entries_are_zero() -> None:
    text = "svm_type epsilon_svr\ntotal_sv 2\nrho -1\nSV\n-2.5 1:0.5 36:-1 \n1e-3 2:3e-05 \n"
    coefficients, vectors = peers.support_vectors(text)
    expected = torch.zeros(2, 36, dtype=torch.float64)
    expected[0, 0], expected[0, 35], expected[1, 1] = 0.5, -1, 3e-5
    assert coefficients.tolist() == [-2.5, 1e-3]
    assert torch.equal(vectors, expected)


@BOTH
@pytest.mark.parametrize("picture", [
    np.zeros((64, 64), np.uint8), np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64, 3), np.float32),
], ids=["grey", "alpha", "float"])  # fmt: skip
def test_what_is_no_uint8_rgb_is_refused(measure, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match=re.escape("give uint8 RGB [H, W, 3]")):
        measure(picture)


@BOTH
@pytest.mark.parametrize("picture", [
    np.random.default_rng(0).integers(0, 256, (31, 300, 3), np.uint8), np.full((3, 3, 3), 9, np.uint8),
], ids=["strip", "dot"])  # fmt: skip
def test_a_picture_that_is_too_small_has_no_number(measure, picture: np.ndarray) -> None:
    assert math.isnan(measure(picture))


@BOTH
def test_a_picture_without_contrast_has_no_number(measure, fetched: Path) -> None:
    assert math.isnan(measure(np.full((288, 288, 3), 77, np.uint8)))


@BOTH
def test_a_spoilt_photograph_is_worse(measure, fetched: Path, photograph: Image.Image) -> None:
    rgb = np.asarray(photograph)
    clean = measure(rgb)
    noise = np.random.default_rng(1).normal(0, 20, rgb.shape)
    assert clean == measure(rgb.copy()) and math.isfinite(clean)
    assert measure(np.clip(rgb + noise, 0, 255).astype(np.uint8)) > clean
    assert measure(np.asarray(photograph.filter(ImageFilter.GaussianBlur(2)))) > clean


@BOTH
def test_extreme_pictures_give_a_number_or_nan(measure, fetched: Path) -> None:
    dot = np.zeros((200, 200, 3), np.uint8)
    dot[100, 100] = 255
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[:, ::2] = 255
    noise = np.random.default_rng(2).integers(0, 256, (200, 200, 3), np.uint8)
    assert math.isfinite(measure(noise))
    for picture in (dot, stripes):
        assert not math.isinf(measure(picture))


def test_the_support_vectors_are_those_that_piq_expects(fetched: Path) -> None:
    model = (fetched / peers.SUPPORT_VECTORS).read_text(encoding="ascii")
    known = dict(line.split(" ", 1) for line in model.split("\nSV\n")[0].splitlines())
    code = (fetched / "piq" / "brisque.py").read_text(encoding="utf-8")
    assert float(known["gamma"]) == float(re.search(r"gamma = ([\d.]+)", code)[1])
    assert float(known["rho"]) == float(re.search(r"rho = (-?[\d.]+)", code)[1])
    coefficients, vectors = peers.support_vectors(model)
    assert len(coefficients) == len(vectors) == int(known["total_sv"])
    assert vectors.abs().max() < 1.001, "the vectors are scaled to -1..1"
