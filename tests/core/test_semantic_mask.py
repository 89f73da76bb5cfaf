"""The semantic mask itself: what it holds, its sizes, and its regions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from realism_core.conditioning.masks import CLASSES, SemanticMask
from realism_core.conditioning.regions import find_classes, find_regions, titles
from realism_core.conditioning.vocabulary import CLASS_NAMES, EYES, GROUPS, LABELS, MASK_CLASSES
from tests.core.faces import SIDES, face, label_maps, soft_masks


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.stack([(labels == label).astype(np.float64) for label in range(CLASSES)], 1)


def areas(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """The area that planes [C,H,W] cover of each pixel of another size, by so small pixels that none is cut.

    In units of which a whole pixel has H * W.
    """
    count, tall, wide = planes.shape
    fine = planes.repeat(height, 1).repeat(width, 2)
    return fine.reshape(count, height, tall, width, wide).sum((2, 4))


@settings(deadline=None)
@given(label_maps(st.integers(0, 18)))
def test_a_hard_mask(labels: torch.Tensor) -> None:
    mask = SemanticMask.from_labels(labels)
    expected = one_hot(labels.numpy())
    assert mask.is_hard and len(mask) == len(labels) and mask.size == tuple(labels.shape[1:])
    assert mask.classes.dtype == torch.float32 and np.array_equal(mask.classes.numpy(), expected)
    assert torch.equal(mask.labels, labels) and mask.hard() is mask
    again = SemanticMask.from_classes(mask.classes)
    assert again.is_hard and torch.equal(again.stored, mask.stored)
    assert np.allclose(mask.coverage().numpy(), expected.mean((2, 3)), rtol=1e-12)
    assert torch.equal(mask[:1].labels, labels[:1])


@settings(deadline=None)
@given(soft_masks())
def test_a_soft_mask(mask: SemanticMask) -> None:
    classes = mask.classes.numpy()
    assert np.allclose(classes.sum(1), 1, atol=1e-6)
    # of equal ones the last
    strongest = CLASSES - 1 - classes[:, ::-1].argmax(1)
    assert np.array_equal(mask.labels.numpy(), strongest)
    assert mask.hard().is_hard and torch.equal(mask.hard().labels, mask.labels)
    assert np.allclose(mask.coverage().numpy(), classes.astype(np.float64).mean((2, 3)), rtol=1e-9)


def test_of_equal_shares_the_higher_label_is_the_strongest() -> None:
    classes = torch.zeros(1, CLASSES, 1, 3)
    for place, equal in enumerate([(0, 13), (1, 4, 7), (0, 18)]):
        classes[0, list(equal), 0, place] = 1 / len(equal)
    assert SemanticMask.from_classes(classes).labels.tolist() == [[[13, 7, 18]]]


@settings(deadline=None)
@given(soft_masks(), st.sets(st.integers(0, 18), min_size=1))
def test_regions_add_up(mask: SemanticMask, labels: set[int]) -> None:
    for each in (mask, mask.hard()):
        region = each.region(labels)
        assert np.allclose(region, each.classes.numpy()[:, sorted(labels)].sum(1), atol=1e-6)
        assert region.dtype == torch.float32 and region.min() >= 0 and region.max() <= 1
        assert torch.equal(region, each.region([CLASS_NAMES[label] for label in labels]))


@settings(deadline=None)
@given(label_maps(), SIDES, SIDES)
def test_hard_masks_of_another_size_by_brute_force(labels: torch.Tensor, height: int, width: int) -> None:
    mask = SemanticMask.from_labels(labels[:1])
    found = mask.resized(height, width)
    area = areas(one_hot(labels[:1].numpy())[0], height, width)
    greatest = CLASSES - 1 - area[::-1].argmax(0)  # of equal ones the last
    assert np.array_equal(found.labels[0].numpy(), greatest)
    soft = mask.resized(height, width, soft=True)
    assert np.allclose(soft.classes[0].numpy(), area / area.sum(0), atol=1e-6)


@settings(deadline=None)
@given(soft_masks(), SIDES, SIDES)
def test_soft_masks_of_another_size_stay_distributions(mask: SemanticMask, height: int, width: int) -> None:
    found = mask.resized(height, width)
    assert found.size == (height, width) and found.classes.min() >= 0
    assert np.allclose(found.classes.sum(1), 1, atol=1e-6)
    area = areas(mask.classes[0].double().numpy(), height, width)
    assert np.allclose(found.classes[0].numpy(), area / area.sum(0), atol=1e-6)
    # shares of the whole picture stay what they are
    assert np.allclose(found.coverage(), mask.coverage(), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 27), (64, 13), (7, 7)])
def test_areas_are_opencvs(height: int, width: int) -> None:
    mask = SemanticMask.from_labels(face()[None])
    found = mask.resized(height, width, soft=True).classes[0].numpy()
    for label, plane in enumerate(mask.classes[0].numpy()):
        expected = cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)
        assert np.abs(found[label] - expected).max() < 1e-4, CLASS_NAMES[label]


@settings(deadline=None)
@given(label_maps(), SIDES, SIDES)
def test_no_class_is_invented(labels: torch.Tensor, height: int, width: int) -> None:
    found = SemanticMask.from_labels(labels).resized(height, width)
    assert found.is_hard
    for before, after in zip(labels, found.labels, strict=True):
        assert set(after.flatten().tolist()) <= set(before.flatten().tolist())


@settings(deadline=None)
@given(label_maps(), st.integers(2, 4))
def test_larger_and_back(labels: torch.Tensor, times: int) -> None:
    mask = SemanticMask.from_labels(labels)
    height, width = mask.size
    larger = mask.resized(height * times, width * times)
    assert torch.equal(larger.labels, labels.repeat_interleave(times, 1).repeat_interleave(times, 2))
    assert torch.equal(larger.resized(height, width).labels, labels)
    assert mask.resized(height, width) is mask


@settings(deadline=None)
@given(label_maps(), SIDES, SIDES)
def test_batches_equal_single_pictures(labels: torch.Tensor, height: int, width: int) -> None:
    mask = SemanticMask.from_labels(labels)
    singles = [mask[place : place + 1].resized(height, width) for place in range(len(mask))]
    assert torch.equal(mask.resized(height, width).labels, SemanticMask.concat(singles).labels)


@settings(deadline=None)
@given(label_maps(), SIDES, SIDES, st.sampled_from(["crop", "pad", "stretch"]))
def test_another_aspect(labels: torch.Tensor, height: int, width: int, fit: str) -> None:
    mask = SemanticMask.from_labels(labels)
    for each in (mask, SemanticMask(mask.classes)):
        fitted = each.fitted(height, width, fit)
        assert fitted.size == (height, width) and fitted.is_hard == each.is_hard
        assert np.allclose(fitted.classes.sum(1), 1, atol=1e-6)
    there = set(mask.fitted(height, width, fit).labels.unique().tolist())
    assert there <= set(labels.unique().tolist()) | ({0} if fit == "pad" else set())


def test_crop_and_pad_keep_the_middle() -> None:
    labels = face(60, 60)
    mask = SemanticMask.from_labels(labels[None])
    assert torch.equal(mask.fitted(60, 30, "crop").labels[0], labels[:, 15:45])
    assert torch.equal(mask.fitted(20, 60, "crop").labels[0], labels[20:40])
    wide = mask.fitted(60, 100, "pad").labels[0]
    assert torch.equal(wide[:, 20:80], labels) and not wide[:, :20].any() and not wide[:, 80:].any()
    tall = mask.fitted(90, 60, "pad", soft=True).labels[0]
    assert torch.equal(tall[15:75], labels) and not tall[:15].any() and not tall[75:].any()
    soft = SemanticMask(mask.classes).fitted(60, 100, "pad")
    assert not soft.is_hard and torch.equal(soft.labels[0], wide)


@pytest.mark.parametrize("size", [(32, 32), (63, 64), (8, 8), (100, 100)])
def test_the_same_aspect_is_no_other(size: tuple[int, int]) -> None:
    mask = SemanticMask.from_labels(face()[None])
    assert torch.equal(mask.fitted(*size).labels, mask.resized(*size).labels)


def test_another_aspect_is_refused_with_the_fix() -> None:
    mask = SemanticMask.from_labels(face()[None])
    with pytest.raises(ValueError, match="64 x 64, which is another aspect than 96 x 64: set fit to"):
        mask.fitted(64, 96)
    with pytest.raises(ValueError, match="fit is 'fill': use refuse, crop, pad, stretch"):
        mask.fitted(64, 96, "fill")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(3, 3, dtype=torch.uint8), "labels have shape 3x3"),
        (torch.zeros(1, 0, 3, dtype=torch.uint8), "1x0x3"),
        (torch.zeros(1, 3, 3), "type torch.float32"),
        (
            torch.tensor([[[0, 19], [200, 200]], [[0, 0], [-1, 1]]]),
            "4 pixels are unknown, from picture 1 on: 2 with the label 200, 1 with the label -1, 1 with the "
            "label 19",
        ),
        (torch.arange(19, 29).reshape(1, 1, 10), "and 6 more"),
        (torch.tensor([[[0]], [[255]]]), "from picture 2 on: 1 with the label 255"),
    ],
)  # fmt: skip
def test_labels_that_are_none(labels: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        SemanticMask.from_labels(labels)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda classes: classes[:, :18], "shape 1x18x64x64"),
        (lambda classes: classes[0], "shape 19x64x64"),
        (lambda classes: classes * 2, "values from 0 to 2"),
        (lambda classes: classes - 1, "values from -1 to 0"),
        (lambda classes: classes * float("nan"), "values from nan to nan"),
        (lambda classes: classes * 0.5, "the shares of 4096 pixels do not add up to 1"),
        (lambda classes: classes * (torch.arange(64) > 0), "the shares of 64 pixels"),
    ],
)
def test_shares_that_are_none(change, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        SemanticMask.from_classes(change(SemanticMask.from_labels(face()[None]).classes))
    assert words in str(caught.value)


def test_batches_are_joined() -> None:
    hard = SemanticMask.from_labels(face()[None])
    soft = hard.resized(32, 32, soft=True).resized(64, 64)
    both = SemanticMask.concat([hard, soft])
    assert len(both) == 2 and not both.is_hard and torch.equal(both[:1].classes, hard.classes)
    with pytest.raises(ValueError, match="the masks are 32 x 32 and 64 x 64: one batch needs one size"):
        SemanticMask.concat([hard, hard.resized(32, 32)])
    with pytest.raises(ValueError, match="no masks"):
        SemanticMask.concat([])


def test_a_mask_cannot_be_changed() -> None:
    mask = SemanticMask.from_labels(face()[None])
    with pytest.raises(AttributeError):
        mask.stored = mask.stored + 1


def test_regions_by_name() -> None:
    assert find_regions("hair") == (LABELS["hair"],)
    assert find_regions("Hat, HAIR ; hat") == (LABELS["hair"], LABELS["hat"])
    assert find_regions("eyes，left ear、l_lip\nglasses") == tuple(
        sorted(LABELS[name] for name in (*EYES, "l_ear", "l_lip", "eye_g"))
    )
    for name, entry in zip(CLASS_NAMES, MASK_CLASSES, strict=True):
        for written in (name, entry.title, name.upper(), entry.title.replace(" ", "_")):
            assert find_regions(written) == (LABELS[name],) == find_classes(written)
    for group, names in GROUPS.items():
        assert find_regions(group) == tuple(sorted(LABELS[name] for name in names))
    assert find_regions("everything") == tuple(range(CLASSES))
    assert find_classes("hat, left eye") == (LABELS["hat"], LABELS["l_eye"])
    assert titles(find_regions("lips")) == "upper lip, lower lip"


@pytest.mark.parametrize(("text", "words"), [
    ("hare", "'hare' is no region of the mask. Did you mean hair"), ("left eey", "Did you mean left eye"),
    ("😀", "'😀' is no region of the mask. Use background, skin,"), (" , ", "no region is named"),
    ("", "no region is named: use background"), ("x" * 1000, "is no region of the mask"),
])  # fmt: skip
def test_regions_that_are_none(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        find_regions(text)
    assert words in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(("text", "words"), [
    ("eyes", "'eyes' is 2 classes (left eye, right eye): name one"), ("hair, hair", "hair is named twice"),
    ("", "no class is named"), ("hare", "Did you mean hair"),
])  # fmt: skip
def test_classes_that_are_none(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        find_classes(text)
    assert words in str(caught.value)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 100))
def test_sizes_of_one_aspect_fit(height: int, width: int, side: int) -> None:
    """What ComfyUI makes of a size, rounding either way, is of the same aspect."""
    tall, wide = height * side / max(height, width), width * side / max(height, width)
    assume(min(tall, wide) >= 1)
    mask = SemanticMask.from_labels(torch.zeros(1, 1, 1, dtype=torch.uint8)).fitted(height, width, "pad")
    for rounded in ((round(tall), round(wide)), (int(tall), int(wide))):
        assert mask.fitted(*rounded).size == rounded
