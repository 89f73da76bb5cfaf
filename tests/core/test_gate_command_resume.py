"""`realism gate` that is started again, and its decisions in an audit log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realism_core import __version__
from realism_core.cli import main
from realism_core.commands import common
from realism_core.gate.audit import read, verify
from realism_core.gate.record import read_record

RULE = ("--metric", "irs", "--rule", "threshold", "--value", "-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three colour pictures and a grey one, for which `reference` has no irs."""
    dice = np.random.default_rng(5)
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c", "g"):
        pixels = dice.integers(0, 256, (40, 48, 3) if name != "g" else (40, 48), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"in/{name}.png")
    return tmp_path / "in"


@pytest.fixture
def run(folder: Path, capsys, monkeypatch):
    """Run the command: (exit code, lines, stderr, names of the pictures that were scored)."""
    scored: list[str] = []
    check = common.check_images
    monkeypatch.setattr(
        common, "check_images", lambda images, name: scored.append(Path(name).stem) or check(images, name)
    )

    def command(*options: object, rule: tuple = RULE) -> tuple[int, list[str], str, str]:
        scored.clear()
        sides = ("--passed", folder.parent / "good", "--rejected", folder.parent / "odd")
        code = main(["gate", str(folder), *map(str, (*rule, *sides, *options))])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err, "".join(scored)

    return command


def test_scores_are_reused_and_counted(run, folder: Path) -> None:
    code, first, _, scored = run()
    assert (code, scored) == (0, "abcg")
    assert not any("reused from the record" in line for line in first)
    code, lines, _, scored = run()
    assert (code, scored) == (0, "")
    assert "4 scores reused from the record" in lines
    assert "(4 already there)" in lines[4]
    assert [line for line in first if line.startswith("irs ran")] == [
        line for line in lines if line.startswith("irs ran")
    ]
    Image.open(folder / "a.png").transpose(Image.Transpose.ROTATE_180).save(folder / "b.png")
    Image.open(folder / "a.png").save(folder / "z.png")
    _, lines, _, scored = run()
    assert scored == "bz" and "3 scores reused from the record" in lines
    assert run("--rescore")[3] == "abcgz"
    assert "5 scores reused from the record" in run("--move")[1]
    assert not list(folder.iterdir())


def test_scores_of_another_definition_or_profile_are_not_reused(run, monkeypatch) -> None:
    run()
    assert run("--definition", "paper")[3] == "abcg"
    assert run("--definition", "paper")[3] == ""
    assert run()[3] == "abcg"
    assert run(rule=("--metric", "typicality", "--rule", "top_k", "--value", "2"))[3] == "abcg"
    monkeypatch.setattr(common, "__version__", "99")
    assert run(rule=("--metric", "typicality", "--rule", "top_k", "--value", "2"))[3] == "abcg"


def test_profile_band_keeps_what_lies_within_the_photographs(run, folder: Path) -> None:
    code, lines, _, _ = run(rule=("--metric", "irs", "--rule", "profile_band"))
    assert code == 0 and lines[4].startswith("0 passed")
    assert run(rule=("--metric", "percentile_glcm_energy", "--rule", "profile_band"))[0] == 0
    code, _, err, _ = run(rule=("--metric", "p_photo", "--rule", "profile_band"))
    assert code == 2 and "no band of real photographs for 'p_photo'" in err
    for option in ("--value", "--low", "--high"):
        code, _, err, scored = run(option, "1", rule=("--rule", "profile_band"))
        assert (code, scored) == (2, "") and f"{option} has no effect with --rule profile_band" in err


def test_an_older_record_is_named(run, folder: Path) -> None:
    record = folder.parent / "realism-gate.csv"
    record.write_text("path,decision,metric,value,action,target\n")
    assert "begun by an older version" in run()[1][-1]
    assert run()[3] == "abcg"
    record.write_text("my,table\n1,2\n")
    code, _, err, _ = run()
    assert code == 2 and "is no record of this gate" in err
    assert record.read_text() == "my,table\n1,2\n"


def test_each_decision_is_logged_once(run, folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.sqlite"
    (folder / "x.png").write_bytes(b"broken")

    def logged() -> list[dict]:
        assert verify(log).intact
        return [entry.parsed for entry in read(log)]

    assert run("--audit", log, "--purpose", "training data")[0] == 1
    records = logged()
    rows = {Path(row["path"]).name: row for row in read_record(tmp_path / "realism-gate.csv")}
    assert [Path(record["source"]).name for record in records] == list(rows)
    for record in records:
        row = rows[Path(record["source"]).name]
        assert record["kind"] == "decision" and record["purpose"] == "training data"
        assert record["rule"]["name"] == "threshold" and record["rule"]["value"] == -1
        assert (record["decision"], record["metric"]) == (row["decision"], "irs")
        assert record["value"] == record["scores"]["irs"] == (float(row["value"]) if row["value"] else None)
        assert (record["file"] or "", record["file_sha256"] or "") == (row["target"], row["sha256"])
        assert (record["by_hand"], record["pack"], record["seeds"]) == (False, __version__, [])
    assert records[-1]["decision"] == "unreadable" and "x.png" in records[-1]["reason"]
    run("--audit", log, "--purpose", "training data")
    assert logged() == records
    run("--audit", log, "--unknown", "block")
    assert [(Path(r["source"]).stem, r["decision"]) for r in logged()[5:]] == [("g", "unknown")]
    run("--audit", log, "--move")
    news = [(Path(r["source"]).stem, r["decision"]) for r in logged()[6:]]
    assert news == [("g", "rejected")]
    other = tmp_path / "new" / "other.sqlite"
    assert run("--audit", other)[0] == 1
    assert [r.parsed["decision"] for r in read(other)] == ["unreadable"]


def test_a_recognised_picture_is_logged_in_a_log_that_does_not_know_it(run, tmp_path: Path) -> None:
    run()
    run("--audit", tmp_path / "audit.sqlite")
    records = [entry.parsed for entry in read(tmp_path / "audit.sqlite")]
    assert [record["decision"] for record in records] == ["passed"] * 3 + ["rejected"]
    assert all(len(record["file_sha256"]) == 64 for record in records)


def test_a_log_that_cannot_be_written_stops_before_any_move(run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "audit.sqlite").write_bytes(b"no database " * 1000)
    code, _, err, scored = run("--move", "--audit", tmp_path / "audit.sqlite")
    assert code == 2 and "audit.sqlite" in err and scored == ""
    assert len(list(folder.iterdir())) == 4


def test_a_purpose_without_a_log_is_refused(run, folder: Path) -> None:
    code, _, err, _ = run("--purpose", "training data")
    assert code == 2 and "--purpose has no effect without --audit" in err
    assert [path.name for path in folder.parent.iterdir()] == ["in"]
