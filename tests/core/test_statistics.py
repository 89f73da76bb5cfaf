"""The detector's statistics against a float64 reference, and against patterns of known frequency."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter
from torch import Tensor

from realism_core.evidence.samples import windows
from realism_core.evidence.statistics import NAMES, PAIRS, detector_statistics, harmonic_power
from tests.core.test_lattice import grey, planes, reference_ratios, reference_residual, reference_strength
from tests.core.textures import texture

COLOURS = ("luma", "red", "blue")
HARMONICS = [name for name in NAMES if name[-1].isdigit()]
SIDES = st.integers(104, 210)
SEEDS = st.integers(0, 9999)


def reference_harmonics(q: np.ndarray) -> tuple[list[float], list[float]]:
    """ln power of each pair, and the block statistic of every cross that holds the most but for rounding."""
    rows, columns = q.shape[0] // 8, q.shape[1] // 8
    fold = np.array(
        [[q[i : 8 * rows : 8, j : 8 * columns : 8].mean() for j in range(8)] for i in range(8)]
    )
    fold = (fold - fold.mean()) * np.sqrt(rows * columns / q.var())
    waves = np.exp(-2j * np.pi * np.outer(np.arange(8), np.arange(8)) / 8)
    power = np.abs(waves @ fold @ waves.T) ** 2 / 64
    pairs = [
        np.mean([power[i % 8, j % 8] for a, b in ((k, m), (m, k)) for i in (a, -a) for j in (b, -b)])
        for k, m in PAIRS
    ]
    crosses = np.zeros((64, 8, 8), bool)
    for place in range(64):
        top, left = divmod(place, 8)
        crosses[place, [top, (top + 1) % 8]] = True
        crosses[place][:, [left, (left + 1) % 8]] = True
    held = (fold**2 * crosses).sum((1, 2))
    blocks = [
        np.log(((fold[cross] ** 2).mean() + 0.3) / ((fold[~cross] ** 2).mean() + 0.3))
        for cross in crosses[held >= held.max() * (1 - 1e-3)]
    ]
    return list(np.log(np.array(pairs) + 0.3)), blocks


def reference_peak(q: np.ndarray) -> float:
    """The highest power over its 168 neighbours, off the eighths and low frequencies."""
    height, width = (length // 32 * 32 for length in q.shape)
    power = np.abs(np.fft.rfft2(q[:height, :width])) ** 2
    ratio = power / ((uniform_filter(power, 13, mode="mirror") * 169 - power) / 168)
    for index in np.argsort(-ratio, axis=None):
        i, j = np.unravel_index(index, ratio.shape)
        down, across = min(i, height - i), j
        places = ((down, height), (across, width))
        near = all(abs(place - round(8 * place / size) * size / 8) <= 1.5 for place, size in places)
        if not near and max(down / height, across / width) > 0.06:
            return float(np.log1p(ratio[i, j]))
    raise AssertionError("every frequency is left out")


def values(*pictures: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(NAMES, detector_statistics(planes(*pictures)).T.numpy(), strict=True))


def grain(seed: int, height: int = 200, width: int = 216, sigma: float = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(128, sigma, (height, width, 3))


def decoded(seed: int, height: int = 200, width: int = 216, strength: float = 3.0) -> np.ndarray:
    """Grain on a random pattern that repeats every 8 pixels and lies everywhere in the block."""
    pattern = np.random.default_rng([seed, 8]).normal(0, strength, (8, 8, 3))
    repeated = np.tile(pattern, (height // 8 + 1, width // 8 + 1, 1))
    return grain(seed, height, width) + repeated[:height, :width]


def levels(picture: np.ndarray) -> np.ndarray:
    return picture.round().clip(0, 255).astype(np.uint8)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["noise", "blurred", "gradient", "grain"]), SEEDS, SIDES, SIDES)
def test_agrees_with_the_reference(kind, seed, height, width):
    picture = levels(grain(seed, height, width)) if kind == "grain" else texture(kind, seed, height, width)
    found = values(picture)
    luma = grey(picture)
    for colour, plane in zip(COLOURS, (luma, picture[..., 0] - luma, picture[..., 2] - luma), strict=True):
        q = reference_residual(plane)[1]
        if colour == "luma":
            assert found["lattice"][0] == pytest.approx(reference_strength(reference_ratios(q)), abs=1e-3)
        told = [found[f"{colour}_{k}{m}"][0] for k, m in PAIRS]
        pairs, blocks = reference_harmonics(q)
        np.testing.assert_allclose(told, pairs, atol=5e-3)
        assert np.abs(found[f"{colour}_block"][0] - np.array(blocks)).min() < 5e-3
        assert found[f"{colour}_peak"][0] == pytest.approx(reference_peak(q), abs=5e-3)


def test_the_names() -> None:
    assert len(set(NAMES)) == len(NAMES) == 37 and len(HARMONICS) == 30 and len(PAIRS) == 10
    assert detector_statistics(planes(levels(grain(0)))).dtype == torch.float64


@pytest.mark.parametrize("seed", range(5))
def test_a_decoders_pattern_raises_the_harmonics_and_not_the_block(seed):
    plain, found = values(levels(grain(seed))), values(levels(decoded(seed)))
    for colour in COLOURS:
        raised = [found[f"{colour}_{k}{m}"][0] - plain[f"{colour}_{k}{m}"][0] for k, m in PAIRS]
        assert np.mean(raised) > 1.5
        assert abs(found[f"{colour}_block"][0] - plain[f"{colour}_block"][0]) < 1
        assert abs(found[f"{colour}_peak"][0] - plain[f"{colour}_peak"][0]) < 0.6
    assert found["lattice"][0] > plain["lattice"][0] + 1


@pytest.mark.parametrize("seed", range(5))
def test_a_block_codecs_corners_raise_the_block(seed):
    """A codec's steps meet where four blocks do: one place a block that a diagonal difference sees."""
    corner = np.zeros((8, 8, 1))
    corner[3, 4] = corner[4, 5] = 6
    corner[3, 5] = corner[4, 4] = -6
    for shift in range(3):
        moved = np.roll(corner, (shift, 3 * shift), (0, 1))
        plain = values(levels(grain(seed)))
        found = values(levels(grain(seed) + np.tile(moved, (25, 27, 3))))
        spread = values(levels(decoded(seed, strength=3.0)))
        assert found["luma_block"][0] > plain["luma_block"][0] + 2
        assert found["luma_block"][0] > spread["luma_block"][0] + 1.5


