"""benchmarks/adapter.py from end to end, with a network of one block and a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import _faces_drawn, adapter
from benchmarks._adapter_codec import Codec
from benchmarks._adapter_runs import ARMS, TOKENS, Plan, Runs
from benchmarks._faces_judges import Classifier, Judges, Segmenter

TINY = Plan(heads=1, faces=8, held_out=3, start_steps=20, start_batch=4, steps=20, batch=4, rank=2, width=16)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(_faces_drawn, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(_faces_drawn, "PER_FILE", 4)
    torch.manual_seed(0)
    return Runs(TINY, Codec().requires_grad_(False), tmp_path / "runs")


def test_an_arm_is_trained_once_and_what_it_makes_is_judged(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    started = runs.network()
    assert started == runs.network() and started.is_file()
    first = runs.made(TOKENS, 0)
    assert first.shape == (3, 64, 64, 3) and first.isfinite().all()
    assert (first[0] - first[1]).abs().max() > 1e-4
    monkeypatch.setattr(Runs, "_child", None)  # a second training would fail
    assert torch.equal(runs.made(TOKENS, 0), first)
    # the table, with one arm's pictures in place of all
    monkeypatch.setattr(Runs, "made", lambda _, arm, seed: (first + 0.1 * seed).clamp(0, 1))
    able = Judges(Segmenter(4), Classifier(4), 64)
    adapter.report(runs, able, range(2), tmp_path / "sheet.png")
    told = capsys.readouterr().out
    for title in ("true faces", "through the autoencoder", *(arm.name for arm in ARMS)):
        assert title in told
    assert "mIoU: tokens, both over pooled, both" in told
    assert Image.open(tmp_path / "sheet.png").size == (2 * 3 * 64, 2 * (1 + len(ARMS)) * 64)
