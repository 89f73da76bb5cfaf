"""Resampling evidence: enlargements by Pillow with known factors, and spectra with a known end."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from realism_core.evidence.resampling import CLEAR_PEAK, COLUMNS, measure_resampling
from tests.core.test_codec_evidence import encoded, photograph, planes, softened
from tests.core.textures import TEXTURES, texture

PEAK, FACTOR, FACTOR_Y, CUTOFF = range(4)
METHODS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}


def measured(picture: np.ndarray) -> np.ndarray:
    return measure_resampling(planes(np.ascontiguousarray(picture)))[0].numpy()


def noise(seed: int, height: int = 320, width: int = 320) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(128, 25, (height, width, 3)).round().clip(0, 255).astype(np.uint8)


def enlarged(factor: float, factor_y: float, method: str, seed: int = 0, side: int = 384) -> np.ndarray:
    small = Image.fromarray(noise(seed, round(side / factor_y), round(side / factor)))
    size = round(small.width * factor), round(small.height * factor_y)
    return np.array(small.resize(size, METHODS[method]))


@pytest.mark.parametrize("method", ["bicubic", "lanczos"])
@pytest.mark.parametrize("factor", [1.25, 1.4, 1.5, 1.75, 2.0, 2.5, 3.0])
def test_factor_of_enlarged_noise(factor, method):
    row = measured(enlarged(factor, factor, method))
    assert row[PEAK] > CLEAR_PEAK
    assert row[FACTOR] == pytest.approx(factor, rel=0.02)
    assert row[FACTOR_Y] == pytest.approx(factor, rel=0.02)


@settings(max_examples=20, deadline=None)
@given(
    st.floats(1.2, 1.55), st.floats(1.65, 1.8),
    st.sampled_from(sorted(METHODS)), st.integers(0, 99),
)  # fmt: skip
def test_two_axes_have_two_factors(factor, factor_y, method, seed):
    row = measured(enlarged(factor, factor_y, method, seed))
    # a codec's grid hides 4/3; where the rows show nothing clear, the columns' factor stands for both
    expected = [factor, factor_y] if abs(factor - 4 / 3) < 0.03 else [factor]
    assert any(row[FACTOR] == pytest.approx(value, rel=0.03) for value in expected)
    assert row[FACTOR_Y] == pytest.approx(factor_y, rel=0.03)


@pytest.mark.parametrize("factor", [1.25, 1.5, 2.0])
def test_factor_of_an_enlarged_photograph(factor):
    small = Image.fromarray(photograph())
    picture = small.resize((round(256 * factor), round(256 * factor)), Image.BICUBIC)
    assert measured(np.array(picture))[FACTOR] == pytest.approx(factor, rel=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_no_peak_without_resizing(seed):
    row = measured(noise(seed))
    assert row[PEAK] < CLEAR_PEAK and np.isnan(row[FACTOR]) and np.isnan(row[FACTOR_Y])


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_the_grid_of_a_jpeg_is_no_resizing(quality):
    picture = encoded(np.array(Image.fromarray(photograph()).crop((0, 0, 250, 250))), "JPEG", quality)
    assert np.isnan(measured(picture[3:, 5:])[FACTOR])


@pytest.mark.parametrize("end", [0.3, 0.5, 0.7, 0.9])
def test_cutoff_of_noise_with_a_known_end(end):
    """White noise brought to an end in frequency by an ideal filter in both axes."""
    random = np.random.default_rng(int(end * 10))
    keep = np.abs(np.fft.fftfreq(512)) <= end / 2
    wave = np.fft.fft2(random.normal(0, 25, (512, 512))) * keep[:, None] * keep[None]
    picture = (np.fft.ifft2(wave).real + 128).round().clip(0, 255).astype(np.uint8)
    assert measured(picture[..., None].repeat(3, 2))[CUTOFF] == pytest.approx(end, abs=0.05)


def test_cutoff_falls_with_blur():
    picture = noise(1, 256, 256).astype(np.float64)
    cutoffs = []
    for _ in range(4):
        cutoffs.append(measured(picture.round().astype(np.uint8))[CUTOFF])
        picture = softened(picture)
    assert np.isnan(cutoffs[0]) or cutoffs[0] > 0.9
    assert cutoffs[1] > cutoffs[2] > cutoffs[3]


@pytest.mark.parametrize("side", [3, 16, 80])
def test_flat_pictures_say_nothing(side):
    assert np.isnan(measured(np.full((side, side, 3), 77, np.uint8))).all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(TEXTURES)), st.integers(0, 999), st.integers(3, 150), st.integers(3, 150))
def test_any_size_and_a_batch_as_singles(kind, seed, height, width):
    pictures = [texture(kind, seed, height, width), texture(kind, seed + 1, height, width)]
    batch = measure_resampling(planes(*pictures))
    assert batch.dtype == torch.float64 and batch.shape == (2, len(COLUMNS))
    singles = torch.cat([measure_resampling(planes(p)) for p in pictures])
    torch.testing.assert_close(batch, singles, equal_nan=True)
    for column, values in zip(COLUMNS, batch.T, strict=True):
        known = values[~values.isnan()]
        assert bool(((known >= column.low) & (known <= column.high)).all()), column.name
    if min(height, width) < 64:
        assert batch.isnan().all()
