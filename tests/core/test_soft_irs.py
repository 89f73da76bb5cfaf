"""Soft measures: references, finite differences, closeness to the hard measures, degenerate pictures."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from skimage.feature import graycomatrix, graycoprops
from torch import Tensor

from realism_core.degrade import gaussian_blur, gaussian_noise, unsharp_mask
from realism_core.irs.distribution import features
from realism_core.irs.measures import Measures, measure
from realism_core.irs.soft import soft_measures
from realism_core.irs.soft_reference import SoftReference, fit_soft_reference
from tests.core.textures import TEXTURES, photographs, scenes, texture

NAMES = Measures._fields


def random_images(seed: int, *shape: int) -> Tensor:
    """Return float64 pictures away from black and white, whose values meet no bin's centre."""
    random = torch.Generator().manual_seed(seed)
    return 0.1 + 0.8 * torch.rand(shape, generator=random, dtype=torch.float64)


def photo_crops(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(scenes(count, side, side, seed)).double() / 255


# --- values


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(sorted(TEXTURES)), st.integers(0, 99), st.integers(16, 40), st.integers(16, 40))
def test_three_measures_by_their_formulas(kind: str, seed: int, height: int, width: int) -> None:
    rgb = texture(kind, seed, height, width)
    soft = soft_measures(torch.from_numpy(rgb)[None].double() / 255)
    luma, swapped = rgb @ np.array([0.299, 0.587, 0.114]), rgb @ np.array([0.114, 0.587, 0.299])
    contrast = np.mean(np.diff(luma, axis=1) ** 2)
    assert soft.glcm_contrast.item() == pytest.approx(contrast, rel=1e-9, abs=1e-9)
    assert soft.blur_variance.item() == pytest.approx(np.var(swapped), rel=1e-9, abs=1e-9)
    power, floor = np.abs(np.fft.fft2(rgb.astype(float))) ** 2, width / 4 * np.exp(-np.euler_gamma)
    assert soft.mean_spectrum.item() == pytest.approx(np.mean(10 * np.log(power + floor)), rel=1e-9)


def slow_edges(grey: np.ndarray) -> float:
    """Pixel by pixel, from the formula."""
    framed = np.pad(grey, 1, mode="edge")
    height, width = grey.shape
    gx, gy = np.zeros((2, height, width))
    for y in range(height):
        for x in range(width):
            part = framed[y : y + 3, x : x + 3]
            gx[y, x] = (part * [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]).sum()
            gy[y, x] = (part * [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]).sum()
    magnitude = np.pad(np.sqrt(gx**2 + 1) + np.sqrt(gy**2 + 1), 1)
    total = 0.0
    for y in range(height):
        for x in range(width):
            here = magnitude[y + 1, x + 1]
            angle = np.arctan2(gy[y, x], gx[y, x])
            strength = (gx[y, x] ** 2 + gy[y, x] ** 2) / (gx[y, x] ** 2 + gy[y, x] ** 2 + 1)
            c, s = strength * np.cos(2 * angle), strength * np.sin(2 * angle)
            peak = 0.0
            for share, (down, right) in ((c, (0, 1)), (-c, (1, 0)), (s, (1, 1)), (-s, (1, -1))):
                rivals = [magnitude[y + 1 + k * down, x + 1 + k * right] for k in (-1, 1)]
                exceeds = [1 / (1 + np.exp((rival - here) / 10)) for rival in rivals]
                peak += max(share, 0) ** 2 * np.prod(exceeds)
            total += peak / (1 + np.exp((140 - here) / 10))
    return total / grey.size


def slow_energy(grey: np.ndarray) -> float:
    """With a dense triangular weight for each pair and bin."""
    left, right = grey[:, :-1].ravel(), grey[:, 1:].ravel()
    mean, step = (left + right) / 2 * 127 / 255, np.arcsinh((right - left) / 4) * 4
    down = np.maximum(0, 1 - np.abs(mean[:, None] - np.arange(128)))
    across = np.maximum(0, 1 - np.abs(step[:, None] - np.arange(-20, 21)))
    shares = down.T @ across / len(mean)
    symmetric = (shares + shares[:, ::-1]) / 2
    return math.sqrt((symmetric**2 / (np.cosh(np.arange(-20, 21) / 4) * 255 / 127)).sum())


