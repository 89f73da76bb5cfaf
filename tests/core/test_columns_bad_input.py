"""Every column of the score table on pictures that it was not made for: NaN, or a number in its range."""

from __future__ import annotations

import math
from io import BytesIO

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from realism_core.evidence import ScoreTable, codec, columns, detector, lattice, noise, report, resampling
from realism_core.evidence import score_table as table_of
from realism_core.evidence import size as size_evidence
from realism_core.evidence.columns import COLUMNS, VAE_COLUMNS
from tests.core.textures import TEXTURES, scenes, texture

SEEDS = st.integers(0, 9999)
TRACES = ("p_photo", "verdict", "lattice", "lattice_period")


def batch(*pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(pictures))


def photo(height: int = 200, width: int = 220, seed: int = 0) -> np.ndarray:
    return scenes(1, height, width, seed)[0]


def drawing(height: int = 180, width: int = 240) -> np.ndarray:
    """Text, boxes and lines in few colours, as a screenshot has them."""
    picture = np.full((height, width, 3), (250, 250, 250), np.uint8)
    cv2.rectangle(picture, (0, 0), (width, 24), (60, 90, 160), -1)
    for place in range(6):
        row = 45 + 22 * place
        cv2.putText(picture, f"line {place} of a page", (8, row), 0, 0.45, (20, 20, 20), 1)
        cv2.line(picture, (0, row + 6), (width, row + 6), (200, 200, 200), 1)
    return picture


def letterbox() -> np.ndarray:
    framed = np.zeros((280, 220, 3), np.uint8)
    framed[40:240] = photo()
    return framed


def canvas() -> np.ndarray:
    ground = np.full((300, 330, 3), (240, 235, 220), np.uint8)
    ground[60:260, 70:290] = photo()
    return ground


def frames() -> Tensor:
    """Neighbouring frames of a pan, each compressed."""
    whole, found = photo(190, 300, 2), []
    for step in range(4):
        file = BytesIO()
        Image.fromarray(whole[:, 4 * step : 4 * step + 256]).save(file, "WEBP", quality=60)
        found.append(np.array(Image.open(file).convert("RGB")))
    return batch(*found)


def checked(images: Tensor, **options: object) -> ScoreTable:
    """Score all columns, having checked ranges, JSON and that the report can be written."""
    table = table_of(images, **options)
    assert table.values.shape == (len(images), len(table.names)) and table.values.dtype == torch.float64
    assert not torch.isinf(table.values).any()
    for column in table.columns:
        known = table[column.name][table.applies(column.name)]
        assert ((known >= column.low) & (known <= column.high)).all(), (column.name, known)
    again = ScoreTable.from_json(table.to_json())
    torch.testing.assert_close(again.values, table.values, rtol=0, atol=0, equal_nan=True)
    assert again.columns == table.columns and again.about == table.about
    told = report(table)["pictures"]
    assert len(told) == len(images)
    for picture in told:
        assert picture["verdict"] in ("photograph", "decoder", "unknown")
        assert picture["verdict"] != "unknown" or picture["reasons"] or picture["p_photo"] is not None
    return table


def near(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, equal_nan=True)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(sorted(TEXTURES)), SEEDS, st.integers(3, 150), st.integers(3, 150),
    st.sampled_from(["reference", "paper"]),
)  # fmt: skip
def test_any_texture_and_size(kind, seed, height, width, definition):
    table = checked(batch(texture(kind, seed, height, width)), definition=definition)
    assert table["short_side"].item() == min(height, width)
    if min(height, width) < 104:
        assert not any(table.applies(name).any() for name in TRACES) and table["reliability"].item() == 0


@pytest.mark.parametrize("side", [3, 4, 8, 15, 16, 17, 32, 63, 64, 103, 104])
def test_tiny_pictures(side):
    pictures = batch(texture("noise", side, side, side), np.full((side, side, 3), 9, np.uint8))
    table = checked(pictures)
    assert table.applies("p_photo").tolist() == [False, False]
    assert table["border_share"].tolist() == [pytest.approx(0, abs=0.9), 1]


