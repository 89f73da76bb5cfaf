"""SIGKILL at random moments of a gate on files: every picture stays whole and in one place."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from realism_core.gate.files import PART
from realism_core.gate.record import read_record
from tests.core.gated import content, put

ROOT = Path(__file__).resolve().parents[2]

KILLED = """
import os, signal, sys, time
from pathlib import Path
from realism_core.gate.folders import FolderGate
base = Path(sys.argv[1])
for line in sys.stdin:  # one run a line, in a process of its own that is killed after that many seconds
    if (child := os.fork()) == 0:
        paths = sorted((base / "in").rglob("*.png"))
        gate = FolderGate([base / "in"], base / "passed", base / "rejected", "threshold", 0.5, mode="move")
        for placed in gate.place((path, len(path.name) % 2) for path in paths):
            pass
        os._exit(0)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)  # not waited for yet, so the number is still its own
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_sigkill_at_any_moment_of_a_move_loses_nothing(tmp_path: Path) -> None:
    dice = random.Random(2)
    tree = {f"{'s/' * (i % 2)}{i}.png": dice.randbytes(dice.randrange(1, 400_000)) for i in range(80)}
    for name, data in tree.items():
        put(tmp_path / "in" / name, data)
    helper = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    killed = 0
    with helper:
        for patience in range(200):
            # longer and longer, so that the last run finishes on a slow machine too
            print(dice.uniform(0.002, 0.05) + 0.01 * max(0, patience - 30), file=helper.stdin, flush=True)
            status = int(helper.stdout.readline())
            killed += os.WIFSIGNALED(status)
            check_after_kill(tmp_path, tree)
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0
                break
        helper.stdin.close()
    assert killed >= 3
    assert not content(tmp_path / "in")
    assert {**content(tmp_path / "passed"), **content(tmp_path / "rejected")} == tree


def check_after_kill(base: Path, tree: dict[str, bytes]) -> None:
    """Check that each picture is whole at its source, its target or both, and that the record agrees."""
    at_source = content(base / "in")
    out = [content(base / name) if (base / name).exists() else {} for name in ("passed", "rejected")]
    parts = [name for side in out for name in side if name.endswith(PART)]
    targets = {name: data for side in out for name, data in side.items() if not name.endswith(PART)}
    assert len(parts) <= 1
    assert len(targets) + len(parts) == sum(map(len, out))
    for name, data in tree.items():
        assert at_source.get(name, data) == data
        assert targets.get(name, data) == data
        assert name in at_source or name in targets
    if (base / "realism-gate.csv").exists():
        rows = list(read_record(base / "realism-gate.csv"))
        recorded = {Path(row["path"]).relative_to(base / "in").as_posix() for row in rows}
        assert set(targets) - recorded <= set(at_source)
        assert recorded <= set(targets)
