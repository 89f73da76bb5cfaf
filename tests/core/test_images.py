"""Bad and odd tensors: a sentence that names the input and the fix, or the documented result."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from realism_core.images import check_finite, check_images, check_mask, to_planes
from realism_core.irs import measure
from realism_core.saving import save_picture
from tests.core.textures import scenes, texture

GOOD = torch.from_numpy(scenes(3, 40, 50)).float() / 255


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_that_are_no_numbers_are_refused_with_the_pictures_place(
    bad: float, dtype: torch.dtype
) -> None:
    images = GOOD.to(dtype, copy=True)
    images[1, 7, 9, 2] = bad
    with pytest.raises(
        ValueError, match="images: picture 1 contains NaN or infinite values.*check the sampler or VAE"
    ):
        measure(images)
    images[0, 0, 0, 0] = -bad
    with pytest.raises(ValueError, match="photos: picture 0 contains NaN"):
        to_planes(images, "photos")


def test_nan_in_the_alpha_that_is_left_out_does_no_harm() -> None:
    alpha = torch.full((3, 40, 50, 1), math.nan)
    assert torch.equal(to_planes(torch.cat((GOOD, alpha), 3)), to_planes(GOOD))


def test_finite_values_of_any_size_are_clamped() -> None:
    images = GOOD.clone()
    images[0], images[1, 0] = 3e38, -3e38
    planes = to_planes(images)
    assert (planes[0] == 255).all() and (planes[1, :, 0] == 0).all()
    assert torch.equal(planes[2], to_planes(GOOD)[2])
    assert (to_planes(torch.full((1, 3, 3, 3), 1e300, dtype=torch.float64)) == 255).all()


def test_input_is_left_as_it_was() -> None:
    images = GOOD * 3 - 1
    before = images.clone()
    measure(images)
    assert torch.equal(images, before)
    data = torch.from_numpy(texture("noise", 0, 30, 30))[None]
    before = data.clone()
    measure(data)
    to_planes(data).zero_()
    assert torch.equal(data, before), "planes must not share memory with the input"


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (40, 2), (2, 2), (1, 500)], ids=str)
def test_pictures_below_three_pixels_are_refused(size: tuple[int, int]) -> None:
    height, width = size
    words = f"images is {width} x {height} pixels; the measures need at least 3 x 3: use larger pictures"
    with pytest.raises(ValueError, match=words):
        measure(torch.rand(1, *size, 3))


@pytest.mark.parametrize("definition", ["reference", "paper"])
def test_three_by_three_is_measured(definition: str) -> None:
    for values in measure(torch.from_numpy(texture("noise", 1, 3, 3))[None], definition):
        assert torch.isfinite(values).all()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(0, 8, 8, 3), r"holds no pictures \(shape 0x8x8x3\): connect at least one"),
        (
            torch.zeros(8, 8, 3),
            r"has shape 8x8x3, but a batch \[B,H,W,C\] has four dimensions.*images\[None\]",
        ),
        (torch.zeros(1, 1, 8, 8, 3), "has shape 1x1x8x8x3"),
        (torch.zeros(8, 8), "has shape 8x8, but"),
        (torch.tensor(1.0), "has shape a single number"),
        (torch.zeros(1, 3, 8, 8), r"has 8 channels \(shape 1x3x8x8\).*move the channels last"),
        (torch.zeros(1, 8, 8, 2), "has 2 channels"),
        (torch.zeros(1, 8, 8, 5), "has 5 channels"),
        (torch.zeros(1, 8, 8, 0), "has 0 channels"),
        (
            torch.zeros(1, 8, 8, 3, dtype=torch.int64),
            "is of type torch.int64: use floating point in 0..1 or uint8",
        ),
        (torch.zeros(1, 8, 8, 3, dtype=torch.int16), "is of type torch.int16"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.bool), "is of type torch.bool"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.complex64), "is of type torch.complex64"),
        (
            [torch.zeros(1, 8, 8, 3), torch.zeros(1, 9, 8, 3)],
            "is a list of 2 items, but one batch.*one batch for each size",
        ),
        ((torch.zeros(1, 8, 8, 3),), "is a list of 1 items"),
        ([], "is a list of 0 items"),
        (None, "is a NoneType, not an image batch: pass a tensor"),
        ("picture.png", "is a str, not an image batch"),
        ({"samples": torch.zeros(1, 4, 8, 8)}, "is a dict, not an image batch"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(getattr(value, "shape", type(value).__name__)),
)
def test_what_is_no_image_batch_is_refused(images: object, words: str) -> None:
    with pytest.raises(ValueError, match=f"photos {words}"):
        check_images(images, "photos")


def test_numpy_arrays_are_image_batches() -> None:
    assert torch.equal(to_planes(np.asarray(GOOD)), to_planes(GOOD))


def test_planes_are_contiguous_bytes_of_three_channels() -> None:
    for channels in (1, 3, 4):
        planes = to_planes(torch.rand(2, 5, 7, channels))
        assert planes.shape == (2, 3, 5, 7) and planes.dtype == torch.uint8 and planes.is_contiguous()
    assert torch.equal(to_planes(GOOD[..., :1])[:, 0], to_planes(GOOD[..., :1])[:, 2])


def test_measures_carry_no_gradient_and_take_pictures_that_do() -> None:
    assert not measure(GOOD.clone().requires_grad_())[0].requires_grad


@pytest.mark.parametrize(
    "shape", [(41, 50), (1, 50, 40), (2, 40, 50), (3, 40, 50, 1), (3, 3, 40, 50), (40,)], ids=str
)
def test_masks_of_another_size_are_refused(shape: tuple) -> None:
    given = "x".join(map(str, shape))
    words = rf"mask has shape (1x)?{given}, but the pictures need 3x40x50 \(or 1x40x50\): resize the mask"
    with pytest.raises(ValueError, match=words):
        measure(GOOD, mask=torch.ones(shape))


def test_empty_masks_are_refused_with_the_pictures_place() -> None:
    mask = torch.ones(3, 40, 50)
    mask[2] = 0.5
    with pytest.raises(
        ValueError, match="mask selects only 0 pixels of picture 2: paint at least 9 pixels, or disconnect"
    ):
        measure(GOOD, mask=mask)
    mask[2, 0, :8] = 1
    with pytest.raises(ValueError, match="selects only 8 pixels of picture 2"):
        measure(GOOD, mask=mask)


def test_masks_count_above_one_half() -> None:
    planes = to_planes(GOOD)
    mask = torch.zeros(40, 50)
    mask[:10] = 0.51
    mask[10:20] = 0.5
    checked = check_mask(mask, planes)
    assert checked.shape == (3, 40, 50) and checked.dtype == torch.bool
    assert checked.sum().item() == 3 * 10 * 50
    assert check_mask(None, planes) is None
    mask[30:] = math.nan
    assert check_mask(mask, planes).sum().item() == 3 * 10 * 50


def test_masks_without_two_pixels_side_by_side_are_refused_with_the_pictures_place() -> None:
    mask = torch.ones(3, 40, 50)
    mask[1] = 0
    mask[1, :, ::2] = 1
    with pytest.raises(ValueError, match="mask selects no two pixels side by side of picture 1"):
        measure(GOOD, mask=mask)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_pictures_that_are_no_numbers_are_not_saved(value: float, tmp_path: Path) -> None:
    image = torch.full((8, 8, 4), 0.5)
    image[2, 3, 3] = value
    with pytest.raises(ValueError, match="contains NaN or infinite values.*check the sampler or VAE"):
        save_picture(image, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_finite_pictures_that_add_up_to_infinity_pass() -> None:
    check_finite(torch.full((2, 8, 8, 3), 3e38))
    with pytest.raises(ValueError, match="images: picture 6 contains NaN"):
        check_finite(torch.tensor([[1.0], [math.nan]]), first=5)
