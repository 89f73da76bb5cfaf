"""Edits of semantic masks against brute force, scipy and OpenCV."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from realism_core.conditioning.mask_edits import absent, drop, grow, merge, mirror, move, shrink
from realism_core.conditioning.masks import CLASSES, SemanticMask
from realism_core.conditioning.regions import find_regions
from realism_core.conditioning.vocabulary import LABELS, MIRRORED
from tests.core.faces import face, label_maps, soft_masks

FILLER_NAMES = ("background", "skin", "mouth", "u_lip", "l_lip", "hair", "neck", "cloth")
FILLERS = {LABELS[name] for name in FILLER_NAMES}
PARTS = st.sets(st.sampled_from([1, 4, 5, 13, 15, 17, 18]), min_size=1, max_size=3).map(sorted)
RADIUS = st.integers(0, 4)
EDITS = {
    "move": lambda mask, parts: move(mask, parts, 0.3, -0.2),
    "grow": lambda mask, parts: grow(mask, parts, 2),
    "shrink": lambda mask, parts: shrink(mask, parts, 1),
    "drop": drop,
    "merge": lambda mask, parts: merge(mask, parts, 14),
    "mirror": mirror,
    "mirror all": lambda mask, parts: mirror(mask),
}


def hard(labels) -> SemanticMask:
    return SemanticMask.from_labels(torch.as_tensor(np.asarray(labels)))


def may_fill(labels: np.ndarray, parts: list[int], y: int, x: int) -> set[int]:
    """The classes of the nearest pixels that may fill a hole, by brute force; several where they tie."""
    others = set(range(CLASSES)) - set(parts)
    present = set(labels.flatten().tolist())
    allowed = (FILLERS & others & present) or (others & present)
    distances: dict[int, set[int]] = {}
    for row, column in np.ndindex(labels.shape):
        if labels[row, column] in allowed:
            distances.setdefault((row - y) ** 2 + (column - x) ** 2, set()).add(int(labels[row, column]))
    return distances[min(distances)] if distances else {0}


def check_filled(found: np.ndarray, labels: np.ndarray, parts: list[int], holes: np.ndarray) -> None:
    for y, x in np.argwhere(holes):
        assert found[y, x] in may_fill(labels, parts, y, x)


def disc(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x**2 + y**2 <= radius**2


@settings(deadline=None)
@given(label_maps(), PARTS)
def test_drop(labels: torch.Tensor, parts: list[int]) -> None:
    found = drop(hard(labels), parts).labels.numpy()
    for before, after in zip(labels.numpy(), found, strict=True):
        holes = np.isin(before, parts)
        assert np.array_equal(after[~holes], before[~holes])
        check_filled(after, before, parts, holes)


@settings(deadline=None)
@given(label_maps(), PARTS, st.floats(-1, 1), st.floats(-1, 1))
def test_move(labels: torch.Tensor, parts: list[int], dx: float, dy: float) -> None:
    found = move(hard(labels), parts, dx, dy).labels.numpy()
    across, down = round(dx * labels.shape[2]), round(dy * labels.shape[1])
    for before, after in zip(labels.numpy(), found, strict=True):
        # scipy's shift of each part, whole pixels and nothing from outside
        there = np.full(before.shape, -1)
        for part in parts:
            plane = ndimage.shift((before == part).astype(float), (down, across), order=0, cval=0)
            there[plane > 0.5] = part
        if across == down == 0:
            assert np.array_equal(after, before)
            continue
        assert np.array_equal(after[there >= 0], there[there >= 0])
        holes = np.isin(before, parts) & (there < 0)
        check_filled(after, before, parts, holes)
        still = (there < 0) & ~holes
        assert np.array_equal(after[still], before[still])


@settings(deadline=None)
@given(label_maps(), PARTS, RADIUS)
def test_grow(labels: torch.Tensor, parts: list[int], radius: int) -> None:
    found = grow(hard(labels), parts, radius).labels.numpy()
    for before, after in zip(labels.numpy(), found, strict=True):
        union = np.isin(before, parts)
        grown = ndimage.binary_dilation(union, disc(radius))
        assert np.array_equal(np.isin(after, parts), grown)
        assert np.array_equal(after[~grown | union], before[~grown | union])
        for y, x in np.argwhere(grown & ~union):
            near = {part: np.argwhere(before == part) for part in parts if (before == part).any()}
            distance = {part: ((at - (y, x)) ** 2).sum(1).min() for part, at in near.items()}
            assert distance[int(after[y, x])] == min(distance.values())


@settings(deadline=None)
@given(label_maps(), PARTS, RADIUS)
def test_shrink(labels: torch.Tensor, parts: list[int], radius: int) -> None:
    found = shrink(hard(labels), parts, radius).labels.numpy()
    for before, after in zip(labels.numpy(), found, strict=True):
        union = np.isin(before, parts)
        left = ndimage.binary_erosion(union, disc(radius), border_value=1)
        assert np.array_equal(after[left | ~union], before[left | ~union])
        check_filled(after, before, parts, union & ~left)


@pytest.mark.parametrize("radius", [1, 3, 8])
def test_discs_are_opencvs(radius: int) -> None:
    """On a face, where a part touches no edge; OpenCV's kernel is ours, as bytes."""
    mask = hard(face()[None])
    parts = find_regions("nose, lips, mouth")
    plane = mask.region(parts)[0].numpy().astype(np.uint8)
    kernel = disc(radius).astype(np.uint8)
    grown = grow(mask, parts, radius).region(parts)[0].numpy()
    assert np.array_equal(grown, cv2.dilate(plane, kernel))
    shrunk = shrink(mask, parts, radius).region(parts)[0].numpy()
    assert np.array_equal(shrunk, cv2.erode(plane, kernel))


