"""p_photo, how far it can be trusted, the verdict, and the detector that ships."""

from __future__ import annotations

import json
import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from realism_core.evidence import detector, score_table
from realism_core.evidence.columns import COLUMNS as ALL
from realism_core.evidence.detector import (
    COLUMNS,
    DECODER_BELOW,
    MIN_RELIABILITY,
    OWN_RAMPS,
    PARTS,
    PHOTO_ABOVE,
    RAMPS,
    SHIPPED,
    evidence_left,
    measure_detector,
    shipped,
)
from realism_core.evidence.logistic import Logistic
from realism_core.evidence.statistics import NAMES, detector_statistics
from tests.core.domains import decoded, photo
from tests.core.test_lattice import planes
from tests.core.textures import texture

PLACE = {column.name: place for place, column in enumerate(COLUMNS)}
ENDS = {name: (nothing, everything) for name, nothing, everything in RAMPS}
# what a picture has that lost nothing
WHOLE = {name: everything for name, _, everything in RAMPS}
NUMBERS = st.one_of(st.just(math.nan), st.floats(-1e4, 1e4))


def hand_made(seed: int = 0, bias: float = 0.0, weight: float = 0.1) -> Logistic:
    dice = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(NAMES), generator=dice, dtype=torch.float64) * weight
    mean = torch.randn(len(NAMES), generator=dice, dtype=torch.float64)
    return Logistic(NAMES, mean, torch.ones(len(NAMES), dtype=torch.float64), weights, bias)


def constant(odds: float) -> Logistic:
    """A detector that says the same of every picture."""
    return hand_made(bias=odds, weight=0.0)


def getter(count: int, **values: float | list[float]):
    """The codec and size columns of `count` pictures that lost nothing, but for those given."""
    return lambda name: torch.as_tensor({**WHOLE, **values}[name], dtype=torch.float64).expand(count)


def as_shipped(pictures: Tensor, fitted: Logistic, **values: float | list[float]) -> Tensor:
    """What the pack would say if this detector were the one that ships."""
    with patch.object(detector, "shipped", lambda: fitted):
        return measure_detector(pictures, getter(len(pictures), **values))


def measured(pictures: Tensor, fitted: Logistic, **values: float | list[float]) -> dict[str, list[float]]:
    rows = as_shipped(pictures, fitted, **values)
    assert rows.shape == (len(pictures), len(COLUMNS)) and rows.dtype == torch.float64
    return {name: rows[:, place].tolist() for name, place in PLACE.items()}


def share(name: str, value: float) -> float:
    nothing, everything = ENDS[name]
    if math.isnan(value):
        return 1.0
    return float(np.interp((value - nothing) / (everything - nothing), [0, 1], [0, 1]))


@settings(max_examples=100, deadline=None)
@given(st.fixed_dictionaries({name: NUMBERS for name in ENDS}))
def test_the_evidence_left_is_the_product_of_ramps(values):
    found = evidence_left(lambda name: torch.tensor([values[name]], dtype=torch.float64)).item()
    assert found == pytest.approx(math.prod(share(name, value) for name, value in values.items()), abs=1e-12)


@pytest.mark.parametrize("name", list(ENDS))
def test_each_ramp_from_nothing_to_all(name):
    nothing, everything = ENDS[name]
    places = torch.tensor([-1.0, 0.0, 0.25, 0.5, 1.0, 2.0], dtype=torch.float64)
    found = evidence_left(getter(6, **{name: nothing + places * (everything - nothing)}))
    np.testing.assert_allclose(found, [0, 0, 0.25, 0.5, 1, 1], atol=1e-12)
    assert evidence_left(getter(1, **{name: math.nan})).tolist() == [1.0]
    assert name in ALL


def test_the_ramps_point_the_right_way() -> None:
    """Compression, enlargement, blur, grain, smallness and flatness lose; ends lie in the columns' ranges."""
    assert {name for name, (nothing, everything) in ENDS.items() if everything > nothing} == {
        "jpeg_quality", "short_side", "spectral_cutoff",
    }  # fmt: skip
    assert set(ENDS) >= {"jpeg_quality", "video_levels", "resample_peak", "short_side", "flat_share"}
    for name, ends in ENDS.items():
        assert all(ALL[name].low <= end <= ALL[name].high for end in ends)


