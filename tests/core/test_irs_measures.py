"""The five measures against OpenCV, scikit-image and numpy, picture by picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.recipe import paper_measures, recipe_measures, reference_measures
from realism_core.images import to_planes
from realism_core.irs import canny, measure
from realism_core.irs.canny import canny_edges
from realism_core.irs.grey import opencv_grey, pillow_grey
from realism_core.irs.measures import Measures, measure_paper, measure_reference
from tests.core.textures import TEXTURES, photographs, texture

TOLERANCE = Measures(0.0, 1e-6, 1e-6, 1e-5, 1e-5)
SEEDS = 35


def planes_of(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).contiguous()


def assert_like_recipe(ours: Measures, recipe: tuple, slack: float = 0.0) -> None:
    for name, mine, theirs, tolerance in zip(Measures._fields, ours, recipe, TOLERANCE, strict=True):
        assert mine.dtype == torch.float64 and mine.shape == (1,)
        allowed = tolerance * abs(theirs) + (slack if name == "mean_spectrum" else 0)
        assert abs(mine.item() - theirs) <= allowed, f"{name}: {mine.item()!r} is not {theirs!r}"


def spectrum_slack(rgb: np.ndarray) -> float:
    """How far rounding may move the logarithmic spectrum of a picture whose rows have vanishing terms.

    Such a term is 20 ln(1e-8) exactly, but a transform leaves rounding noise there, of about 2^-52 times
    the row's sum, and another transform another noise. Found with numpy's extended precision; 0 for
    pictures without them.
    """
    terms = np.abs(np.fft.fft2(rgb.astype(np.longdouble)))
    noise = 2.0**-52 * rgb.sum((1, 2), dtype=np.float64)
    vanishing = (terms < 1e-9).mean((1, 2))
    return float((vanishing * 20 * np.log1p(noise / 1e-8)).mean())


def assert_both_like_recipe(rgb: np.ndarray) -> None:
    planes = planes_of(rgb)
    assert_like_recipe(measure_reference(planes), reference_measures(rgb), spectrum_slack(rgb))
    assert_like_recipe(measure_paper(planes), paper_measures(rgb))


def both_paths(grey: torch.Tensor, low: int, high: int, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Edges as the CPU labels them and as accelerators do."""
    edges = [canny_edges(grey, low, high)]
    with monkeypatch.context() as patch:
        patch.setattr(canny, "_hysteresis", canny._pointer_hysteresis)
        edges.append(canny_edges(grey, low, high))
    return [each.numpy() for each in edges]


