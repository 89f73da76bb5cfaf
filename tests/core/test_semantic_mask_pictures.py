"""Semantic masks from label maps, colours, part files and masks, and their preview."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from realism_core.conditioning.mask_pictures import (
    MAX_TOLERANCE,
    from_parts,
    from_picture,
    read_parts,
    to_colours,
)
from realism_core.conditioning.masks import CLASSES, SemanticMask
from realism_core.conditioning.vocabulary import CLASS_NAMES, LABELS, MASK_CLASSES
from realism_core.plots.canvas import BACKGROUND
from realism_core.plots.mask import mask_preview, percentage
from tests.core.faces import face, label_maps, soft_masks

COLOURS = np.array([entry.colour for entry in MASK_CLASSES], np.uint8)
# g_color.py of the data set's own code
PUBLISHED = """
000000 cc0000 4c9900 cccc00 3333ff cc00cc 00ffff ffcccc 663300 ff0000 66cc00 ffff00 000099 0000cc ff3399
00cccc 003300 ff9933 00cc00
"""
HAIR, HAT, SKIN, NECK = (LABELS[name] for name in ("hair", "hat", "skin", "neck"))


def picture(values: np.ndarray) -> torch.Tensor:
    """A picture as ComfyUI loads it from values 0..255 [B,H,W] or [B,H,W,3]."""
    values = values[..., None].repeat(3, -1) if values.ndim == 3 else values
    return torch.from_numpy(values.astype(np.float32) / 255)


def refused(images: torch.Tensor, *options) -> str:
    with pytest.raises(ValueError, match="label_map|tolerance|palette") as caught:
        from_picture(images, *options)
    return str(caught.value)


def test_the_colours_are_the_published_ones() -> None:
    assert ["".join(f"{level:02x}" for level in colour) for colour in COLOURS] == PUBLISHED.split()
    apart = [np.abs(a.astype(int) - b).max() for a, b in itertools.combinations(COLOURS, 2)]
    assert min(apart) > 2 * MAX_TOLERANCE


@settings(deadline=None)
@given(label_maps(st.integers(0, 18)), st.sampled_from([1, 3, 4]))
def test_label_maps(labels: torch.Tensor, channels: int) -> None:
    images = (labels.float() / 255)[..., None].repeat(1, 1, 1, channels)
    if channels == 4:
        images[..., 3] = 1
    for palette in ("auto", "labels"):
        found = from_picture(images, palette)
        assert found.is_hard and torch.equal(found.labels, labels)
    assert torch.equal(from_picture(images.half()).labels, labels)


@settings(deadline=None)
@given(label_maps(st.integers(0, 18)))
def test_label_maps_in_the_order_of_bisenet(labels: torch.Tensor) -> None:
    order = """background skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r nose mouth u_lip l_lip neck
    neck_l cloth hair hat""".split()  # noqa: SIM905
    found = from_picture(picture(labels.numpy()), "bisenet labels").labels
    assert [CLASS_NAMES[label] for label in found.flatten()] == [order[label] for label in labels.flatten()]


@settings(deadline=None)
@given(label_maps(st.integers(0, 18)))
def test_colours_and_back(labels: torch.Tensor) -> None:
    mask = SemanticMask.from_labels(labels)
    colours = to_colours(mask)
    assert colours.dtype == torch.float32
    assert np.array_equal((colours.numpy() * 255).round(), COLOURS[labels.numpy()])
    assert torch.equal(from_picture(colours, "colours").labels, labels)
    # an all black or grey picture is a label map, and black is background in both
    assert torch.equal(from_picture(colours).labels, labels)


@settings(deadline=None)
@given(soft_masks())
def test_soft_masks_mix_the_colours(mask: SemanticMask) -> None:
    expected = np.tensordot(mask.classes.double().numpy(), COLOURS / 255.0, axes=(1, 0))
    assert np.allclose(to_colours(mask), expected, atol=1e-5)


@settings(deadline=None)
@given(label_maps(st.integers(0, 18)), st.integers(1, MAX_TOLERANCE), st.integers(0, 2**32))
def test_near_colours(labels: torch.Tensor, off: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = (*labels.shape, 3)
    noisy = np.clip(COLOURS[labels.numpy()].astype(int) + random.integers(-off, off + 1, shape), 0, 255)
    assert torch.equal(from_picture(picture(noisy), "colours", off).labels, labels)
    distance = np.abs(noisy[..., None, :] - COLOURS.astype(int)).max(-1).min(-1)
    wrong = int((distance > off - 1).sum())
    if wrong:
        assert f"{wrong} pixels of colours that no class has" in refused(picture(noisy), "colours", off - 1)


def test_unknown_colours_are_named_with_their_pixels_and_the_nearest_class() -> None:
    colours = COLOURS[face(32, 32).numpy()][None].copy()
    colours[0, 0, :5] = (210, 5, 0)
    colours[0, 1, :2] = (0, 128, 128)
    message = refused(picture(colours))
    assert "7 pixels of colours that no class has: 5 pixels of (210, 5, 0), nearest skin (204, 0," in message
    assert "2 pixels of (0, 128, 128)" in message and "load it from a lossless file" in message
    colours[0, 1, :2] = 0
    assert "raise tolerance to 6" in refused(picture(colours))
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3))
    message = refused(picture(noise))
    assert "more colours" in message and len(message) < 500


def test_a_compressed_picture_can_be_read_with_tolerance_or_says_why_not() -> None:
    sharp = COLOURS[np.kron(face(32, 32).numpy(), np.ones((8, 8), np.uint8))]
    _, data = cv2.imencode(".jpg", sharp[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    message = refused(picture(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1][None].copy()))
    assert "no class has" in message and "lossless" in message


@settings(deadline=None)
@given(label_maps(st.integers(0, 18)))
def test_pictures_that_lost_the_last_of_255_levels(labels: torch.Tensor) -> None:
    """As ComfyUI 0.30 loads grey PNGs."""
    dimmed = picture(labels.numpy()) * 254 / 255
    assert torch.equal(from_picture(dimmed).labels, labels)
    part = torch.isin(labels, torch.tensor([1, 13])).float()
    if part.any():
        made = from_parts({HAIR: part * 254 / 255})
        assert made.is_hard and torch.equal(made.region(["hair"]), part)


@pytest.mark.parametrize(("value", "count"), [(19, 1), (255, 7), (100, 64)])
def test_unknown_labels_are_named_with_their_pixels(value: int, count: int) -> None:
    labels = face().numpy()[None].copy()
    labels.reshape(-1)[:count] = value
    for palette in ("auto", "bisenet labels"):
        message = refused(picture(labels), palette)
        assert f"label_map: {count} pixels are unknown" in message
        assert f"{count} with the label {value}" in message and "0 (background) to 18 (cloth)" in message


def test_smoothed_labels_are_no_labels() -> None:
    labels = np.zeros((1, 4, 4), np.float32)
    labels[0, 1, 1:3] = 4.5
    message = refused(picture(labels))
    assert "values between two labels (2 pixels" in message and "2 with the value 4.5" in message


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (picture(np.array([[[0, 255]]])), (), "the mask of one part: connect it to parts"),
        (picture(COLOURS[None, None]), ("labels",), "label_map is coloured, and palette is labels"),
        (picture(np.zeros((1, 2, 2))), ("rainbow",), "palette is 'rainbow': use auto, labels"),
        (picture(np.zeros((1, 2, 2))), ("colours", 26), "tolerance is 26: use 0 to 25"),
        (torch.zeros(1, 2, 2), (), "shape 1x2x2"),
        (torch.zeros(1, 2, 2, 2), (), "shape 1x2x2x2"),
        (torch.zeros(0, 2, 2, 3), (), "shape 0x2x2x3"),
        (torch.full((1, 2, 2, 3), float("nan")), (), "NaN"),
    ],
)
def test_pictures_that_are_no_masks(images: torch.Tensor, options: tuple, words: str) -> None:
    assert words in refused(images, *options)


BINARY = st.sampled_from([0.0, 1.0])
SHARES = st.one_of(BINARY, st.floats(0.015625, 0.984375, width=32))


@st.composite
def part_masks(draw, elements: st.SearchStrategy[float]) -> dict[int, torch.Tensor]:
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    parts = {}
    for label in draw(st.sets(st.integers(0, 18), min_size=1, max_size=4)):
        batch = draw(st.sampled_from([1, shape[0]]))
        parts[label] = torch.from_numpy(
            draw(arrays.arrays(np.float32, (batch, *shape[1:]), elements=elements))
        )
    return parts


@settings(deadline=None)
@given(part_masks(BINARY), st.booleans())
def test_later_parts_lie_over_earlier_ones(parts: dict[int, torch.Tensor], on_a_face: bool) -> None:
    first = next(iter(parts.values()))
    if not any(part.any() for part in parts.values()):
        first[0, 0, 0] = 1
    below = SemanticMask.from_labels(torch.full_like(first[:1], SKIN).byte()) if on_a_face else None
    found = from_parts(parts, below)
    count = max(len(part) for part in parts.values())
    assert found.is_hard and len(found) == count
    for place in range(count):
        expected = np.full(first.shape[1:], SKIN if on_a_face else 0)
        for label in range(CLASSES):  # as the data set's own code does
            if label in parts:
                expected[parts[label][min(place, len(parts[label]) - 1)].numpy() != 0] = label
        assert np.array_equal(found.labels[place].numpy(), expected)


@settings(deadline=None)
@given(part_masks(SHARES))
def test_soft_parts_cover_what_is_below_by_their_shares(parts: dict[int, torch.Tensor]) -> None:
    if not any(part.any() for part in parts.values()):
        next(iter(parts.values()))[0, 0, 0] = 1
    found = from_parts(parts).classes.double().numpy()
    count = max(len(part) for part in parts.values())
    seen = np.ones((count, *found.shape[2:]))
    for label in reversed(range(1, CLASSES)):
        part = parts[label].double().numpy() if label in parts else np.zeros(1)
        part = np.broadcast_to(part, seen.shape) if label in parts else 0 * seen
        assert np.allclose(found[:, label], seen * part, atol=1e-5)
        seen = seen * (1 - part)
    assert np.allclose(found[:, 0], seen, atol=1e-5)


def test_a_part_is_laid_over_a_mask() -> None:
    below = SemanticMask.from_labels(face().repeat(2, 1, 1))
    hat = torch.zeros(1, 64, 64)
    hat[:, :12, 10:50] = 1
    found = from_parts({HAT: hat}, below)
    assert len(found) == 2 and found.is_hard
    expected = face()
    expected[:12, 10:50] = HAT
    assert torch.equal(found.labels[0], expected) and torch.equal(found.labels[1], expected)
    soft = from_parts({HAT: hat * 0.25}, below)
    assert torch.equal(soft.region(["hat"]), hat.repeat(2, 1, 1) * 0.25)


@pytest.mark.parametrize(
    ("parts", "below", "words"),
    [
        ({}, None, "there is no mask"),
        ({HAIR: torch.ones(1, 4, 4), HAT: torch.ones(1, 4, 5)}, None,
         "hair has 4 x 4 pixels and hat has 5 x 4 pixels: resize them"),
        ({HAIR: torch.ones(2, 4, 4), HAT: torch.ones(3, 4, 4)}, None, "hair has 2 pictures and hat has 3"),
        ({HAIR: torch.ones(2, 4, 4)}, SemanticMask(torch.zeros(3, 4, 4).byte()), "the mask below has 3 pict"),
        ({HAIR: torch.ones(1, 4, 4)}, SemanticMask(torch.zeros(1, 4, 6).byte()), "the mask below has 6 x 4"),
        ({HAIR: torch.ones(4, 4)}, None, "hair has shape 4x4: give a mask [B,H,W]"),
        ({HAIR: torch.ones(1, 4, 4) * 255}, None, "hair has values from 255 to 255: use 0 to 1"),
        ({HAIR: torch.full((1, 4, 4), float("nan"))}, None, "hair has values from nan to nan"),
        ({HAIR: torch.zeros(1, 4, 4), HAT: torch.zeros(2, 4, 4)}, None, "hair, hat cover nothing: paint"),
    ],
)  # fmt: skip
def test_parts_that_do_not_go_together(parts: dict, below: SemanticMask | None, words: str) -> None:
    with pytest.raises(ValueError, match="^parts: ") as caught:
        from_parts(parts, below)
    assert words in str(caught.value)


def write_parts(folder: Path, number: int, masks: dict[str, np.ndarray], mode: str = "RGB") -> None:
    for name, mask in masks.items():
        image = Image.fromarray(mask.astype(np.uint8) * 255).convert(mode)
        image.save(folder / f"{number:05d}_{name}.png")


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_part_files(tmp_path: Path, mode: str) -> None:
    random = np.random.default_rng(7)
    masks = {name: random.random((20, 30)) < 0.3 for name in ("skin", "hair", "l_eye", "cloth")}
    write_parts(tmp_path, 12, masks, mode)
    write_parts(tmp_path, 13, {"nose": np.ones((20, 30))})
    # OpenCV and the data set's rule
    expected = np.zeros((20, 30), np.uint8)
    for name in CLASS_NAMES[1:]:
        if name in masks:
            part = cv2.imread(str(tmp_path / f"00012_{name}.png"))[:, :, 0]
            expected[part != 0] = CLASS_NAMES.index(name)
    found = read_parts(tmp_path, 12)
    assert found.is_hard and np.array_equal(found.labels[0].numpy(), expected)


def test_part_files_that_are_missing_broken_or_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no part of picture 3, such as 00003_skin.png"):
        read_parts(tmp_path, 3)
    write_parts(tmp_path, 3, {"skin": np.ones((8, 8)), "hair": np.ones((8, 9))})
    with pytest.raises(ValueError, match="00003_hair.png is 9 x 8 pixels and 00003_skin.png is 8 x 8"):
        read_parts(tmp_path, 3)
    whole = (tmp_path / "00003_skin.png").read_bytes()
    for broken in (b"", b"no picture", whole[: len(whole) // 2]):
        (tmp_path / "00003_hair.png").write_bytes(broken)
        with pytest.raises(ValueError, match="00003_hair.png cannot be read"):
            read_parts(tmp_path, 3)


SIZES = [(64, 64), (3, 3), (1, 1), (300, 20), (20, 300), (1, 500), (40, 60), (700, 900)]


@pytest.mark.parametrize("size", SIZES)
def test_the_preview_is_readable_at_any_size(size: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    for labels in (np.zeros(size), random.integers(0, 19, size)):
        mask = SemanticMask.from_labels(torch.from_numpy(labels.astype(np.uint8))[None])
        preview = mask_preview(mask)
        _, height, width, channels = preview.shape
        assert preview.dtype == torch.float32 and channels == 3 and preview.min() >= 0 and preview.max() <= 1
        assert 100 <= height <= 500 and 180 <= width <= 950
        levels = (preview[0].numpy() * 255).round().astype(int)
        # each class's colour stands in the legend, in a square of its own
        for label in np.unique(labels.astype(int)):
            same = (np.abs(levels - COLOURS[label]).max(-1) <= 4).astype(np.uint8)
            swatch = bool(cv2.erode(same, np.ones((8, 8), np.uint8), borderValue=0).any())
            assert swatch, CLASS_NAMES[label]
        assert np.abs(levels[-3:] - BACKGROUND).max() <= 1, "the legend runs out of the picture"


def test_the_preview_shows_the_mask() -> None:
    mask = SemanticMask.from_labels(face(448, 448)[None])
    drawn = mask_preview(mask)[0, 14:462, 14:462]
    expected = to_colours(mask)[0]
    # but for the frame and the softened borders of the parts
    assert ((drawn - expected).abs().amax(-1)[2:-2, 2:-2] < 0.02).float().mean() > 0.9


def test_previews_of_a_batch_have_one_legend() -> None:
    with_hat = face().clone()
    with_hat[:10] = HAT
    mask = SemanticMask.from_labels(torch.stack([face(), with_hat]))
    both = mask_preview(mask)
    assert len(both) == 2 and torch.equal(both[1:], mask_preview(mask[1:]))
    assert not torch.equal(both[:1], mask_preview(mask[:1])[:, : both.shape[1], : both.shape[2]])
    assert mask_preview(mask.resized(16, 16, soft=True)).shape == both.shape


def test_a_single_pixel_stands_in_the_legend() -> None:
    labels = torch.zeros(1, 64, 64, dtype=torch.uint8)
    one = mask_preview(SemanticMask.from_labels(labels))
    labels[0, 5, 5] = HAT
    two = mask_preview(SemanticMask.from_labels(labels))
    # its row of the legend, below that of the background
    assert (one[:, 52:72, 470:] - two[:, 52:72, 470:]).abs().max() > 0.5


def test_percentages() -> None:
    shares = [0, 1e-5, 0.000999, 0.001, 0.0123, 0.0994, 0.0996, 0.5, 1]
    told = ["none", "< 0.1 %", "< 0.1 %", "0.1 %", "1.2 %", "9.9 %", "10 %", "50 %", "100 %"]
    assert [percentage(share) for share in shares] == told