@pytest.mark.parametrize("kind", sorted(TEXTURES))
def test_edges_and_energy_against_plain_loops(kind: str) -> None:
    rgb = texture(kind, 3, 21, 18)
    soft = soft_measures(torch.from_numpy(rgb)[None].double() / 255)
    swapped, luma = rgb @ np.array([0.114, 0.587, 0.299]), rgb @ np.array([0.299, 0.587, 0.114])
    assert soft.canny_edge_density.item() == pytest.approx(slow_edges(swapped), rel=1e-9, abs=1e-12)
    assert soft.glcm_energy.item() == pytest.approx(slow_energy(luma), rel=1e-9)


def test_contrast_of_whole_greys_is_that_of_scikit_image() -> None:
    grey = texture("blurred", 5, 40, 33)[..., :1].repeat(3, 2)
    matrix = graycomatrix(grey[..., 0], [1], [0], 256, symmetric=True, normed=True)
    soft = soft_measures(torch.from_numpy(grey)[None].double() / 255)
    assert soft.glcm_contrast.item() == pytest.approx(graycoprops(matrix, "contrast").item(), rel=1e-9)


def versions(rgb: np.ndarray) -> Tensor:
    """Return a photograph as it is, blurred twice, with grain twice and sharpened twice."""
    image = torch.from_numpy(np.ascontiguousarray(rgb[:256, :256]))[None].float() / 255
    return torch.cat(
        (
            image,
            gaussian_blur(image, 1.0),
            gaussian_blur(image, 3.0),
            gaussian_noise(image, 5.0, 1),
            gaussian_noise(image, 15.0, 2),
            unsharp_mask(image, 0.5),
            unsharp_mask(image, 2.0),
        )
    )


@pytest.fixture(scope="module")
def both() -> tuple[Tensor, Tensor]:
    """Return soft and hard measures [n,5] of photographs in seven versions."""
    pictures = torch.cat([versions(rgb) for rgb in photographs().values() if min(rgb.shape[:2]) >= 256])
    soft, hard = (torch.stack(tuple(found(pictures)), 1).double() for found in (soft_measures, measure))
    return soft, hard


@pytest.mark.parametrize(
    ("name", "rank", "error"),
    [
        ("canny_edge_density", 0.98, 0.1),
        ("glcm_contrast", 0.999, 0.005),
        ("glcm_energy", 0.99, 0.04),
        ("blur_variance", 0.999, 0.001),
        ("mean_spectrum", 0.99, 0.02),
    ],
)
def test_soft_measures_follow_the_hard_ones(
    both: tuple[Tensor, Tensor], name: str, rank: float, error: float
) -> None:
    """rank: Spearman's over all versions; error: the median of |soft / hard - 1| where hard has a value."""
    column = NAMES.index(name)
    soft, hard = (table[:, column].numpy() for table in both)
    assert len(soft) >= 100
    assert spearmanr(soft, hard).statistic >= rank
    counted = hard > (1e-3 if name == "canny_edge_density" else 0)
    assert np.median(np.abs(soft[counted] / hard[counted] - 1)) <= error


# --- gradients