@settings(deadline=None)
@given(soft_masks(), st.sampled_from([1, 4, 13]), RADIUS)
def test_soft_parts_grow_and_shrink_as_scipys_grey_ones(mask: SemanticMask, part: int, radius: int) -> None:
    grown, shrunk = (edit(mask, [part], radius).classes.double().numpy() for edit in (grow, shrink))
    for place, shares in enumerate(mask.classes.double().numpy()):
        plane = shares[part]
        # outside nothing counts: the least value for dilation, the greatest for erosion
        expected = ndimage.grey_dilation(plane, footprint=disc(radius), mode="constant", cval=-1.0)
        assert np.allclose(grown[place, part], expected, atol=1e-5)
        rest = np.delete(shares, part, 0)
        kept = rest * (1 - expected) / np.where(plane < 1, 1 - plane, 1)
        # where the part gives nothing away, the others share what is left as before
        assert np.allclose(np.delete(grown[place], part, 0), kept, atol=1e-4)
        expected = ndimage.grey_erosion(plane, footprint=disc(radius), mode="constant", cval=2.0)
        assert np.allclose(shrunk[place, part], expected, atol=1e-5)


@settings(deadline=None)
@given(soft_masks(), PARTS, st.sampled_from(sorted(EDITS)))
def test_soft_masks_stay_distributions(mask: SemanticMask, parts: list[int], name: str) -> None:
    edited = EDITS[name](mask, parts).classes
    assert edited.shape == mask.classes.shape
    assert edited.min() >= 0 and np.allclose(edited.sum(1), 1, atol=1e-5)
    if name == "drop":
        assert not edited[:, parts].any()
        others = [label for label in range(CLASSES) if label not in parts]
        assert (edited[:, others] >= mask.classes[:, others] - 1e-5).all()


@settings(deadline=None)
@given(label_maps(), PARTS, st.sampled_from(sorted(EDITS)))
def test_hard_masks_are_soft_ones_of_certain_pixels(labels, parts: list[int], name: str) -> None:
    """The two ways of computing give the same."""
    mask = hard(labels)
    edited = EDITS[name](mask, parts)
    assert edited.is_hard
    assert torch.equal(EDITS[name](SemanticMask(mask.classes), parts).labels, edited.labels)


