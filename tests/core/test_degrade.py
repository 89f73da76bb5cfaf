"""The degradations against Pillow, scipy and closed forms, and what must hold for any picture."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from scipy.ndimage import gaussian_filter

from realism_core.degrade import (
    KERNELS,
    KINDS,
    SUBSAMPLINGS,
    degrade,
    encode_jpeg,
    encode_webp,
    gaussian_blur,
    gaussian_noise,
    random_crop,
    resize,
    setting,
    unsharp_mask,
)
from tests.core.textures import scenes

PHOTOGRAPHS = torch.from_numpy(scenes(3, 96, 120))
RANDOM = ("noise", "crop")
SCALING = ("resize", "upscale", "crop")
SEEDS = st.integers(0, 2**64 - 1)
SIDES = st.integers(3, 40)
DTYPES = st.sampled_from([torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])


def pictures(batch: int, height: int, width: int, channels: int, dtype: torch.dtype, seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(0, 256, (batch, height, width, channels), generator=random, dtype=dtype)
    return torch.rand(batch, height, width, channels, generator=random, dtype=torch.float64).to(dtype)


def half_up(value: float) -> int:
    return math.floor(value + 0.5)


def through_pillow(levels: np.ndarray, format: str, mode: str, **options: object) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format, **options)
    return np.array(Image.open(io.BytesIO(file.getvalue())).convert(mode))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [1, 55, 100])
def test_jpeg_is_pillows(quality: int, subsampling: str) -> None:
    options = {"quality": quality, "subsampling": subsampling}
    expected = np.stack([through_pillow(p.numpy(), "JPEG", "RGB", **options) for p in PHOTOGRAPHS])
    assert np.array_equal(encode_jpeg(PHOTOGRAPHS, quality, subsampling).numpy(), expected)
    # a float picture is what it was before rounding: any value within its level gives the same file
    floats = ((PHOTOGRAPHS + torch.rand(PHOTOGRAPHS.shape) * 0.9 - 0.45) / 255).clamp(0, 1)
    decoded = encode_jpeg(floats, quality, subsampling)
    assert decoded.dtype == torch.float32
    assert np.array_equal((decoded * 255).round().numpy(), expected)


@pytest.mark.parametrize("quality", [1, 55, 100])
def test_webp_is_pillows(quality: int) -> None:
    expected = np.stack([through_pillow(p.numpy(), "WEBP", "RGB", quality=quality) for p in PHOTOGRAPHS])
    assert np.array_equal(encode_webp(PHOTOGRAPHS, quality).numpy(), expected)
    assert np.array_equal((encode_webp(PHOTOGRAPHS.half() / 255, quality) * 255).float().round(), expected)


def test_grey_is_compressed_as_grey() -> None:
    grey = PHOTOGRAPHS[..., :1]
    expected = [through_pillow(p[..., 0].numpy(), "JPEG", "L", quality=30) for p in grey]
    for subsampling in SUBSAMPLINGS:
        assert np.array_equal(encode_jpeg(grey, 30, subsampling)[..., 0].numpy(), np.stack(expected))
    expected = [through_pillow(p[..., 0].numpy(), "WEBP", "L", quality=30) for p in grey]
    assert np.array_equal(encode_webp(grey, 30)[..., 0].numpy(), np.stack(expected))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(list(KERNELS)), SIDES, SIDES, st.floats(0.3, 3), st.sampled_from([1, 3, 4]))
def test_resize_of_bytes_is_pillows(
    kernel: str, height: int, width: int, factor: float, channels: int
) -> None:
    size = half_up(width * factor), half_up(height * factor)
    images = pictures(1, height, width, channels, torch.uint8)
    if min(size) < 3:
        with pytest.raises(ValueError, match="and would become"):
            resize(images, factor, kernel)
        return
    sized = resize(images, factor, kernel)
    assert sized.shape == (1, size[1], size[0], channels)
    for channel in range(channels):
        plane = Image.fromarray(images[0, ..., channel].numpy())
        assert np.array_equal(sized[0, ..., channel], np.array(plane.resize(size, KERNELS[kernel])))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["bilinear", "bicubic"]), SIDES, SIDES, st.floats(0.3, 3), DTYPES)
def test_resize_of_floats_is_torchs(
    kernel: str, height: int, width: int, factor: float, dtype: torch.dtype
) -> None:
    size = half_up(height * factor), half_up(width * factor)
    if min(size) < 3 or dtype == torch.uint8:
        return
    images = pictures(2, height, width, 3, dtype)
    planes = images.double().movedim(-1, 1)
    expected = F.interpolate(planes, size, mode=kernel, antialias=True, align_corners=False)
    tolerance = {torch.float16: 5e-4, torch.bfloat16: 4e-3}.get(dtype, 1e-6)
    sized = resize(images, factor, kernel).double()
    assert torch.allclose(sized, expected.movedim(1, -1).clamp(0, 1), rtol=0, atol=tolerance)


def test_resize_by_whole_factors_takes_means_and_repeats() -> None:
    images = pictures(2, 12, 18, 4, torch.float32)
    means = F.avg_pool2d(images.movedim(-1, 1), 3).movedim(1, -1)
    assert torch.allclose(resize(images, 1 / 3, "area"), means, atol=1e-6)
    repeated = images.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(resize(images, 2, "nearest"), repeated)


def blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(values, (0, sigma, sigma, 0), mode="nearest", truncate=4.0)


@settings(deadline=None, max_examples=60)
@given(SIDES, SIDES, st.floats(0, 6), st.sampled_from([1, 3]), st.integers(0, 99))
def test_blur_and_sharpening_are_scipys(
    height: int, width: int, sigma: float, channels: int, seed: int
) -> None:
    images = pictures(2, height, width, channels, torch.float64, seed)
    soft = blurred(images.numpy(), sigma)
    sharp = (images.numpy() + 1.7 * (images.numpy() - soft)).clip(0, 1)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        ours = gaussian_blur(images.to(dtype), sigma).double().numpy()
        assert np.allclose(ours, soft, rtol=0, atol=tolerance)
        ours = unsharp_mask(images.to(dtype), 1.7, sigma).double().numpy()
        assert np.allclose(ours, sharp, rtol=0, atol=4 * tolerance)
    levels = (images * 255).round().to(torch.uint8)
    exact = blurred(levels.numpy().astype(np.float64), sigma)
    assert np.abs(gaussian_blur(levels, sigma).numpy() - exact).max() <= 0.5 + 1e-3


@settings(deadline=None, max_examples=15)
@given(SEEDS, st.floats(0.5, 25))
def test_noise_is_normal_and_independent(seed: int, sigma: float) -> None:
    even = torch.full((2, 96, 96, 3), 0.5, dtype=torch.float64)
    noise = ((gaussian_noise(even, sigma, seed) - even) * 255 / sigma).numpy()
    count = noise.size
    assert abs(noise.mean()) < 6 / math.sqrt(count)
    assert abs(noise.std() - 1) < 6 / math.sqrt(2 * count)
    # beyond five sigmas the range 0..1 may cut
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-7
    pairs = [
        (noise[0], noise[1]),
        (noise[..., 0], noise[..., 1]),
        (noise[:, 1:], noise[:, :-1]),
        (noise[:, :, 1:], noise[:, :, :-1]),
    ]
    for one, other in pairs:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 6 / math.sqrt(one.size)


def test_noise_grows_with_strength_without_changing_its_pattern() -> None:
    even = torch.full((2, 20, 30, 3), 0.5, dtype=torch.float64)
    weak, strong = (degrade(even, "noise", strength, 7) - even for strength in (0.2, 0.8))
    assert torch.allclose(strong, 4 * weak, atol=1e-12) and weak.abs().max() > 0


def placed(height: int, width: int, batch: int = 1) -> torch.Tensor:
    """Pictures whose first two channels tell row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    both = torch.stack((rows, columns, rows * 0), -1)
    return (both / 128).expand(batch, -1, -1, -1).double()