@pytest.mark.parametrize("place", [(0.31, 0.42), (0.2, 0.2), (0.44, 0.09)])
def test_a_wave_at_a_free_frequency_raises_the_peak(place):
    rows, columns = np.mgrid[:200, :216]
    wave = 4 * np.cos(2 * np.pi * place[0] * rows) * np.cos(2 * np.pi * place[1] * columns)
    plain, found = values(levels(grain(1))), values(levels(grain(1) + wave[..., None]))
    assert found["luma_peak"][0] > plain["luma_peak"][0] + 0.8
    raised = [found[name][0] - plain[name][0] for name in HARMONICS]
    assert max(np.abs(raised)) < 1.5 and abs(np.mean(raised)) < 0.2


def test_a_wave_at_an_eighth_is_a_harmonic_and_no_peak():
    rows, columns = np.mgrid[:200, :216]
    wave = 4 * np.cos(np.pi / 4 * 2 * rows) * np.cos(np.pi / 4 * 3 * columns)
    plain, found = values(levels(grain(1))), values(levels(grain(1) + wave[..., None]))
    raised = {name: found[name][0] - plain[name][0] for name in NAMES if name.startswith("luma")}
    assert max(raised, key=raised.get) == "luma_23" and raised["luma_23"] > 2
    assert abs(raised["luma_peak"]) < 0.5


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(0, 7), st.integers(0, 7))
def test_the_phase_of_the_lattice_does_not_matter(seed, down, across):
    dice = np.random.default_rng(seed)
    q = torch.from_numpy(dice.normal(0, 1, (1, 96, 112)) + np.tile(dice.normal(0, 0.3, (8, 8)), (1, 12, 14)))
    for found, moved in zip(harmonic_power(q), harmonic_power(q.roll((down, across), (1, 2))), strict=True):
        torch.testing.assert_close(moved, found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("crop", [(1, 1), (3, 0), (0, 5), (7, 2), (4, 4)])
def test_a_crop_changes_little(crop):
    picture = levels(decoded(2, 304, 312))
    whole = values(picture[:296, :304])
    part = values(picture[crop[0] : 296 + crop[0], crop[1] : 304 + crop[1]])
    for name in NAMES:
        assert part[name][0] == pytest.approx(whole[name][0], abs=0.5), name


def test_white_residuals_have_a_power_of_about_one():
    q = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (200, 104, 96)))
    pairs, block = harmonic_power(q)
    np.testing.assert_allclose((pairs.exp() - 0.3).mean(0), 1, atol=0.2)
    # a mean of logarithms is below the logarithm of the mean
    assert math.log(1.3) - 0.3 < pairs.mean().item() < math.log(1.3)
    # the cross that holds most holds a little more than its share
    assert 0 < block.mean() < 1


@pytest.mark.parametrize("size", [(3, 3), (103, 300), (300, 103)])
def test_too_small(size):
    found = detector_statistics(planes(texture("noise", 1, *size), texture("noise", 2, *size)))
    assert found.shape == (2, len(NAMES)) and found.isnan().all()


def test_flat_pictures_have_no_lattice():
    flat = np.full((120, 130, 3), 77, np.uint8)
    found = detector_statistics(planes(flat, texture("noise", 1, 120, 130)))
    assert found[0].isnan().any() and not found[1].isnan().any()
    assert not torch.isinf(found).any()


@pytest.mark.parametrize("size", [(500, 4200), (4200, 110)])
def test_large_pictures_are_read_in_windows(size):
    dice = np.random.default_rng(3)
    picture = planes(dice.integers(0, 256, (*size, 3), dtype=np.uint8))
    parts = windows(picture)
    assert len(parts) > 1
    expected = torch.cat([detector_statistics(part.contiguous()) for part in parts]).mean(0)
    torch.testing.assert_close(detector_statistics(picture)[0], expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=6, deadline=None)
@given(st.permutations(["noise", "blurred", "strokes", "blocks"]), SEEDS, SIDES, SIDES)
def test_a_batch_is_as_singles(kinds, seed, height, width):
    pictures = [texture(kind, seed + place, height, width) for place, kind in enumerate(kinds[:3])]
    singles = torch.cat([detector_statistics(planes(picture)) for picture in pictures])
    batch: Tensor = detector_statistics(planes(*pictures))
    torch.testing.assert_close(batch, singles, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert not torch.isinf(batch).any()
