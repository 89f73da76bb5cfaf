"""benchmarks/realism_term.py on synthetic pictures: it runs, keeps its runs, and compares what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy import stats

from benchmarks import _tiny_decoders as tiny_decoders
from benchmarks._realism_model import Material, _encoded
from benchmarks._rounds import mean_interval
from benchmarks.realism_term import PLAIN, PUBLISHED, QUICK, Runs, _same, report
from realism_core.irs import Profile
from realism_core.training.data import Dataset, LatentExample
from tests.core.textures import scenes


@pytest.fixture(scope="module")
def material() -> Material:
    torch.manual_seed(3)
    autoencoder = tiny_decoders.autoencoder("nearest").requires_grad_(False)
    pixels = torch.from_numpy(scenes(36, 64, 64)).movedim(-1, 1).contiguous()
    latents = _encoded(autoencoder, pixels)
    examples = [LatentExample(one) for one in latents]
    return Material(
        Dataset(examples[:18]), Dataset(examples[18:28]), Dataset(examples[28:]), pixels[28:],
        Profile.fit(pixels.movedim(1, -1)), autoencoder, torch.zeros(8, 1, 1), torch.ones(8, 1, 1),
    )  # fmt: skip


def test_the_published_form_trains_what_no_term_trains(material: Material, tmp_path: Path) -> None:
    runs = Runs(QUICK, material, tmp_path)
    plain, published, ours = (runs.lora(term, 0) for term in (PLAIN, PUBLISHED, "0.1"))
    assert _same(plain, published) and not _same(plain, ours)
    files = sorted(tmp_path.iterdir())
    assert runs.figures(PLAIN, 0) == Runs(QUICK, material, tmp_path).figures(PLAIN, 0)
    assert [file.name for file in files] == [f.name for f in sorted(tmp_path.iterdir()) if f in files]
    assert len(list(tmp_path.iterdir())) == len(files) + 1  # the figures; nothing was trained anew


def test_the_report_has_a_row_a_term(
    material: Material, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(Runs(QUICK, material, tmp_path))
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("published 1 / IRS, weight 1") and "+-" in line)
    assert row.split()[6::3] == ["+0.00", "+0.000", "+0.000", "+0.00", "+0.000"]
    assert any(line.startswith("term, weight 0.1") for line in lines)
    assert any(line.endswith("2 of 2 seeds") for line in lines)


def test_the_interval_is_students() -> None:
    values = [1.0, 2.5, 2.0]
    mean, half = mean_interval(values)
    low, high = stats.t.interval(0.95, 2, loc=mean, scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), abs=1e-3)
