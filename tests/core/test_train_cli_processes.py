"""`accelerate launch` with two processes gives the curve of one with twice the batch, and ends cleanly."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from realism_core.cli import main
from realism_core.training.checkpoint import read_checkpoint
from realism_core.training.lora_file import read_tensors
from realism_core.training.metadata import read_record
from tests import diffusers_peer
from tests.core.test_train_cli import photos
from tests.core.tiny_pipelines import folder_of

LAUNCH = ("-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--multi_gpu")
LAUNCH += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a group of processes"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("processes")
    with diffusers_peer.without_torchvision():
        folder_of(diffusers_peer.diffusers(), "sd", root / "sd")
    photos(root / "photos", 7)
    yield root


def start(place: Path, name: str, *words: object) -> subprocess.Popen:
    return launched(place, "-m", "realism_core", *command_of(place, name, *words))


def launched(place: Path, *command: str) -> subprocess.Popen:
    """Start a script, or a module with its words, in two processes."""
    hidden = place / "hidden"
    hidden.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": diffusers_peer.search_path(hidden)}
    return subprocess.Popen(
        [sys.executable, *LAUNCH, *command], cwd=place, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def command_of(place: Path, name: str, *words: object) -> list[str]:
    """Return the words of a training command that writes <name>.safetensors and <name>.csv."""
    told = ("train", place / "sd", place / "photos", "-o", place / f"{name}.safetensors", "--device", "cpu")
    more = ("--losses", place / f"{name}.csv", "--resolution", 64, "--rank", 2, "--learning-rate", 0.01)
    return [*map(str, (*told, *more, "--condition-dropout", 0.3, *words))]


def alone(place: Path, name: str, *words: object) -> int:
    """Run the command in this process; returns its exit code."""
    with diffusers_peer.without_torchvision():
        return main(command_of(place, name, *words))


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def curve(place: Path, name: str) -> list[float]:
    with (place / f"{name}.csv").open(newline="") as table:
        return [float(row["loss"]) for row in csv.DictReader(table)]


def test_two_processes_give_the_curve_of_one_with_twice_the_batch(place: Path) -> None:
    options = ("--steps", 8, "--accumulation", 2, "--held-out", 1, "--weight", "p2:k=1,gamma=1")
    code, out, err = end(start(place, "two", *options, "--batch-size", 2))
    assert code == 0, err
    assert out.count("two.safetensors") == 1 and out.count("7 pictures in") == 1
    assert alone(place, "one", *options, "--batch-size", 4) == 0
    two, one = curve(place, "two"), curve(place, "one")
    assert len(two) == 8 and two == pytest.approx(one, rel=1e-5)
    mine, theirs = (read_tensors(place / f"{name}.safetensors")[0] for name in ("two", "one"))
    record = read_record(read_tensors(place / "two.safetensors")[1])
    assert record.extra == {"processes": 2} and record.batch_size == 2 and record.images == 6
    worst = max(float((mine[name] - theirs[name]).abs().max()) for name in theirs)
    assert worst <= 1e-5, worst
    print(f"curve {max(abs(a / b - 1) for a, b in zip(two, one, strict=True)):.2e}, weights {worst:.2e}")


def test_ctrl_c_saves_and_one_process_goes_on_with_twice_the_batch(place: Path) -> None:
    options = ("--steps", 400, "--batch-size", 2, "--checkpoint", "c.safetensors", "--checkpoint-every", 5)
    process = start(place, "stopped", *options)
    checkpoint = place / "c.safetensors"
    waited = time.monotonic() + 240
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < waited:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = end(process)
    assert code != 0 and (place / "stopped.safetensors").is_file(), err
    reached = read_checkpoint(checkpoint)[1]["step"]
    assert 5 <= reached < 400
    assert re.search(rf"{reached} steps of 400: saved as .*stopped.safetensors", out), out
    goal = ("--steps", reached + 5, "--batch-size", 4)
    go_on = ("--checkpoint", checkpoint, "--resume")
    assert alone(place, "resumed", *goal, *go_on) == 0 and alone(place, "whole", *goal) == 0
    resumed, whole = (read_tensors(place / f"{name}.safetensors")[0] for name in ("resumed", "whole"))
    assert max(float((resumed[name] - whole[name]).abs().max()) for name in whole) <= 1e-5
    assert curve(place, "resumed") == pytest.approx(curve(place, "whole"), rel=1e-5)


def test_what_two_processes_refuse_is_told_and_ends(place: Path) -> None:
    code, out, err = end(start(place, "large", "--steps", 2, "--batch-size", 4))
    assert code != 0 and not (place / "large.safetensors").exists()
    assert "batch_size is 4 in each of 2 processes, 8 in all, but there are only 7 images" in err


LEAVING = """
import weakref
import torch
from realism_core.commands.processes import leave_together, processes

share, _ = processes("cpu")
share.reduce(torch.ones(3))
group = weakref.ref(torch.distributed.group.WORLD)
import torch.distributed.nn  # as diffusers does
leave_together()
print("left" if group() is None else "kept", flush=True)
"""


def test_nothing_of_the_others_is_kept_at_the_end(place: Path) -> None:
    # a group kept on has threads: https://github.com/pytorch/pytorch/pull/179291 tells how they end
    script = place / "leaving.py"
    script.write_text(LEAVING, "utf-8")
    code, out, err = end(launched(place, str(script)))
    assert code == 0, err
    assert out.split() == ["left", "left"]


def test_a_launch_that_starts_one_process_instead_of_two_is_refused(place: Path, monkeypatch, capsys) -> None:
    """As accelerate launch --cpu --num_processes 2 does, silently."""
    for name, value in (("ACCELERATE_USE_CPU", "True"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    out = place / "lonely.safetensors"
    code = main(["train", str(place / "sd"), str(place / "photos"), "-o", str(out), "--steps", "1"])
    assert code == 2 and "accelerate launch --cpu starts one process, not several" in capsys.readouterr().err
