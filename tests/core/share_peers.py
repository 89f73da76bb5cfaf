"""Processes of their own that train together over gloo, and what they are told to do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from realism_core.training.data import Dataset
from realism_core.training.loop import Progress, Result, StopAndKeep, train
from realism_core.training.settings import TrainSettings
from realism_core.training.share import Share
from realism_core.training.weighting import LossWeight
from tests.core.toy_denoisers import TEXT, ToyDenoiser, toy_adapters, toy_data

FAULTS = {
    "stop": StopAndKeep, "interrupt": KeyboardInterrupt, "error": ArithmeticError, "memory": MemoryError,
}  # fmt: skip
PATIENCE = 60


@dataclass(frozen=True)
class Case:
    """A training; settings: TrainSettings without steps' default. data: options of `example_data`.

    fault: (rank, step, what): one of FAULTS in on_step, "nan", "memory" or "error" within the prediction
    with "in " before it, or "die". odd: settings that rank 1 has instead.
    """

    kind: str = "eps"
    dtype: torch.dtype = torch.float32
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    dropout: float = 0.0
    shaky: bool = False
    weight: str = "constant"
    fault: tuple[int, int, str] | None = None
    odd: dict[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    resume: Sequence[Path | None] = (None, None, None)
    held_out: bool = False


@dataclass
class Outcome:
    """What one process made of a case; dice: number and seed of each pass with gradient."""

    state: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    held_out: list = field(default_factory=list)
    steps: int = -1
    stopped: bool = False
    saved: int = -1
    error: str = ""
    dice: list[tuple[int | None, int]] = field(default_factory=list)


def example_data(
    count: int = 7, sizes: Sequence[int] = (6,), masks: bool = False, weights: bool = False
):
    """Return toy data of which every second image has a mask, every third another weight."""
    examples = list(toy_data(count, sizes).examples)
    for index, example in enumerate(examples):
        if masks and index % 2:
            generator = torch.Generator().manual_seed(index)
            mask = torch.rand(example.latent.shape[-2:], generator=generator)
            examples[index] = examples[index]._replace(mask=mask)
        if weights:
            examples[index] = examples[index]._replace(weight=(1.0, 0.25, 3.0)[index % 3])
    return Dataset(examples, buckets=len(sizes) > 1)


def run(case: Case, share: Share | None) -> Outcome:
    """Train as one process of several, or alone."""
    rank = share.rank if share else 0
    denoiser = ToyDenoiser(case.kind, case.dtype)
    denoiser.shaky = case.shaky
    adapters = toy_adapters(denoiser, dropout=case.dropout)
    options = {"steps": 9, "learning_rate": 1e-2, **case.settings, **(case.odd if rank else {})}
    settings, outcome = TrainSettings(**options), Outcome()
    now = [0]

    def on_step(progress: Progress) -> None:
        now[0] = progress.step
        if case.fault and case.fault[:2] == (rank, progress.step):
            if case.fault[2] == "die":
                os._exit(1)
            if case.fault[2] in FAULTS:
                raise FAULTS[case.fault[2]]("a fault for the test")

    honest = denoiser.predict

    def predict(noisy: Tensor, sigma: Tensor, conditioning: Sequence[Tensor]) -> Tensor:
        if torch.is_grad_enabled():
            outcome.dice.append((next(iter(adapters.layers.values())).number, torch.initial_seed()))
        prediction = honest(noisy, sigma, conditioning)
        if case.fault and case.fault[:2] == (rank, now[0] + 1) and torch.is_grad_enabled():
            if case.fault[2] == "in nan":
                return prediction * float("nan")
            if case.fault[2].startswith("in "):
                raise FAULTS[case.fault[2].removeprefix("in ")]("a fault for the test")
        return prediction

    denoiser.predict = predict  # type: ignore[method-assign]

    def save(result: Result) -> None:
        outcome.saved = result.steps

    try:
        result = train(
            denoiser, adapters, example_data(**case.data), settings,
            LossWeight(case.weight, normalise=False, mode="exact"), empty_conditioning=torch.zeros(TEXT),
            held_out=toy_data(2, seed=5) if case.held_out else None, checkpoint=case.checkpoint,
            resume=case.resume[rank], save=save, on_step=on_step, share=share,
        )  # fmt: skip
        outcome.state, outcome.losses, outcome.held_out = result.state, result.losses, result.held_out
        outcome.steps, outcome.stopped = result.steps, result.stopped
    except BaseException as error:
        outcome.error = f"{type(error).__name__}: {error}"
        outcome.state = {
            name: tensor.detach().clone() for name, tensor in adapters.state_dict().items()
        }
    return outcome


class Processes:
    """Two processes that train cases together; as a context, ends them."""

    def __init__(self, count: int = 2) -> None:
        context = mp.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        meeting = os.path.join(self._folder.name, "meeting")
        pipes = [context.Pipe() for _ in range(count)]
        self._ends = [here for here, _ in pipes]
        self.processes = [
            context.Process(target=_serve, args=(rank, count, meeting, there), daemon=True)
            for rank, (_, there) in enumerate(pipes)
        ]
        for process in self.processes:
            process.start()

    def run(self, case: Case) -> list[Outcome | None]:
        """Return each process's outcome, None of one that died; fails where one waits for ever."""
        for end in self._ends:
            end.send(case)
        outcomes: list[Outcome | None] = []
        for rank, end in enumerate(self._ends):
            assert end.poll(PATIENCE) or not self.processes[rank].is_alive(), f"process {rank} hangs"
            try:
                outcomes.append(end.recv())
            except EOFError:
                outcomes.append(None)
        return outcomes

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def gloo_sum(tensor: Tensor) -> None:
    dist.all_reduce(tensor)


def _serve(rank: int, count: int, meeting: str, end: Any) -> None:
    torch.set_num_threads(1)
    torch.multiprocessing.set_sharing_strategy("file_system")
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    share = Share(rank, count, gloo_sum)
    while True:
        end.send(run(end.recv(), share))