@settings(deadline=None)
@given(st.integers(3, 128), st.integers(3, 128), st.floats(0.2, 1), st.floats(0.2, 1), SEEDS)
def test_crops_are_windows_and_smaller_ones_lie_inside(
    height: int, width: int, keep: float, other: float, seed: int
) -> None:
    keep, other = sorted((keep, other))
    sides = half_up(height * keep), half_up(width * keep)
    if min(sides) < 3:
        with pytest.raises(ValueError, match=f"{width} x {height} pixels and would become {sides[1]} x "):
            random_crop(placed(height, width), keep, seed)
        return
    small, large = (random_crop(placed(height, width), part, seed)[0] * 128 for part in (keep, other))
    assert small.shape[:2] == sides
    for part in (small, large):
        top, left = part[0, 0, :2].long().tolist()
        window = placed(height, width)[0, top : top + part.shape[0], left : left + part.shape[1]] * 128
        assert torch.equal(part, window)
    assert (small[0, 0, :2] >= large[0, 0, :2]).all() and (small[-1, -1, :2] <= large[-1, -1, :2]).all()


def test_every_place_is_cropped_about_as_often() -> None:
    corners = random_crop(placed(6, 5, 3000), 0.6, 11)[:, 0, 0, :2] * 128
    counts = np.bincount((corners[:, 0] * 3 + corners[:, 1]).long().numpy(), minlength=9)
    assert len(counts) == 9
    assert stats.chisquare(counts).pvalue > 1e-4


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(list(KINDS)), st.integers(1, 3), SIDES, SIDES, st.sampled_from([1, 3, 4]), DTYPES,
    st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), SEEDS,
)  # fmt: skip
def test_any_picture(
    kind: str, batch: int, height: int, width: int, channels: int, dtype: torch.dtype, strength: float,
    seed: int,
) -> None:
    """Size, type, range, determinism, and the rule for the pictures of a batch."""
    images = pictures(batch, height, width, channels, dtype)
    before = images.clone()
    factor = 1 + strength * {"resize": -0.75, "crop": -0.75, "upscale": 3}.get(kind, 0)
    sides = half_up(height * factor), half_up(width * factor)
    if min(sides) < 3:
        with pytest.raises(ValueError, match="at least 3 x 3 are needed: use larger pictures, or lower"):
            degrade(images, kind, strength, seed)
        return
    result = degrade(images, kind, strength, seed)
    assert torch.equal(images, before)
    assert result.shape == (batch, *sides, channels) and result.dtype == dtype
    assert result.min() >= 0 and result.max() <= (255 if dtype == torch.uint8 else 1)
    if strength == 0:
        assert torch.equal(result, images)
    if channels == 4 and kind not in SCALING:
        assert torch.equal(result[..., 3], images[..., 3])
    assert torch.equal(result, degrade(images, kind, strength, seed))
    alone = [degrade(images[i : i + 1], kind, strength, seed + i) for i in range(batch)]
    assert torch.equal(result, torch.cat(alone))
    if kind not in RANDOM:
        assert torch.equal(result, degrade(images, kind, strength, seed + 1))