def test_a_panorama_of_8192_pixels() -> None:
    small = photo(350, 400, 1)
    wide = cv2.resize(np.tile(small, (2, 11, 1))[:, :4096], (8192, 700), interpolation=cv2.INTER_CUBIC)
    table = checked(batch(wide))
    assert table["megapixels"].item() == pytest.approx(5.7344) and table["short_side"].item() == 700
    assert all(table.applies(name).all() for name in ("lattice", "reliability", "jpeg_grid", "noise_floor"))


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (1, 128, 254)])
def test_one_colour(colour):
    flat = np.empty((150, 160, 3), np.uint8)
    flat[:] = colour
    table = checked(batch(flat))
    for name in (*TRACES, "irs", "noise_floor", "jpeg_grid", "resample_peak"):
        assert not table.applies(name).any(), name
    assert table["reliability"].item() == 0 and table["border_share"].item() == 1
    assert table["flat_share"].item() == 1


def test_pure_noise() -> None:
    table = checked(batch(texture("noise", 3, 340, 350)))
    assert table.applies("lattice").all() and table["lattice"].item() < 1
    assert table["flat_share"].item() == 0 and table["border_share"].item() == 0


def test_a_screenshot_loses_its_evidence() -> None:
    table = checked(batch(drawing(), drawing()[::-1].copy()))
    assert (table["flat_share"] > 0.3).all() and (table["reliability"] < 1).all()


@pytest.mark.parametrize("form", ["one channel", "equal channels", "float"])
def test_grey_photographs_have_no_colour_columns_but_the_rest(form):
    grey = photo(330, 340)[..., 1:2]
    images = batch(grey if form == "one channel" else grey.repeat(3, 2))
    table = checked(images / 255 if form == "float" else images)
    for name in ("irs", "typicality", "mean_spectrum"):
        assert not table.applies(name).any()
    for name in ("glcm_contrast", "lattice", "noise_floor", "resample_peak", "jpeg_grid"):
        assert table.applies(name).all()
    near(table.values, table_of(batch(grey)).values)


def test_grey_pictures_get_no_verdict_from_the_rounding_of_colour_differences() -> None:
    """Luma equals the channels, but for the last bit of a float: a copy one level brighter says the same."""
    grey = photo(330, 340)[..., 1:2].clip(10, 240)
    table = checked(batch(grey, grey + 1))
    for name in ("p_photo", "odds_colour", "odds_block", "odds_periods"):
        values = table[name]
        assert values.isnan().all() or values[0].item() == pytest.approx(values[1].item(), abs=0.05), name


@pytest.mark.parametrize(("picture", "share"), [(letterbox(), 80 / 280), (canvas(), 1 - 200 * 220 / 99000)])
def test_borders_are_measured_and_said(picture, share):
    table = checked(batch(picture))
    assert table["border_share"].item() == pytest.approx(share, abs=0.01)
    assert any("even border" in note for note in report(table)["pictures"][0]["notes"])
    assert table.applies("lattice").all() and table["flat_share"].item() > 0.2


def test_alpha_is_left_out() -> None:
    rgb = photo()
    alpha = np.random.default_rng(0).integers(0, 256, (*rgb.shape[:2], 1), dtype=np.uint8)
    table = checked(batch(np.concatenate((rgb, alpha), 2)))
    assert torch.equal(table.values.nan_to_num(-9.0), table_of(batch(rgb)).values.nan_to_num(-9.0))


def test_frames_of_a_video_in_one_batch() -> None:
    clip = frames()
    table = checked(clip)
    near(table.values, torch.cat([table_of(frame[None]).values for frame in clip]))
    assert (table["video_levels"] > 0.4).all() and (table["reliability"] < 1).all()
    near(table[1:3].values, table.values[1:3])


@settings(max_examples=6, deadline=None)
@given(st.permutations(sorted(TEXTURES)), SEEDS, st.integers(30, 180), st.integers(30, 180))
def test_a_batch_is_as_singles(kinds, seed, height, width):
    images = batch(*(texture(kind, seed, height, width) for kind in kinds[:3]))
    near(checked(images).values, torch.cat([table_of(image[None]).values for image in images]))