@settings(deadline=None)
@given(label_maps(), PARTS, st.sampled_from(sorted(EDITS)))
def test_batches_equal_single_pictures(labels: torch.Tensor, parts: list[int], name: str) -> None:
    whole = EDITS[name](hard(labels), parts).labels
    for place in range(len(labels)):
        assert torch.equal(EDITS[name](hard(labels[place : place + 1]), parts).labels[0], whole[place])


@settings(deadline=None)
@given(label_maps(), PARTS, st.integers(0, 18))
def test_merge(labels: torch.Tensor, parts: list[int], into: int) -> None:
    found = merge(hard(labels), parts, into).labels
    expected = labels.clone()
    for part in parts:
        expected[labels == part] = into
    assert torch.equal(found, expected)


@settings(deadline=None)
@given(label_maps(st.integers(0, 18)))
def test_the_whole_mirrored(labels: torch.Tensor) -> None:
    mask = hard(labels)
    expected = np.array(MIRRORED, np.uint8)[labels.numpy()][..., ::-1]
    assert np.array_equal(mirror(mask).labels.numpy(), expected)
    assert torch.equal(mirror(mirror(mask)).labels, labels)
    soft = mirror(SemanticMask(mask.classes))
    assert not soft.is_hard and np.array_equal(soft.labels.numpy(), expected)


def column(labels: torch.Tensor, name: str) -> float:
    return float(np.argwhere(labels.numpy() == LABELS[name])[:, 1].mean())


@pytest.mark.parametrize("shift", [-9, 0, 6])
def test_parts_are_mirrored_about_the_face(shift: int) -> None:
    """The face need not be in the middle of the picture."""
    labels = move(hard(face()[None]), find_regions("head"), shift / 64, 0).labels[0]
    middle = column(labels, "nose")
    mask = hard(labels[None])
    # an earring changes its side, and is the only thing to do so
    earring = mirror(mask, find_regions("earring")).labels[0]
    assert column(earring, "ear_r") == pytest.approx(2 * middle - column(labels, "ear_r"))
    assert (earring != labels).sum() <= 2 * (labels == LABELS["ear_r"]).sum()
    # one side takes the other's place too: the face is symmetric, so that nothing changes
    assert torch.equal(mirror(mask, find_regions("left eye")).labels[0], labels)
    assert torch.equal(mirror(mask, find_regions("eyes, brows")).labels[0], labels)


def test_a_side_named_alone_is_copied_and_both_change_places() -> None:
    labels = face()
    labels[labels == LABELS["r_brow"]] = LABELS["skin"]
    labels[20:24, 30:44] = LABELS["r_brow"]  # one brow is another
    mask = hard(labels[None])
    right = labels == LABELS["r_brow"]
    copied = mirror(mask, find_regions("left brow")).labels[0]
    left = copied == LABELS["l_brow"]
    assert torch.equal(left, labels == LABELS["l_brow"])
    assert torch.equal(copied == LABELS["r_brow"], left.flip(1))
    assert (copied[right & ~left.flip(1)] != LABELS["r_brow"]).all()
    swapped = mirror(mask, find_regions("brows")).labels[0]
    assert torch.equal(swapped == LABELS["r_brow"], (labels == LABELS["l_brow"]).flip(1))
    assert torch.equal(swapped == LABELS["l_brow"], right.flip(1))


@pytest.mark.parametrize(("present", "middle"), [
    (("nose", "u_lip", "l_eye", "skin"), "nose"), (("u_lip", "l_eye", "skin"), "u_lip"),
    (("l_eye", "skin"), "l_eye"), (("skin",), "skin"), ((), None),
])  # fmt: skip
def test_what_the_middle_of_a_face_is(present: tuple[str, ...], middle: str | None) -> None:
    labels = np.zeros((1, 5, 21), np.uint8)
    for place, name in enumerate(present):
        labels[0, 1, 4 + 3 * place] = LABELS[name]
    labels[0, 3, 2] = LABELS["hat"]
    found = mirror(hard(labels), find_regions("hat")).labels[0]
    about = 10 if middle is None else 4 + 3 * present.index(middle)
    assert column(found, "hat") == 2 * about - 2


