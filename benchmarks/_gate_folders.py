"""Placing many small files by the folder gate, beside the shortest loop that does the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks._rounds import forget_peak, in_turn, peak, print_table, spread, versus
from devtools.environment import cache_folder
from realism_core.gate.files import mark_of
from realism_core.gate.folders import FolderGate, Scored
from realism_core.pictures import find_pictures

A_FOLDER = 1000
FILE_BYTES = 1024
OURS, AGAIN = "realism gate", "realism gate, second run"


def _copy_durably(source: str, target: str) -> None:
    shutil.copy2(source, target)
    with open(target, "rb+") as file:
        os.fsync(file.fileno())


def _link(source: str, target: str) -> None:
    os.symlink(os.path.realpath(source), target)


PLAIN: dict[str, dict[str, Callable[[str, str], object]]] = {
    "copy": {"shutil.copy2": shutil.copy2, "shutil.copy2 + fsync": _copy_durably},
    "move": {"os.rename": os.rename},
    "link": {"os.symlink": _link},
}


def place(who: str, mode: str, folder: Path) -> None:
    """Place all files of a folder; print seconds, growth of the peak memory in MiB, and how many passed."""
    before = forget_peak()
    start = time.perf_counter()
    if who in (OURS, AGAIN):
        passed = _by_gate(mode, folder, who == AGAIN)
    else:
        passed = _by_loop(PLAIN[mode][who], folder)
    print(time.perf_counter() - start, peak() - before, passed)


def _score(path: Path) -> float:
    """Return 0 or 1 by the file's number, as a score that costs nothing."""
    return float(int(path.stem) % 2)


def _by_gate(mode: str, folder: Path, again: bool) -> int:
    gate = FolderGate(
        [folder / "in"], folder / "passed", folder / "rejected", "threshold", value=0.5, mode=mode,
        metric="irs", scorer="benchmark",
    )  # fmt: skip

    def scored() -> Iterator[Scored]:
        for path in find_pictures([folder / "in"]):
            mark = mark_of(path)
            known = gate.recorded_score(path, mark)
            yield Scored(path, _score(path) if known is None else known, mark, known is not None)

    passed = 0
    for placed in gate.place(scored()):
        if placed.target is None or (placed.action == "already there") != again:
            raise RuntimeError(f"{placed.path} was {placed.action}: {placed.reason}")
        passed += placed.decision == "passed"
    return passed


def _by_loop(action: Callable[[str, str], object], folder: Path) -> int:
    passed = 0
    for path in find_pictures([folder / "in"]):
        passes = _score(path) >= 0.5
        target = folder / ("passed" if passes else "rejected") / path.relative_to(folder / "in")
        target.parent.mkdir(parents=True, exist_ok=True)
        action(os.fspath(path), os.fspath(target))
        passed += passes
    return passed


def measure(script: str, files: int, repeats: int) -> None:
    """Print the time a file and the peak memory, by way. script: the file that runs `place` for us."""
    for mode, plain in PLAIN.items():
        with TemporaryDirectory(dir=cache_folder(), prefix="bench-folders-") as base:
            memory: dict[str, float] = {}
            first = {name: partial(_fresh, script, name, mode, Path(base), files, memory) for name in plain}
            first[OURS] = partial(_fresh, script, OURS, mode, Path(base), files, memory)
            if mode != "move":  # after a move there is nothing left to do
                first[AGAIN] = partial(_second, script, mode, Path(base), files, memory)
            times = in_turn(first, repeats, warm=0)
        print(
            f"\nfolders, {mode}, {files} files of {FILE_BYTES} bytes in folders of {A_FOLDER}, {repeats} "
            "rounds, a fresh process each, sources just written: ms a file, median (least..most)"
        )
        base_name = next(iter(plain))
        rows = []
        for name, values in times.items():
            ratios = versus(values, times[base_name], lambda own, other: own / other)
            rows.append([name, spread(values, ".3f"), spread(ratios, ".2f"), f"{memory[name]:.0f}"])
        print_table(["side", "ms a file", f"over {base_name}", "peak growth MiB"], rows)


def _fresh(
    script: str, who: str, mode: str, base: Path, files: int, memory: dict[str, float], number: int
) -> float:
    folder = _written(base / "run", files)
    return _in_process(script, who, mode, folder, files, memory)


def _second(script: str, mode: str, base: Path, files: int, memory: dict[str, float], number: int) -> float:
    folder = _written(base / "run", files)
    _in_process(script, OURS, mode, folder, files, {})
    os.sync()
    return _in_process(script, AGAIN, mode, folder, files, memory)


def _written(folder: Path, files: int) -> Path:
    """Return a folder with nothing but so many new files in it, on disk."""
    shutil.rmtree(folder, ignore_errors=True)
    content = os.urandom(FILE_BYTES - 8)
    for number in range(files):
        path = folder / "in" / f"{number // A_FOLDER:03}" / f"{number}.png"
        if number % A_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(number.to_bytes(8, "big") + content)
    os.sync()
    return folder


def _in_process(
    script: str, who: str, mode: str, folder: Path, files: int, memory: dict[str, float]
) -> float:
    """Return ms a file, and keep the largest growth of memory by side."""
    command = [sys.executable, script, "--place", who, mode, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{who} failed:\n{done.stderr[-2000:]}")
    seconds, grown, passed = map(float, done.stdout.split())
    placed = {name: sum(1 for _ in find_pictures([folder / name])) for name in ("passed", "rejected")}
    if placed != {"passed": files // 2, "rejected": files - files // 2} or passed != files // 2:
        raise RuntimeError(f"{who} ({mode}) placed {placed}, of which {passed} passed")
    memory[who] = max(grown, memory.get(who, 0.0))
    return 1e3 * seconds / files