def test_floats_are_bytes() -> None:
    pictures = batch(photo(), letterbox()[40:240])
    expected = table_of(pictures).values.nan_to_num(-9.0)
    for kind in (torch.float32, torch.float64):
        assert torch.equal(checked(pictures.to(kind) / 255).values.nan_to_num(-9.0), expected)
    beyond = (pictures.float() / 255 - 0.5) * 4
    near(checked(beyond).values, table_of(beyond.clamp(0, 1)).values)


def test_what_came_in_stays_as_it_was() -> None:
    images = batch(photo(), photo(seed=3)).float() / 255
    before = images.clone()
    table_of(images)
    assert torch.equal(images, before)


BAD = {
    "no pictures": (torch.zeros(0, 20, 20, 3), "images holds no pictures"),
    "2 pixels": (torch.zeros(1, 2, 20, 3), "images is 20 x 2 pixels"),
    "rank": (torch.zeros(20, 20, 3), "images has shape 20x20x3"),
    "channels": (torch.zeros(1, 20, 20, 2), "images has 2 channels"),
    "type": (torch.zeros(1, 20, 20, 3, dtype=torch.int64), "images is of type torch.int64"),
    "list": ([torch.zeros(1, 20, 20, 3)], "images is a list of 1 items"),
    "NaN": (torch.tensor([0, math.nan])[:, None, None, None].expand(2, 20, 20, 3), "picture 1 contains NaN"),
    "inf": (torch.full((1, 20, 20, 3), math.inf), "picture 0 contains NaN or infinite"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("names", [None, ["lattice"], ["p_photo"], ["short_side"]])
def test_what_cannot_be_measured_is_refused(case, names):
    images, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        table_of(images, names)


@pytest.mark.parametrize("name", list(VAE_COLUMNS))
def test_reconstruction_needs_a_vae(name):
    with pytest.raises(ValueError, match=f"columns: {name} need a VAE: pass one as vae"):
        table_of(batch(photo()), ["irs", name])
    assert name not in table_of(batch(photo(40, 40))).names


@pytest.mark.parametrize("names", [["beauty"], ["irs", "Lattice"], [""]])
def test_unknown_names_are_refused_with_those_that_are_known(names):
    with pytest.raises(ValueError, match="columns: there is no .*; known are irs, .*p_photo.*lattice"):
        table_of(batch(photo(40, 40)), names)
    with pytest.raises(ValueError, match="appears twice among irs, irs: rename one"):
        table_of(batch(photo(40, 40)), ["irs", "irs"])


MEASURES = {
    "irs": (columns, "score"),
    "p_photo": (detector, "measure_detector"),
    "lattice": (lattice, "measure_lattice"),
    "jpeg_grid": (codec, "measure_codec"),
    "resample_peak": (resampling, "measure_resampling"),
    "noise_floor": (noise, "measure_noise"),
    "short_side": (size_evidence, "measure_size"),
}
NEEDED = {name: {name} for name in MEASURES}
NEEDED["p_photo"] = {"p_photo", "jpeg_grid", "resample_peak", "noise_floor", "short_side"}


@pytest.mark.parametrize("name", list(MEASURES))
def test_only_what_a_column_needs_is_computed_and_only_once(monkeypatch: pytest.MonkeyPatch, name):
    images = batch(photo(), photo(seed=1))
    expected = table_of(images)[name]
    calls = []
    for other, (module, function) in MEASURES.items():
        real = getattr(module, function)

        def spy(*values, real=real, other=other, **options):
            calls.append(other)
            return real(*values, **options)

        monkeypatch.setattr(module, function, spy)
    table = table_of(images, [name])
    assert table.names == (name,)
    near(table[name], expected)
    assert len(calls) == len(set(calls)) and set(calls) == NEEDED[name]
    calls.clear()
    table_of(images)
    assert sorted(calls) == sorted(MEASURES)


def test_every_column_says_what_it_is() -> None:
    for column in (*COLUMNS.values(), *VAE_COLUMNS.values()):
        assert column.unit and len(column.meaning) > 10 and column.low < column.high
        assert column.direction in ("higher", "lower", "middle", "none")
