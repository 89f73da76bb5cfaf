"""The plot of a training's losses: it is drawn where the numbers say, whatever they are."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.plots import losses as plots
from realism_core.plots.canvas import PICTURE, REAL, Canvas
from realism_core.plots.losses import HELD_OUT, LEFT, MAIN, RIGHT, loss_plot
from realism_core.training.validation import BandLoss

ODD = [0.0, -1.0, math.nan, math.inf, -math.inf, 3.4e38, 1.4e-45]  # the ends of float32
NUMBER = st.one_of(st.floats(1e-6, 1e3), st.sampled_from(ODD))


def bands(losses: list[float]) -> list[BandLoss]:
    count = len(losses)
    return [BandLoss(n / count, (n + 1) / count, 1.0, loss) for n, loss in enumerate(losses)]


def near(picture: torch.Tensor, colour: tuple[int, int, int]) -> torch.Tensor:
    """Return the places [N,2], row and column, of the pixels that have a colour."""
    wanted = torch.tensor(colour) / 255
    return ((picture[0] - wanted).abs().amax(-1) < 0.12).nonzero().double()


def height_of(value: float, ends: tuple[float, float], places: tuple[int, int]) -> float:
    share = math.log(value / ends[0]) / math.log(ends[1] / ends[0])
    return places[1] - (places[1] - places[0]) * share


def texts_of(monkeypatch: pytest.MonkeyPatch, *given) -> list[str]:
    written, honest = [], Canvas.text
    monkeypatch.setattr(
        Canvas, "text", lambda canvas, x, y, text, *rest, **named: (
            written.append(text), honest(canvas, x, y, text, *rest, **named)
        )
    )  # fmt: skip
    loss_plot(*given)
    monkeypatch.undo()
    return written


@settings(max_examples=40, deadline=None)
@given(
    st.lists(NUMBER, max_size=60),
    st.integers(0, 500),
    st.lists(st.tuples(st.integers(0, 60), st.lists(NUMBER, min_size=4, max_size=4)), max_size=3),
)
def test_any_numbers_make_a_picture(losses: list, more: int, held_out: list) -> None:
    validations = [(step, bands(values)) for step, values in held_out]
    with np.errstate(all="raise", under="ignore"):
        picture = loss_plot(losses, max(1, len(losses)) + more, validations)
    assert picture.shape == (1, 500 if held_out else 300, 640, 3) and picture.dtype == torch.float32
    assert 0 <= picture.min() < 0.2 and 0.8 < picture.max() <= 1


def test_the_line_is_where_the_losses_are() -> None:
    """A loss that halves every 20 of 200 steps: a straight line from the first step to the last one made."""
    losses = [2.0 ** (-n / 20) for n in range(1, 101)]
    line = near(loss_plot(losses, 200), PICTURE)
    assert abs(line[:, 1].min() - LEFT) < 5 and abs(line[:, 1].max() - (LEFT + RIGHT) / 2) < 4
    axis = plots._range(np.asarray(losses))
    for step in (25, 50, 75):
        column = line[line[:, 1] == round(LEFT + (RIGHT - LEFT) * step / 200)]
        assert abs(column[:, 0].mean() - height_of(losses[step - 1], axis, MAIN)) < 3


def test_an_early_curve_fills_half_of_the_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [2.0 ** (-n / 20) for n in range(1, 101)]
    line = near(loss_plot(losses, 100_000), PICTURE)
    assert abs(line[:, 1].max() - (LEFT + RIGHT) / 2) < 4
    assert {"0", "100", "200", "step 100 of 100000, running median 0.0365"} <= set(
        texts_of(monkeypatch, losses, 100_000)
    )
    assert abs(near(loss_plot(losses, 100), PICTURE)[:, 1].max() - RIGHT) < 4


def test_one_loss_is_a_dot() -> None:
    dot = near(loss_plot([0.3], 1), PICTURE)
    assert 4 <= len(dot) < 60 and abs(dot[:, 1].mean() - RIGHT) < 2
    assert abs(dot[:, 0].mean() - height_of(0.3, (0.25, 0.36), MAIN)) < 2


def test_no_loss_is_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not len(near(loss_plot([], 500), PICTURE))
    assert "step 0 of 500" in texts_of(monkeypatch, [], 500)


def test_what_is_not_finite_leaves_the_rest_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [0.3, math.nan, 0.2, math.inf, 0.1]
    assert "step 5 of 9, running median 0.2" in texts_of(monkeypatch, losses, 9)
    gone = [(0, bands([1.0, 2.0])), (5, bands([1.0, math.nan]))]
    for written in (texts_of(monkeypatch, [math.nan] * 5, 9, gone), texts_of(monkeypatch, losses, 9, gone)):
        assert not any("nan" in text for text in written)
    zero = [(0, bands([0.0, 0.0])), (5, bands([0.0, 0.0]))]
    assert not any("mean" in text for text in texts_of(monkeypatch, [0.0] * 5, 9, zero))


def test_the_held_out_losses_stand_by_noise_level(monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = [0.4, 0.2, 0.1, 0.05], [0.3, 0.15, 0.075, 0.0375]
    validations = [(0, bands(first)), (50, bands([9.0] * 4)), (100, bands(last))]
    line = near(loss_plot([1.0, 1.0], 100, validations), REAL)
    line = line[line[:, 0] > HELD_OUT[0] - 1]
    axis = plots._range(np.asarray([*first, *last]))
    for number, loss in enumerate(last[1:3], 1):
        column = line[line[:, 1] == round(LEFT + (RIGHT - LEFT) * (number + 0.5) / 4)]
        assert abs(column[:, 0].mean() - height_of(loss, axis, HELD_OUT)) < 3
    written = texts_of(monkeypatch, [1.0, 1.0], 100, validations)
    assert {"mean -25.0% since step 0", "before training", "after step 100"} <= set(written)
    alone = texts_of(monkeypatch, [1.0], 100, validations[:1])
    assert "before training" in alone and not any("mean" in text for text in alone)


def test_the_running_median_is_that_of_the_steps_around() -> None:
    dice = np.random.default_rng(3)
    losses = dice.lognormal(size=1000)
    losses[::7] = np.nan
    places = np.asarray([1, 40, 500, 990, 1000])
    ours = plots._running_medians(losses, places)
    for place, median in zip(places, ours, strict=True):
        around = sorted(x for x in losses[max(0, place - 50) : place + 50] if not math.isnan(x))
        middle = len(around) // 2
        wanted = around[middle] if len(around) % 2 else (around[middle - 1] + around[middle]) / 2
        assert median == pytest.approx(wanted, rel=1e-12)


def test_a_long_training_is_drawn_quickly() -> None:
    losses = np.random.default_rng(1).lognormal(size=100_000).tolist()
    loss_plot(losses[:10], 10)  # the typeface is loaded once
    start = time.process_time()
    loss_plot(losses, 100_000, [(0, bands([1.0] * 8))])
    assert time.process_time() - start < 1
