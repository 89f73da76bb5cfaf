"""Radii and area: the checks of science.md 1.2, both definitions, and when there is no score."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.recipe import recipe_area, recipe_irs, recipe_radii
from realism_core.irs import Profile, measure, score
from realism_core.irs.pentagon import check_definition, pentagon_area, radii
from tests.core.textures import TEXTURES, photographs, texture

DEFINITIONS = ("reference", "paper")
REFERENCE_MEANS = (0.11623, 418.309, 0.04643, 3317.952377, 96.773)
POSITIVE = st.floats(1e-3, 1e6)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


@pytest.fixture(scope="module")
def profiles() -> dict[str, Profile]:
    images = torch.from_numpy(
        np.stack([rgb[:256, :256] for name, rgb in photographs().items() if min(rgb.shape[:2]) > 255])
    )
    return {definition: Profile.fit(images, definition, "test") for definition in DEFINITIONS}


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_all_radii_one(definition: str) -> None:
    area = pentagon_area(row(1, 1, 1, 1, 1), definition).item()
    assert area == pytest.approx(2.377641, abs=5e-7)
    assert area == pytest.approx(2.5 * math.sin(math.radians(72)), rel=1e-14)


def test_features_at_the_reference_means() -> None:
    area = pentagon_area(radii(row(*REFERENCE_MEANS), "reference"), "reference").item()
    assert area == pytest.approx(4.302, abs=5e-4)


def test_measures_at_the_papers_means_have_radius_one() -> None:
    means = torch.tensor([0.1, 300.0, 0.002, 900.0, 5000.0], dtype=torch.float64)
    assert radii(means[None], "paper", means).tolist() == [[1.0] * 5]


@settings(deadline=None)
@given(*[POSITIVE] * 5)
def test_areas_by_hand(a: float, b: float, c: float, d: float, e: float) -> None:
    half_sine = 0.9510565162951535 / 2
    reference = pentagon_area(row(a, b, c, d, e), "reference").item()
    assert reference == pytest.approx(half_sine * (a * b + a * e + b * d + c * d + e * c), rel=1e-12)
    paper = pentagon_area(row(a, b, c, d, e), "paper").item()
    assert paper == pytest.approx(half_sine * (a * b + b * c + c * d + d * e + e * a), rel=1e-12)
    assert reference == pytest.approx(recipe_area((a, b, c, d, e)), rel=1e-12)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 65025), st.floats(1e-5, 1), st.floats(1e-3, 16256), st.floats(-368, 300))
def test_reference_radii_by_hand(
    ced: float, contrast: float, energy: float, variance: float, spectrum: float
) -> None:
    found = radii(row(ced, contrast, energy, variance, spectrum), "reference")[0].tolist()
    assert found == pytest.approx(
        [
            ced / 0.11623 / 0.637340,
            contrast / 418.309 / 0.43478,
            0.04643 / energy / 1.03037,
            3317.952377 / variance / 1.1126,
            abs(spectrum) / 96.773 / 1.01640,
        ],
        rel=1e-12,
    )
    assert found == pytest.approx(recipe_radii((ced, contrast, energy, variance, spectrum)), rel=1e-12)


@settings(deadline=None)
@given(st.lists(POSITIVE, min_size=5, max_size=5), st.lists(POSITIVE, min_size=5, max_size=5))
def test_paper_radii_by_hand(m: list[float], mean: list[float]) -> None:
    found = radii(row(*m), "paper", torch.tensor(mean, dtype=torch.float64))[0].tolist()
    expected = [m[0] / mean[0], m[1] / mean[1], mean[2] / m[2], mean[3] / m[3], mean[4] / m[4]]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_score_is_the_recipes_score(definition: str, profiles: dict[str, Profile]) -> None:
    means = tuple(profiles[definition].means.tolist())
    for name in ("astronaut", "chelsea cropped", "coffee enlarged", "rocket"):
        rgb = photographs()[name]
        if definition == "paper":
            rgb = texture("blurred", 3, 512, 512) if name != "astronaut" else rgb
        found = score(torch.from_numpy(rgb.copy())[None], definition, profiles[definition])
        assert found.irs.item() == pytest.approx(recipe_irs(rgb, definition, means), rel=1e-5)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_batch_scores_bit_for_bit_like_its_pictures(definition: str, profiles: dict[str, Profile]) -> None:
    images = torch.from_numpy(np.stack([texture(kind, seed, 60, 77) for kind in TEXTURES for seed in (1, 2)]))
    together = score(images, definition, profiles[definition])
    for index in range(len(images)):
        alone = score(images[index : index + 1], definition, profiles[definition])
        for field in ("irs", "radii", "typicality", "percentiles", "flat", "colourless"):
            whole, single = getattr(together, field)[index], getattr(alone, field)[0]
            assert torch.equal(whole.nan_to_num(-1), single.nan_to_num(-1)), (field, index, whole, single)


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("size", [(3, 3), (100, 101), (777, 1111)], ids=str)
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (254, 254, 254), (10, 200, 30)], ids=str)
def test_flat_pictures_have_no_score(
    definition: str, size: tuple, colour: tuple, profiles: dict[str, Profile]
) -> None:
    images = torch.empty(1, *size, 3, dtype=torch.uint8)
    images[:] = torch.tensor(colour, dtype=torch.uint8)
    found = score(images, definition, profiles[definition])
    assert found.flat.tolist() == [True]
    assert math.isnan(found.irs.item())
    assert math.isnan(found.radii[0, 3].item()) and math.isnan(found.percentiles[0, 3].item())


def test_colourless_pictures_have_no_reference_score(profiles: dict[str, Profile]) -> None:
    grey = torch.from_numpy(photographs()["astronaut"][..., :1].copy())[None]
    found = score(torch.cat((grey, grey)), "reference", profiles["reference"])
    assert found.colourless.tolist() == [True, True] and found.flat.tolist() == [False, False]
    assert found.irs.isnan().all() and found.typicality.isnan().all()
    assert found.radii.isnan().tolist() == [[False] * 4 + [True]] * 2
    found = score(grey, "paper", profiles["paper"])
    assert torch.isfinite(found.irs).all() and not found.colourless.any()


def test_one_bad_picture_does_not_touch_its_neighbours(profiles: dict[str, Profile]) -> None:
    good = torch.from_numpy(photographs()["chelsea"].copy())[None]
    batch = torch.cat((torch.zeros_like(good), good, good[..., :1].expand_as(good)))
    found = score(batch, profile=profiles["reference"])
    assert found.irs.isnan().tolist() == [True, False, True]
    assert found.irs[1] == score(good, profile=profiles["reference"]).irs[0]


def test_unknown_definitions_and_missing_means_are_refused() -> None:
    with pytest.raises(ValueError, match="definition is 'papers'; use one of reference, paper"):
        check_definition("papers")
    with pytest.raises(ValueError, match="means are needed"):
        radii(row(1, 1, 1, 1, 1), "paper")
    with pytest.raises(ValueError, match="mask works with definition 'reference' only"):
        measure(torch.zeros(1, 8, 8, 3), "paper", torch.ones(8, 8))
