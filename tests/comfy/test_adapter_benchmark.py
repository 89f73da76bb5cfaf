"""benchmarks/adapter.py: an arm from end to end, with one block and a few steps, and its tables."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import _adapter_codec, _faces_drawn, adapter
from benchmarks._adapter_codec import Codec
from benchmarks._adapter_runs import ARMS, ATTRIBUTES, MASK, POOLED, SMALL, TOKENS, Arm, Runs
from benchmarks._faces_judges import Measured


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(_faces_drawn, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(_faces_drawn, "PER_FILE", 8)
    torch.manual_seed(0)
    return Runs(replace(SMALL, held_out=3), Codec().requires_grad_(False), tmp_path / "runs", state="")


def test_latents_have_mean_0_and_deviation_1(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_adapter_codec, "cache_folder", lambda: runs.folder)
    monkeypatch.setattr(_adapter_codec, "FACES", 6)
    monkeypatch.setattr(_adapter_codec, "STEPS", 3)
    made = _adapter_codec.codec(say=False)
    latents = made.encode(_faces_drawn.drawn_faces(6, _adapter_codec.SEED).images)
    assert latents.shape == (6, 16, 16, 16)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-4
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-4
    monkeypatch.setattr(_adapter_codec, "_train", None)  # the second time it comes from the cache
    again = _adapter_codec.codec(say=False)
    assert torch.equal(again.decode(latents), made.decode(latents))


def test_a_rare_class_counts_more_and_all_pixels_1_on_average() -> None:
    labels = torch.zeros(2, 8, 8, dtype=torch.uint8)
    labels[0, :2, :4] = 5
    labels[1, 7, 7] = 18
    weights = _adapter_codec._weights(labels)
    assert weights.shape == (2, 1, 8, 8) and weights.mean().item() == pytest.approx(1, abs=1e-5)
    most, some, one = (weights[:, 0][labels == label] for label in (0, 5, 18))
    assert some[0] / most[0] == pytest.approx((119 / 8) ** 0.5, rel=1e-4)
    assert one[0] / most[0] == pytest.approx(119**0.5, rel=1e-4)


@pytest.mark.parametrize("arm", [TOKENS, POOLED])
def test_an_arm_is_trained_once(runs: Runs, arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    first = runs.made(arm, 0)
    assert first.shape == (3, 64, 64, 3) and first.isfinite().all()
    assert (first[0] - first[1]).abs().max() > 1e-4
    monkeypatch.setattr(Runs, "_child", None)  # a second training would fail
    assert torch.equal(runs.made(arm, 0), first)
    assert {path.name.split("-")[0] for path in runs.folder.iterdir()} == {"made", "faces"}


def test_the_table_says_who_is_better_in_what(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    faces = runs.held_out
    reached = {TOKENS: (0.9, 0.8), POOLED: (0.5, 0.7), ATTRIBUTES: (0.3, 0.75), MASK: (0.85, 0.4)}
    pictures = torch.rand(3, 64, 64, 3)
    now: list[tuple[float, float]] = []

    class Able:
        def measured(self, images: torch.Tensor, *wanted: object) -> tuple[Measured, Measured]:
            assert wanted == (faces.mask, faces.attributes)
            overlap, right = now.pop(0) if images is pictures else (0.95, 0.99)
            return Measured(overlap, {"hat": overlap, "nose": math.nan}), Measured(right, {"Bald": right})

    def made(_: Runs, arm: Arm, seed: int) -> torch.Tensor:
        now[:] = [tuple(value + 0.01 * seed for value in reached[arm])]
        return pictures

    monkeypatch.setattr(Runs, "held_out", faces)
    monkeypatch.setattr(Runs, "made", made)
    adapter.report(runs, Able(), range(2), tmp_path / "sheet.png")
    told = [re.sub(r"  +", " ", line).strip() for line in capsys.readouterr().out.splitlines()]
    assert "true faces 95.0 99.0" in told
    # means 90.5 and 80.5, with half the width of Student's interval of two values one point apart
    assert "tokens, both 90.5 [84.1, 96.9] 80.5 [74.1, 86.9]" in told
    for line in (
        "mIoU: tokens, both over pooled, both 40.0 [40.0, 40.0]",
        "accuracy: tokens, both over pooled, both 10.0 [10.0, 10.0]",
        "mIoU: tokens, both over tokens, mask only 5.0 [5.0, 5.0]",
        "accuracy: tokens, both over tokens, attributes only 5.0 [5.0, 5.0]",
        "tokens, both 90.0 91.0 80.0 81.0",
        "hat 95 95 90",
        "Bald 99 99 80",
    ):
        assert line in told
    assert not [line for line in told if line.startswith("nose")]
    assert Image.open(tmp_path / "sheet.png").size == (2 * 3 * 64, 2 * (1 + len(ARMS)) * 64)
