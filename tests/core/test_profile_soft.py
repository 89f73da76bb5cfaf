"""The soft references in a profile: fitted with it, kept in its file, absent from older files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from realism_core.commands.common import scorer_digest
from realism_core.irs import Profile, score
from realism_core.irs.profile import SHIPPED
from realism_core.irs.soft_reference import SoftReference, fit_soft_reference
from tests.core.textures import scenes

DEFINITIONS = ("reference", "paper")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(scenes(7, 140, 150))


def equal(one: SoftReference, other: SoftReference) -> bool:
    return one.to_dict() == other.to_dict()


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_profile_holds_what_its_pictures_crops_measure(definition: str, images: torch.Tensor) -> None:
    profile = Profile.fit(iter(images.split(3)), definition)
    assert sorted(profile.soft) == [64, 128]  # no crop of 256 fits
    for side in profile.soft:
        assert equal(profile.soft_reference(side), fit_soft_reference(images, side))
    assert profile.soft[64].count == 7 * 4


def test_soft_references_survive_the_file(images: torch.Tensor, tmp_path: Path) -> None:
    profile = Profile.fit(images)
    path = profile.save(tmp_path / "profile.json")
    loaded = Profile.load(path)
    assert all(equal(loaded.soft[side], profile.soft[side]) for side in (64, 128)) and len(loaded.soft) == 2
    assert loaded.save(tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_files_without_soft_references_still_load_and_say_what_they_lack(
    images: torch.Tensor, tmp_path: Path
) -> None:
    profile = Profile.fit(images, name="old one")
    path = profile.save(tmp_path / "old.json")
    data = json.loads(path.read_text())
    assert data["version"] == 1  # older versions of the pack read new files too
    del data["soft"]
    path.write_text(json.dumps(data))
    old = Profile.load(path)
    ours, theirs = (score(images, profile=one).typicality for one in (profile, old))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)
    assert old.soft == {} and "soft" not in old.to_dict()
    with pytest.raises(ValueError, match=r"'old one' holds no soft reference.*anew, or give photographs"):
        old.soft_reference(64)
    # runs over a folder go on where they were: their scores are the same
    assert scorer_digest("reference", old) == scorer_digest("reference", profile)


def test_a_side_that_was_not_fitted_is_refused_with_those_that_were(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"crop is 96 pixels.*crops of 64, 128 pixels.*or give photographs"):
        Profile.fit(images).soft_reference(96)


def test_pictures_that_are_too_small_leave_a_profile_without() -> None:
    assert Profile.fit(torch.from_numpy(scenes(6, 40, 40))).soft == {}


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_the_shipped_profiles_hold_three(definition: str) -> None:
    profile = Profile.shipped(definition)
    assert sorted(profile.soft) == [64, 128, 256]
    for side, reference in profile.soft.items():
        assert reference.side == side and reference.count == 616 and (reference.spread > 0).all()
    # real photographs' crops have more variance the larger they are
    assert profile.soft[64].mean[3] < profile.soft[128].mean[3] < profile.soft[256].mean[3]
    assert (SHIPPED / f"photographs-{definition}.json").stat().st_size < 60_000