def test_gradcheck_of_all_five() -> None:
    """In logarithms, so that one tolerance suits all."""
    images = random_images(1, 1, 3, 16, 17).requires_grad_()
    (gradient,) = torch.autograd.grad(features(soft_measures(images)).sum(), images)
    assert gradient.abs().max() > 1e-3
    assert torch.autograd.gradcheck(
        lambda x: features(soft_measures(x)), (images,), eps=1e-6, atol=1e-7, rtol=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
def test_slopes_along_random_directions_on_photographs(name: str) -> None:
    """Central differences in float64 with a step of 1e-7 against autograd, relative to 1e-4."""
    random = torch.Generator().manual_seed(3)
    images = (photo_crops(3, 48) * 0.9 + 0.05 + 1e-3 * torch.rand(3, 48, 48, 3, generator=random)).double()
    images.requires_grad_()
    values = getattr(soft_measures(images), name)
    (gradient,) = torch.autograd.grad(values.sum(), images)
    for _ in range(4):
        direction = torch.randn(images.shape, generator=random, dtype=torch.float64)
        with torch.no_grad():
            above, below = (
                getattr(soft_measures(images + step * direction), name) for step in (1e-7, -1e-7)
            )
        slope = (gradient * direction).sum((1, 2, 3))
        torch.testing.assert_close((above - below) / 2e-7, slope, rtol=1e-4, atol=1e-4 * slope.abs().max())


def degenerate(side: tuple[int, int]) -> dict[str, Tensor]:
    ramp = torch.linspace(0, 1, side[1]).expand(1, 3, *side)
    grey = torch.rand(1, 1, *side, generator=torch.Generator().manual_seed(0))
    return {
        "flat": torch.full((1, 3, *side), 0.4),
        "black": torch.zeros(1, 3, *side),
        "white": torch.ones(1, 3, *side),
        "beyond": torch.full((1, 3, *side), 1.5),
        "black and white": (grey > 0.5).float().expand(1, 3, *side),
        "grey": grey,
        "ramp": ramp,
        "pink": torch.tensor([1.0, 0.5, 0.5]).view(1, 3, 1, 1).expand(1, 3, *side),
    }


@pytest.mark.parametrize("side", [(16, 16), (16, 131), (97, 16), (64, 64)], ids=str)
@pytest.mark.parametrize("kind", list(degenerate((16, 16))))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_degenerate_pictures_have_finite_values_and_gradients(
    kind: str, side: tuple[int, int], dtype: torch.dtype
) -> None:
    images = degenerate(side)[kind].to(dtype).clone().requires_grad_()
    soft = soft_measures(images)
    table = features(soft)
    assert torch.isfinite(table).all()
    for column in range(5):
        (gradient,) = torch.autograd.grad(table[:, column].sum(), images, retain_graph=True)
        assert torch.isfinite(gradient).all(), NAMES[column]
    assert soft.glcm_energy.item() > 0
    if kind in ("flat", "black", "white", "beyond", "pink"):
        assert soft.glcm_contrast.item() == 0 and soft.blur_variance.item() < 1e-6
        assert soft.canny_edge_density.item() < 1e-6


def test_gradients_point_where_detail_is_made() -> None:
    """The slope towards a sharper picture has the sign of the hard measure's change on the way there."""
    image = gaussian_blur(photo_crops(12, 64).float(), 1.5).requires_grad_()
    sharper = unsharp_mask(image.detach(), 1.0)
    for name in NAMES:
        (gradient,) = torch.autograd.grad(getattr(soft_measures(image), name).sum(), image)
        slope = (gradient * (sharper - image.detach())).sum((1, 2, 3))
        change = getattr(measure(sharper), name) - getattr(measure(image.detach()), name)
        assert (change != 0).sum() >= 6, name
        assert (slope.sign() == change.sign())[change != 0].all(), name


# --- batches, layouts, types


def test_a_batch_measures_like_its_pictures() -> None:
    images = photo_crops(3, 40)
    batch = soft_measures(images)
    for i in range(3):
        for ours, single in zip(batch, soft_measures(images[i : i + 1]), strict=True):
            assert ours[i].item() == pytest.approx(single.item(), rel=1e-12)


def test_layouts_channels_and_types() -> None:
    images = photo_crops(2, 40)
    wanted = torch.stack(tuple(soft_measures(images)))
    assert wanted.dtype == torch.float64 and wanted.shape == (5, 2)
    alpha = torch.cat((images, torch.rand(2, 40, 40, 1)), 3)
    for same in (images.movedim(3, 1), alpha, alpha.movedim(3, 1)):
        assert torch.equal(torch.stack(tuple(soft_measures(same))), wanted)
    single = torch.stack(tuple(soft_measures(images.float())))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), wanted, rtol=1e-4, atol=1e-6)
    grey = images[..., :1]
    repeated = soft_measures(grey.expand(-1, -1, -1, 3))
    assert all(map(torch.equal, soft_measures(grey), repeated))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = torch.stack(tuple(soft_measures(images.float())))
    assert cast.dtype == torch.float32 and torch.equal(cast, single)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "uint8"),
        (torch.zeros(3, 32, 32), "3x32x32"),
        (torch.zeros(1, 3, 32, 15), "16"),
        (torch.zeros(1, 15, 32, 3), "1x15x32x3"),
        (torch.zeros(0, 3, 32, 32), "0x3x32x32"),
        (torch.zeros(1, 5, 32, 32), "1x5x32x32"),
    ],
)
def test_bad_images_are_named(images: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        soft_measures(images)


# --- the reference


def test_a_reference_holds_mean_and_spread_of_the_crops() -> None:
    crops = scenes(12, 48, 48)
    found = fit_soft_reference(torch.from_numpy(crops), side=48)
    images = torch.from_numpy(crops).double() / 255
    table = features(soft_measures(images)).numpy()
    assert found.count == 12 and found.side == 48
    np.testing.assert_allclose(found.mean.numpy(), table.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.spread.numpy(), table.std(0, ddof=1), rtol=1e-9)
    wanted = (table - table.mean(0)) / table.std(0, ddof=1)
    np.testing.assert_allclose(found.deviations(images).numpy(), wanted, rtol=1e-6, atol=1e-8)


def test_fitting_streams_and_leaves_out_what_says_nothing() -> None:
    crops = torch.from_numpy(scenes(8, 40, 40))
    flat, small = torch.full((2, 40, 40, 3), 90, dtype=torch.uint8), torch.zeros(1, 39, 60, 3)
    grey = crops[:2, ..., :1].repeat(1, 1, 1, 3)
    mixed = iter([crops[:3], flat, small, grey, crops[3:]])
    whole, streamed = fit_soft_reference(crops, 40), fit_soft_reference(mixed, 40)
    assert streamed.count == whole.count == 8
    torch.testing.assert_close(streamed.mean, whole.mean)
    torch.testing.assert_close(streamed.spread, whole.spread)


def test_large_pictures_give_a_few_crops_each() -> None:
    large = torch.from_numpy(scenes(3, 200, 200))
    assert fit_soft_reference(large, 40, crops_per_picture=4).count == 12
    assert fit_soft_reference(large, 40, crops_per_picture=100).count == 75


def test_a_reference_survives_json_and_refuses_other_values() -> None:
    reference = fit_soft_reference(torch.from_numpy(scenes(6, 32, 32)), 32)
    data = json.loads(json.dumps(reference.to_dict()))
    again = SoftReference.from_dict(data)
    assert (again.side, again.count) == (32, 6)
    torch.testing.assert_close(again.mean, reference.mean, rtol=1e-8, atol=0)
    torch.testing.assert_close(again.spread, reference.spread, rtol=1e-8, atol=0)
    harms = ({"format": "x"}, {"version": 2}, {"side": 3}, {"mean": [1.0]}, {"spread": [0.0] * 5})
    for harm in (*harms, {"mean": [math.nan] * 5}, {"count": None}):
        with pytest.raises(ValueError, match="fit it again"):
            SoftReference.from_dict(data | harm)
    for key in data:
        if key != "measures":
            with pytest.raises(ValueError, match="fit it again"):
                SoftReference.from_dict({name: data[name] for name in data if name != key})


def test_bad_fits_are_named() -> None:
    with pytest.raises(ValueError, match="5 usable crops of 64 x 64 pixels, got 0 from 4 pictures"):
        fit_soft_reference(torch.from_numpy(scenes(4, 32, 32)), 64)
    with pytest.raises(ValueError, match="side is 8"):
        fit_soft_reference(torch.from_numpy(scenes(4, 32, 32)), 8)
    with pytest.raises(ValueError, match="crops_per_picture 0"):
        fit_soft_reference(torch.from_numpy(scenes(4, 32, 32)), 32, 0)
    reference = fit_soft_reference(torch.from_numpy(scenes(6, 32, 32)), 32)
    with pytest.raises(ValueError, match="40 x 32 pixels.*32 x 32"):
        reference.deviations(torch.rand(1, 3, 32, 40))
