"""How `dev.py test` shares the tests between processors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from devtools import commands
from devtools.environment import ROOT
from devtools.lanes import Lane, run_lanes

MEET = """
import pathlib, sys, time
mine, theirs, code = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
mine.touch()
ends = time.monotonic() + 30
while not theirs.exists():
    assert time.monotonic() < ends, "the other was not started"
    time.sleep(0.02)
print("output of", mine.name, flush=True)
sys.exit(code)
"""
FILE = """
import os, time
import pytest

@pytest.fixture(scope="module", autouse=True)
def whole():
    say("begins")
    yield
    say("ends")

def say(text):
    with open(os.environ["LOG"], "a") as log:
        log.write(f"{os.getpid()} {__name__} {text}\\n")

@pytest.mark.parametrize("number", range(3))
def test_one(number):
    say(number)
    time.sleep(0.1)
    assert (__name__, number) != ("test_b", 1)
"""


def test_lanes_run_at_once_and_their_commands_in_turn(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    meetings = [
        [sys.executable, "-c", MEET, *map(str, words)] for words in ((one, other, 3), (other, one, 0))
    ]
    last = [sys.executable, "-c", "print('the last')"]
    assert run_lanes([[meetings[0]], [meetings[1], last]], tmp_path, os.environ) == [3, 0, 0]
    assert capfd.readouterr().out.split("\n")[:3] == ["output of one", "output of other", "the last"]


def test_a_stopped_lane_ends_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    commands = [
        [sys.executable, "-c", "open('first', 'w'); import time; time.sleep(100)"],
        [sys.executable, "-c", "open('second', 'w')"],
    ]
    lane = Lane(commands, tmp_path, os.environ)
    thread = threading.Thread(target=lane.run)
    thread.start()
    ends = time.monotonic() + 30
    while not (tmp_path / "first").exists():
        assert time.monotonic() < ends, "the first command was not started"
        time.sleep(0.02)
    lane.stop()
    thread.join(30)
    assert not thread.is_alive() and lane.codes[0] != 0
    assert not (tmp_path / "second").exists()


def test_a_command_that_cannot_start_is_an_error_in_any_lane(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = [str(tmp_path / "no such program")]
    one, other = ([sys.executable, "-c", f"print('output of {name}')"] for name in ("one", "other"))
    for lanes in ([[missing], [other]], [[one], [other, missing]]):
        with pytest.raises(FileNotFoundError):
            run_lanes(lanes, tmp_path, os.environ)
    assert {"output of one", "output of other"} <= set(capfd.readouterr().out.splitlines())


def test_processes_that_share_files_run_each_test_once_and_files_as_a_whole(tmp_path: Path) -> None:
    claims, log = tmp_path / "claims", tmp_path / "log"
    claims.mkdir()
    names = [f"test_{letter}" for letter in "abcdef"]
    for name in names:
        (tmp_path / f"{name}.py").write_text(FILE)
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "devtools.claims", "-p", "no:cacheprovider",
        "--import-mode=importlib", f"--rootdir={tmp_path}",
    ]  # fmt: skip
    environ = {**os.environ, "REALISM_CLAIMS": str(claims), "LOG": str(log), "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            [*command, *order], cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )
        for order in ([f"{name}.py" for name in names], [f"{name}.py" for name in reversed(names)])
    ]  # fmt: skip
    outputs = [process.communicate()[0] for process in running]
    lines = [line.split() for line in log.read_text().splitlines()]
    for name in names:
        told = [(process, text) for process, file, text in lines if file == name]
        assert [text for _, text in told] == ["begins", "0", "1", "2", "ends"], name
        assert len({process for process, _ in told}) == 1
    assert sorted(process.returncode for process in running) == [0, 1], outputs
    left = [int(output.split(" tests in ")[0].split()[-1]) for output in outputs]
    assert sum(left) == 3 * len(names), outputs


@pytest.mark.parametrize(("processors", "browser"), [(2, "chromium"), (2, None), (1, "chromium")])
def test_every_part_is_run_however_many_processors(
    monkeypatch: pytest.MonkeyPatch, processors: int, browser: str | None
) -> None:
    run: list[list[str]] = []
    lanes_run: list[int] = []

    def lanes(lanes: list, folder: Path, environ: dict) -> list[int]:
        run.extend(command for lane in lanes for command in lane)
        lanes_run.append(len(lanes))
        assert Path(environ["REALISM_CLAIMS"]).is_dir() and environ["OMP_NUM_THREADS"]
        return [0 for lane in lanes for _ in lane]

    def call(command: list[str], **_: object) -> int:
        run.append(command)
        return 0

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(commands.os, "cpu_count", lambda: processors)
    monkeypatch.setattr(commands.environment, "ensure", lambda: Path("python"))
    monkeypatch.setattr(commands.comfyui, "ensure_install", lambda: ("folder", "interpreter"))
    monkeypatch.setattr(commands.comfyui, "tree_of", lambda *_: "old")
    monkeypatch.setattr(commands, "find_browser", lambda: browser)
    monkeypatch.setattr(commands, "run_lanes", lanes)
    monkeypatch.setattr(commands.subprocess, "call", call)
    assert commands.test("all", ["-q"]) == 0
    whole = {word for command in run for word in command if word.startswith("tests/")}
    assert whole == {"tests/core", "tests/comfy", *(["tests/browser"] if browser else [])}
    assert lanes_run == ([2] if processors > 1 else []) and all("-q" in command for command in run)
    shared = [command for command in run if "devtools.claims" in command]
    assert len(shared) == (2 if processors > 1 else 0)
    for files in (command for command in shared if "tests/comfy" not in command):
        named = {Path(word) for word in files if word.endswith(".py")}
        assert named == set((ROOT / "tests" / "comfy").glob("test_*.py"))
