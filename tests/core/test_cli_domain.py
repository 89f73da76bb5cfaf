"""`realism fit-domain`: what it writes, prints, warns of and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from realism_core.cli import main
from realism_core.evidence.domain import fit_domain
from realism_core.irs import Profile
from realism_core.pictures import read_picture
from tests.core.domains import decoded, photo

N = 30


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folders `real` and `made`, 30 PNG files each."""
    folder = tmp_path_factory.mktemp("sides")
    for name, make, start in (("real", photo, 0), ("made", decoded, 100)):
        (folder / name).mkdir()
        for index in range(N):
            Image.fromarray(make(start + index)).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture):
    """Run a command line in this process: (exit code, stdout lines, stderr)."""

    def command(*argv: object) -> tuple[int, list[str], str]:
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return command


def pictures(folder: Path, count: int = N) -> list:
    return [read_picture(folder / f"{index}.png")[None] for index in range(count)]


def test_two_folders_make_the_librarys_domain(run, sides: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "mine.json"
    code, lines, err = run("fit-domain", sides / "real", sides / "made", "-o", out, "--source", "both")
    expected = fit_domain(pictures(sides / "real"), pictures(sides / "made"), name="mine", source="both")
    assert code == 0
    assert json.loads(out.read_text()) == expected.profile.to_dict()
    assert lines[0].startswith(f"{out}: profile 'mine' of 30 pictures, definition reference, 0 skipped")
    assert lines[1].startswith("median irs ")
    low, high = expected.interval
    assert lines[2] == (
        f"cross-validated AUC {expected.auc:.3f} (95 % interval {low:.3f} to {high:.3f}); "
        "detector of 30 real and 30 generated pictures"
    )
    assert lines[3].startswith("AUC of what may differ for other reasons, alone: compression ")
    told = [line.removeprefix("realism: warning: ") for line in err.splitlines()]
    assert told == list(expected.warnings)


def test_unusable_files_are_named_and_the_others_used(run, sides: Path, tmp_path: Path) -> None:
    for name in ("real", "made"):
        shutil.copytree(sides / name, tmp_path / name)
    (tmp_path / "real" / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (2, 9)).save(tmp_path / "made" / "thin.png")
    Image.fromarray(photo(800, 64)).save(tmp_path / "made" / "small.png")
    shutil.copyfile(tmp_path / "made" / "3.png", tmp_path / "made" / "again.png")
    out = tmp_path / "mine.json"
    code, lines, err = run("fit-domain", tmp_path / "real", tmp_path / "made", "-o", out)
    assert code == 1
    assert "broken.png is no PNG" in err and "thin.png is 2 x 9 pixels" in err
    assert "realism: 2 files could not be used." in err
    assert lines[2].endswith("30 real and 30 generated (1 too small or flat, 1 copy left out) pictures")
    assert Profile.load(out).detector["about"]["generated"] == {
        "given": 32, "unmeasured": 1, "repeated": 1, "used": 30,
    }  # fmt: skip


def test_29_pictures_are_refused_and_nothing_is_written(run, sides: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    for index in range(29):
        shutil.copyfile(sides / "made" / f"{index}.png", tmp_path / "few" / f"{index}.png")
    out = tmp_path / "mine.json"
    for real, made, side in (("real", tmp_path / "few", "generated"), (tmp_path / "few", "made", "real")):
        code, lines, err = run("fit-domain", sides / real, sides / made, "-o", out)
        assert (code, lines) == (2, [])
        assert f"there are 29 usable {side} pictures" in err and "at least 30 a side" in err
        assert not list(tmp_path.glob("mine*"))


def test_one_folder_is_a_profile(run, sides: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    code, lines, err = run(
        "fit-domain", sides / "real" / "?.png", "-o", out, "--name", "ten", "--definition", "paper"
    )
    assert (code, err) == (0, "")
    assert Profile.fit(pictures(sides / "real", 10), "paper", "ten").to_dict() == json.loads(out.read_text())
    assert lines[-1].startswith("no generated pictures") and "shipped" in lines[-1]


def test_a_side_in_another_format_is_warned_of(run, sides: Path, tmp_path: Path) -> None:
    (tmp_path / "jpeg").mkdir()
    for index in range(N):
        Image.fromarray(photo(200 + index)).save(tmp_path / "jpeg" / f"{index}.jpg", quality=85)
    code, lines, err = run("fit-domain", sides / "real", tmp_path / "jpeg", "-o", tmp_path / "mine.json")
    assert code == 0 and len(lines) == 4
    assert "realism: warning: the two sides can be told apart by their compression alone (AUC 1.00)" in err
    assert "save both sides in the same format" in err


def test_output_and_input_are_checked_before_the_work(run, sides: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    out.write_text("precious")
    (tmp_path / "empty").mkdir()
    real, made = sides / "real", sides / "made"
    for words, told in (
        ((real, made, "-o", out), "--force"),
        ((real, made, "-o", tmp_path), "is a folder"),
        ((real, tmp_path / "missing", "-o", tmp_path / "x.json"), "missing does not exist"),
        ((tmp_path / "empty", made, "-o", tmp_path / "x.json"), "holds no pictures"),
        ((real, made, "-o", tmp_path / "x.json", "--max-side", "8"), "--max-side is 8"),
    ):
        code, lines, err = run("fit-domain", *words)
        assert (code, lines) == (2, []) and told in err
    assert out.read_text() == "precious" and not (tmp_path / "x.json").exists()
    assert run("fit-domain", real, "-o", out, "--force")[0] == 0
    assert Profile.load(out).count == N


def test_a_damaged_detector_stops_a_score_with_one_sentence(run, sides: Path, tmp_path: Path) -> None:
    data = Profile.fit(pictures(sides / "real", 5), name="mine").to_dict()
    (tmp_path / "bad.json").write_text(json.dumps(data | {"detector": {"format": "other"}}))
    code, lines, err = run("score", sides / "real", "--profile", tmp_path / "bad.json")
    assert (code, lines) == (2, [])
    assert err.count("realism:") == 1 and "profile 'mine': the detector" in err and "fit it again" in err