@pytest.mark.parametrize("kind", RANDOM)
def test_seeds_differ_and_so_do_the_pictures_of_a_batch(kind: str) -> None:
    images = PHOTOGRAPHS[:1].expand(2, -1, -1, -1)
    results = [degrade(images, kind, 0.5, seed) for seed in (0, 10, 2**32, 2**32 + 10, 2**63, 2**64 - 9)]
    seen = {picture.numpy().tobytes() for result in results for picture in result}
    assert len(seen) == 12


@pytest.mark.parametrize("kind", KINDS)
def test_alpha_goes_with_its_picture_and_colours_do_not_heed_it(kind: str) -> None:
    alpha = (PHOTOGRAPHS[..., :1] // 3).contiguous()
    result = degrade(torch.cat((PHOTOGRAPHS, alpha), -1), kind, 0.6, 5)
    assert torch.equal(result[..., :3], degrade(PHOTOGRAPHS, kind, 0.6, 5))
    expected = degrade(alpha, kind, 0.6, 5) if kind in SCALING else alpha
    assert torch.equal(result[..., 3:], expected)


@pytest.mark.parametrize("kind", ["jpeg", "webp", "blur", "noise", "sharpen"])
def test_more_strength_is_further_from_the_picture(kind: str) -> None:
    steps = (0, 0.1, 0.3, 0.6, 1)
    original = PHOTOGRAPHS.double()
    off = [(degrade(PHOTOGRAPHS, kind, step).double() - original).square().mean().item() for step in steps]
    assert off[0] == 0 and off == sorted(off) and len(set(off)) == len(off)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-0.5, 1.5])
def test_strength_0_keeps_every_bit_and_more_clamps(kind: str, value: float) -> None:
    images = torch.rand(1, 16, 16, 3)
    images[0, 8, 8] = value
    assert torch.equal(degrade(images, kind, 0), images)
    result = degrade(images, kind, 0.3)
    assert result.min() >= 0 and result.max() <= 1
    assert torch.equal(result, degrade(images.clamp(0, 1), kind, 0.3))


def test_results_carry_no_gradient() -> None:
    images = torch.rand(1, 16, 16, 3, requires_grad=True)
    assert not any(degrade(images, kind, 0.5).requires_grad for kind in KINDS)


SETTINGS = {
    "jpeg": ("quality 55", "quality 10"),
    "webp": ("quality 55", "quality 10"),
    "resize": ("factor 0.625", "factor 0.25"),
    "upscale": ("factor 2.5", "factor 4"),
    "blur": ("sigma 2 px", "sigma 4 px"),
    "noise": ("sigma 12.5 levels", "sigma 25 levels"),
    "sharpen": ("amount 150%", "amount 300%"),
    "crop": ("keeps 0.625 of each side", "keeps 0.25 of each side"),
}


def test_settings_name_the_fields_unit() -> None:
    assert list(SETTINGS) == list(KINDS)
    for kind, (middle, end) in SETTINGS.items():
        assert (setting(kind, 0), setting(kind, 0.5), setting(kind, 1)) == ("unchanged", middle, end)
        assert setting(kind, 1e-6) != "unchanged"


