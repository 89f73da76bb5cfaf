"""SIGKILL at random moments of `realism gate`, with its audit log: nothing is lost, doubled or redone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realism_core.gate.audit import read, verify
from realism_core.gate.files import PART
from realism_core.gate.record import read_record
from tests.core.gated import content

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import os, signal, sys, time
from realism_core.cli import main
from realism_core.commands import common
from realism_core.gate.audit import AuditLog
from realism_core.gate.record import Record
from realism_core.irs import Profile
from sqlalchemy import create_engine
Profile.shipped()
log = os.open("scored.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
check, append = common.check_images, Record._append
def logged(images, name):
    os.write(log, name.encode() + b"\\n")
    os.write(step, b".")
    return check(images, name)
def stepping(self, line):
    os.write(step, b".")
    return append(self, line)
common.check_images, Record._append = logged, stepping
for line in sys.stdin:  # one run a line, killed that many steps (scores, rows) and seconds later
    steps, seconds = line.split()
    steps_of_child, step = os.pipe()
    if (child := os.fork()) == 0:
        out = os.open("out.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = main(["gate", "in", *sys.argv[1:]])
        sys.stdout.flush()
        os._exit(code)
    os.close(step)
    for _ in range(int(steps)):
        if not os.read(steps_of_child, 1):
            break
    time.sleep(float(seconds))
    os.kill(child, signal.SIGKILL)  # not waited for yet, so the number is still its own
    os.close(steps_of_child)
    print(os.waitpid(child, 0)[1], flush=True)
"""
KILLS = 20


def paint(folder: Path, first: int, count: int) -> dict[str, bytes]:
    """Put small pictures in a folder and return their bytes by name; every seventh is grey."""
    made = {}
    for number in range(first, first + count):
        dice = np.random.default_rng(number)
        shape = (24, 32) if number % 7 == 0 else (24, 32, 3)
        path = folder / f"{'s/' * (number % 3 == 0)}{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dice.integers(0, 256, shape, dtype=np.uint8)).save(path)
        made[path.relative_to(folder).as_posix()] = path.read_bytes()
    return made


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.parametrize(("rule", "mode"), [("threshold", "move"), ("threshold", "copy"), ("top_k", "move")])
def test_the_command_killed_twenty_times_loses_and_repeats_nothing(
    tmp_path: Path, rule: str, mode: str
) -> None:
    dice = random.Random(f"{mode} {rule}")
    tree = paint(tmp_path / "in", 0, 30)
    told = ("--metric", "irs", "--rule", rule, "--value", "1" if rule == "threshold" else "15")
    words = ("--passed", "good", "--rejected", "odd", "--audit", "log.sqlite", "--purpose", "a test")
    helper = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *told, f"--{mode}", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    killed = 0
    with helper:
        while killed < KILLS:
            if not whole(tmp_path / "in"):
                tree |= paint(tmp_path / "in", len(tree), 10)
            print(dice.randrange(12), dice.uniform(0, 0.02), file=helper.stdin, flush=True)
            if os.WIFSIGNALED(status := int(helper.stdout.readline())):
                killed += 1
            else:
                assert os.WEXITSTATUS(status) == 0, (tmp_path / "out.txt").read_text()
                tree |= paint(tmp_path / "in", len(tree), 10)
            check_whole(tmp_path, tree, mode)
        known = recorded(tmp_path)
        if not whole(tmp_path / "in"):
            tree |= paint(tmp_path / "in", len(tree), 10)
        print(10**9, 1, file=helper.stdin, flush=True)
        assert helper.stdout.readline() == "0\n", (tmp_path / "out.txt").read_text()
        helper.stdin.close()
    out = [whole(tmp_path / side) for side in ("good", "odd")]
    assert not out[0].keys() & out[1].keys()
    assert out[0] | out[1] == tree
    assert whole(tmp_path / "in") == (tree if mode == "copy" else {})
    assert not list(tmp_path.rglob(f"*{PART}"))
    assert recorded(tmp_path) == set(tree)
    # what was in work at a kill is scored again, nothing else
    scored = (tmp_path / "scored.log").read_text().splitlines()
    assert len(scored) - len(set(scored)) <= killed
    if mode == "copy":
        assert f"\n{len(known)} scores reused from the record\n" in (tmp_path / "out.txt").read_text()
    verdict = verify(tmp_path / "log.sqlite")
    assert verdict.intact, verdict.problems
    logged = [entry.parsed for entry in read(tmp_path / "log.sqlite")]
    facts = [(record["source"], record["decision"], record["file"]) for record in logged]
    assert len(facts) == len(set(facts))
    assert {Path(source).relative_to(tmp_path / "in").as_posix() for source, *_ in facts} == set(tree)
    last = {source: file for source, _, file in facts}
    for source, file in last.items():
        assert Path(file).read_bytes() == tree[Path(source).relative_to(tmp_path / "in").as_posix()]


def whole(folder: Path) -> dict[str, bytes]:
    files = content(folder) if folder.exists() else {}
    return {name: data for name, data in files.items() if not name.endswith(PART)}


def recorded(base: Path) -> set[str]:
    if not (base / "realism-gate.csv").exists():
        return set()
    rows = [row["path"] for row in read_record(base / "realism-gate.csv") if row["path"]]
    return {Path(path).relative_to(base / "in").as_posix() for path in rows}


def check_whole(base: Path, tree: dict[str, bytes], mode: str) -> None:
    """Check that no picture is lost or damaged, and that one at most stands between two places."""
    at_source = whole(base / "in")
    out = [whole(base / side) for side in ("good", "odd")]
    for name, data in tree.items():
        places = [held[name] for held in (at_source, *out) if name in held]
        assert places and all(held == data for held in places)
    assert sum(map(len, out)) == len(out[0] | out[1])
    both = at_source.keys() & (out[0] | out[1]).keys()
    assert mode == "copy" or len(both) <= 1
    assert len(list(base.rglob(f"*{PART}"))) <= 1
    if (base / "log.sqlite").exists():
        assert verify(base / "log.sqlite").intact
