"""The report: verdict, reliability and reasons first, for tables made by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.evidence import Column, ScoreTable, report
from realism_core.evidence.detector import OWN_RAMPS, PARTS, RAMPS
from realism_core.evidence.report import reasons
from realism_core.irs import Measures

NAN = math.nan
CLEAN = {
    "jpeg_quality": NAN, "video_levels": 0.1, "resample_peak": 1.0, "spectral_cutoff": 1.0,
    "noise_floor": 0.5, "short_side": 1024.0, "flat_share": 0.0,
}  # fmt: skip
NAMES = ("irs", "p_photo", "reliability", "verdict", *(f"odds_{part}" for part in PARTS), *CLEAN)


def row(p_photo: float = NAN, verdict: float = NAN, odds: dict | None = None, **values: float) -> dict:
    parts = {f"odds_{part}": (odds or {}).get(part, 0.0) for part in PARTS}
    first = {"irs": 3.0, "p_photo": p_photo, "reliability": 1.0, "verdict": verdict}
    return {**first, **parts, **CLEAN, **values}


def table(*rows: dict[str, float], **about: object) -> ScoreTable:
    names = tuple(rows[0])
    columns = tuple(Column(name, "x", "none", -math.inf, math.inf) for name in names)
    values = torch.tensor([[one[name] for name in names] for one in rows], dtype=torch.float64)
    return ScoreTable(columns, values, {"definition": "reference", **about})


def told(*rows: dict[str, float], **about: object) -> list[dict]:
    return report(table(*rows, **about))["pictures"]


def test_it_leads_with_verdict_reliability_and_reasons() -> None:
    (picture,) = told(row(0.9, 1.0, {"luma": 2.0}, reliability=0.75))
    assert list(picture)[:5] == ["index", "verdict", "reliability", "reasons", "notes"]
    assert picture["verdict"] == "photograph" and picture["reliability"] == 0.75
    assert set(picture) == {"index", "reasons", "notes", *NAMES}
    whole = report(table(row(0.9, 1.0), definition="reference", profile="mine", profile_count=9))
    assert list(whole)[:2] == ["pictures", "reading"] and whole["profile"] == "mine"
    assert "evidence, not proof" in whole["reading"] and "'unknown'" in whole["reading"]


@pytest.mark.parametrize(
    ("p_photo", "verdict", "word"),
    [(0.95, 1.0, "photograph"), (0.02, 0.0, "decoder"), (0.5, NAN, "unknown"), (NAN, NAN, "unknown")],
)
def test_the_verdict_in_words(p_photo, verdict, word):
    (picture,) = told(row(p_photo, verdict))
    assert picture["verdict"] == word
    assert picture["p_photo"] == (None if math.isnan(p_photo) else p_photo)
    json.dumps(picture, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.permutations(PARTS), st.lists(st.floats(0.11, 9), min_size=4, max_size=4, unique=True), st.data())
def test_the_traces_come_in_order_of_weight(parts, sizes, data):
    signs = data.draw(st.lists(st.sampled_from([1, -1]), min_size=4, max_size=4))
    odds = dict(zip(parts, (size * sign for size, sign in zip(sizes, signs, strict=True)), strict=True))
    found = told(row(0.5, NAN, odds))[0]["reasons"]
    ordered = sorted(odds.values(), key=lambda value: -abs(value))
    assert [text.rsplit("(", 1)[1] for text in found] == [f"{value:+.1f})" for value in ordered]
    sides = ["speaks against a decoder" if value > 0 else "speaks for a decoder" for value in ordered]
    assert all(side in text for side, text in zip(sides, found, strict=True))
    assert len({text.split(":")[0] for text in found}) == 4


def test_traces_of_no_weight_are_left_out() -> None:
    found = told(row(0.2, 0.0, {"luma": -0.05, "colour": -3.0, "block": 0.09, "periods": NAN}))[0]["reasons"]
    assert len(found) == 1 and "colour" in found[0] and "(-3.0)" in found[0]
    assert told(row(0.5))[0]["reasons"] == []


NOTHING = "too small, too flat or without colour: it cannot hold the traces"
WORDS = {
    "jpeg_quality": "compressed as JPEG at quality about {:.0f}",
    "video_levels": "steps of WebP or video (a share of {:.2f})",
    "resample_peak": "enlarged after it was made",
    "spectral_cutoff": "its detail ends at {:.0%} of the spectrum",
    "noise_floor": "grain covers its finest detail (sigma {:.1f} levels)",
    "short_side": "its short side is only {:.0f} pixels",
    "flat_share": "{:.0%} of it is without any variation",
}


def lossy(**shares: float) -> dict[str, float]:
    """Values of the codec and size columns that lose these shares of the evidence."""
    return {
        name: everything - shares[name] * (everything - nothing)
        for name, nothing, everything in RAMPS
        if name in shares
    }


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("name", [name for name, _, _ in RAMPS])
def test_what_took_the_evidence_is_said_with_how_much(name, share):
    losses = lossy(**{name: share})
    (text,) = told(row(**losses))[0]["reasons"]
    assert WORDS[name].format(losses[name]) in text
    assert text.endswith(f"{share:.0%} of the evidence is lost")
    assert told(row(**{name: NAN}))[0]["reasons"] == [NOTHING]


def test_losses_come_heaviest_first_and_after_the_traces() -> None:
    losses = lossy(jpeg_quality=0.9, video_levels=0.6, short_side=0.2)
    unknown = told(row(**losses))[0]["reasons"]
    assert ["JPEG" in unknown[0], "WebP" in unknown[1], "short side" in unknown[2]] == [True] * 3
    known = told(row(0.2, 0.0, {"luma": -1.0}, **losses))[0]["reasons"]
    assert "(-1.0)" in known[0] and known[1:] == unknown


def test_where_no_ramp_lost_anything_the_picture_held_nothing() -> None:
    assert told(row())[0]["reasons"] == [NOTHING]


def test_the_profiles_own_detector_is_limited_by_size_and_flatness_only() -> None:
    losses = lossy(**{name: 0.5 for name, _, _ in RAMPS})
    own = told(row(**losses), detector="profile")[0]["reasons"]
    assert len(own) == len(OWN_RAMPS) == 2 and len(told(row(**losses))[0]["reasons"]) == len(RAMPS)
    assert not any("JPEG" in text or "WebP" in text for text in own)
    assert told(row(**losses), detector="shipped") == told(row(**losses))


def test_a_table_with_a_verdict_but_without_its_reasons_says_none() -> None:
    """score_table(images, ["verdict"]): nobody looked at the picture's size."""
    (picture,) = told({"verdict": 1.0})
    assert picture["verdict"] == "photograph" and picture["reasons"] == []
    assert picture["reliability"] is None
    assert reasons({"verdict": 0.0, "reliability": 0.9}) == []


