"""A gate on files without room, without rights, and beside another run: nothing is lost or doubled."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from realism_core.gate.files import PART
from realism_core.gate.folders import FolderGate
from realism_core.gate.record import PlaceError, read_record
from tests.core.gated import content, put

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="limits and locks of POSIX systems")
ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import encodings.utf_8_sig, os, sys, traceback
from pathlib import Path
from realism_core.gate.folders import FolderGate
from realism_core.gate.record import PlaceError
def place(base, mode="copy"):
    paths = sorted((base / "in").rglob("*.png"))
    gate = FolderGate([base / "in"], base / "passed", base / "rejected", "threshold", 0.5, mode=mode)
    for placed in gate.place((path, int(path.stem) % 2) for path in paths):
        print(placed.action, flush=True)
for line in sys.stdin:  # each line is run in a process of its own, which may lose its rights
    command, base, mode, told = eval(line)
    if (child := os.fork()) == 0:
        out = os.open(told, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        try:
            exec(command)
            place(Path(base), mode)
        except PlaceError as error:
            print("PlaceError", error)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
DROP = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


def start() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ask(helper: subprocess.Popen, command: str, base: Path, mode: str, told: Path) -> None:
    print(repr((command, str(base), mode, str(told))), file=helper.stdin, flush=True)


@pytest.fixture(scope="module")
def helper() -> Iterator[subprocess.Popen]:
    with start() as process:
        yield process
        process.stdin.close()


@pytest.fixture
def child(helper: subprocess.Popen, tmp_path: Path) -> Callable[..., str]:
    """Place the pictures below a folder in a process of its own, after a command, and return what it said."""

    def run(base: Path, mode: str = "copy", command: str = "") -> str:
        told = tmp_path / "told.txt"
        ask(helper, command, base, mode, told)
        assert helper.stdout.readline() == "0\n", told.read_text()
        return told.read_text()

    return run


def fill(base: Path, tree: dict[str, bytes]) -> dict[str, bytes]:
    for name, data in tree.items():
        put(base / "in" / name, data)
    return tree


@pytest.mark.parametrize("mode", ["copy", "move"])
def test_no_room_for_a_copy(tmp_path: Path, child, mode: str) -> None:
    """A file may not grow past a limit, as on a full disk: the third picture is too large."""
    tree = fill(tmp_path, {f"{n}.png": b"%d" % n * (90_000 if n == 2 else 900) for n in range(5)})
    said = child(tmp_path, mode, LIMIT.format(50_000))
    assert "PlaceError" in said and "cannot be written (File too large): make room" in said
    check_nothing_lost(tmp_path, tree, mode, left=3)
    child(tmp_path, mode)
    check_nothing_lost(tmp_path, tree, mode, left=0)


def test_no_room_for_a_row_of_the_record(tmp_path: Path, child) -> None:
    """The record is cut off within a row; the picture is copied by then, and its source stays."""
    tree = fill(tmp_path, {f"{number}.png": b"%d" % number for number in range(20)})
    limit = 300 * 7 + 11
    said = child(tmp_path, "move", LIMIT.format(limit))
    assert "PlaceError the record" in said and "make room" in said
    assert (tmp_path / "realism-gate.csv").stat().st_size == limit
    moved = said.count("moved")
    assert 0 < moved < 19
    assert len(content(tmp_path / "in")) == 20 - moved
    said = child(tmp_path, "move")
    assert (said.count("already there"), said.count("moved")) == (1, 19 - moved)
    check_nothing_lost(tmp_path, tree, "move", left=0)
    rows = [Path(row["path"]).name for row in read_record(tmp_path / "realism-gate.csv") if row["sha256"]]
    assert sorted(set(rows)) == sorted(tree)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB of its own, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("mode", ["copy", "move"])
def test_a_full_disk(tmp_path: Path, small_disk: Path, mode: str) -> None:
    tree = fill(tmp_path, {f"{number}.png": b"%d" % number * 60_000 for number in range(8)})

    def run() -> list[str]:
        scored = [(tmp_path / "in" / name, 1.0) for name in tree if (tmp_path / "in" / name).exists()]
        sides = small_disk / "passed", small_disk / "odd"
        made = FolderGate([tmp_path / "in"], *sides, "threshold", 0.5, mode=mode)
        return [placed.action for placed in made.place(scored)]

    with pytest.raises(PlaceError, match="No space left on device.*make room"):
        run()
    copied = content(small_disk / "passed")
    assert 2 <= len(copied) <= 4 and copied.items() <= tree.items()
    assert (content(tmp_path / "in") | copied) == tree
    left = 8 - len(copied) if mode == "move" else 8
    assert len(content(tmp_path / "in")) == left
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert len(run()) == left
    assert content(small_disk / "passed") == tree


@pytest.mark.skipif(getattr(os, "geteuid", int)() != 0, reason="gives up the rights of root")
@pytest.mark.parametrize("locked", [".", "passed", "passed/s", "realism-gate.csv", "in"])
def test_folders_that_may_not_be_written(tmp_path: Path, child, locked: str) -> None:
    base = tmp_path / "base"
    tree = fill(base, {"s/0.png": b"0", "s/1.png": b"1", "s/3.png": b"3"})
    child(base)
    for name in ("1.png", "3.png"):
        (base / "passed/s" / name).unlink()
    for path in (base, *base.rglob("*")):
        os.chown(path, 65534, 65534)
    for path in (tmp_path, *tmp_path.parents):
        if not path.stat().st_mode & 1:  # those that pytest made
            path.chmod(path.stat().st_mode | 0o111)
    closed = base / locked
    inside = [path for path in (closed, *closed.rglob("*")) if path.is_dir()] if locked == "in" else [closed]
    for path in inside:
        path.chmod(0o555 if path.is_dir() else 0o444)
    said = child(base, "move", DROP)
    if locked in ("passed/s", "realism-gate.csv"):
        assert "PlaceError" in said and "Permission denied" in said
    elif locked == "in":
        assert said.count("copied\n") == 3
    else:  # what is to be written lies deeper
        assert said.count("moved\n") == 2 and said.count("already there\n") == 1
    check_nothing_lost(base, tree, "copy" if locked == "in" else "move", left=None)
    for path in inside:
        path.chmod(0o755)
    if content(base / "in"):
        child(base, "move", DROP)
    check_nothing_lost(base, tree, "move", left=0)


def test_two_processes_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    dice = random.Random(3)
    told = [tmp_path / f"told{number}.txt" for number in range(2)]
    tree: dict[str, bytes] = {}
    refused = 0
    with start() as one, start() as other:

        def both(command: str) -> str:
            for process, file in zip((one, other), told, strict=True):
                ask(process, command, tmp_path, "move", file)
            assert [process.stdout.readline() for process in (one, other)] == ["0\n", "0\n"]
            return "".join(file.read_text() for file in told)

        both("raise PlaceError('both are ready')")
        for turn in range(10):
            more = {f"{turn * 100 + n}.png": dice.randbytes(dice.randrange(1, 50_000)) for n in range(100)}
            tree |= fill(tmp_path, more)
            while content(tmp_path / "in"):
                refused += both("").count("another run is placing pictures")
            if refused:
                break
        one.stdin.close()
        other.stdin.close()
    assert refused >= 1
    check_nothing_lost(tmp_path, tree, "move", left=0)


def check_nothing_lost(base: Path, tree: dict[str, bytes], mode: str, left: int | None) -> None:
    """Check that each picture is whole, in one target at most, and `left` of them in none."""
    at_source = content(base / "in")
    out = content(base / "passed") | content(base / "rejected")
    assert at_source | out == tree
    assert len(content(base / "passed")) + len(content(base / "rejected")) == len(out)
    assert not list(base.rglob(f"*{PART}"))
    assert at_source == tree or mode == "move"
    if left is not None:
        assert len(tree) - len(out) == left
        assert mode == "copy" or len(at_source) >= left
