"""The command `realism`: exact numbers, order, messages, exit codes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realism_core.cli import main
from realism_core.commands import common
from realism_core.evidence.columns import COLUMNS
from realism_core.gate.record import read_record
from realism_core.irs import Measures, Profile, score
from realism_core.irs import profile as profile_module
from realism_core.pictures import read_picture

ROOT = Path(__file__).resolve().parents[2]


def scene(seed: int, height: int = 72, width: int = 96) -> np.ndarray:
    """A picture with soft shapes and grain, unlike for each seed."""
    dice = np.random.default_rng(seed)
    small = Image.fromarray(dice.integers(0, 256, (6 + seed % 5, 8, 3), dtype=np.uint8))
    soft = np.array(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    soft[height // 4 : height // 2, width // 3 :] = 255 - 20 * (seed % 6)  # an edge that scaling up keeps
    return np.clip(soft + dice.normal(0, 2 + seed % 7, soft.shape), 0, 255).astype(np.uint8)


def put(path: Path, array: np.ndarray | int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(array) if isinstance(array, int) else array).save(path, **options)
    return path


@pytest.fixture(scope="module")
def profiles(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("profiles")
    batches = [torch.from_numpy(scene(seed))[None] for seed in range(100, 112)]
    return {
        definition: Profile.fit(batches, definition, name=f"scenes-{definition}").save(
            folder / f"{definition}.json"
        )
        for definition in ("reference", "paper")
    }


@pytest.fixture
def run(capsys: pytest.CaptureFixture, profiles: dict[str, Path]):
    """Run a command line in this process: (exit code, stdout lines, stderr)."""

    def command(*argv: object, profile: bool = True) -> tuple[int, list[str], str]:
        if profile and argv[0] != "profile":
            argv = (*argv, "--profile", profiles["paper" if "paper" in argv else "reference"])
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out.splitlines(), err

    return command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(1, 13):
        put(tmp_path / "in" / f"{index}.png", index)
    return tmp_path / "in"


# realism score


@pytest.mark.parametrize("definition", ["reference", "paper"])
def test_json_gives_exactly_the_scores_of_the_library(run, folder: Path, profiles, definition: str) -> None:
    code, lines, err = run("score", folder, "--json", "--definition", definition)
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in lines]
    assert [row["path"] for row in rows] == [str(folder / f"{i}.png") for i in range(1, 13)]
    profile = Profile.load(profiles[definition])
    for row in rows:
        expected = score(read_picture(row["path"])[None], definition, profile)
        assert row["irs"] == float(expected.irs)
        assert row["typicality"] == float(expected.typicality)
        for index, name in enumerate(Measures._fields):
            assert row[f"radius_{name}"] == float(expected.radii[0, index])
            assert row[f"percentile_{name}"] == float(expected.percentiles[0, index])
            assert row[name] == float(expected.measures[index])
        assert (row["definition"], row["profile"]) == (definition, f"scenes-{definition}")


def test_csv_holds_the_same_numbers(run, folder: Path, tmp_path: Path) -> None:
    _, lines, _ = run("score", folder, "--json")
    rows = [json.loads(line) for line in lines]
    assert run("score", folder, "--csv", tmp_path / "scores.csv")[0] == 0
    _, lines, _ = run("score", folder, "--csv", "-")
    text = (tmp_path / "scores.csv").read_text()
    assert text.splitlines() == lines
    table = list(csv.DictReader(StringIO(text)))
    assert list(table[0]) == ["path", *COLUMNS, "definition", "profile"]
    for row, line in zip(rows, table, strict=True):
        numbers = {name: float(line[name]) if line[name] else None for name in COLUMNS}
        assert numbers == {name: row[name] for name in COLUMNS}


def test_a_line_a_picture_for_people(run, folder: Path) -> None:
    code, lines, err = run("score", folder / "2.png", f"{folder}/1[01].png")
    assert code == 0
    assert [line.split()[-1] for line in lines] == [
        str(folder / name) for name in ("2.png", "10.png", "11.png")
    ]
    assert all(len(line.split()) == 10 and line.count("%") == 5 for line in lines)
    assert err.split()[:3] == ["verdict", "p_photo", "irs"]
    assert err.split()[-1] == "picture"


def test_lines_come_while_later_pictures_wait(folder: Path, profiles, monkeypatch, capsys) -> None:
    seen = []
    read = common.read_batches

    def watched(paths):
        for pair in read(paths):
            seen.append(capsys.readouterr().out.count("\n"))
            yield pair

    monkeypatch.setattr(common, "read_batches", watched)
    assert main(["score", str(folder), "--profile", str(profiles["reference"])]) == 0
    assert seen == [0] + [1] * 11


def test_grey_and_flat_pictures_have_dashes_and_nulls(run, tmp_path: Path) -> None:
    grey = put(tmp_path / "grey.png", scene(1)[..., 0])
    flat = put(tmp_path / "flat.png", np.full((9, 9, 3), (200, 10, 10), dtype=np.uint8))
    code, lines, _ = run("score", grey, flat)
    assert code == 0
    assert lines[0].split()[:4] == ["unknown", "-", "-", "-"]
    assert lines[1].split()[:3] == ["unknown", "-", "-"]
    row = json.loads(run("score", grey, "--json")[1][0])
    assert row["irs"] is None
    assert row["mean_spectrum"] is None


def test_every_odd_file_is_scored_or_named(run, tmp_path: Path) -> None:
    good = {
        "cmyk.jpg": Image.fromarray(scene(1)).convert("CMYK"),
        "palette.png": Image.fromarray(scene(2)).quantize(32),
        "rgba.png": Image.fromarray(np.dstack([scene(3), scene(4)[..., 0]])),
        "16bit.png": Image.fromarray(scene(5)[..., 0].astype(np.uint16) * 257),
        "smallest.png": Image.fromarray(scene(6, 3, 3)),
    }
    for name, image in good.items():
        image.save(tmp_path / name)
    frames = [Image.fromarray(scene(seed)) for seed in (7, 8)]
    frames[0].save(tmp_path / "animated.webp", save_all=True, append_images=frames[1:], lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 8
    put(tmp_path / "rotated.jpg", 9, exif=exif)
    bad = {
        "1x1.png": put(tmp_path / "1x1.png", scene(1, 1, 1)),
        "2x7.png": put(tmp_path / "2x7.png", scene(1, 7, 2)),
        "cut.jpg": put(tmp_path / "cut.jpg"),
        "text.webp": tmp_path / "text.webp",
    }
    bad["cut.jpg"].write_bytes(bad["cut.jpg"].read_bytes()[:900])
    bad["text.webp"].write_text("no picture")
    code, lines, err = run("score", tmp_path, "--json")
    assert code == 1
    scored = {Path(json.loads(line)["path"]).name for line in lines}
    assert scored == {*good, "animated.webp", "rotated.jpg"}
    for name in bad:
        assert sum(f"{tmp_path / name} " in line for line in err.splitlines()) == 1
    assert f"{tmp_path / '2x7.png'} is 2 x 7 pixels" in err
    assert err.endswith("7 pictures scored, 4 could not be.\n")


def test_a_path_with_dots_is_a_path(run, folder: Path) -> None:
    code, lines, _ = run("score", folder / ".." / "in" / "3.png", "--json")
    assert code == 0
    assert json.loads(lines[0])["path"].endswith("in/../in/3.png")


def test_the_shipped_profile_is_the_default(run, folder: Path, profiles, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "photographs-reference.json").write_bytes(profiles["reference"].read_bytes())
    monkeypatch.setattr(profile_module, "SHIPPED", tmp_path)
    profile_module._load_shipped.cache_clear()
    try:
        assert run("score", folder, "--json", profile=False)[1] == run("score", folder, "--json")[1]
    finally:
        profile_module._load_shipped.cache_clear()


def test_names_that_no_encoding_holds(run, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png") if os.name == "posix" else "\u2603.png"
    put(tmp_path / "in" / name, 1)
    assert run("score", tmp_path / "in", "--csv", tmp_path / "out.csv")[0] == 0
    assert os.fsencode(name) in (tmp_path / "out.csv").read_bytes()


# wrong use


def test_bad_profiles_are_a_sentence_and_two(run, folder: Path, profiles, tmp_path: Path) -> None:
    data = json.loads(profiles["reference"].read_text())
    broken = {
        "broken.json": ("{", "cannot be read"),
        "newer.json": (json.dumps({**data, "version": 99}), "is of version 99"),
        "other.json": (json.dumps({"a": 1}), "is no realism profile"),
        "hurt.json": (json.dumps({**data, "means": [1]}), "is damaged"),
    }
    for name, (text, says) in broken.items():
        (tmp_path / name).write_text(text)
        for command in (("score", folder), ("gate", folder, *TOP_2, *sides(tmp_path))):
            code, out, err = run(*command, "--profile", tmp_path / name, profile=False)
            assert (code, out) == (2, [])
            assert err.startswith(
                f"realism: profile {tmp_path / name}" if name != "other.json" else "realism: "
            )
            assert says in err
            assert err.count("\n") == 1
    code, _, err = run("score", folder, "--profile", profiles["paper"], profile=False)
    assert code == 2
    assert "was fitted with definition 'paper'" in err
    assert run("score", folder, "--profile", tmp_path / "missing.json", profile=False)[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*broken, "in"])


def test_no_pictures_is_a_sentence_and_two(run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, says in (
        ("empty", "holds no pictures"),
        ("nowhere", "does not exist"),
        ("*.png", "matches no picture"),
    ):
        for command in (
            ("score",),
            ("gate", *TOP_2, *sides(tmp_path)),
            ("profile", "fit", "-o", tmp_path / "p.json"),
        ):
            code, out, err = run(*command, tmp_path / path)
            assert (code, out) == (2, [])
            assert says in err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "score",
        "unknown",
        "score x --json --csv -",
        "score x --definition mine",
        "gate x",
        "profile",
        "profile fit x",
        "fit-domain x y",
        "fit-domain -o p.json",
    ],
)
def test_usage_errors_are_two(run, words: str) -> None:
    code, _, err = run(*(words.split() or ["profile"]), profile=False)
    assert code == 2
    assert "usage: realism" in err


def test_help_and_version(run) -> None:
    for words in (
        ["--help"],
        ["score", "--help"],
        ["gate", "--help"],
        ["profile", "fit", "--help"],
        ["fit-domain", "--help"],
        ["--version"],
    ):
        code, out, _ = run(*words, profile=False)
        assert code == 0
        assert out


def test_csv_refuses_to_overwrite_a_picture(run, folder: Path) -> None:
    before = (folder / "1.png").read_bytes()
    code, _, err = run("score", "--csv", folder / "1.png", folder / "2.png")
    assert code == 2
    assert "is a picture's name" in err
    assert (folder / "1.png").read_bytes() == before
    assert run("score", folder, "--csv", folder / "nowhere" / "x.csv")[0] == 2


# realism profile fit


def test_fit_equals_the_library_and_tells(run, folder: Path, tmp_path: Path) -> None:
    put(folder / "13.png", scene(1)[..., 0])
    (folder / "14.png").write_bytes(b"broken")
    out = tmp_path / "new" / "mine.json"
    code, lines, err = run("profile", "fit", folder, "-o", out, "--source", "scenes")
    assert code == 1
    assert f"{folder / '14.png'} is no PNG" in err
    fitted = Profile.load(out)
    assert (fitted.name, fitted.source, fitted.count, fitted.skipped) == ("mine", "scenes", 12, 1)
    batches = [read_picture(folder / f"{i}.png")[None] for i in range(1, 14)]
    assert Profile.fit(batches, name="mine", source="scenes").to_dict() == json.loads(out.read_text())
    assert (
        lines[0]
        == f"{out}: profile 'mine' of 12 pictures, definition reference, 1 skipped (flat or colourless)"
    )
    assert lines[1].startswith(f"median irs {fitted.irs_quantiles[50]:.3f}; median radii: edges ")


def test_fit_never_overwrites_without_force(run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    out.write_text("precious")
    code, _, err = run("profile", "fit", folder, "-o", out)
    assert code == 2
    assert "--force" in err
    assert out.read_text() == "precious"
    assert run("profile", "fit", folder, "-o", out, "--force", "--name", "x")[0] == 0
    assert Profile.load(out).name == "x"
    assert run("profile", "fit", folder, "-o", tmp_path)[0] == 2


def test_fit_with_too_few_or_with_max_side(run, folder: Path, tmp_path: Path) -> None:
    code, _, err = run("profile", "fit", folder / "1.png", "-o", tmp_path / "p.json")
    assert code == 2
    assert "at least 5 usable pictures" in err
    assert not (tmp_path / "p.json").exists()
    assert run("profile", "fit", folder, "-o", tmp_path / "p.json", "--max-side", "8")[0] == 2
    assert run("profile", "fit", folder, "-o", tmp_path / "p.json", "--max-side", "64", "--name", "p")[0] == 0
    batches = [read_picture(folder / f"{i}.png", max_side=64)[None] for i in range(1, 13)]
    assert Profile.fit(batches, name="p").to_dict() == json.loads((tmp_path / "p.json").read_text())


def test_fit_on_pictures_without_an_edge(run, tmp_path: Path) -> None:
    for index in range(6):
        put(
            tmp_path / "soft" / f"{index}.png",
            np.tile(np.arange(60, dtype=np.uint8)[:, None, None] + index, (1, 60, 3)),
        )
    code, _, err = run(
        "profile", "fit", tmp_path / "soft", "-o", tmp_path / "p.json", "--definition", "paper"
    )
    assert code == 2
    assert "none of the 6 usable pictures has an edge" in err


# realism gate

TOP_2 = ("--rule", "top_k", "--value", "2")


def sides(tmp_path: Path) -> tuple[object, ...]:
    return ("--passed", tmp_path / "good", "--rejected", tmp_path / "odd")


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_gate_follows_the_scores(run, folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in run("score", folder, "--json")[1]]
    limit = sorted(row["irs"] for row in rows)[5]
    code, lines, err = run(
        "gate", folder, "--metric", "irs", "--rule", "threshold", "--value", limit, *sides(tmp_path)
    )
    assert (code, err) == (0, "")
    assert names(tmp_path / "good") == {Path(row["path"]).name for row in rows if row["irs"] >= limit}
    assert names(tmp_path / "odd") == {Path(row["path"]).name for row in rows if row["irs"] < limit}
    assert len(names(folder)) == 12
    record = list(read_record(tmp_path / "realism-gate.csv"))
    assert [float(row["value"]) for row in record] == [row["irs"] for row in rows]
    assert lines[12] == f"7 passed -> {tmp_path / 'good'}, 5 rejected -> {tmp_path / 'odd'} (12 copied)"
    assert lines[14] == f"record: {tmp_path / 'realism-gate.csv'}"
    again = run("gate", folder, "--metric", "irs", "--rule", "threshold", "--value", limit, *sides(tmp_path))[
        1
    ]
    assert "(12 already there)" in again[12]


def test_gate_moves_and_leaves_what_it_cannot_read(run, folder: Path, tmp_path: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "broken.png").write_bytes(b"?")
    put(folder / "sub" / "grey.png", scene(1)[..., 0])
    code, lines, err = run(
        "gate", folder, "--rule", "top_fraction", "--value", 0.5, "--move", *sides(tmp_path)
    )
    assert code == 1
    assert names(folder) == {"sub/broken.png"}
    assert len(names(tmp_path / "good")) == 7
    assert "sub/grey.png" in names(tmp_path / "odd")
    assert "broken.png is no PNG" in err
    assert "1 picture without typicality (it says nothing there): rejected" in lines
    assert "1 file could not be used and stayed in place" in lines


def test_gate_leaves_its_own_folders_out(run, folder: Path, tmp_path: Path) -> None:
    inside = ("--passed", folder / "good", "--rejected", folder / "odd")
    for turn in range(2):
        code, lines, _ = run("gate", folder, *TOP_2, *inside)
        assert code == 0
        assert len(lines) == 12 + 3 + turn
        assert ("12 scores reused from the record" in lines) == bool(turn)
    assert len(names(folder / "good")) == 2
    assert len(names(folder / "odd")) == 10


def test_gate_links(run, folder: Path, tmp_path: Path) -> None:
    assert run("gate", folder, *TOP_2, "--link", *sides(tmp_path))[0] == 0
    links = list((tmp_path / "good").iterdir())
    assert len(links) == 2
    assert all(link.is_symlink() and link.read_bytes() == (folder / link.name).read_bytes() for link in links)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--rule band --low 0.1", "needs both low and high"),
        ("--rule band --low 0.1 --high 0.5 --value 3", "--value has no effect"),
        ("--rule band --low 0.1 --high 0.5 --keep low", "--keep has no effect"),
        ("--rule threshold --value 0.1 --low 0.5", "--low has no effect"),
        ("--rule threshold", "needs a value"),
        ("--rule top_k --value inf", "whole number"),
        ("--rule top_fraction --value 2", "keeps a share"),
        ("--rule top_k --value 1 --metric beauty", "--metric beauty is no score"),
    ],
)
def test_gate_options_that_make_no_sense(run, folder: Path, tmp_path: Path, options: str, says: str) -> None:
    code, out, err = run("gate", folder, *options.split(), *sides(tmp_path))
    assert (code, out) == (2, [])
    assert says in err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_gate_with_a_file_in_the_way(run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "good").write_text("in the way")
    code, _, err = run("gate", folder, *TOP_2, "--move", *sides(tmp_path))
    assert code == 2
    assert "the passed folder" in err
    assert "cannot be made" in err
    assert len(names(folder)) == 12


def test_gate_into_the_scored_folder(run, folder: Path, tmp_path: Path) -> None:
    code, _, err = run("gate", folder, *TOP_2, "--move", "--passed", folder, "--rejected", tmp_path / "odd")
    assert code == 2
    assert "choose another passed folder" in err
    assert len(names(folder)) == 12


# as a process


def start(*argv: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "realism_core", *map(str, argv)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_exit_codes_of_the_process(folder: Path, profiles) -> None:
    (folder / "13.png").write_bytes(b"?")
    with start("score", folder, "--json", "--profile", profiles["reference"]) as command:
        out, err = command.communicate(timeout=120)
    assert command.returncode == 1
    assert len(out.splitlines()) == 12
    assert "13.png" in err


@pytest.mark.skipif(os.name != "posix", reason="SIGINT and SIGPIPE")
def test_ctrl_c_and_a_reader_that_leaves(tmp_path: Path, folder: Path, profiles) -> None:
    many = [folder / f"{index}.png" for index in range(13, 800)]
    for path in many:
        os.link(folder / "1.png", path)
    options = ("--profile", profiles["reference"])
    rule = ("--rule", "threshold", "--value", 0.5)
    piped = start("score", folder, *options)
    piped.stdout.readline()
    piped.stdout.close()
    for words, says in (
        (("score", folder, *options), "stopped after"),
        (("gate", folder, *rule, *options, *sides(tmp_path)), "nothing is half written"),
    ):
        command = start(*words)
        command.stdout.readline()
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=120)
        assert command.returncode == 130
        assert says in err
        assert "Traceback" not in err
    with piped:
        assert "Traceback" not in piped.stderr.read()
    assert piped.returncode == 141
    copied = [path for side in ("good", "odd") for path in (tmp_path / side).iterdir()]
    assert 0 < len(copied) < 799
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in copied)
    assert len(list(read_record(tmp_path / "realism-gate.csv"))) >= len(copied) - 1