def test_tables_without_a_verdict_still_report() -> None:
    (picture,) = told({"irs": 3.0, "typicality": 0.5})
    assert list(picture) == ["index", "notes", "irs", "typicality"]
    assert picture["notes"] == ["within the range of the profile's photographs (typicality 0.500)"]
    assert told({"a": 1.0, "b": NAN})[0] == {"index": 0, "notes": [], "a": 1.0, "b": None}
    assert report(ScoreTable((), torch.zeros(2, 0)))["pictures"] == [
        {"index": 0, "notes": []}, {"index": 1, "notes": []},
    ]  # fmt: skip


def test_notes_of_grey_flat_odd_and_bordered_pictures() -> None:
    measures = {name: 1.0 for name in Measures._fields}
    ranks = {f"percentile_{name}": 0.5 for name in Measures._fields}
    whole = {"irs": 3.0, "typicality": 0.5, **measures, **ranks, "border_share": 0.0}
    tails = {"percentile_glcm_contrast": 0.99, "percentile_canny_edge_density": 0.001}
    plain, grey, flat, odd, framed = told(
        whole,
        {**whole, "irs": NAN, "typicality": NAN, "mean_spectrum": NAN},
        {**whole, "irs": NAN, "typicality": NAN, "blur_variance": 0.0},
        {**whole, "typicality": 0.01, **tails},
        {**whole, "border_share": 0.3},
    )
    assert len(plain["notes"]) == 1
    assert grey["notes"][0].startswith("colourless") and len(grey["notes"]) == 1
    assert flat["notes"][0].startswith("flat") and len(flat["notes"]) == 1
    first, edges, contrast = odd["notes"]
    assert first.startswith("unlike the profile's photographs (typicality 0.010)")
    assert edges.startswith("few hard edges") and "100% of the profile" in edges
    assert contrast.startswith("neighbouring pixels differ much") and "99% of the profile" in contrast
    assert any(note.startswith("30% of it is an even border") for note in framed["notes"])


def test_the_papers_radii_have_other_words() -> None:
    values = {"irs": 3.0, "typicality": 0.5, "percentile_blur_variance": 0.99}
    reference, paper = told(values)[0]["notes"], told(values, definition="paper")[0]["notes"]
    assert "narrow spread of tones" in reference[1] and "weak local detail" in paper[1]


def test_each_picture_has_its_own() -> None:
    lost = row(**lossy(jpeg_quality=1.0))
    found = told(row(0.9, 1.0, {"luma": 3.0}), lost, row(0.1, 0.0, {"colour": -2.0}))
    assert [picture["verdict"] for picture in found] == ["photograph", "unknown", "decoder"]
    assert [picture["index"] for picture in found] == [0, 1, 2]
    assert ["JPEG" in picture["reasons"][0] for picture in found] == [False, True, False]
