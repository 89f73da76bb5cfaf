"""The lattice map: where a planted lattice lies, and the same as judging each tile alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.evidence import lattice_map
from realism_core.evidence.lattice_map import CLEAR, NOTHING
from realism_core.irs.tiles import tile_starts
from tests.core.test_lattice import grey, pattern_of, planted, reference_ratios, reference_residual


def batch(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures))


def pasted(seed: int, period: int, height: int = 280, width: int = 300) -> np.ndarray:
    """Grain, with a lattice in its lower right part only."""
    picture = planted(np.zeros((1, 1)), seed, height, width)
    part = planted(pattern_of(seed, period, period), seed, height, width)
    picture[140:, 150:] = part[140:, 150:]
    return picture


def reference(picture: np.ndarray, tile: int, stride: int) -> np.ndarray:
    """Each tile judged alone at the whole picture's period, blended by triangular windows."""
    luma = grey(picture)
    period = reference_ratios(reference_residual(luma)[1]).argmax()
    total, weight = np.zeros(luma.shape), np.zeros(luma.shape)
    window = 1 - np.abs(np.arange(tile) - (tile - 1) / 2) / ((tile + 1) / 2)
    window = np.outer(window, window)
    for top in tile_starts(luma.shape[0], tile, stride):
        for left in tile_starts(luma.shape[1], tile, stride):
            place = np.s_[top : top + tile, left : left + tile]
            z = reference_ratios(reference_residual(luma[place])[1])
            strength = np.log((z[period] + 0.3) / (np.median(z) + 0.3))
            total[place] += window * np.clip((strength - NOTHING) / (CLEAR - NOTHING), 0, 1)
            weight[place] += window
    return total / weight


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 999), st.sampled_from([8, 11, 16]), st.integers(104, 130), st.integers(60, 100))
def test_agrees_with_tiles_judged_alone(seed, period, tile, stride):
    picture = pasted(seed, period)
    found = lattice_map(batch(picture), tile, stride)
    np.testing.assert_allclose(found[0], reference(picture, tile, stride), atol=1e-3)


@pytest.mark.parametrize("period", [2, 8, 11])
def test_it_lights_up_where_the_lattice_is(period):
    found = lattice_map(batch(pasted(1, period)), 112, 28)
    assert found.shape == (1, 280, 300)
    assert found[0, 200:, 220:].mean() > 0.4
    assert found[0, :80, :80].mean() < 0.1


def test_each_picture_has_its_own_period() -> None:
    pictures = batch(pasted(1, 8), pasted(2, 11), planted(np.zeros((1, 1)), 3, 280, 300))
    found = lattice_map(pictures, 112, 56)
    for place in range(3):
        torch.testing.assert_close(found[place], lattice_map(pictures[place : place + 1], 112, 56)[0])
    assert (found[:, 220:, 240:].mean((1, 2)) > 0.3).tolist() == [True, True, False]


def test_flat_places_say_nothing() -> None:
    half = pasted(1, 8)
    half[:, :150] = 90
    found = lattice_map(batch(half), 112, 38)[0]
    assert found[:, :76].isnan().all() and not found[:, 200:].isnan().any()
    assert lattice_map(batch(np.full((120, 130, 3), 7, np.uint8)), 112, 56).isnan().all()


@pytest.mark.parametrize(
    ("tile", "stride", "words"),
    [
        (103, 50, "tile is 103 pixels, too small for a lattice: use at least 104"),
        (290, 50, "tile is 290 pixels, larger than the pictures"),
        (128, 0, "stride 0"),
        (128, 129, "stride 129"),
    ],
)
def test_tiles_that_cannot_serve_are_refused(tile, stride, words):
    with pytest.raises(ValueError, match=words):
        lattice_map(batch(pasted(1, 8)), tile, stride)
    with pytest.raises(ValueError, match="images holds no pictures"):
        lattice_map(torch.zeros(0, 200, 200, 3))
