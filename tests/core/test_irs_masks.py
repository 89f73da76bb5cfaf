"""Masked measures against an independent float64 reference."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from realism_core.irs import Measures, measure
from realism_core.irs.profile import Profile
from realism_core.irs.score import score
from tests.core.textures import TEXTURES, scenes, texture


def masked_recipe(rgb: np.ndarray, mask: np.ndarray) -> tuple[float, ...]:
    """Edges of the whole counted inside, pairs with both inside, rows weighted by their masked share."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_BGR2GRAY)
    edges = cv2.Canny(grey, 100, 200) > 0
    luma = np.array(Image.fromarray(rgb).convert("L")).astype(np.int64)
    both = mask[:, :-1] & mask[:, 1:]
    left, right = luma[:, :-1][both], luma[:, 1:][both]
    matrix = np.zeros((256, 256))
    np.add.at(matrix, (left, right), 1.0)
    np.add.at(matrix, (right, left), 1.0)
    matrix /= matrix.sum()
    rows = (20 * np.log(np.abs(np.fft.fft2(rgb)) + 1e-8)).mean((1, 2))
    return (
        edges[mask].mean(),
        ((left - right) ** 2).mean(),
        np.sqrt((matrix**2).sum()),
        grey[mask].astype(np.float64).var(),
        np.average(rows, weights=mask.sum(1)),
    )


def shape_of(kind: str, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return {
        "disc": (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 3) ** 2,
        "left half": columns < width // 2,
        "random": np.random.default_rng(3).random((height, width)) < 0.4,
        "two islands": (rows + columns < 20) | (rows + columns > height + width - 25),
        "last rows": rows > height - 5,
    }[kind]


SHAPES = ("disc", "left half", "random", "two islands", "last rows")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["noise", "blurred", "blocks", "gradient"])
def test_masked_measures(kind: str, shape: str) -> None:
    for seed in range(3):
        rgb = texture(kind, seed, 61, 84)
        mask = shape_of(shape, 61, 84)
        ours = measure(torch.from_numpy(rgb)[None], mask=torch.from_numpy(mask)[None].float())
        for name, mine, theirs in zip(Measures._fields, ours, masked_recipe(rgb, mask), strict=True):
            assert mine.item() == pytest.approx(theirs, rel=1e-6, abs=1e-9), name


def test_a_full_mask_is_no_mask() -> None:
    images = torch.from_numpy(np.stack([texture(kind, 4, 50, 71) for kind in TEXTURES]))
    plain = measure(images)
    for mask in (
        torch.ones(50, 71),
        torch.ones(1, 50, 71),
        torch.ones(len(images), 50, 71, dtype=torch.bool),
    ):
        for name, masked, whole in zip(Measures._fields, measure(images, mask=mask), plain, strict=True):
            torch.testing.assert_close(masked, whole, rtol=1e-12, atol=0, msg=name)


def test_each_picture_has_its_own_mask_and_one_mask_serves_all() -> None:
    images = torch.from_numpy(scenes(3, 61, 84))
    masks = torch.from_numpy(np.stack([shape_of(shape, 61, 84) for shape in ("disc", "left half", "random")]))
    own, shared = measure(images, mask=masks), measure(images, mask=masks[0])
    for index in range(3):
        alone = measure(images[index : index + 1], mask=masks[index])
        first = measure(images[index : index + 1], mask=masks[0])
        assert [column[index].item() for column in own] == [column.item() for column in alone]
        assert [column[index].item() for column in shared] == [column.item() for column in first]


def test_what_lies_outside_the_mask_counts_only_through_the_rows_of_the_spectrum_and_the_edge() -> None:
    rgb = texture("blurred", 1, 60, 80)
    changed = rgb.copy()
    changed[:20] = texture("noise", 1, 20, 80)
    mask = torch.zeros(60, 80)
    mask[30:] = 1
    before, after = (measure(torch.from_numpy(each)[None], mask=mask) for each in (rgb, changed))
    assert [a.item() for a in after] == [b.item() for b in before]
    assert (
        measure(torch.from_numpy(changed)[None]).glcm_contrast
        != measure(torch.from_numpy(rgb)[None]).glcm_contrast
    )


@pytest.mark.parametrize("shape", [(20, 1), (1, 20)], ids=["column", "row"])
def test_a_mask_one_pixel_wide_gives_a_number_or_says_why_not(shape: tuple[int, int]) -> None:
    """A single column holds no horizontal pair: no score may come out without a reason given."""
    images = torch.from_numpy(texture("noise", 1, 40, 40))[None]
    mask = torch.zeros(40, 40)
    mask[5 : 5 + shape[0], 7 : 7 + shape[1]] = 1
    profile = Profile.fit(torch.from_numpy(scenes(6, 40, 40)))
    try:
        found = score(images, mask=mask, profile=profile)
    except ValueError as error:
        assert "mask" in str(error)
    else:
        assert torch.isfinite(found.irs).all() or found.flat.any()


def test_flat_inside_the_mask_is_flat_though_the_rest_is_not() -> None:
    rgb = texture("noise", 1, 101, 103)
    rgb[:, 50:] = (253, 253, 253)
    mask = torch.zeros(101, 103)
    mask[:, 50:] = 1
    ours = measure(torch.from_numpy(rgb)[None], mask=mask)
    assert ours.blur_variance.item() == 0
    assert ours.glcm_contrast.item() == 0
