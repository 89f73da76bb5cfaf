"""Profiles as files: round trip, stability, what is refused and in which words; and the shipped ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from realism_core.irs import Profile, score, typicality_map
from realism_core.irs.profile import SHIPPED, VERSION
from tests.core.textures import photographs, scenes, texture

DEFINITIONS = ("reference", "paper")


@pytest.fixture(scope="module")
def fitted() -> dict[str, Profile]:
    images = torch.from_numpy(scenes(7, 140, 150))
    return {
        definition: Profile.fit(images, definition, f"test {definition}", "seeded noise")
        for definition in DEFINITIONS
    }


def numbers(profile: Profile) -> list[np.ndarray]:
    parts = [profile.whole, *(profile.tiles[side] for side in sorted(profile.tiles))]
    tensors = [profile.means, profile.radius_quantiles, profile.irs_quantiles]
    tensors += [tensor for part in parts for tensor in (part.mean, part.covariance, part.distances)]
    return [tensor.numpy() for tensor in tensors]


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_saved_profile_loads_equal_to_nine_digits_and_saves_the_same_bytes(
    definition, fitted, tmp_path: Path
) -> None:
    profile = fitted[definition]
    path = profile.save(tmp_path / "new folder" / "profile.json")
    loaded = Profile.load(path)
    for name in ("name", "definition", "size", "count", "skipped", "source"):
        assert getattr(loaded, name) == getattr(profile, name)
    assert sorted(loaded.tiles) == sorted(profile.tiles) and profile.tiles
    for before, after in zip(numbers(profile), numbers(loaded), strict=True):
        np.testing.assert_allclose(after, before, rtol=5.1e-9)
    assert loaded.save(tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert profile.save(path).read_bytes() == (tmp_path / "again.json").read_bytes()
    assert [each.name for each in path.parent.iterdir()] == ["profile.json"], "no part file is left"


def test_two_fits_of_the_same_pictures_are_the_same_bytes(tmp_path: Path) -> None:
    images = torch.from_numpy(scenes(6, 70, 70))
    first, second = (Profile.fit(images.split(2)).save(tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_a_loaded_profile_scores_like_the_fitted_one(fitted, tmp_path: Path) -> None:
    images = torch.from_numpy(scenes(4, 90, 80, seed=1))
    profile = fitted["reference"]
    before, after = (
        score(images, profile=p) for p in (profile, Profile.load(profile.save(tmp_path / "p.json")))
    )
    assert torch.equal(before.irs, after.irs)
    torch.testing.assert_close(before.typicality, after.typicality, rtol=0, atol=1e-6)
    torch.testing.assert_close(before.percentiles, after.percentiles, rtol=0, atol=1e-6)


def set_at(data: dict, path: tuple, value: object) -> None:
    for key in path[:-1]:
        data = data[key]
    data[path[-1]] = value


DAMAGES = {
    "soft references are a list": (("soft",), [1]),
    "soft reference under another side": (("soft", "64", "side"), 128),
    "soft reference without spread": (("soft", "64", "spread"), [0.0] * 5),
    "soft reference of another version": (("soft", "64", "version"), 9),
    "NaN inside": (("means", 2), math.nan),
    "infinity inside": (("whole", "mean", 0), math.inf),
    "a word for a number": (("whole", "mean", 0), "much"),
    "truncated means": (("means",), [1.0, 2.0]),
    "truncated quantiles": (("irs_quantiles",), [0.0] * 100),
    "a row too few": (("radius_quantiles",), [[0.0] * 101] * 4),
    "ragged covariance": (("whole", "covariance", 1), [1.0]),
    "no distances": (("whole", "distances"), []),
    "no whole": (("whole",), None),
    "unknown definition": (("definition",), "poem"),
    "count is no number": (("count",), "many"),
    "count of nothing": (("count",), 0),
    "negative variance": (("whole", "covariance", 0, 0), -1.0),
    "singular covariance": (("whole", "covariance"), [[0.0] * 5] * 5),
    "unsorted distances": (("whole", "distances", 0), 1e9),
    "unsorted quantiles": (("irs_quantiles", 0), 1e9),
    "tile of no side": (("tiles",), {"many": {}}),
    "tiles are a list": (("tiles",), [1]),
    "tile of nothing": (("tiles", "64"), None),
    "infinite count": (("count",), math.inf),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_profiles_are_refused_by_name(damage: str, fitted, tmp_path: Path) -> None:
    data = json.loads(json.dumps(fitted["reference"].to_dict()))
    set_at(data, *DAMAGES[damage])
    path = tmp_path / "harmed.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"harmed\.json is damaged .*fit it again or restore the file"):
        Profile.load(path)


@pytest.mark.parametrize(
    "key", ["name", "definition", "size", "count", "whole", "means", "radius_quantiles", "tiles"]
)
def test_missing_parts_are_refused_by_name(key: str, fitted, tmp_path: Path) -> None:
    data = fitted["reference"].to_dict()
    del data[key]
    path = tmp_path / "harmed.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"harmed\.json is damaged .*{key}.*fit it again"):
        Profile.load(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"format": "realism-profile", "ver', "cannot be read .*fit it again or restore"),
        (b"", "cannot be read .*fit it again or restore"),
        (b"\xff\xfe\x00broken", "cannot be read .*fit it again or restore"),
        (b"[1, 2, 3]", "is no realism profile .*choose another file"),
        (b'{"format": "something else"}', "is no realism profile .*choose another file"),
        (
            b'{"format": "realism-profile", "version": 99}',
            "is of version 99, this pack reads version .*fit it again",
        ),
        (b'{"format": "realism-profile"}', "is of version None"),
        (b"[" * 100_000, "cannot be read"),
    ],
    ids=["cut off", "empty", "no text", "a list", "other JSON", "newer", "no version", "deep nesting"],
)
def test_files_that_are_no_profiles_are_refused_by_name(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"odd\.json {words}"):
        Profile.load(path)


def test_missing_files_and_folders_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"absent\.json does not exist: check the name, or fit a profile first"
    ):
        Profile.load(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="cannot be read"):
        Profile.load(tmp_path)


def test_profiles_of_another_definition_or_size_are_refused(fitted) -> None:
    from dataclasses import replace

    images = torch.from_numpy(texture("blurred", 1, 64, 64))[None]
    with pytest.raises(
        ValueError, match="'test paper' was fitted with definition 'paper'.*set definition to 'paper'"
    ):
        score(images, "reference", fitted["paper"])
    with pytest.raises(ValueError, match="'test reference' was fitted with definition 'reference'"):
        score(images, "paper", fitted["reference"])
    with pytest.raises(ValueError, match="fitted at short side 256.*measures at 512: fit the profile again"):
        score(images, "paper", replace(fitted["paper"], size=256))
    with pytest.raises(ValueError, match="measures at native size"):
        score(images, "reference", replace(fitted["reference"], size=512))


def test_a_map_needs_tiles_and_says_so(fitted) -> None:
    images = torch.from_numpy(texture("blurred", 1, 64, 64))[None]
    bare = Profile.fit(torch.from_numpy(scenes(5, 40, 40)))
    assert not bare.tiles
    with pytest.raises(ValueError, match="holds no tiles.*Fit it on larger photographs"):
        typicality_map(images, profile=bare, tile=32, stride=16)
    with pytest.raises(ValueError, match="tile is 128 pixels, larger than the pictures"):
        typicality_map(images, profile=fitted["reference"])


def test_a_map_shows_where_a_picture_is_unlike_the_profile() -> None:
    crops = [
        photographs()["astronaut"][top : top + 256, left : left + 256]
        for top in (0, 128, 256)
        for left in (0, 128, 256)
    ]
    profile = Profile.fit(torch.from_numpy(np.stack(crops)))
    harmed = photographs()["astronaut"][:256, :256].copy()
    harmed[:128, :128] = texture("noise", 0, 128, 128)
    found = typicality_map(torch.from_numpy(harmed)[None], profile=profile, tile=64, stride=32)[0]
    assert found.shape == (256, 256)
    assert found[:96, :96].min() > found[160:, 160:].nanmean() + 0.2
    seen = found[~found.isnan()]
    assert seen.min() >= 0 and seen.max() <= 1


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_the_shipped_profile_knows_photographs(definition: str) -> None:
    profile = Profile.shipped(definition)
    assert profile.definition == definition and profile.count >= 100
    assert profile.source and "unnamed" not in profile.name
    assert set(profile.tiles) == {64, 128, 256}
    assert (profile.radius_quantiles.diff(dim=1) >= 0).all() and (profile.irs_quantiles.diff() >= 0).all()
    typical = [
        score(torch.from_numpy(photographs()[name].copy())[None], definition).typicality.item()
        for name in ("astronaut", "chelsea", "coffee", "rocket")
    ]
    assert sum(value > 0.05 for value in typical) >= 3, typical
    noise = score(torch.from_numpy(texture("noise", 0, 512, 512))[None], definition)
    assert noise.typicality.item() < 0.05


def test_shipped_files_are_small_and_of_this_version() -> None:
    for definition in DEFINITIONS:
        path = SHIPPED / f"photographs-{definition}.json"
        assert path.stat().st_size < 400_000
        assert json.loads(path.read_text(encoding="utf-8"))["version"] == VERSION


def test_a_value_shared_by_many_pictures_ranks_in_their_middle(fitted) -> None:
    """Else a picture without edges would look below all of a domain that has none."""
    from dataclasses import replace

    quantiles = fitted["reference"].radius_quantiles.clone()
    quantiles[0], quantiles[1, :41] = 0, 0
    profile = replace(fitted["reference"], radius_quantiles=quantiles)
    found = profile.percentiles(torch.zeros(1, 5, dtype=torch.float64))[0]
    assert found.tolist() == [0.5, 0.2, 0, 0, 0]
    spread = profile.percentiles(quantiles.T.contiguous())[:, 2:]
    torch.testing.assert_close(spread, torch.linspace(0, 1, 101, dtype=torch.float64)[:, None].expand(-1, 3))