@pytest.mark.parametrize(
    ("left", "applies"), [(0.0, False), (0.49, False), (0.51, True), (1.0, True), (math.nan, True)]
)
def test_below_half_the_evidence_p_photo_does_not_apply(left, applies):
    assert MIN_RELIABILITY == 0.5
    nothing, everything = ENDS["jpeg_quality"]
    quality = nothing + left * (everything - nothing)
    found = measured(planes(texture("noise", 1, 120, 120)), constant(3.0), jpeg_quality=quality)
    assert found["reliability"] == [pytest.approx(1.0 if math.isnan(left) else left)]
    assert math.isnan(found["p_photo"][0]) != applies
    assert math.isnan(found["verdict"][0]) != applies
    # what speaks for and against stays readable
    assert all(math.isfinite(found[f"odds_{part}"][0]) for part in PARTS)


@pytest.mark.parametrize(
    ("chance", "verdict"),
    [(0.01, 0), (0.299, 0), (0.301, math.nan), (0.5, math.nan), (0.699, math.nan), (0.701, 1), (0.99, 1)],
)
def test_the_verdict(chance, verdict):
    assert (DECODER_BELOW, PHOTO_ABOVE) == (0.3, 0.7)
    found = measured(planes(texture("noise", 1, 120, 120)), constant(math.log(chance / (1 - chance))))
    assert found["p_photo"][0] == pytest.approx(chance)
    assert found["verdict"][0] == pytest.approx(verdict, nan_ok=True)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.floats(-2, 2))
def test_the_parts_add_up_to_the_odds(seed, bias):
    fitted = hand_made(seed, bias)
    pictures = planes(texture("noise", seed, 120, 130), texture("blurred", seed, 120, 130))
    found = measured(pictures, fitted)
    odds = fitted.log_odds(detector_statistics(pictures)).tolist()
    for place in range(2):
        assert sum(found[f"odds_{part}"][place] for part in PARTS) + bias == pytest.approx(odds[place])
        assert found["p_photo"][place] == pytest.approx(1 / (1 + math.exp(-odds[place])))


def test_each_part_holds_its_own_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """One statistic at a time away from its mean: it moves one part."""
    rows = torch.eye(len(NAMES), dtype=torch.float64)
    monkeypatch.setattr(detector, "detector_statistics", lambda _: rows)
    ones = torch.ones(len(NAMES), dtype=torch.float64)
    pictures = torch.zeros(len(NAMES), 3, 8, 8, dtype=torch.uint8)
    pictures[:, 0, 0, 0] = 1  # some colour
    found = measured(pictures, Logistic(NAMES, 0 * ones, ones, ones, 0.0))
    parts = {part: {NAMES[i] for i, odds in enumerate(found[f"odds_{part}"]) if odds} for part in PARTS}
    harmonics = {name for name in NAMES if name[-1].isdigit()}
    luma = {name for name in harmonics if name.startswith("luma")}
    assert parts == {
        "luma": {"lattice", *luma},
        "colour": harmonics - luma,
        "block": {name for name in NAMES if name.endswith("block")},
        "periods": {name for name in NAMES if name.endswith("peak")},
    }
    assert sum(map(len, parts.values())) == len(NAMES)


@pytest.mark.parametrize(
    "picture",
    [
        np.full((150, 150, 3), 90, np.uint8),
        texture("noise", 1, 60, 300),
        texture("noise", 1, 340, 350)[..., :1].repeat(3, 2),
    ],
)
def test_flat_small_and_grey_pictures_are_unknown(picture):
    found = measured(planes(picture), constant(5.0))
    assert found["reliability"] == [0.0]
    assert math.isnan(found["p_photo"][0]) and math.isnan(found["verdict"][0])


