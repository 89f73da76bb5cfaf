"""What the measures ask of a device: how often the host waits, and that no loop runs over the pictures.

Counted on the CPU by dispatch mode, with the accelerators' block size and paths patched in.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from realism_core import blocks
from realism_core.irs import canny, measure
from realism_core.irs.profile import Profile
from realism_core.irs.score import score
from tests.core.textures import scenes, texture

# an accelerator's host waits for each of these: it needs a value, or the size of the result
WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "bincount",
    "masked_select",
    "equal",
    "unique",
    "_unique2",
    "unique_consecutive",
)
# Finiteness, candidates, peaks, strong ones, what they hold on to, edges, co-occurrence, the mask: at most
# one each. Hysteresis asks once in canny.ROUNDS_PER_CHECK rounds; pointer jumping ends in about
# log2(longest edge) rounds.
FIXED_WAITS = 8
HYSTERESIS_WAITS = 4


class Counting(TorchDispatchMode):
    """Counts operators by name, and the host's waits among them."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter = Counter()
        self.waits: Counter = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.operators[name] += 1
        if name in WAITING:
            self.waits[name] += 1
        if name in ("index", "index_put", "index_put_"):
            self.waits["bool " + name] += any(i is not None and i.dtype == torch.bool for i in args[1])
        return function(*args, **(kwargs or {}))


def counted(name: str, counting: Counting):
    """Return the tensor's method, counting its calls."""
    method = getattr(torch.Tensor, name)

    def call(self, *args, **kwargs):
        counting.waits[name] += 1
        return method(self, *args, **kwargs)

    return call


def count(call, monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Run the call as on an accelerator; methods that hand tensors to the host count too."""
    with monkeypatch.context() as patch:
        patch.setattr(canny, "_hysteresis", canny._pointer_hysteresis)
        patch.setattr(canny, "_positions", lambda mask: torch.nonzero(mask.view(-1)).squeeze(1))
        patch.setattr(blocks, "CPU_PIXELS", blocks.DEVICE_PIXELS)
        counting = Counting()
        for name in ("numpy", "tolist", "cpu", "__array__"):
            patch.setattr(torch.Tensor, name, counted(name, counting))
        with counting:
            call()
    return counting


def pictures(batch: int, side: int = 64) -> torch.Tensor:
    """The same picture again and again, so that the content asks for the same number of rounds."""
    return (
        torch.from_numpy(texture("blurred", 3, side, side))
        .float()
        .div(255)
        .expand(batch, -1, -1, -1)
        .contiguous()
    )


def spiral(side: int) -> torch.Tensor:
    """One weak line that winds inwards, strong at its outer end only: hysteresis goes the longest way."""
    picture = np.zeros((side, side, 3), np.uint8)
    low, high = 2, side - 3
    while high - low > 12:
        picture[low, low - 6 if low > 6 else low : high] = picture[low:high, high] = 30
        picture[high, low : high + 1] = picture[low + 6 : high + 1, low] = 30
        low, high = low + 6, high - 6
    picture[2, 2:6] = 200
    return torch.from_numpy(picture)[None]


@pytest.fixture(scope="module")
def profiles() -> dict[str, Profile]:
    images = torch.from_numpy(scenes(6, 200, 200))
    return {definition: Profile.fit(images, definition) for definition in ("reference", "paper")}


@pytest.mark.parametrize("definition", ["reference", "paper"])
def test_the_host_waits_as_often_for_eight_pictures_as_for_one(definition, profiles, monkeypatch) -> None:
    one, eight = (
        count(lambda batch=batch: score(pictures(batch), definition, profiles[definition]), monkeypatch).waits
        for batch in (1, 8)
    )
    assert one == eight
    assert 3 <= one.total() <= FIXED_WAITS + HYSTERESIS_WAITS, one


@pytest.mark.parametrize("definition", ["reference", "paper"])
def test_eight_pictures_take_the_operators_of_two(definition, profiles, monkeypatch) -> None:
    """No Python loop over pictures, masked or not; a batch of one needs no offsets between pictures."""
    for mask in (None, torch.ones(64, 64)) if definition == "reference" else (None,):
        one, two, eight = (
            count(
                lambda n=n, m=mask: score(pictures(n), definition, profiles[definition], m), monkeypatch
            ).operators
            for n in (1, 2, 8)
        )
        assert two == eight, (two - eight, eight - two)
        assert eight.total() - one.total() <= 20, (one - eight, eight - one)


def test_the_way_of_a_spiral_asks_the_host_only_a_few_times_more(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = spiral(512)[..., 0]
    edges = canny.canny_edges(grey)
    assert edges[0, 250:260, 220:290].any(), "the strong end must be felt in the middle"
    weak = grey.clone()
    weak[weak == 200] = 30
    assert not canny.canny_edges(weak).any(), "without it nothing is an edge"
    short = count(lambda: measure(pictures(1, 128)), monkeypatch).waits.total()
    waits = count(lambda: measure(spiral(512)), monkeypatch).waits.total()
    assert waits <= short + HYSTERESIS_WAITS


def test_a_loop_over_pictures_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter's own check: scoring one by one multiplies the waits."""
    images = pictures(8)
    together = count(lambda: measure(images), monkeypatch)
    alone = count(lambda: [measure(image[None]) for image in images], monkeypatch)
    assert alone.waits.total() >= 4 * together.waits.total()
    assert alone.operators.total() >= 4 * together.operators.total()