def test_a_hole_is_filled_with_what_can_lie_there() -> None:
    """Dropped hair leaves no larger earring, hat or ear; what only they could fill is filled by them."""
    mask = hard(face()[None])
    bald = drop(mask, find_regions("hair")).labels[0]
    for name in ("ear_r", "l_ear", "r_ear", "l_brow"):
        assert torch.equal(bald == LABELS[name], mask.labels[0] == LABELS[name])
    only = drop(hard([[[13, 13, 15]]]), find_regions("hair"))
    assert only.labels.tolist() == [[[15, 15, 15]]]


def test_nothing_but_the_part() -> None:
    mask = hard(np.full((1, 2, 3), LABELS["hair"]))
    hair = find_regions("hair")
    for each in (mask, SemanticMask(mask.classes)):
        assert not drop(each, hair).labels.any()
        assert (grow(each, hair, 3).labels == LABELS["hair"]).all()
        assert (shrink(each, hair, 3).labels == LABELS["hair"]).all()
        assert move(each, hair, 1 / 3, 0).labels.tolist() == [[[0, 13, 13], [0, 13, 13]]]
        with pytest.raises(ValueError, match="nothing but background, hair in a picture.*name the class"):
            drop(each, (0, *hair))


@pytest.mark.parametrize("name", sorted(EDITS))
def test_what_is_not_there_changes_nothing(name: str) -> None:
    mask = hard(face()[None])
    hat = find_regions("hat")
    assert absent(mask, hat) == hat and absent(mask, (*hat, LABELS["hair"])) == hat
    for each in (mask, SemanticMask(mask.classes)):
        edited = EDITS[name](each, hat)
        expected = mirror(mask) if name == "mirror all" else mask
        assert torch.equal(edited.labels, expected.labels) and len(edited) == 1


@pytest.mark.parametrize("edit", ["move", "mirror"])
def test_the_background_stays(edit: str) -> None:
    with pytest.raises(ValueError, match="the background cannot be (moved|mirrored alone): it is what lies"):
        EDITS[edit](hard(face()[None]), [0, 13])


def test_the_edge_of_the_picture_does_not_shrink_parts() -> None:
    labels = np.full((1, 6, 6), LABELS["cloth"], np.uint8)
    labels[0, :2] = LABELS["neck"]
    found = shrink(hard(labels), find_regions("clothing"), 1).labels[0]
    assert (found[:3] == LABELS["neck"]).all() and (found[3:] == LABELS["cloth"]).all()


def test_parts_grow_around_each_other() -> None:
    """Lips grown together keep their border, and the mouth between them closes."""
    mask = hard(face(128, 128)[None])
    lips = find_regions("lips")
    found = grow(mask, lips, 9).labels[0]
    for label in lips:
        was = mask.labels[0] == label
        assert (found[was] == label).all()
    assert not (found == LABELS["mouth"]).any()


@settings(deadline=None, max_examples=30)
@given(label_maps(), PARTS, RADIUS, RADIUS)
def test_growing_twice_reaches_no_further_than_once(labels, parts, one: int, two: int) -> None:
    mask = hard(labels)
    assume(not absent(mask, parts[:1]))
    twice = grow(grow(mask, parts, one), parts, two).region(parts)
    once = grow(mask, parts, one + two).region(parts)
    assert (twice <= once).all() and (twice >= grow(mask, parts, max(one, two)).region(parts)).all()


def test_every_edit_leaves_its_mask_as_it_was() -> None:
    labels = face()[None]
    for each, edit in itertools.product((hard(labels), SemanticMask(hard(labels).classes)), EDITS.values()):
        before = each.stored.clone()
        edit(each, find_regions("hair, left eye"))
        assert torch.equal(each.stored, before)