def test_settings_are_what_is_done() -> None:
    done = {kind: degrade(PHOTOGRAPHS, kind, 0.5, 3) for kind in KINDS}
    exact = {
        "jpeg": encode_jpeg(PHOTOGRAPHS, 55),
        "webp": encode_webp(PHOTOGRAPHS, 55),
        "resize": resize(PHOTOGRAPHS, 0.625),
        "upscale": resize(PHOTOGRAPHS, 2.5),
        "blur": gaussian_blur(PHOTOGRAPHS, 2),
        "noise": gaussian_noise(PHOTOGRAPHS, 12.5, 3),
        "sharpen": unsharp_mask(PHOTOGRAPHS, 1.5, 1),
        "crop": random_crop(PHOTOGRAPHS, 0.625, 3),
    }
    assert all(torch.equal(done[kind], exact[kind]) for kind in KINDS)


def test_numpys_numbers_are_taken() -> None:
    given = degrade(PHOTOGRAPHS, "noise", np.float32(0.5), np.int64(3))
    assert torch.equal(given, degrade(PHOTOGRAPHS, "noise", 0.5, 3))
    assert torch.equal(encode_jpeg(PHOTOGRAPHS, np.int64(50)), encode_jpeg(PHOTOGRAPHS, 50))


TINY = torch.rand(1, 8, 9, 3)
BAD = {
    "kind": (lambda: degrade(TINY, "gif", 0.5), "kind is 'gif': use one of jpeg, webp, resize"),
    "kind of setting": (lambda: setting("gif", 0.5), "kind is 'gif': use one of jpeg"),
    "strength": (lambda: degrade(TINY, "jpeg", 1.01), "strength is 1.01: use a number from 0 to 1"),
    "below": (lambda: degrade(TINY, "jpeg", -0.1), "strength is -0.1: use a number from 0 to 1"),
    "nan": (lambda: setting("jpeg", math.nan), "strength is nan: use a number from 0 to 1"),
    "small": (
        lambda: degrade(TINY, "resize", 1.0),
        "images is 9 x 8 pixels and would become 2 x 2 when resized by 0.25; at least 3 x 3 are needed",
    ),
    "crop": (lambda: degrade(TINY, "crop", 1), "would become 2 x 2 when cropped to 0.25 of each side"),
    "quality": (lambda: encode_jpeg(TINY, 0), "quality is 0: use a number from 1 to 100"),
    "webp quality": (lambda: encode_webp(TINY, 101), "quality is 101: use a number from 1 to 100"),
    "subsampling": (lambda: encode_jpeg(TINY, 50, "420"), "subsampling is '420': use one of 4:4:4"),
    "kernel": (lambda: resize(TINY, 2, "cubic"), "kernel is 'cubic': use one of nearest, bilinear"),
    "factor": (lambda: resize(TINY, 0), "factor is 0: use a number above 0"),
    "factor inf": (lambda: resize(TINY, math.inf), "factor is inf"),
    "sigma": (lambda: gaussian_blur(TINY, -1), "sigma is -1: use a number from 0 to 100"),
    "noise": (lambda: gaussian_noise(TINY, math.nan, 0), "sigma is nan: use a number from 0 to 255"),
    "amount": (lambda: unsharp_mask(TINY, -1), "amount is -1: use a number from 0 to 100"),
    "keep": (lambda: random_crop(TINY, 1.5, 0), "keep is 1.5: use a number from 0 to 1"),
    "wide": (lambda: encode_webp(torch.zeros(1, 3, 16384, 3), 50), "WEBP holds sides of at most 16383"),
    "high": (lambda: encode_jpeg(torch.zeros(1, 65501, 3, 1), 50), "3 x 65501 pixels, but JPEG holds"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_numbers_are_refused_with_the_fix(case: str) -> None:
    call, words = BAD[case]
    with pytest.raises(ValueError) as refusal:
        call()
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    "name, value", [("strength", "1"), ("strength", True), ("seed", 0.5), ("seed", None)]
)
def test_what_is_no_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name} is .*: give a "):
        degrade(TINY, "noise", **{"strength": 0.5, "seed": 0, name: value})
    with pytest.raises(TypeError, match="quality is 50.0: give a whole number"):
        encode_jpeg(TINY, 50.0)


@pytest.mark.parametrize("strength", [0.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_bad_pictures_are_refused_by_every_kind(kind: str, strength: float) -> None:
    holed = torch.rand(3, 16, 16, 4)
    holed[1, 3, 3, 3] = math.nan
    for images, words in (
        (holed, "picture 1 contains NaN or infinite values"),
        (torch.rand(2, 2, 9, 3), "images is 9 x 2 pixels"),
        (torch.rand(9, 9, 3), "images has shape 9x9x3"),
        (torch.rand(0, 9, 9, 3), "images holds no pictures"),
        (torch.rand(1, 9, 9, 2), "images has 2 channels"),
    ):
        with pytest.raises(ValueError, match=words):
            degrade(images, kind, strength)