def assert_edges_like_opencv(rgb: np.ndarray, thresholds: list, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = cv2.cvtColor(rgb, cv2.COLOR_BGR2GRAY)
    for low, high in thresholds:
        expected = cv2.Canny(grey, low, high) > 0
        for edges in both_paths(torch.from_numpy(grey)[None], low, high, monkeypatch):
            assert np.array_equal(edges[0], expected), f"thresholds {low}, {high}"


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", TEXTURES)
def test_textures(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = texture(kind, seed)
    assert_both_like_recipe(rgb)
    random = np.random.default_rng(seed)
    low = int(random.integers(0, 600))
    assert_edges_like_opencv(rgb, [(100, 200), (low, int(low + random.integers(0, 900)))], monkeypatch)


@pytest.mark.parametrize("name", photographs())
def test_photographs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = photographs()[name]
    planes = planes_of(rgb)
    assert_like_recipe(measure_reference(planes), reference_measures(rgb))
    assert_like_recipe(measure_paper(planes), paper_measures(rgb))
    assert_edges_like_opencv(rgb, [(100, 200)], monkeypatch)


def test_there_are_enough_pictures() -> None:
    assert SEEDS * len(TEXTURES) >= 200
    assert len(photographs()) >= 20


@pytest.mark.parametrize("size", [(1536, 2048), (1021, 1537), (3, 2048), (2048, 3)], ids=str)
@pytest.mark.parametrize("kind", ["noise", "blurred"])
def test_large_and_thin_textures(kind: str, size: tuple[int, int]) -> None:
    rgb = texture(kind, 0, *size)
    planes = planes_of(rgb)
    assert_like_recipe(measure_reference(planes), reference_measures(rgb))
    assert_like_recipe(measure_paper(planes), paper_measures(rgb))
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    assert np.array_equal(canny_edges(torch.from_numpy(grey)[None])[0].numpy(), cv2.Canny(grey, 100, 200) > 0)


def sparse(height: int, width: int, *spots: tuple, colour: tuple = (255, 200, 40)) -> np.ndarray:
    rgb = np.zeros((height, width, 3), np.uint8)
    for spot in spots:
        rgb[spot] = colour
    return rgb


EXTREMES = {
    "one pixel": sparse(9, 11, (4, 5)),
    "corner pixel": sparse(33, 18, (0, 0)),
    "line across": sparse(20, 31, (7, slice(None))),
    "line down": sparse(31, 20, (slice(None), 9)),
    "border lines": sparse(24, 25, (0, slice(None)), (slice(None), -1)),
    "diagonal": sparse(40, 40, (np.arange(40), np.arange(40))),
    "far diagonal": sparse(40, 40, (np.arange(40), np.arange(39, -1, -1))),
    "3x3": texture("noise", 1, 3, 3),
    "3x4": texture("noise", 2, 3, 4),
    "4x3": texture("noise", 3, 4, 3),
    "stripes of one pixel": np.tile(np.array([[[0, 0, 9]], [[255, 255, 255]]], np.uint8), (8, 17, 1)),
    "black and white halves": np.repeat(np.uint8([[[0, 3, 0]] * 20 + [[255, 255, 250]] * 21]), 30, 0),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = EXTREMES[name]
    assert_both_like_recipe(rgb)
    assert_edges_like_opencv(rgb, [(100, 200), (0, 0), (0, 2040), (5, 5)], monkeypatch)


@pytest.mark.parametrize("size", [(3, 3), (64, 64), (777, 1111), (1023, 1025)], ids=str)
@pytest.mark.parametrize(
    "colour", [(0, 0, 0), (255, 255, 255), (254, 254, 254), (127, 127, 127), (10, 200, 30)], ids=str
)
def test_flat_pictures_measure_exactly_nothing(size: tuple[int, int], colour: tuple) -> None:
    rgb = np.empty((*size, 3), np.uint8)
    rgb[:] = colour
    for ours in (measure_reference(planes_of(rgb)), measure_paper(planes_of(rgb))):
        assert ours.canny_edge_density.item() == 0
        assert ours.glcm_contrast.item() == 0
        assert ours.glcm_energy.item() == 1
        assert ours.blur_variance.item() == 0
    # the paper's spectrum has one term that is not 0: the sum of the grey picture
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    assert ours.mean_spectrum.item() == pytest.approx(float(grey[0, 0]), rel=1e-5)


def test_nearly_flat_variance_keeps_its_digits() -> None:
    rgb = np.full((1537, 2047, 3), 251, np.uint8)
    rgb[5, 5] = 250
    grey = rgb[..., 0].astype(np.float64)
    assert measure_reference(planes_of(rgb)).blur_variance.item() == pytest.approx(np.var(grey), rel=1e-5)


@settings(deadline=None, max_examples=150)
@given(
    arrays(np.uint8, st.tuples(st.integers(3, 12), st.integers(3, 12))),
    st.integers(0, 2100),
    st.integers(0, 2100),
)
def test_edges_of_any_picture_and_thresholds(grey: np.ndarray, first: int, second: int) -> None:
    low, high = sorted((first, second))
    with pytest.MonkeyPatch.context() as patch:
        for edges in both_paths(torch.from_numpy(grey)[None], low, high, patch):
            assert np.array_equal(edges[0], cv2.Canny(grey, low, high) > 0)


@settings(deadline=None, max_examples=60)
@given(arrays(np.uint8, st.tuples(st.integers(3, 9), st.integers(3, 9), st.just(3))))
def test_measures_of_any_picture(rgb: np.ndarray) -> None:
    planes = planes_of(rgb)
    # terms of both signs may cancel to a mean near 0, where a relative bound means nothing
    assert_like_recipe(measure_reference(planes), reference_measures(rgb), spectrum_slack(rgb) + 1e-9)
    assert_like_recipe(measure_paper(planes), paper_measures(rgb))


def test_every_colour_of_a_coarse_cube_turns_grey_like_opencv_and_pillow() -> None:
    from PIL import Image

    steps = np.unique(np.r_[0:256:5, 255, 1, 254])
    cube = (
        np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), 3)
        .astype(np.uint8)
        .reshape(len(steps), -1, 3)
    )
    planes = planes_of(cube)
    assert np.array_equal(opencv_grey(planes)[0].numpy(), cv2.cvtColor(cube, cv2.COLOR_RGB2GRAY))
    assert np.array_equal(
        opencv_grey(planes, swapped=True)[0].numpy(), cv2.cvtColor(cube, cv2.COLOR_BGR2GRAY)
    )
    assert np.array_equal(pillow_grey(planes)[0].numpy(), np.array(Image.fromarray(cube).convert("L")))


@pytest.mark.parametrize("size", [(512, 512), (300, 451), (700, 512), (1100, 900)], ids=str)
def test_the_paper_measures_the_centre_square_at_512(size: tuple[int, int]) -> None:
    rgb = texture("blurred", 5, *size)
    ours = measure(torch.from_numpy(rgb)[None], "paper")
    if min(size) == 512:
        assert_like_recipe(ours, recipe_measures(rgb, "paper"))
    else:  # resampling differs from OpenCV's by design; a smooth picture measures nearly the same
        theirs = recipe_measures(rgb, "paper")
        assert ours.glcm_energy.item() == pytest.approx(theirs[2], rel=0.2)
        assert ours.mean_spectrum.item() == pytest.approx(theirs[4], rel=0.2)


@pytest.mark.parametrize("definition", ["reference", "paper"])
def test_batches_measure_bit_for_bit_like_single_pictures(definition: str) -> None:
    pictures = np.stack([texture(kind, 7, 97, 143) for kind in TEXTURES] + [texture("blurred", 8, 97, 143)])
    images = torch.from_numpy(pictures)
    together = measure(images, definition)
    for index in range(len(images)):
        alone = measure(images[index : index + 1], definition)
        for name, whole, single in zip(Measures._fields, together, alone, strict=True):
            assert whole[index].item() == single.item(), f"{name} of picture {index}"


def test_order_in_the_batch_does_not_matter() -> None:
    images = torch.from_numpy(np.stack([texture(kind, 9, 64, 50) for kind in TEXTURES]))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    for name, mixed, plain in zip(Measures._fields, measure(images[order]), measure(images), strict=True):
        assert torch.equal(mixed, plain[order]), name


def same(left: Measures, right: Measures) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("definition", ["reference", "paper"])
def test_forms_of_input_that_mean_the_same_measure_the_same(definition: str) -> None:
    images = torch.from_numpy(np.stack([texture("blurred", 1, 65, 83), texture("strokes", 1, 65, 83)]))
    expected = measure(images, definition)
    shares = images.double() / 255
    alpha = torch.rand(2, 65, 83, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wide = torch.zeros(2, 65, 166, 3, dtype=torch.uint8)
    wide[:, :, ::2] = images
    forms = {
        "float32": shares.float(),
        "float64": shares,
        "RGBA": torch.cat((shares, alpha), 3),
        "channels first in memory": images.movedim(-1, 1).contiguous().movedim(1, -1),
        "every second column of a view": wide[:, :, ::2],
        "past the ends": shares.float() + torch.where(shares == 1, 7.0, 0) - torch.where(shares == 0, 3.0, 0),
    }
    for name, form in forms.items():
        assert same(measure(form, definition), expected), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_quantised_like_its_own_values(dtype: torch.dtype) -> None:
    shares = torch.from_numpy(texture("blurred", 2, 65, 83))[None].to(dtype) / 255
    assert same(measure(shares), measure(torch.floor(shares.double() * 255 + 0.5).to(torch.uint8)))


def test_grey_is_three_equal_channels() -> None:
    grey = torch.from_numpy(texture("blurred", 3, 40, 50))[None, ..., :1]
    assert same(measure(grey), measure(grey.repeat(1, 1, 1, 3)))


@settings(deadline=None, max_examples=200)
@given(arrays(np.float32, (1, 3, 3, 3), elements=st.floats(-2, 3, width=32)))
def test_floats_are_clamped_and_rounded_half_up(images: np.ndarray) -> None:
    exact = np.clip(images.astype(np.float64), 0, 1) * 255 + 0.5
    quantised = to_planes(torch.from_numpy(images)).movedim(1, -1).numpy()
    # float32 arithmetic decides within its own rounding of a tie
    near_tie = np.abs(exact - np.round(exact)) < 3e-5
    assert np.array_equal(quantised[~near_tie], np.floor(exact[~near_tie]).astype(np.uint8))
    assert (np.abs(quantised - exact + 0.5)[near_tie] <= 0.5 + 3e-5).all()


def test_ties_go_up_and_bytes_survive_the_round_trip() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(to_planes(every.to(dtype) / 255)[:, :1].movedim(1, -1), every)
    ties = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9] * 2)[:9].view(1, 3, 3, 1)
    assert to_planes(ties)[0, 0].flatten().tolist()[:5] == [26, 77, 128, 179, 230]
