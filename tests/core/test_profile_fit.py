"""Fitting a profile: Welford, shrinkage, leave-one-out, typicality, against independent forms."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from realism_core.irs import Measures, Profile, measure, score
from realism_core.irs.distribution import STORED_DISTANCES, StreamingFit, features
from tests.core.textures import scenes, texture

MIXING = np.array(
    [[1, 0, 0, 0, 0], [0.8, 0.5, 0, 0, 0], [-0.3, 0.2, 0.7, 0, 0], [0, 0, 0.4, 1, 0], [1, 2, 3, 4, 9.0]]
)
CENTRE = np.array([-2.0, 5.0, -3.0, 8.0, 97.0])


def draws(count: int, seed: int = 0) -> np.ndarray:
    return CENTRE + np.random.default_rng(seed).standard_normal((count, 5)) @ MIXING.T


def fitted(rows: np.ndarray, capacity: int = 10_000) -> StreamingFit:
    fit = StreamingFit(5, capacity)
    for part in np.array_split(rows, max(1, len(rows) // 64)):
        fit.update(torch.from_numpy(part))
    return fit


def oas(rows: np.ndarray) -> float:
    """The OAS weight of the correlations: Chen, Wiesel, Eldar and Hero (2010), eq. 23."""
    n, p = rows.shape
    s = np.corrcoef(rows.T)
    top = (1 - 2 / p) * np.trace(s @ s) + np.trace(s) ** 2
    below = (n + 1 - 2 / p) * (np.trace(s @ s) - np.trace(s) ** 2 / p)
    return min(1.0, top / below)


def shrunk(covariance: np.ndarray, weight: float) -> np.ndarray:
    return (1 - weight) * covariance + weight * np.diag(np.diag(covariance))


@settings(deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(2, 40), st.just(3)), elements=st.floats(-1e3, 1e3)),
    st.lists(st.integers(0, 40), max_size=6),
)
def test_streaming_is_numpys_mean_and_covariance_for_any_split(rows: np.ndarray, cuts: list[int]) -> None:
    fit = StreamingFit(3)
    for part in np.split(rows, sorted(min(cut, len(rows)) for cut in cuts)):
        fit.update(torch.from_numpy(part))
    assert fit.count == len(rows)
    np.testing.assert_allclose(fit.mean.numpy(), rows.mean(0), rtol=1e-10, atol=1e-9)
    covariance = fit.scatter.numpy() / (len(rows) - 1)
    np.testing.assert_allclose(
        covariance, np.cov(rows.T), rtol=1e-10, atol=1e-10 * (np.abs(rows).max() ** 2 + 1)
    )


def test_streaming_keeps_small_spread_beside_a_large_mean() -> None:
    rows = draws(500) * 1e-3 + 1e5
    fit = fitted(rows)
    np.testing.assert_allclose(fit.scatter.numpy() / 499, np.cov((rows - 1e5).T), rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("count", [6, 12, 40, 700])
def test_covariance_is_shrunk_by_the_oas_weight(count: int) -> None:
    rows = draws(count)
    found = fitted(rows).distribution()
    np.testing.assert_allclose(found.mean.numpy(), rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance.numpy(), shrunk(np.cov(rows.T), oas(rows)), rtol=1e-9)


def test_uncorrelated_features_are_shrunk_to_a_diagonal_and_equal_pictures_get_a_floor() -> None:
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 5)).reshape(5, -1).T
    found = fitted(corners).distribution()
    np.testing.assert_allclose(found.covariance.numpy(), np.diag(np.diag(found.covariance)), atol=1e-15)
    same = fitted(np.tile(CENTRE, (9, 1))).distribution()
    assert (same.covariance.diagonal() > 0).all() and torch.isfinite(same.distances).all()


@pytest.mark.parametrize("count", [6, 15, 80])
def test_stored_distances_leave_their_own_picture_out(count: int) -> None:
    rows = draws(count, seed=count)
    weight = oas(rows)
    expected = []
    for index in range(count):
        others = np.delete(rows, index, 0)
        offset = rows[index] - others.mean(0)
        expected.append(offset @ np.linalg.solve(shrunk(np.cov(others.T), weight), offset))
    np.testing.assert_allclose(fitted(rows).distribution().distances.numpy(), np.sort(expected), rtol=1e-8)


def test_distance_is_mahalanobis() -> None:
    found = fitted(draws(200)).distribution()
    rows = draws(7, seed=1)
    offsets = rows - found.mean.numpy()
    expected = np.einsum("ni,ij,nj->n", offsets, np.linalg.inv(found.covariance.numpy()), offsets)
    np.testing.assert_allclose(found.distance(torch.from_numpy(rows)).numpy(), expected, rtol=1e-8)


@pytest.mark.parametrize("count", [30, 400, 3000])
def test_typicality_of_new_draws_is_uniform(count: int) -> None:
    """Conformal: 1 in 20 real pictures lies below 0.05, whatever the number fitted."""
    values = []
    for seed in range(1 if count > 1000 else 40):
        found = fitted(draws(count, seed=100 + seed)).distribution()
        values.append(
            found.typicality(torch.from_numpy(draws(60 if count < 1000 else 2000, seed=900 + seed))).numpy()
        )
    pooled = np.concatenate(values)
    # p-values come in steps of 1 / (count + 1)
    assert stats.kstest(pooled, "uniform").statistic < 0.03 + 1 / count
    assert 0.03 < (pooled < 0.05).mean() < 0.075


def test_typicality_counts_the_stored_distances() -> None:
    found = fitted(draws(50)).distribution()
    rows = torch.from_numpy(np.concatenate((draws(20, seed=2), CENTRE[None] + 1e4, found.mean.numpy()[None])))
    distances = found.distance(rows).numpy()
    expected = [(1 + (found.distances.numpy() >= distance).sum()) / 51 for distance in distances]
    np.testing.assert_allclose(found.typicality(rows).numpy(), expected, rtol=1e-12)
    assert found.typicality(rows)[-2:].tolist() == [1 / 51, 1.0]
    assert found.typicality(torch.full((1, 5), torch.nan, dtype=torch.float64)).isnan().all()


def test_many_rows_keep_constant_memory_and_an_even_sample() -> None:
    rows = draws(30_000)
    rows[:, 0] = np.arange(30_000)
    fit = fitted(rows, capacity=2_000)
    assert fit.count == 30_000 and len(fit.rows) == 2_000
    assert fit.sample().shape == (2_000, 5)
    places = fit.sample()[:, 0].numpy() / 30_000
    assert len(np.unique(places)) == 2_000
    assert stats.kstest(places, "uniform").pvalue > 0.001
    # rows of the sample own their storage: a view would keep every batch alive
    assert max(row.untyped_storage().nbytes() for row in fit.rows) == 5 * 8
    assert len(fit.distribution().distances) <= STORED_DISTANCES


def test_more_distances_than_are_stored_keep_their_quantiles() -> None:
    rows = draws(4_000)
    found = fitted(rows).distribution()
    assert found.count == 4_000 and len(found.distances) == STORED_DISTANCES
    assert (found.distances.diff() >= 0).all()
    spread = torch.quantile(found.distances, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(spread, stats.chi2(5).ppf([0.1, 0.5, 0.9]), rtol=0.06)


def test_features_are_floored_logs_and_the_plain_spectrum() -> None:
    table = torch.tensor(
        [[0.0, 0.0, 1.0, 0.0, -368.0], [0.1, 400.0, 0.04, 3000.0, 97.0]], dtype=torch.float64
    )
    expected = table.clone()
    expected[:, :4] = torch.log(table[:, :4] + torch.tensor([1e-3, 1.0, 0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(features(table), expected, rtol=1e-12, atol=0)
    assert torch.isfinite(features(table)).all()
    torch.testing.assert_close(features(Measures(*table.unbind(1))), features(table))


@pytest.mark.parametrize(("definition", "side"), [("reference", 128), ("paper", 256)])
def test_both_blurred_and_over_sharpened_photographs_are_untypical(definition: str, side: int) -> None:
    profile = Profile.fit(
        torch.from_numpy(scenes(40 if definition == "paper" else 100, side, side)), definition
    )
    held = scenes(24 if definition == "paper" else 60, side, side, seed=1)
    blurred = np.stack([cv2.GaussianBlur(rgb, (0, 0), 2.5) for rgb in held])
    sharp = np.stack([cv2.addWeighted(rgb, 4.0, cv2.GaussianBlur(rgb, (0, 0), 1.0), -3.0, 0) for rgb in held])
    plain, soft, hard = (
        score(torch.from_numpy(each), definition, profile) for each in (held, blurred, sharp)
    )
    assert plain.typicality.median() > 0.2
    assert soft.typicality.median() < plain.typicality.median() / 2
    assert hard.typicality.median() < plain.typicality.median() / 2
    if definition == "reference":  # the raw score goes one way with both
        assert soft.irs.median() < plain.irs.median() < hard.irs.median()


def test_profile_holds_the_means_and_quantiles_of_its_pictures() -> None:
    images = torch.from_numpy(scenes(12, 70, 90))
    seen = []
    profile = Profile.fit(images.split(5), on_batch=seen.append)
    table = torch.stack(tuple(measure(images)), 1).numpy()
    assert (profile.count, profile.skipped, profile.size, seen) == (12, 0, None, [5, 10, 12])
    np.testing.assert_allclose(profile.means.numpy(), table.mean(0), rtol=1e-12)
    scores = score(images, profile=profile)
    levels = np.linspace(0, 1, 101)
    np.testing.assert_allclose(
        profile.radius_quantiles.numpy(), np.quantile(scores.radii.numpy(), levels, axis=0).T, rtol=1e-9
    )
    np.testing.assert_allclose(
        profile.irs_quantiles.numpy(), np.quantile(scores.irs.numpy(), levels), rtol=1e-9
    )
    np.testing.assert_allclose(scores.percentiles.amin(0), 0, atol=1e-12)
    np.testing.assert_allclose(scores.percentiles.amax(0), 1, atol=1e-12)


def test_percentiles_rise_with_the_radius() -> None:
    profile = Profile.fit(torch.from_numpy(scenes(12, 128, 128)))
    grid = torch.linspace(-1, 60, 4001, dtype=torch.float64)[:, None].expand(-1, 5)
    ranks = profile.percentiles(grid)
    assert (ranks.diff(dim=0) >= 0).all()
    assert ranks[0].tolist() == [0.0] * 5 and ranks[-1].tolist() == [1.0] * 5
    middle = profile.percentiles(profile.radius_quantiles[:, 50][None])
    np.testing.assert_allclose(middle.numpy(), 0.5, atol=1e-9)
    assert profile.percentiles(torch.full((1, 5), torch.nan, dtype=torch.float64)).isnan().all()


def test_a_radius_that_most_pictures_share_is_no_tail() -> None:
    """A domain without a single edge: having none is its middle, not further out than all of it."""
    soft = np.stack([cv2.GaussianBlur(texture("blurred", seed, 70, 90), (0, 0), 6) for seed in range(8)])
    profile = Profile.fit(torch.from_numpy(soft))
    assert profile.radius_quantiles[0].tolist() == [0.0] * 101
    assert 0.05 < score(torch.from_numpy(soft[:1]), profile=profile).percentiles[0, 0] < 0.95


def test_flat_and_colourless_pictures_are_left_out_of_a_fit() -> None:
    good = torch.from_numpy(scenes(6, 70, 90))
    odd = torch.stack((torch.zeros_like(good[0]), good[0, ..., :1].expand(-1, -1, 3)))
    mixed = Profile.fit(torch.cat((good, odd)))
    assert (mixed.count, mixed.skipped) == (6, 2)
    assert torch.equal(mixed.means, Profile.fit(good).means)
    assert Profile.fit(torch.cat((good, odd)), "paper").skipped == 1


def test_too_few_pictures_are_refused() -> None:
    images = torch.from_numpy(scenes(4, 40, 40))
    with pytest.raises(ValueError, match=r"at least 5 usable pictures, got 4 .*add photographs"):
        Profile.fit(images)
    with pytest.raises(ValueError, match=r"got 0 \(9 flat or colourless"):
        Profile.fit(torch.zeros(9, 20, 20, 3))
    with pytest.raises(ValueError, match="at least 3 pictures"):
        fitted(draws(2)).distribution()
