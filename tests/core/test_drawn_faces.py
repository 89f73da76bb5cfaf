"""Drawn faces are what they are said to be, whoever draws them, and the judges can tell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks import _faces_choices, _faces_judges, _faces_svg, faces
from benchmarks._faces_choices import Choice, choose
from realism_core.conditioning.attributes import FaceAttributes
from realism_core.conditioning.masks import SemanticMask
from realism_core.conditioning.vocabulary import LABELS, NAMES

NEVER = ("u_lip", "l_lip", "ear_r", "neck_l")


def with_parts(choice: Choice, hat: bool | None = None, **parts: str) -> Choice:
    return choice._replace(parts={**choice.parts, **parts}, hat=choice.hat if hat is None else hat)


@pytest.fixture(scope="module")
def plain() -> Choice:
    """A face with short hair and nothing else, seen from where all faces are on average."""
    face = next(choose(0, number) for number in range(1000) if choose(0, number).hat is False)
    parts = {
        "top": "SHORT_FLAT", "hair_color": "BLACK", "skin_color": "LIGHT", "eyes": "DEFAULT",
        "eyebrows": "DEFAULT_NATURAL", "nose": "WIDE", "mouth": "SERIOUS", "clothing": "HOODIE",
        "clothing_color": "BLUE_01", "accessory": "NONE", "facial_hair": "NONE", "facial_hair_color": "BLACK",
    }  # fmt: skip
    return with_parts(face, **parts)._replace(view=(14.0, 14.0, 236.0), background="#30a060")


def covered(labels: torch.Tensor) -> dict[str, float]:
    shares = SemanticMask.from_labels(labels[None]).coverage()[0]
    return {name: float(shares[label]) for name, label in LABELS.items() if shares[label]}


def test_a_face_depends_on_seed_and_number_alone() -> None:
    assert choose(3, 7) == choose(3, 7)
    assert len({repr(choose(seed, number)) for seed in range(3) for number in range(3)}) == 9
    one, other = (_faces_svg.draw(choose(3, 7)) for _ in range(2))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert one[0].shape == (128, 128, 3) and one[1].shape == (128, 128)
    assert one[0].dtype == one[1].dtype == torch.uint8


def test_every_attribute_occurs_both_ways_and_none_contradicts() -> None:
    chosen = [choose(0, number) for number in range(400)]
    states = torch.stack([choice.attributes.values() for choice in chosen])
    mapped = [name for place, name in enumerate(NAMES) if states[:, place].any()]
    assert len(mapped) == 18
    for name in mapped:
        column = states[:, NAMES.index(name)]
        assert (column > 0).sum() >= 20 and (column < 0).sum() >= 20, name
    assert not [told for choice in chosen for told in choice.attributes.contradictions()]


def test_attributes_follow_from_the_parts() -> None:
    for number in range(200):
        choice = choose(5, number)
        wanted, parts = choice.attributes.strengths, choice.parts
        assert (wanted["Eyeglasses"] > 0) == (parts["accessory"] != "NONE")
        assert (wanted["Wearing_Hat"] > 0) == bool(choice.hat)
        assert (wanted.get("Bald", 0) > 0) == (choice.hat is None)
        assert (wanted.get("No_Beard", 0) < 0) == parts["facial_hair"].startswith("BEARD")
        assert (wanted["Smiling"] > 0) == (parts["mouth"] in ("SMILE", "BIG_SMILE", "TWINKLE"))
        tie = parts["clothing"] == "SHIRT_WICK"
        seen = not tie or parts["clothing_color"] not in ("WHITE", "GRAY_01")
        assert wanted.get("Wearing_Necktie", 0) == seen * (1 if tie else -1)
        if choice.hat is False:
            colour = _faces_choices.HAIR_COLOURS[parts["hair_color"]]
            assert [name for name in _faces_choices.NO_HAIR if wanted[name] > 0] == [colour]


def test_the_labels_of_a_plain_face(plain: Choice) -> None:
    """Left is left, the neck is below the chin, the ears are beside the face."""
    picture, labels = _faces_svg.draw(plain)
    there = covered(labels)
    assert set(there) == {
        "background", "skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "hair",
        "neck", "cloth",
    }  # fmt: skip
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    middle = {
        name: tuple(float(axis[labels == LABELS[name]].mean()) for axis in (x, y)) for name in there
    }
    for part in ("eye", "brow", "ear"):
        left, right = middle[f"l_{part}"], middle[f"r_{part}"]
        assert left[0] + right[0] == pytest.approx(127, abs=1.5) and left[0] < 60
        assert left[1] == pytest.approx(right[1], abs=1)
    order = [middle[name][1] for name in ("hair", "l_brow", "l_eye", "nose", "mouth", "neck", "cloth")]
    assert order == sorted(order)
    hair = picture[labels == LABELS["hair"]].float()
    assert float((hair - torch.tensor([0x2C, 0x1B, 0x18])).abs().max(1).values.median()) <= 1
    back = picture[labels == 0].float()
    assert float((back - torch.tensor([0x30, 0xA0, 0x60])).abs().max(1).values.median()) == 0


@pytest.mark.parametrize(
    ("change", "name"),
    [({"accessory": "ROUND"}, "eye_g"), ({"accessory": "SUNGLASSES"}, "eye_g"),
     ({"top": "WINTER_HAT_1", "hat": True}, "hat"), ({"top": "LOOSE_HAIR"}, "hair"),
     ({"mouth": "BIG_SMILE"}, "mouth"), ({"eyes": "SURPRISED"}, "l_eye")],
)  # fmt: skip
def test_what_changes_in_the_labels_changes_in_the_picture(plain: Choice, change: dict, name: str) -> None:
    """Pixels that the new part has won look different; pixels far from all changes look the same."""
    before, old = _faces_svg.draw(plain)
    after, new = _faces_svg.draw(with_parts(plain, **change))
    won = (new == LABELS[name]) & (old != LABELS[name])
    differs = (before.float() - after.float()).abs().amax(2) > 8
    assert won.sum() > 10
    assert differs[won].float().mean() > 0.9
    changed = (new != old).float()
    near = torch.nn.functional.max_pool2d(changed[None], 9, 1, 4)[0] > 0
    hidden = (old == LABELS["hair"]) | (new == LABELS["hair"]) | (new == LABELS["cloth"])
    assert (differs & ~near & ~hidden).float().mean() < 0.02


def test_a_beard_is_skin_wherever_it_reaches(plain: Choice) -> None:
    _, without = _faces_svg.draw(plain)
    _, bearded = _faces_svg.draw(with_parts(plain, facial_hair="BEARD_MAGESTIC"))
    skin = LABELS["skin"]
    assert set(without[bearded != without].tolist()) <= {
        LABELS[name] for name in ("neck", "cloth", "background", "mouth", "nose", "l_ear", "r_ear")
    }
    assert (bearded[(bearded != without)] == skin).all()
    assert ((bearded == skin) & (without == LABELS["neck"])).sum() > 50


def test_classes_without_parts_never_occur() -> None:
    for number in range(12):
        there = covered(_faces_svg.draw(choose(9, number))[1])
        assert not set(there) & set(NEVER)
        assert there["skin"] > 0.05 and there["background"] > 0.1


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of its own, with few faces a file, in which nothing was drawn yet."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr(faces, "cache_folder", lambda: folder)
        patch.setattr("benchmarks._faces_drawn.cache_folder", lambda: folder)
        patch.setattr(_faces_judges, "cache_folder", lambda: folder)
        patch.setattr("benchmarks._faces_drawn.PER_FILE", 8)
        yield


@pytest.mark.usefixtures("cache")
def test_faces_come_in_any_number_and_from_any_place() -> None:
    drawn = faces.drawn_faces(12, 4)
    assert drawn.images.shape == (12, 128, 128, 3) and len(drawn.mask) == len(drawn.attributes) == 12
    part = faces.drawn_faces(3, 4, first=7)
    assert torch.equal(part.images, drawn.images[7:10])
    assert torch.equal(part.mask.labels, drawn.mask.labels[7:10])
    assert part.attributes == drawn.attributes[7:10]
    picture, labels = _faces_svg.draw(choose(4, 11))
    assert torch.equal(drawn.images[11], picture) and torch.equal(drawn.mask.labels[11], labels)
    with pytest.raises(ValueError, match="count is 0"):
        faces.drawn_faces(0)
    assert faces.sheet(drawn).shape == (256, 12 * 128, 3)


@pytest.mark.usefixtures("cache")
def test_the_benchmark_prints_its_tables(capsys: pytest.CaptureFixture) -> None:
    plan = _faces_judges.Plan(side=32, faces=8, tests=8, segmenter_steps=2, classifier_steps=2, width=4)
    assert faces.main(["--count", "8", "--seed", "4"]) == 0
    faces.print_judges(plan)
    told = capsys.readouterr().out
    assert "left brow" in told and "Eyeglasses" in told and "judges of 32 x 32 pixels on 8" in told
    assert "judges trained" in told
    again = _faces_judges.judges(plan)
    assert "judges trained" not in capsys.readouterr().out
    pictures = faces.drawn_faces(8, 4).images
    assert torch.equal(again.labels(pictures), again.labels(pictures.float() / 255))
    assert again.scores(pictures).shape == (8, 40)


def test_overlap_and_accuracy_are_counted_right() -> None:
    wanted = torch.tensor([[[0, 0], [1, 13]]])
    found = torch.tensor([[[0, 1], [1, 1]]])
    measured = _faces_judges.mean_iou(found, wanted)
    assert measured.each["background"] == 0.5 and measured.each["skin"] == pytest.approx(1 / 3)
    assert measured.each["hair"] == 0 and measured.each["hat"] != measured.each["hat"]
    assert measured.mean == pytest.approx((0.5 + 1 / 3 + 0) / 3)
    asked = [FaceAttributes({"Smiling": 1, "Bald": -1}), FaceAttributes({"Smiling": -1})]
    scores = torch.zeros(2, 40)
    scores[:, NAMES.index("Smiling")] = 2.0
    scores[:, NAMES.index("Bald")] = -1.0
    right = _faces_judges.accuracy(scores, asked)
    assert right.each["Smiling"] == 0.5 and right.each["Bald"] == 1 and right.mean == 0.75
