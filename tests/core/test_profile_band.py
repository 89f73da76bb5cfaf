"""The band of real photographs: what the profile says against the pictures it was fitted to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.evidence import score_table
from realism_core.irs import DEFINITIONS, Measures, Profile, real_bands
from realism_core.irs.pentagon import measures_of, radii
from tests.core.textures import scenes

COUNT = 20
LEVELS = (0.05, 0.95)
NAMES = Measures._fields
PLACED = [f"{kind}_{name}" for kind in ("radius", "percentile") for name in NAMES]


@pytest.fixture(scope="module", params=DEFINITIONS)
def fitted(request: pytest.FixtureRequest) -> tuple[Profile, dict[str, np.ndarray]]:
    """A profile of random textures, and every column of the very same pictures."""
    images = torch.from_numpy(scenes(COUNT, 64, 72, seed=5))
    profile = Profile.fit(images, request.param, name="textures")
    names = ["irs", "typicality", *PLACED, *NAMES]
    table = score_table(images, names, profile, definition=request.param)
    assert profile.skipped == 0 and not table.values.isnan().any()
    bands = real_bands(profile)
    assert all(column.real == bands.get(column.name) for column in table.columns)
    return profile, {name: table[name].numpy() for name in names}


@pytest.mark.parametrize("name", ["irs", *(f"radius_{name}" for name in NAMES)])
def test_irs_and_radii_are_the_percentiles_of_the_pictures(fitted, name: str) -> None:
    """The profile keeps these percentiles themselves: equal but for rounding."""
    profile, values = fitted
    np.testing.assert_allclose(real_bands(profile)[name], np.quantile(values[name], LEVELS), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_measures_lie_between_the_two_pictures_next_to_the_percentile(fitted, name: str) -> None:
    """Exact for pictures, but between two of them it interpolates 1 / measure where that is the radius."""
    profile, values = fitted
    found = real_bands(profile).get(name)
    if profile.definition == "reference" and name == "mean_spectrum":
        assert found is None, "its radius has lost the sign"
        return
    below, above = (np.quantile(values[name], LEVELS, method=method) for method in ("lower", "higher"))
    assert (found >= below * (1 - 1e-12)).all() and (found <= above * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", [f"percentile_{name}" for name in NAMES])
def test_percentiles_run_from_5_to_95_percent(fitted, name: str) -> None:
    """A rank among 101 levels is at most one level off, and equal values share the middle of theirs."""
    profile, values = fitted
    assert real_bands(profile)[name] == LEVELS
    largest_tie = np.unique(values[name], return_counts=True)[1].max()
    tolerance = 0.01 + largest_tie / COUNT
    np.testing.assert_allclose(np.quantile(values[name], LEVELS), LEVELS, atol=tolerance)


def test_typicality_of_new_pictures_of_the_same_kind_runs_from_5_to_95_percent() -> None:
    """A conformal p-value is uniform over new pictures, so the same share of them passes.

    Of 300 pictures against a profile of 60, the share beyond a level has a deviation of
    sqrt(p (1 - p) (1 / 300 + 1 / 60)), 0.031 at 5 %: three of them are allowed.
    """
    profile = Profile.fit(torch.from_numpy(scenes(60, 64, 72, seed=5)))
    assert real_bands(profile)["typicality"] == LEVELS
    images = torch.from_numpy(scenes(300, 64, 72, seed=77))
    values = score_table(images, ["typicality"], profile)["typicality"].numpy()
    assert abs((values < 0.05).mean() - 0.05) < 3 * 0.031
    assert abs((values > 0.95).mean() - 0.05) < 3 * 0.031


def test_other_columns_have_no_band() -> None:
    image = torch.from_numpy(scenes(1, 64, 72, seed=5))
    having = {column.name for column in score_table(image).columns if column.real}
    assert having == set(real_bands(Profile.shipped()))
    assert having == {"irs", "typicality", *NAMES[:4], *PLACED}
    assert set(real_bands(Profile.shipped("paper"))) == having | {"mean_spectrum"}
    for definition in DEFINITIONS:
        for name, (low, high) in real_bands(Profile.shipped(definition)).items():
            assert 0 <= low < high < np.inf, name


@settings(deadline=None)
@given(
    st.lists(st.floats(1e-3, 1e4), min_size=5, max_size=5),
    st.lists(st.floats(1e-2, 1e3), min_size=5, max_size=5),
    st.sampled_from(DEFINITIONS),
)
def test_radii_are_turned_back_into_their_measures(measures: list, means: list, definition: str) -> None:
    measured = torch.tensor([measures], dtype=torch.float64)
    means = torch.tensor(means, dtype=torch.float64)
    again = measures_of(radii(measured, definition, means), definition, means)
    told = 4 if definition == "reference" else 5
    np.testing.assert_allclose(again[:, :told], measured[:, :told], rtol=1e-12)
    assert again[:, told:].isnan().all()
