"""Codec evidence: grids of known phase and strength, and files that Pillow wrote with known quality."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn, idctn
from skimage import data

from realism_core.evidence.codec import COLUMNS, measure_codec
from realism_core.evidence.jpeg import quality_table
from realism_core.evidence.samples import windows
from tests.core.textures import TEXTURES, texture

GRID, QUALITY, WEBP, LEVELS = range(4)


def planes(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def measured(picture: np.ndarray) -> np.ndarray:
    return measure_codec(planes(picture))[0].numpy()


def softened(picture: np.ndarray) -> np.ndarray:
    """The mean of 2 x 2 pixels."""
    down = picture + np.roll(picture, 1, 0)
    return (down + np.roll(down, 1, 1)) / 4


def uncompressed(seed: int = 0, height: int = 160, width: int = 200) -> np.ndarray:
    """Correlated noise of several scales, unclipped, never compressed."""
    random = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 128.0)
    for scale, strength in ((1, 3), (4, 8), (16, 20)):
        coarse = random.normal(0, strength, (height // scale + 2, width // scale + 2, 3))
        picture += coarse.repeat(scale, 0).repeat(scale, 1)[:height, :width]
    picture = softened(picture)
    return picture.round().clip(1, 254).astype(np.uint8)


def photograph() -> np.ndarray:
    """A photograph reduced by area, so that nothing of a codec is left."""
    return np.array(Image.fromarray(data.astronaut()).reduce(2))


def encoded(picture: np.ndarray, kind: str, quality: int, **options) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, quality=quality, **options)
    return np.array(Image.open(file).convert("RGB"))


@pytest.mark.parametrize("quality", [1, 25, 50, 76, 95, 100])
def test_quality_tables_are_those_that_pillow_writes(quality):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    with Image.open(io.BytesIO(file.getvalue())) as picture:
        assert picture.quantization[0] == quality_table(quality).flatten().tolist()


# the most that was measured from quality 40 to 98 is 2: neighbouring tables share most of their steps
@settings(max_examples=25, deadline=None)
@given(
    st.integers(40, 95), st.sampled_from([0, 2]), st.integers(0, 7), st.integers(0, 7), st.integers(0, 9)
)
def test_quality_of_a_jpeg_is_found_at_any_crop(quality, subsampling, top, left, seed):
    jpeg = encoded(uncompressed(seed), "JPEG", quality, subsampling=subsampling)
    assert abs(measured(jpeg[top:, left:])[QUALITY] - quality) <= 2


@pytest.mark.parametrize("quality", [40, 75, 90, 97])
def test_quality_of_a_photograph(quality):
    jpeg = encoded(photograph(), "JPEG", quality)
    assert abs(measured(jpeg)[QUALITY] - quality) <= 1
    assert abs(measured(jpeg[5:, 3:])[QUALITY] - quality) <= 1


def test_the_last_of_two_compressions_is_told():
    first = encoded(photograph(), "JPEG", 60)
    assert measured(encoded(first[3:, 5:], "JPEG", 85))[QUALITY] == 85


def test_quality_of_blocks_quantised_by_scipy():
    """Grey blocks quantised with the table of quality 80, with nothing of an encoder but the definition."""
    grey = uncompressed(3)[..., 1].astype(np.float64) - 128
    steps = quality_table(80).double().numpy()
    blocks = grey.reshape(20, 8, 25, 8).transpose(0, 2, 1, 3)
    coefficients = np.round(dctn(blocks, axes=(2, 3), norm="ortho") / steps) * steps
    decoded = idctn(coefficients, axes=(2, 3), norm="ortho").transpose(0, 2, 1, 3).reshape(160, 200) + 128
    picture = decoded.round().clip(0, 255).astype(np.uint8)[..., None].repeat(3, 2)
    assert measured(picture)[QUALITY] == 80


@pytest.mark.parametrize(
    "kind", ["uncompressed", "photograph", "noise", "blurred", "gradient", "webp", "halved"]
)
def test_no_quality_without_a_last_jpeg(kind):
    if kind == "webp":
        picture = encoded(photograph(), "WEBP", 80)
    elif kind == "halved":
        picture = np.array(Image.fromarray(encoded(data.astronaut(), "JPEG", 75)).reduce(2))
    else:
        made = {"uncompressed": uncompressed, "photograph": photograph}
        picture = made[kind]() if kind in made else texture(kind, 5, 200, 200)
    assert np.isnan(measured(picture)[QUALITY])


@pytest.mark.parametrize("phase", range(8))
@pytest.mark.parametrize("period", [4, 8])
def test_grids_of_known_period_at_every_phase(period, phase):
    """Noise with a constant of its own for each block."""
    random = np.random.default_rng(period * 8 + phase)
    levels = random.normal(0, 6, (200 // period + 2, 240 // period + 2)).repeat(period, 0).repeat(period, 1)
    noise = random.normal(120, 1.5, (200, 240))
    picture = noise + levels[phase : phase + 200, phase : phase + 240]
    row = measured(picture.round().clip(0, 255).astype(np.uint8)[..., None].repeat(3, 2))
    if period == 8:
        assert row[GRID] > 0.5 and row[WEBP] < 0.1
    else:
        assert row[WEBP] > 0.4 and row[GRID] < 0.1


def test_grids_are_about_zero_without_one_and_grow_as_quality_falls():
    noise = texture("noise", 1, 320, 320)
    for picture in (noise, softened(noise.astype(float)).astype(np.uint8)):
        assert (abs(measured(picture)[[GRID, WEBP]]) < 0.05).all()
    strengths = [measured(encoded(photograph(), "JPEG", quality))[GRID] for quality in (95, 80, 50, 20)]
    assert strengths == sorted(strengths) and strengths[2] > 0.5


def test_webp_leaves_its_levels_at_every_quality_and_jpeg_does_not():
    picture = photograph()
    for quality in (95, 75, 40):
        assert measured(encoded(picture, "WEBP", quality)[3:, 1:])[LEVELS] > 0.45
    assert measured(picture)[LEVELS] < 0.1
    assert measured(encoded(picture, "JPEG", 75))[LEVELS] < 0.1


def test_levels_agree_with_the_mean_in_float64():
    picture = uncompressed(2)
    turns = np.exp(2j * np.pi * 219 / 255 * (picture[::2].astype(np.float64) @ [0.299, 0.587, 0.114]))
    assert measured(picture)[LEVELS] == pytest.approx(abs(turns.mean()), abs=0.01)


def test_grey_pictures_have_a_quality_and_no_video_levels():
    grey = np.array(Image.fromarray(photograph()).convert("L"))[..., None].repeat(3, 2)
    row = measured(encoded(grey, "JPEG", 80))
    assert row[QUALITY] == 80 and np.isnan(row[LEVELS])


def test_a_letterbox_does_not_hide_a_jpeg():
    boxed = np.zeros((360, 256, 3), np.uint8)
    boxed[51:307] = encoded(photograph(), "JPEG", 80)
    row = measured(boxed)
    assert row[QUALITY] == 80 and row[GRID] > 0.2


@pytest.mark.parametrize("side", [3, 16, 64])
def test_flat_pictures_say_nothing(side):
    assert np.isnan(measured(np.full((side, side, 3), 77, np.uint8))[:3]).all()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(TEXTURES)), st.integers(0, 999), st.integers(3, 90), st.integers(3, 90))
def test_any_size_and_a_batch_as_singles(kind, seed, height, width):
    pictures = [texture(kind, seed, height, width), texture(kind, seed + 1, height, width)]
    batch = measure_codec(planes(*pictures))
    assert batch.dtype == torch.float64 and batch.shape == (2, len(COLUMNS))
    singles = torch.cat([measure_codec(planes(p)) for p in pictures])
    torch.testing.assert_close(batch, singles, equal_nan=True)
    for column, values in zip(COLUMNS, batch.T, strict=True):
        known = values[~values.isnan()]
        assert bool(((known >= column.low) & (known <= column.high)).all()), column.name
    if min(height, width) < 32:
        assert batch[:, [GRID, WEBP]].isnan().all()


def test_windows_of_a_panorama_are_few_and_keep_the_phase():
    panorama = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(1, 3, 4096, 8192)
    assert [tuple(part.shape) for part in windows(panorama)] == [(1, 3, 1024, 1024)] * 5
    numbered = torch.arange(2048 * 2048, dtype=torch.int32).reshape(1, 1, 2048, 2048)
    corners = [divmod(int(part[0, 0, 0, 0]), 2048) for part in windows(numbered)]
    assert len(set(corners)) == 5 and all(row % 16 == column % 16 == 0 for row, column in corners)