def test_a_batch_is_as_singles_and_each_row_has_its_own_reliability() -> None:
    pictures = planes(*(texture("noise", seed, 120, 130) for seed in range(3)))
    nothing, everything = ENDS["jpeg_quality"]
    quality = [everything, 0.7 * nothing + 0.3 * everything, math.nan]
    batch = as_shipped(pictures, hand_made(), jpeg_quality=quality)
    singles = [
        as_shipped(pictures[i : i + 1], hand_made(), jpeg_quality=value) for i, value in enumerate(quality)
    ]
    torch.testing.assert_close(batch, torch.cat(singles), equal_nan=True)
    assert batch[:, PLACE["p_photo"]].isnan().tolist() == [False, True, False]


def test_a_detector_of_ones_own_is_limited_by_size_and_flatness_only() -> None:
    """It was fitted on files that are compressed and resized as those are."""
    names = {name for name, _, _ in OWN_RAMPS}
    assert names == {"short_side", "flat_share"} and set(OWN_RAMPS) <= set(RAMPS)
    pictures = planes(texture("noise", 1, 120, 120))
    for name, (nothing, _) in ENDS.items():
        row = measure_detector(pictures, getter(1, **{name: nothing}), constant(3.0))[0]
        assert row[PLACE["reliability"]] == (0 if name in names else 1)
        assert math.isnan(row[PLACE["p_photo"]]) == (name in names)


# the detector that ships


def test_the_shipped_detector_is_small_and_for_these_statistics() -> None:
    assert SHIPPED.stat().st_size < 8000
    text = SHIPPED.read_text(encoding="utf-8")
    data = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    fitted = shipped()
    assert fitted.names == NAMES == tuple(data["statistics"]) and len(NAMES) <= 64
    assert fitted is shipped()
    assert fitted.weights.abs().max() > 0 and fitted.to_dict() == data
    with pytest.raises(ValueError, match="other statistics"):
        Logistic.from_dict(data, NAMES[:-1])


def test_its_card_says_what_it_was_fitted_on_and_what_it_can_do() -> None:
    card = shipped().about
    assert card["photographs"] >= 100 and card["generated"] >= 50
    assert len(card["generators"]) >= 10 and card["made_by"] == "benchmarks/fit_detector.py"
    assert card["blind_to"] and card["states"]
    for table in (card["held_out_auc"], card["held_out_auc_not_abstaining"]):
        assert "as decoded" in table and len(table) >= 3
        for known in table.values():
            if None not in known:
                middle, low, high = known
                assert 0 <= low <= middle <= high <= 1
    middle, low, _ = card["held_out_auc"]["as decoded"]
    assert middle > 0.7 and low > 0.5
    assert 0 <= card["calibration_error"] < 0.2


def test_a_decoders_lattice_lowers_its_odds() -> None:
    """The same soft picture and grain, with and without a pattern that repeats every 8 pixels."""
    seeds = range(4)
    plain = planes(*(photo(seed, 336) for seed in seeds))
    made = planes(*(decoded(seed, 336) for seed in seeds))
    odds = [shipped().log_odds(detector_statistics(pictures)) for pictures in (plain, made)]
    assert (odds[1] < odds[0] - 0.5).all()


def test_the_columns_take_the_shipped_one() -> None:
    """Grain without and with a lattice, at a size where p_photo applies."""
    dice = np.random.default_rng(0)
    grain = dice.normal(128, 2, (336, 352, 3))
    lattice = np.tile(dice.normal(0, 0.7, (8, 8, 3)), (42, 44, 1))
    pictures = torch.from_numpy(np.stack((grain, grain + lattice)).round().clip(0, 255).astype(np.uint8))
    table = score_table(pictures, ["p_photo", "reliability", "verdict"])
    assert (table["reliability"] >= MIN_RELIABILITY).all()
    assert table["p_photo"][1] < table["p_photo"][0]
    chances = torch.sigmoid(shipped().log_odds(detector_statistics(pictures.movedim(-1, 1).contiguous())))
    torch.testing.assert_close(table["p_photo"], chances)
