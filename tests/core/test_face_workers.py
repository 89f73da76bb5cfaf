"""Faces read by processes of their own, killed, and never many in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from realism_core.training import faces_prepare
from realism_core.training.faces_files import find_faces
from realism_core.training.faces_read import Reading, Task, read_faces
from tests.core import face_trees as trees
from tests.core.test_face_prepare import cut_short, prepare, shards

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces_prepare, "PER_SHARD", 4)


def test_workers_read_the_same_in_the_same_order(tmp_path: Path) -> None:
    root = trees.celebamask(tmp_path / "a", range(9))
    cut_short(root / trees.IMAGES / "4.jpg")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    tasks = [Task(face, 32, 16) for face in find_faces(root, "celebamask-hq").faces]
    alone, apart = list(read_faces(tasks)), list(read_faces(tasks, workers=2))
    assert len(alone) == len(apart) == 9
    for one, other in zip(alone, apart, strict=True):
        assert isinstance(other, Reading) and one.problems == other.problems
        assert one.attributes == other.attributes
        for place in range(2):
            assert (one[place] is None) == (other[place] is None)
            assert one[place] is None or np.array_equal(one[place], other[place])
    assert torch.equal(torch.get_rng_state(), before)


KILLED = """
import sys, time
from pathlib import Path
from realism_core.training import faces_prepare
from tests.core import test_face_prepare as tests

if __name__ == "__main__":
    faces_prepare.PER_SHARD = 4
    tests.prepare(
        Path(sys.argv[1]), Path(sys.argv[2]), tests.FaceSettings(32, 16, int(sys.argv[3])),
        step=lambda: (time.sleep(0.1), print("face", flush=True)),
    )
"""


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("workers", [0, 1])
def test_after_a_kill_the_shards_become_the_same(tmp_path: Path, workers: int) -> None:
    root, cache = trees.celebamask(tmp_path / "a", range(14)), tmp_path / "cache"
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(root), str(cache), str(workers)]
    running = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    for _ in range(10):
        assert running.stdout.readline() == "face\n"
    running.send_signal(signal.SIGKILL)
    running.wait()
    names = sorted(path.name for path in cache.rglob("*.safetensors"))
    assert names == ["faces-00000.safetensors", "faces-00001.safetensors"]
    made = prepare(root, cache)
    assert (made.encoded, made.found) == (6, 8)
    assert shards(cache) == shards(prepare(root, tmp_path / "fresh").cache.folder)
    deadline = time.monotonic() + 20
    while alive(running.pid):
        assert time.monotonic() < deadline, "a worker outlives the process that started it"
        time.sleep(0.2)


def alive(session: int) -> bool:
    """Whether a process of the session is still there."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            return True
    return False


def test_memory_does_not_grow_with_the_number_of_faces(tmp_path: Path, small_shards: None) -> None:
    """What is held at once is a few faces, not the data set."""
    root = trees.celebamask(tmp_path / "a", range(40))
    made = prepare(root, tmp_path / "cache")
    reads, read = [], made.cache.read
    made.cache.read = lambda shard: reads.append(shard) or read(shard)
    iterator = iter(made)
    next(iterator)
    assert reads == [0]
    assert sum(1 for _ in iterator) == 39
    assert reads == list(range(10))
    started = []

    def tasks():
        for face in find_faces(root, "celebamask-hq").faces:
            started.append(face.name)
            yield Task(face, 32, 16)

    for workers, ahead in ((0, 1), (1, 5)):
        started.clear()
        readings = read_faces(tasks(), workers)
        next(readings)
        assert len(started) <= ahead
        readings.close()
