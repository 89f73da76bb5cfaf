"""The decoder lattice against a float64 reference, on textures and on lattices of known periods."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve, gaussian_filter
from torch import Tensor

from realism_core.evidence import lattice
from realism_core.evidence.lattice import COLUMNS, MIN_SIDE, PERIODS, decoder_lattice, measure_lattice
from realism_core.evidence.residual import STRIP_PIXELS, gaussian_blur, reach, residual_strips
from tests.core.textures import TEXTURES, texture

KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 6
SIDES = st.integers(MIN_SIDE, 230)
SEEDS = st.integers(0, 9999)


def planes(*pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).contiguous()


def reference_residual(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """r and q of one plane, in float64."""
    r = convolve(plane.astype(np.float64), KERNEL)[4:-4, 4:-4]
    return r, np.clip(r / (np.sqrt(gaussian_filter(r**2, 6)) + 0.3), -3, 3)


def reference_ratios(q: np.ndarray) -> np.ndarray:
    """z of periods 2..24, one phase at a time."""
    found = []
    for p in range(2, 25):
        rows, columns = q.shape[0] // p, q.shape[1] // p
        cropped = q[: rows * p, : columns * p]
        means = [cropped[i::p, j::p].mean() for i in range(p) for j in range(p)]
        found.append(rows * columns * np.var(means) / q.var())
    return np.array(found)


def reference_strength(z: np.ndarray) -> float:
    return float(np.log((z.max() + 0.3) / (np.median(z) + 0.3)))


def grey(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float64) @ [0.299, 0.587, 0.114]


def planted(pattern: np.ndarray, seed: int, height: int, width: int) -> np.ndarray:
    """Grain with a pattern that repeats."""
    grain = np.random.default_rng(seed).normal(128, 8, (height, width, 3))
    down, across = -(-height // pattern.shape[0]), -(-width // pattern.shape[1])
    repeated = np.tile(pattern, (down, across))[:height, :width, None]
    return (grain + repeated).round().clip(0, 255).astype(np.uint8)


def pattern_of(seed: int, rows: int, columns: int) -> np.ndarray:
    """Random, without the parts of it that repeat sooner: those win, having more repeats."""
    wave = np.fft.fft2(np.random.default_rng([seed, 1]).normal(0, 1, (rows, columns)))
    down, across = np.mgrid[:rows, :columns]
    wave[np.gcd(np.gcd(down, rows), np.gcd(across, columns)) > 1] = 0
    if rows == columns == 2:  # stripes are nothing to a diagonal difference
        wave[:] = [[0, 0], [0, 1]]
    pattern = np.fft.ifft2(wave).real
    return pattern * (8 / pattern.std())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(TEXTURES)), SEEDS, SIDES, SIDES)
def test_agrees_with_the_reference_on_any_texture_and_size(kind, seed, height, width):
    picture = texture(kind, seed, height, width)
    found = decoder_lattice(planes(picture))
    _, q = reference_residual(grey(picture))
    if q.var() < 1e-6:  # float32 has no say in what is next to flat
        return
    z = reference_ratios(q)
    np.testing.assert_allclose(found.ratios[0], z, rtol=1e-4, atol=1e-4)
    assert found.strength.item() == pytest.approx(reference_strength(z), abs=1e-4)
    assert z[int(found.period.item()) - 2] == pytest.approx(z.max(), rel=1e-4)
    assert torch.equal(measure_lattice(planes(picture)), torch.stack((found.strength, found.period), 1))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(PERIODS), SEEDS, st.integers(190, 260), st.integers(190, 260))
def test_the_period_of_a_planted_lattice_and_its_phases(period, seed, height, width):
    pattern = pattern_of(seed, period, period)
    found = decoder_lattice(planes(planted(pattern, seed, height, width)))
    assert found.period.item() == period
    assert found.strength.item() > 2
    phases = found.phase_map(0)
    assert phases.shape == (period, period) and torch.equal(phases, found.phases[period - 2][0])
    # the residual of the pattern itself, 4 border pixels dropped
    seen = np.roll(convolve(pattern, KERNEL, mode="wrap"), (-4, -4), (0, 1))
    assert np.corrcoef(seen.ravel(), phases.numpy().ravel())[0, 1] > 0.95


@pytest.mark.parametrize(("rows", "columns"), [(8, 12), (12, 8), (6, 8), (24, 8), (3, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_a_lattice_of_changed_aspect_wins_at_a_period_that_belongs_to_it(rows, columns, seed):
    """Two periods: what both share has the most repeats."""
    found = decoder_lattice(planes(planted(pattern_of(seed, rows, columns), seed, 240, 232)))
    common = np.lcm(rows, columns)
    assert common % found.period.item() == 0
    assert found.strength.item() > 1


def test_grain_alone_has_little_of_it():
    grain = [planted(np.zeros((1, 1)), seed, 200, 210) for seed in range(12)]
    found = decoder_lattice(planes(*grain))
    assert found.strength.max() < 0.9
    assert (found.ratios - 1).abs().max() < 3
    mean = found.ratios[:, 6:].mean()
    assert mean.item() == pytest.approx(1, abs=0.05)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(TEXTURES)), SEEDS, SIDES, SIDES, st.integers(1, 200_000))
def test_strips_do_not_change_the_numbers(kind, seed, height, width, pixels):
    values = torch.from_numpy(grey(texture(kind, seed, height, width)))[None].float()
    (whole,) = residual_strips(values, 1 << 30)
    parts = list(residual_strips(values, pixels))
    rows = [part.r.shape[1] for part in parts]
    assert [part.first for part in parts] == np.cumsum([0, *rows[:-1]]).tolist()
    for name in ("r", "q"):
        joined = torch.cat([getattr(part, name) for part in parts], 1)
        torch.testing.assert_close(joined, getattr(whole, name), rtol=1e-4, atol=1e-4)
    r, q = reference_residual(values[0].double().numpy())
    np.testing.assert_allclose(whole.r[0], r, atol=1e-3)
    np.testing.assert_allclose(whole.q[0], q, atol=1e-3)


@pytest.mark.parametrize("size", [(331, 120), (120, 331), (104, 104), (257, 241)])
def test_folding_strip_by_strip(monkeypatch: pytest.MonkeyPatch, size):
    """Strips of 48 rows, which are no multiple of most periods."""
    picture = planes(planted(pattern_of(1, 8, 8), 2, *size), texture("blocks", 3, *size))
    whole = decoder_lattice(picture)
    monkeypatch.setattr(lattice, "residual_strips", partial(residual_strips, strip_pixels=1))
    strips = decoder_lattice(picture)
    torch.testing.assert_close(strips.ratios, whole.ratios, rtol=1e-4, atol=1e-5)
    assert torch.equal(strips.period, whole.period)
    for one, other in zip(strips.phases, whole.phases, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(sorted(TEXTURES)), min_size=2, max_size=4), SEEDS, SIDES, SIDES)
def test_a_batch_is_as_singles(kinds, seed, height, width):
    pictures = [texture(kind, seed + place, height, width) for place, kind in enumerate(kinds)]
    batch = decoder_lattice(planes(*pictures))
    near = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4, equal_nan=True)
    for place, picture in enumerate(pictures):
        single = decoder_lattice(planes(picture))
        near(single.ratios[0], batch.ratios[place])
        near(single.strength[0], batch.strength[place])
        phases = single.phase_map(0)
        if torch.equal(single.period[0], batch.period[place]):
            torch.testing.assert_close(phases, batch.phase_map(place), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(3, 3), (103, 500), (500, 103), (16, 16)])
def test_too_small(size):
    found = decoder_lattice(planes(texture("noise", 0, *size), texture("noise", 1, *size)))
    assert found.ratios.shape == (2, len(PERIODS)) and found.ratios.isnan().all()
    assert found.strength.isnan().all() and found.period.isnan().all()
    assert found.phase_map(1).shape == (2, 2)
    assert measure_lattice(planes(texture("noise", 0, *size))).isnan().all()


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (12, 200, 77)])
def test_flat_pictures_have_none_beside_others_that_have(colour):
    flat = np.empty((120, 130, 3), np.uint8)
    flat[:] = colour
    ramp = np.broadcast_to(np.arange(130, dtype=np.uint8)[None, :, None], flat.shape)
    found = measure_lattice(planes(flat, texture("noise", 1, 120, 130), ramp))
    assert found.isnan().all(1).tolist() == [True, False, True]
    assert found.shape == (3, len(COLUMNS)) and found.dtype == torch.float64


@pytest.mark.parametrize("size", [(512, 8192), (8192, 512)])
def test_a_panorama_in_strips_of_bounded_size(size):
    picture = planes(planted(pattern_of(3, 11, 11), 3, *size))
    found = decoder_lattice(picture)
    assert found.period.item() == 11 and torch.isfinite(found.ratios).all()
    values = picture.expand(3, -1, -1, -1)[:, 0].float()
    sizes = [strip.q.numel() for strip in residual_strips(values)]
    assert max(sizes) <= max(STRIP_PIXELS, 48 * 3 * size[1]) and len(sizes) > 3


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.5, 9), st.booleans(), SEEDS)
def test_the_blur_is_scipys(height, width, sigma, double, seed):
    """Short sides mirror several times."""
    values = np.random.default_rng(seed).normal(0, 10, (2, height, width))
    found = gaussian_blur(torch.from_numpy(values).to(torch.float64 if double else torch.float32), sigma)
    assert found.shape == values.shape and found.dtype == (torch.float64 if double else torch.float32)
    expected = np.stack([gaussian_filter(one, sigma) for one in values])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9 if double else 1e-4)
    assert reach(sigma) == int(4 * sigma + 0.5)
