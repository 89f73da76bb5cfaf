"""What a training says of memory before it starts."""

from __future__ import annotations

import pytest
from torch import nn

from realism_core.training.memory import (
    MemoryEstimate,
    OutOfMemory,
    activation_bytes,
    refuse_what_cannot_fit,
    what_may_run_out,
    what_to_lower,
    what_to_shrink,
)
from realism_core.training.settings import TrainSettings

MIB = 2**20
NEEDS = MemoryEstimate(
    model=900 * MIB, trained=MIB, gradients=MIB, optimiser=2 * MIB, ema=MIB, last_good=2 * MIB, batch=3 * MIB
)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


def network(blocks: int) -> nn.Module:
    module = nn.Module()
    module.blocks = nn.ModuleList(Block() for _ in range(blocks))
    return module


def test_the_model_may_be_elsewhere_the_rest_may_not() -> None:
    settings = TrainSettings(10)
    assert NEEDS.beside_model == 10 * MIB and NEEDS.total == 910 * MIB
    refuse_what_cannot_fit(NEEDS, settings, 10 * MIB)
    with pytest.raises(OutOfMemory, match="10.0 MiB beside the model, .* only 9.9 MiB are free") as told:
        refuse_what_cannot_fit(NEEDS, settings, 9.9 * MIB)
    assert what_to_shrink(settings) in str(told.value)
    with pytest.raises(OutOfMemory, match="only 0.0 MiB are free"):
        refuse_what_cannot_fit(NEEDS, settings, -5.0 * MIB)


def test_a_rough_figure_warns_only_where_it_is_too_much() -> None:
    settings = TrainSettings(10, batch_size=4)
    enough = what_may_run_out(NEEDS, 90 * MIB, settings, 100 * MIB)
    assert enough == "Roughly 90.0 MiB, of 100.0 MiB that are free."
    short = what_may_run_out(NEEDS, 91 * MIB, settings, 100 * MIB)
    assert short.startswith("Roughly 91.0 MiB, of 100.0 MiB that are free. If memory runs out: lower batch")


@pytest.mark.parametrize(("blocks", "recompute", "times"), [(12, False, 14), (12, True, 3), (0, False, 3)])
def test_all_blocks_keep_their_activations_unless_recomputed(
    blocks: int, recompute: bool, times: int
) -> None:
    assert activation_bytes(network(blocks), 1000.0, recompute) == 1000.0 * times


def test_advice_names_only_what_is_not_done_yet() -> None:
    lean = TrainSettings(10, optimiser="adafactor", recompute=True, precision="bf16")
    assert what_to_shrink(lean) == "lower the LoRA's rank, or choose targets of fewer layers"
    assert what_to_lower(lean) == f"train at a lower resolution, or {what_to_shrink(lean)}"
    rich = what_to_lower(TrainSettings(10, batch_size=2, ema_decay=0.9))
    for word in ("batch_size", "recompute", "bf16", "rank", "adafactor", "ema_decay"):
        assert word in rich
