"""Noise, clipping, flatness, size and border against closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.evidence.noise import COLUMNS as NOISE_COLUMNS
from realism_core.evidence.noise import measure_noise
from realism_core.evidence.size import COLUMNS as SIZE_COLUMNS
from realism_core.evidence.size import content_box, measure_size
from tests.core.test_codec_evidence import planes
from tests.core.textures import TEXTURES, texture

NOISE, CLIPPED, FLAT = range(3)


def ramp(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (70 + 60 * rows / height + 50 * columns / width)[..., None].repeat(3, 2)


def noisy(sigma: float, seed: int, grey: bool, height: int = 256, width: int = 320) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, (height, width, 1 if grey else 3))
    return (ramp(height, width) + noise).round().clip(0, 255).astype(np.uint8)


@settings(max_examples=20, deadline=None)
@given(st.floats(1, 14), st.integers(0, 99), st.booleans())
def test_noise_of_known_sigma_on_a_ramp(sigma, seed, grey):
    length = 1 if grey else np.sqrt(0.299**2 + 0.587**2 + 0.114**2)
    rounding = 1 / 12
    expected = length * np.sqrt(sigma**2 + rounding)
    value = measure_noise(planes(noisy(sigma, seed, grey)))[0, NOISE].item()
    assert value == pytest.approx(expected, rel=0.06)


def test_noise_is_read_where_the_picture_is_smooth():
    picture = noisy(3, 1, True, 256, 256)
    picture[:, :128] = texture("noise", 2, 256, 128)
    assert measure_noise(planes(picture))[0, NOISE].item() == pytest.approx(3, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(TEXTURES)), st.integers(0, 999), st.integers(3, 90), st.integers(3, 90))
def test_shares_agree_with_counting_and_a_batch_with_singles(kind, seed, height, width):
    pictures = [texture(kind, seed, height, width), texture(kind, seed + 1, height, width)]
    values = measure_noise(planes(*pictures))
    assert values.dtype == torch.float64 and values.shape == (2, len(NOISE_COLUMNS))
    singles = torch.cat([measure_noise(planes(p)) for p in pictures])
    torch.testing.assert_close(values, singles, equal_nan=True)
    for picture, row in zip(pictures, values.numpy(), strict=True):
        assert row[CLIPPED] == pytest.approx(((picture == 0) | (picture == 255)).any(2).mean())
        blocks = [
            np.ptp(picture[top : top + 8, left : left + 8], axis=(0, 1)).max() == 0
            for top in range(0, height - 7, 8)
            for left in range(0, width - 7, 8)
        ]
        assert row[FLAT] == pytest.approx(np.mean(blocks)) if blocks else np.isnan(row[FLAT])
        assert np.isnan(row[NOISE]) or (min(height, width) >= 16 and row[NOISE] >= 0)


@pytest.mark.parametrize("side", [3, 16, 64])
def test_flat_pictures_have_no_noise_to_measure(side):
    row = measure_noise(planes(np.full((side, side, 3), 255, np.uint8)))[0].numpy()
    assert np.isnan(row[NOISE]) and row[CLIPPED] == 1
    assert np.isnan(row[FLAT]) if side < 8 else row[FLAT] == 1


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(0, 20)] * 4), st.integers(3, 40), st.integers(3, 40), st.integers(0, 99))
def test_border_of_known_widths(widths, height, width, seed):
    top, bottom, left, right = widths
    random = np.random.default_rng(seed)
    inside = random.integers(0, 200, (height, width, 3), dtype=np.uint8)
    inside[[0, -1], :] = np.arange(width)[None, :, None] + 1
    inside[:, [0, -1]] = np.arange(height)[:, None, None] + 101
    picture = np.full((height + top + bottom, width + left + right, 3), 230, np.uint8)
    picture[top : top + height, left : left + width] = inside
    assert content_box(planes(picture)).tolist() == [[top, top + height, left, left + width]]
    expected = 1 - height * width / (picture.shape[0] * picture.shape[1])
    sides = [min(picture.shape[:2]), picture.shape[0] * picture.shape[1] / 1e6]
    assert measure_size(planes(picture))[0].tolist() == pytest.approx([*sides, expected])


def test_a_band_between_borders_of_other_colours_is_border_too() -> None:
    """Three bands of rows, each even: nothing is left, and the share is no more than all."""
    picture = np.zeros((12, 20, 3), np.uint8)
    picture[4:9], picture[9:] = 80, 200
    assert measure_size(planes(picture))[0, 2].item() == 1
    top, bottom, left, right = content_box(planes(picture))[0].tolist()
    assert (bottom - top) * (right - left) == 0 and bottom >= top and right >= left


def test_borders_of_two_colours_and_a_batch():
    pictures = [noisy(5, seed, False, 60, 90) for seed in range(3)]
    pictures[0][:10] = 0
    pictures[0][50:] = 255
    pictures[1][:, 70:] = (10, 20, 30)
    boxes = content_box(planes(*pictures)).tolist()
    assert boxes == [[10, 50, 0, 90], [0, 60, 0, 70], [0, 60, 0, 90]]
    assert measure_size(planes(*pictures)).shape == (3, len(SIZE_COLUMNS))


@pytest.mark.parametrize("size", [(3, 3), (16, 40)])
def test_a_picture_of_one_colour_is_all_border(size):
    row = measure_size(planes(np.full((*size, 3), 9, np.uint8)))[0].tolist()
    assert row == [min(size), size[0] * size[1] / 1e6, 1]
