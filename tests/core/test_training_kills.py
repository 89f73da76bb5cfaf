"""SIGKILL at random moments of one training: resumed to its end, it gives the uninterrupted run's bits."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from realism_core.training.checkpoint import read_checkpoint
from tests.core.toy_denoisers import same_tensors

ROOT = Path(__file__).resolve().parents[2]
STEPS, KILLS = 110, 20

TRAINING = """
import os, signal, sys, time
from pathlib import Path
import torch
import torch._dynamo  # an optimiser's first step would, in every child
from realism_core.training.loop import train
from realism_core.training.settings import TrainSettings
from tests.core.toy_denoisers import TEXT, ToyDenoiser, toy_adapters, toy_data

torch.set_num_threads(1)
steps = int(sys.argv[1])

def run(path, on_step):
    denoiser = ToyDenoiser("v")
    denoiser.shaky = True
    settings = TrainSettings(
        steps, batch_size=2, accumulation=2, learning_rate=5e-3, schedule="cosine", warmup=9,
        ema_decay=0.99, condition_dropout=0.2, log_every=7, checkpoint_every=2, validate_every=50,
    )
    train(
        denoiser, toy_adapters(denoiser, dropout=0.2), toy_data(7, (6, 8)), settings, checkpoint=path,
        resume=path if path.exists() else None, empty_conditioning=torch.zeros(TEXT),
        held_out=toy_data(2, seed=5), on_step=on_step,
    )

for line in sys.stdin:  # a run a line: its file and, if it is to be killed, after which step and seconds
    name, *words = line.split()
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reader)
        run(Path(name), lambda progress: os.write(writer, b"%d\\n" % progress.step))
        os._exit(0)
    os.close(writer)
    reached = -1
    while (not words or reached < int(words[0])) and (news := os.read(reader, 65536)):
        reached = int(news.split()[-1])
    if words:
        time.sleep(float(words[1]))
        os.kill(child, signal.SIGKILL)  # not waited for yet, so the number is still its own
    os.close(reader)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_twenty_kills_change_no_bit(tmp_path: Path) -> None:
    dice = random.Random(5)
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(STEPS)],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    def end(line: str) -> int:
        print(line, file=process.stdin, flush=True)
        return int(process.stdout.readline())

    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    kills, reached = 0, []
    with process:
        # from before the end of step 1 on; the last third is room for runs that go on until their kill
        for step in sorted(dice.randrange(STEPS * 2 // 3) for _ in range(KILLS)):
            kills += os.WIFSIGNALED(end(f"{killed.name} {step} {dice.uniform(0, 0.006)}"))
            reached.append(read_checkpoint(killed)[1]["step"] if killed.exists() else 0)
        assert end(killed.name) == end(whole.name) == 0
        process.stdin.close()
    assert kills == KILLS
    assert reached == sorted(reached) and len(set(reached)) > KILLS // 3 and reached[-1] < STEPS
    (expected, told), (tensors, also_told) = read_checkpoint(whole), read_checkpoint(killed)
    assert also_told == told
    assert told["step"] == STEPS and len(expected["losses"]) == STEPS
    assert {name.split("/")[0] for name in expected} == {"lora", "ema", "optimiser", "losses"}
    assert same_tensors(tensors, expected)
    assert sorted(file.name for file in tmp_path.iterdir()) == [killed.name, whole.name]
