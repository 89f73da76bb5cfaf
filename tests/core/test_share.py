"""Two processes train as one with twice the batch does, and none waits for one that is gone."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from realism_core.training.checkpoint import read_checkpoint
from realism_core.training.share import Share
from tests.core.share_peers import Case, Outcome, Processes, run
from tests.core.toy_denoisers import same_tensors


@pytest.fixture(scope="module")
def pair() -> Iterator[Processes]:
    with Processes() as processes:
        yield processes


def alone(case: Case, count: int = 2) -> Outcome:
    """Train in this process with the batch size of all."""
    return run(replace(case, settings=whole(case.settings, count)), None)


def whole(settings: dict, count: int = 2) -> dict:
    return {**settings, "batch_size": count * settings.get("batch_size", 1)}


def assert_same(one: Outcome, other: Outcome, tolerance: float) -> None:
    assert one.error == other.error == ""
    assert one.losses == pytest.approx(other.losses, rel=tolerance)
    for name, tensor in other.state.items():
        scale = max(1.0, float(tensor.abs().max()))
        assert (one.state[name] - tensor).abs().max() <= tolerance * scale, name


def random_case(seed: int) -> Case:
    dice = random.Random(seed)
    return Case(
        kind=dice.choice(["eps", "v", "flow"]),
        weight=dice.choice(["p2", "min_snr", "constant"]),
        settings={
            "steps": dice.randint(5, 12),
            "batch_size": dice.randint(1, 2),
            "accumulation": dice.randint(1, 3),
            "seed": dice.randrange(1000),
            "optimiser": dice.choice(["adamw", "sgd", "adafactor"]),
            "learning_rate": 3e-3,
            "schedule": dice.choice(["constant", "cosine"]),
            "warmup": dice.randint(0, 2),
            "clip_norm": dice.choice([0.0, 0.05, 1.0]),
            "ema_decay": dice.choice([0.0, 0.9]),
            "condition_dropout": dice.choice([0.0, 0.4]),
            "log_every": dice.randint(1, 5),
        },
        data={
            "count": dice.randint(4, 9),
            "sizes": dice.choice([(6,), (6, 8), (5, 6, 8)]),
            "masks": dice.random() < 0.5,
            "weights": dice.random() < 0.5,
        },
    )


@pytest.mark.parametrize("seed", range(12))
def test_two_processes_train_as_one_with_twice_the_batch(pair: Processes, seed: int) -> None:
    case = random_case(seed)
    first, second = pair.run(case)
    assert first.losses == second.losses and same_tensors(first.state, second.state)
    assert_same(first, alone(case), 1e-5)
    exact = replace(case, dtype=torch.float64)
    assert_same(pair.run(exact)[0], alone(exact), 1e-10)


def test_a_process_that_trained_on_its_own_half_alone_would_be_noticed() -> None:
    case = random_case(0)
    lonely = run(case, None)
    with pytest.raises(AssertionError):
        assert_same(lonely, alone(case), 1e-5)


def test_dropout_throws_other_dice_in_every_process(pair: Processes) -> None:
    case = Case(settings={"accumulation": 2}, dropout=0.5, shaky=True)
    outcomes = pair.run(case)
    numbers = [[number for number, _ in outcome.dice] for outcome in outcomes]
    assert sorted(sum(numbers, [])) == list(range(2 * 2 * 9))
    seeds = [{seed for _, seed in outcome.dice} for outcome in outcomes]
    assert not seeds[0] & seeds[1] and len(seeds[0]) == len(seeds[1]) == 9
    assert same_tensors(outcomes[0].state, pair.run(case)[1].state)


def test_one_process_alone_is_as_before() -> None:
    case = random_case(5)
    assert same_tensors(run(case, None).state, run(case, Share(0, 1, lambda tensor: 1 / 0)).state)


STOPS = {
    "stop": ("", ""),
    "interrupt": ("KeyboardInterrupt: a fault for the test", "KeyboardInterrupt: "),
    "error": (
        "ArithmeticError: a fault",
        "PeerStopped: process {} of 2 stopped.*its own message says why",
    ),
    "in error": ("ArithmeticError: a fault", "PeerStopped: process {} of 2 stopped"),
    "in memory": (
        "OutOfMemory: The memory ran out at step 5.*To fit",
        "PeerStopped: process {} of 2 stopped",
    ),
}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("what", STOPS)
def test_what_ends_one_ends_all(pair: Processes, tmp_path: Path, what: str, rank: int) -> None:
    file = tmp_path / "checkpoint.safetensors"
    step = 5 if what.startswith("in ") else 4
    case = Case(
        settings={"batch_size": 2, "accumulation": 2, "log_every": 3}, checkpoint=file, held_out=True
    )
    outcomes = pair.run(replace(case, fault=(rank, step, what)))
    for number, outcome in enumerate(outcomes):
        text = STOPS[what][number != rank].format(rank + 1)
        assert_matches(text, outcome.error)
        assert outcome.stopped == (what == "stop")
    assert [outcome.saved for outcome in outcomes] == [-1 if what == "stop" else 4, -1]
    assert read_checkpoint(file)[1]["step"] == 4
    goes_on = pair.run(replace(case, resume=[file] * 2))
    assert_same(goes_on[0], alone(case), 1e-5)
    assert same_tensors(goes_on[0].state, pair.run(replace(case, checkpoint=None))[0].state)


def assert_matches(pattern: str, text: str) -> None:
    assert re.match(pattern, text) if pattern else text == "", text


@pytest.mark.parametrize("rank", [0, 1])
def test_nan_in_one_stops_all_with_the_last_good_weights(pair: Processes, rank: int) -> None:
    case = Case(settings={"log_every": 3}, fault=(rank, 5, "in nan"))
    outcomes = pair.run(case)
    for outcome in outcomes:
        assert_matches(
            "TrainingDiverged: The loss became NaN at step 5 of 9; the weights of step 3", outcome.error
        )
    assert same_tensors(outcomes[0].state, outcomes[1].state)
    three = pair.run(Case(settings={"log_every": 3, "steps": 3}))[0]
    assert same_tensors({name: three.state[name] for name in outcomes[0].state}, outcomes[0].state)


def test_faults_at_the_ends(pair: Processes, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    # after the last step, and before the first
    one, other = pair.run(Case(fault=(1, 9, "error"), checkpoint=file))
    assert_matches("PeerStopped: process 2 of 2", one.error)
    assert one.saved == 9 and read_checkpoint(file)[1]["step"] == 9
    one, other = pair.run(Case(checkpoint=file, resume=(file, tmp_path / "gone.safetensors")))
    assert_matches("PeerStopped: process 2 of 2", one.error)
    assert_matches("CheckpointError: resume: .*gone.safetensors is not there", other.error)
    # only the first writes
    (tmp_path / "file").write_text("")
    one, other = pair.run(
        Case(settings={"checkpoint_every": 2}, checkpoint=tmp_path / "file" / "c.safetensors")
    )
    assert_matches("CheckpointError: the checkpoint .* cannot be written", one.error)
    assert_matches("PeerStopped: process 1 of 2", other.error)


def test_a_process_with_other_settings_is_refused(pair: Processes) -> None:
    for odd in ({"learning_rate": 0.5}, {"seed": 9}, {"batch_size": 2}):
        for outcome in pair.run(Case(odd=odd)):
            assert_matches(
                "ValueError: process 2 of 2 has other settings, images, weights", outcome.error
            )


def test_a_batch_larger_than_the_data_is_refused(pair: Processes) -> None:
    for outcome in pair.run(Case(settings={"batch_size": 4}, data={"count": 7})):
        assert_matches(
            "ValueError: batch_size is 4 in each of 2 processes, 8 in all, but there are only 7",
            outcome.error,
        )
    assert not pair.run(Case(settings={"batch_size": 4, "steps": 1}, data={"count": 8}))[0].error


def test_a_checkpoint_of_two_goes_on_in_one(pair: Processes, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    case = Case(settings={"batch_size": 2, "steps": 8}, dtype=torch.float64)
    assert not pair.run(replace(case, settings={**case.settings, "steps": 4}, checkpoint=file))[0].error
    assert_same(alone(replace(case, resume=[file] * 2)), alone(case), 1e-10)
    outcome = run(replace(case, resume=[file] * 2), None)
    assert_matches("CheckpointError: resume: batch_size was 4 .* is 2 now", outcome.error)


def test_three_train_as_one_too() -> None:
    case = replace(random_case(3), dtype=torch.float64)
    case.data["count"] = 7
    with Processes(3) as processes:
        for outcome in processes.run(case):
            assert_same(outcome, alone(case, 3), 1e-10)


def test_a_process_that_dies_leaves_none_waiting(tmp_path: Path) -> None:
    """Of three, gloo itself waits for its time-out; whoever started them has to end the others."""
    file = tmp_path / "checkpoint.safetensors"
    with Processes() as processes:
        first, dead = processes.run(Case(fault=(1, 4, "die"), checkpoint=file))
    assert dead is None
    assert_matches("PeerStopped: one of the 2 processes is gone, and with it", first.error)
    assert first.saved == read_checkpoint(file)[1]["step"] == 4


def test_a_rank_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="rank is 2 of 2 processes"):
        Share(2, 2, lambda tensor: None)
