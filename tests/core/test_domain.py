"""A domain: profile and detector of two kinds of pictures, its AUC, warnings and refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from realism_core.evidence import domain as domain_module
from realism_core.evidence.domain import MIN_PICTURES, Domain, domain_detector, fit_domain
from realism_core.evidence.statistics import NAMES, detector_statistics
from realism_core.images import to_planes
from realism_core.irs import Profile
from tests.core.domains import batches, decoded, jpeg, photo

N = MIN_PICTURES


def photos(count: int = N, start: int = 0, side: int = 112) -> Iterator[Tensor]:
    return batches(photo(start + index, side) for index in range(count))


@cache
def separable() -> Domain:
    made = batches(decoded(100 + index) for index in range(N))
    return fit_domain(photos(), made, name="mine", source="two")


def test_kinds_that_differ_are_told_apart_and_so_are_new_pictures() -> None:
    found = separable()
    assert found.auc > 0.95 and found.interval[0] > 0.85 and found.interval[1] > 0.99
    assert (found.real.used, found.generated.used) == (N, N)
    odds = domain_detector(found.profile).log_odds(
        torch.cat(
            [
                detector_statistics(to_planes(batch))
                for batch in batches([photo(900), photo(901), decoded(902), decoded(903)])
            ]
        )
    )
    assert (odds[:2] > 1).all() and (odds[2:] < -1).all()


def test_the_profile_is_that_of_the_real_pictures_alone() -> None:
    alone = Profile.fit(photos(), name="mine", source="two").to_dict()
    both = separable().profile.to_dict()
    assert both.pop("detector")["about"]["cross_validated_auc"] == round(separable().auc, 4)
    assert both == alone


def test_kinds_of_one_law_are_not_told_apart() -> None:
    found = fit_domain(photos(start=0), photos(start=300))
    assert 0.3 < found.auc < 0.7 and found.interval[0] <= 0.5 <= found.interval[1]
    assert "could not be told apart" in found.warnings[0]
    assert len(found.warnings) == 1 and max(found.shortcuts.values()) < 0.75


def test_a_codec_on_one_side_is_warned_of() -> None:
    found = fit_domain(photos(), batches(jpeg(photo(100 + index), 85) for index in range(N)))
    assert found.shortcuts["compression"] > 0.95 and found.shortcuts["size"] == 0.5
    (text,) = [line for line in found.warnings if "compression" in line]
    assert "save both sides in the same format" in text


@pytest.mark.parametrize("sides", [(120, 128), (104, 120)])
def test_another_size_on_one_side_is_warned_of(sides: tuple[int, int]) -> None:
    """Larger, or now smaller and now larger than the other side, which a straight line would not see."""
    found = fit_domain(photos(), batches(photo(100 + i, sides[i % 2]) for i in range(N)))
    assert found.shortcuts["size"] > 0.95
    (text,) = [line for line in found.warnings if "by their size alone" in line]
    assert "crop both sides" in text


def test_grey_pictures_on_one_side_are_warned_of() -> None:
    grey = (photo(100 + index)[..., :1].repeat(3, 2) for index in range(N))
    found = fit_domain(photos(), batches(grey))
    assert found.shortcuts["lack of colour"] == 1 and found.shortcuts["compression"] < 0.75
    assert any("lack of colour" in line for line in found.warnings)


def test_pictures_on_both_sides_are_warned_of() -> None:
    found = fit_domain(photos(N + 2), photos(N, start=N - 2))
    assert found.warnings[0].startswith("4 pictures are on both sides")


def test_the_same_pictures_give_the_same_bytes_however_they_are_batched(tmp_path: Path) -> None:
    real, made = (torch.cat(list(part)) for part in (photos(), batches(decoded(100 + i) for i in range(N))))
    told: list[int] = []
    again = fit_domain(real.split(7), made, name="mine", source="two", on_picture=told.append)
    assert told == [7, 14, 21, 28, 30, 60]
    first = separable().profile.save(tmp_path / "a.json").read_bytes()
    assert again.profile.save(tmp_path / "b.json").read_bytes() == first
    assert again.summary() == separable().summary()


def test_json_round_trip(tmp_path: Path) -> None:
    path = separable().profile.save(tmp_path / "mine.json")
    loaded = Profile.load(path)
    assert loaded.detector == separable().profile.detector
    rows = torch.randn(5, len(NAMES), dtype=torch.float64)
    one, other = (domain_detector(profile).log_odds(rows) for profile in (loaded, separable().profile))
    assert torch.equal(one, other)
    assert len(json.dumps(loaded.detector)) < 8000
    about = loaded.detector["about"]
    assert about["real"] == {"given": N, "unmeasured": 0, "repeated": 0, "used": N}
    assert {"auc_interval_95", "shortcut_auc", "warnings"} <= set(about)


def test_one_side_is_a_plain_profile(tmp_path: Path) -> None:
    told: list[int] = []
    found = fit_domain(photos(6, side=40), name="alone", on_picture=told.append)
    assert told == [1, 2, 3, 4, 5, 6]
    assert found.profile.to_dict() == Profile.fit(photos(6, side=40), name="alone").to_dict()
    assert (found.auc, found.generated, found.warnings, found.summary()) == (None, None, (), {})
    loaded = Profile.load(found.profile.save(tmp_path / "alone.json"))
    assert loaded.detector is None and domain_detector(loaded) is None


def damaged(tmp_path: Path, detector: object) -> Profile:
    data = Profile.fit(photos(6, side=40), name="mine").to_dict() | {"detector": detector}
    (tmp_path / "mine.json").write_text(json.dumps(data))
    return Profile.load(tmp_path / "mine.json")


@pytest.mark.parametrize("detector", [[], "x", 3, True])
def test_a_detector_that_is_no_object_is_refused_on_loading(tmp_path: Path, detector: object) -> None:
    with pytest.raises(ValueError, match="mine.json is damaged .* fit it again"):
        damaged(tmp_path, detector)


def test_a_damaged_detector_is_refused_by_name(tmp_path: Path) -> None:
    good = separable().profile.detector
    for change in (
        {"format": "other"},
        {"version": 9},
        {"bias": None},
        {"bias": float("nan")},
        {"bias": 10**400},
        {"about": 5},
        {"statistics": {}},
        {"statistics": None},
        {"statistics": [1, 2]},
        {"statistics": good["statistics"] | {"lattice": [0, 0, 1]}},
        {"statistics": good["statistics"] | {"lattice": [0, 1]}},
        {"statistics": good["statistics"] | {"lattice": "abc"}},
        {"statistics": good["statistics"] | {"new": [0, 1, 1]}},
    ):
        profile = damaged(tmp_path, good | change)
        with pytest.raises(ValueError, match=r"profile 'mine': the detector .*: fit it again\.$"):
            domain_detector(profile)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@cache
def whole() -> dict:
    return separable().profile.to_dict()


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["format", "version", "bias", "about", "statistics", "lattice"]), values)
def test_any_value_in_a_detector_is_read_or_refused(key: str, value: object) -> None:
    good = separable().profile.detector
    change = {"statistics": good["statistics"] | {key: value}} if key == "lattice" else {key: value}
    profile = separable().profile.from_dict(whole() | {"detector": good | change})
    try:
        detector = domain_detector(profile)
    except ValueError as error:
        assert "'mine'" in str(error) and "fit it again" in str(error)
    else:
        assert torch.isfinite(detector.weights).all() and (detector.scale > 0).all()


@settings(deadline=None, max_examples=15)
@given(
    st.tuples(st.integers(25, 34), st.integers(0, 4), st.integers(0, 4)),
    st.tuples(st.integers(25, 34), st.integers(0, 4), st.integers(0, 4)),
)
def test_fewer_than_30_usable_pictures_of_a_side_are_refused(
    real: tuple[int, int, int], made: tuple[int, int, int]
) -> None:
    """Usable are those that can be measured, each once; the measuring itself is stood in for."""

    def pictures(counts: tuple[int, int, int], seed: int) -> list[Tensor]:
        dice = np.random.default_rng(seed)
        good = [dice.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(counts[0])]
        small = [dice.integers(0, 256, (16, 15, 3), dtype=np.uint8) for _ in range(counts[1])]
        order = dice.permutation(sum(counts))
        every = good + small + good[: counts[2]]
        return list(batches(every[place] for place in order))

    def measure(planes: Tensor) -> Tensor:
        width = len(NAMES) + len(domain_module._COLUMNS)
        rows = torch.nn.functional.pad(planes.flatten(1), (0, width))[:, :width].double()
        return rows if planes.shape[3] == 16 else rows * torch.nan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(domain_module, "_measure", measure)
        try:
            found = fit_domain(pictures(real, 1), pictures(made, 2))
        except ValueError as error:
            side, counts = ("real", real) if real[0] < N else ("generated", made)
            assert counts[0] < N
            assert str(error).startswith(f"there are {counts[0]} usable {side} pictures")
            assert f"({sum(counts)} were read, {counts[1]} of them" in str(error)
            assert f"{counts[2]} copies" in str(error)
        else:
            assert min(real[0], made[0]) >= N
            assert found.real == (sum(real), real[1], real[2]) and found.real.used == real[0]
            assert found.generated == (sum(made), made[1], made[2])


def test_twenty_nine_small_and_flat_ones_do_not_make_thirty() -> None:
    """The real measuring: 103 pixels are too few, 104 are enough, an even picture says nothing."""
    odd = [photo(700, 103), np.full((112, 112, 3), 90, np.uint8), photo(0, 104)]
    with pytest.raises(ValueError, match=r"29 usable real pictures.*\(32 were read, 2 of them.*1 copies"):
        fit_domain(batches([*(photo(index, 104) for index in range(29)), *odd]), [])


def test_what_is_no_picture_is_refused_by_its_side() -> None:
    bad = torch.full((1, 112, 112, 3), torch.nan)
    for real, made, name in (([bad], photos(1), "images"), (photos(), [bad], "generated_images")):
        with pytest.raises(ValueError, match=f"^{name}: picture 0 contains NaN"):
            fit_domain(real, made)
