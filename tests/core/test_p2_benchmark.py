"""benchmarks/p2.py on synthetic pictures: it runs, resumes, compares fairly, and its numbers are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import _p2_runs, p2
from benchmarks._p2_data import Pictures, cut
from benchmarks._p2_features import distance, kernel
from benchmarks._p2_model import SIDE, SmallDenoiser, sample
from benchmarks._p2_runs import QUICK, TINY, WEIGHTINGS, Runs, fingerprint
from benchmarks._p2_statistics import Distances, estimate, loss_ratios
from realism_core.training.weighting import LossWeight

SMALL = replace(TINY, rates=(1e-3, 3e-3), seeds=(0, 1), samples=3)


def drawn(count: int, side: int = SIDE, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (side, side, 3)
    return [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(count)]


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    people = [drawn(2, seed=seed) for seed in range(1, 14)]
    return Pictures(drawn(9, 2 * SIDE), people[:8], people[8:10], people[10:])


def pooled(shown: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(shown.float() / 255, 8).flatten(1)


def test_the_whole_runs_and_a_second_time_trains_nothing(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(p2, "fingerprint", lambda: "the code of this test")
    p2.report(SMALL, pictures, tmp_path, pooled)
    first = capsys.readouterr()
    made = sorted(tmp_path.iterdir())
    p2.report(SMALL, pictures, tmp_path, pooled)
    second = capsys.readouterr()
    assert first.out == second.out and sorted(tmp_path.iterdir()) == made
    assert first.err.count("seed 1") >= len(WEIGHTINGS) and not second.err
    rows = [line for line in first.out.splitlines() if line[:1].isdigit() and ".." in line]
    assert len(rows) == SMALL.bands and all(row.count("[") == len(p2.PAIRS) for row in rows)
    assert "nan" not in first.out
    assert first.out.count(">") == len(WEIGHTINGS) + 1  # the rate chosen for each, and the head that says so


def test_runs_of_a_seed_differ_in_the_weighting_alone(pictures, tmp_path, monkeypatch):
    """P2 with gamma 0 is constant: it comes to the same adapters bit by bit."""
    monkeypatch.setitem(WEIGHTINGS, "flat", LossWeight("p2", {"gamma": 0.0}))
    runs = Runs(TINY, cut(pictures, 2), tmp_path, code="", told=False)
    constant, flat, p2_run = (runs.run(name, 1e-2, 0) for name in ("constant", "flat", "P2"))
    assert constant.keys() == flat.keys()
    assert all(torch.equal(constant[name], flat[name]) for name in constant)
    assert not torch.equal(constant["test"], p2_run["test"])
    assert not torch.equal(constant["test"], runs.run("constant", 1e-2, 1)["test"])
    assert runs.losses_before().shape == constant["test"].shape == (len(pictures.test), TINY.bands)


def test_the_fingerprint_is_of_what_the_code_does(monkeypatch):
    first = fingerprint()
    assert fingerprint() == first
    monkeypatch.setattr(_p2_runs, "sample", lambda denoiser, noise, steps: -noise)
    assert fingerprint() != first


def test_comfyuis_loss_is_the_squared_error_of_x0():
    objective = SmallDenoiser(8).objective
    weight = objective.prepare(WEIGHTINGS["ComfyUI's x0"], SmallDenoiser(8).sigmas)
    sigma = torch.tensor([0.03, 0.7, 14.0], dtype=torch.float64)
    noise, error = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eps_error = error.square().mean()
    # x0 = sample - sigma eps, so an error of eps is one of x0 times sigma
    x0_errors = torch.stack([(-s * (noise + error) + s * noise).square().mean() for s in sigma])
    ratio = objective.weights(weight, sigma) * eps_error / x0_errors
    assert torch.allclose(ratio, ratio[:1].expand(3), rtol=1e-9)
    assert ratio[0] > 0


def test_no_person_is_in_two_parts(pictures):
    parts = cut(pictures, 2)
    shown = [
        {example.latent.numpy().tobytes() for data in datas for example in data.examples}
        for datas in ([parts.training], parts.validation, parts.test)
    ]
    assert [len(some) for some in shown] == [32, 4, 6]  # those of training mirrored too
    assert not (shown[0] & shown[1] or shown[0] & shown[2] or shown[1] & shown[2])
    assert len(parts.start) == 18 and parts.start.examples[0].latent.shape == (3, SIDE, SIDE)
    faces = torch.stack([example.latent for example in parts.test[0].examples])
    assert torch.equal(parts.pixels(faces), torch.stack([p.movedim(-1, 0) for p in pictures.test[0]]))


def test_the_sampler_arrives_where_a_perfect_model_says(monkeypatch):
    """For pictures of variance s^2 x grows as sqrt(s^2 + sigma^2) on the exact path."""
    denoiser, spread = SmallDenoiser(8), 0.5
    monkeypatch.setattr(
        denoiser, "predict", lambda x, sigma, _: x * (sigma / (sigma**2 + spread**2))[:, None, None, None]
    )
    noise = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    highest = float(denoiser.sigmas(torch.tensor(1.0, dtype=torch.float64)))
    exact = noise * highest * spread / (spread**2 + highest**2) ** 0.5
    made = [sample(denoiser, noise, steps, batch=1) for steps in (50, 400)]
    errors = [float((some - exact).norm() / exact.norm()) for some in made]
    assert errors[1] < 0.01 and errors[1] < errors[0] / 4


def test_the_kernel_distance_against_plain_loops():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (5, 7))
    b += 1

    def k(x, y):
        return (float(x @ y) / 4 + 1) ** 3

    within = [np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    expected = sum(within) - 2 * np.mean([k(x, y) for x in a for y in b])
    assert distance(kernel(a, a), kernel(a, b), kernel(b, b)) == pytest.approx(expected, rel=1e-9)
    # counts stand for copies that are never paired with themselves
    v = torch.tensor([2.0, 0, 1, 0, 1], dtype=torch.float64)
    chosen = [0, 2, 4]
    pairs = [(v[i] * v[j], k(a[i], a[j])) for i in chosen for j in chosen if i != j]
    expected = float(sum(w * value for w, value in pairs) / sum(w for w, _ in pairs)) + within[1]
    expected -= 2 * np.average([np.mean([k(x, y) for y in b]) for x in a], weights=v)
    assert distance(kernel(a, a), kernel(a, b), kernel(b, b), v) == pytest.approx(expected, rel=1e-9)


def test_intervals_hold_the_seeds_and_the_people():
    by_seed = np.array([0.1, 0.2, 0.4])
    low, high = stats.t.interval(0.95, 2, by_seed.mean(), stats.sem(by_seed))
    assert estimate(by_seed, np.full(9, 0.2)) == pytest.approx((by_seed.mean(), low, high))
    people = np.linspace(-5, 5, 1001)
    assert estimate(by_seed, people) == pytest.approx((by_seed.mean(), -4.75, 4.75))


def test_loss_ratios_are_paired_by_person():
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(3, 14, 2, generator=generator, dtype=torch.float64) * 10 + 0.01
    factors = torch.tensor([0.5, 2.0], dtype=torch.float64)
    first, second, geometric, plain = loss_ratios(reference * factors, reference)
    # a person whose loss is large is so on both sides: nothing is left to be uncertain about
    assert first == pytest.approx((0.5, 0.5, 0.5)) and second == pytest.approx((2, 2, 2))
    assert geometric == pytest.approx((1, 1, 1))
    assert plain.low < plain.value < plain.high
    by_seed = reference.mean(1)
    expected = (by_seed @ factors / by_seed.sum(1)).log().mean().exp()
    assert plain.value == pytest.approx(float(expected))


def test_distances_are_paired_by_noise():
    generator = torch.Generator().manual_seed(0)
    real, made = (torch.randn(20, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    distances = Distances(real, torch.arange(10).repeat_interleave(2))
    same = distances.less([made, made + 0.1, made], [made, made + 0.1, made])
    assert same == (0, 0, 0)
    far = distances.less([made + 3, made + 3.1, made + 2.9], [made, made, made])
    assert 0 < far.low < far.value < far.high
    assert far.value == pytest.approx(
        np.mean([distances.plain(made + shift) for shift in (3, 3.1, 2.9)]) - distances.plain(made)
    )


def test_missing_pictures_are_told_with_the_fix(monkeypatch, capsys):
    def missing(_):
        raise p2.SetupError("No pictures. Fetch them with: python -m devtools.pictures")

    monkeypatch.setattr(p2, "read_pictures", missing)
    assert p2.main([]) == 1
    assert "devtools.pictures" in capsys.readouterr().err


def test_a_start_that_was_cut_off_goes_on_to_the_same_weights(pictures, tmp_path, monkeypatch):
    parts = cut(pictures, 2)
    whole = Runs(QUICK, parts, tmp_path / "whole", code="", told=False).start
    runs = Runs(QUICK, parts, tmp_path / "cut", code="", told=False)
    monkeypatch.setattr(_p2_runs, "train", interrupted(_p2_runs.train, after=13))
    with pytest.raises(KeyboardInterrupt):
        _ = runs.start
    monkeypatch.undo()
    assert list((tmp_path / "cut").glob("*.checkpoint"))
    resumed = runs.start
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert not list((tmp_path / "cut").glob("*.checkpoint"))


def interrupted(train, after):
    def stopped(*arguments, **options):
        def stop(progress):
            if progress.step == after:
                raise KeyboardInterrupt

        return train(*arguments, **options, on_step=stop)

    return stopped
