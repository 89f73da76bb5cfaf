"""Reconstruction distance: closed forms, an independent float64 reference, tiles, several VAEs."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from realism_core.evidence.perceptual import load_lpips
from realism_core.evidence.reconstruction import (
    COLUMNS,
    MIN_DETAIL,
    high_pass,
    measure_reconstruction,
    reconstruction_distance,
    tiles,
)
from realism_core.evidence.table import ScoreTable
from realism_core.images import to_planes
from tests.core.textures import TEXTURES, scenes, texture
from tests.tiny_vae import TinyVae


class Pool:
    """The block mean over `downscale` pixels a side, which keeps a log of what came in."""

    def __init__(self, downscale: int = 8) -> None:
        self.downscale, self.name, self.seen = downscale, f"pool {downscale}", []

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        small = avg_pool2d(images.movedim(-1, 1), self.downscale)
        return interpolate(small, scale_factor=self.downscale).movedim(1, -1)


def blur(images: Tensor) -> Tensor:
    """A local VAE that reaches three pixels far, beyond what the tiles' edges may show."""
    planes = nn.functional.pad(images.movedim(-1, 1), (3, 3, 3, 3), "replicate")
    return avg_pool2d(planes, 7, 1).movedim(1, -1)


def constant(value: float) -> Callable[[Tensor], Tensor]:
    return lambda images: torch.full_like(images, value)


def decoded(vae: Callable[[Tensor], Tensor], images: np.ndarray) -> Tensor:
    """Return what this VAE makes of pictures, saved to 8 bits."""
    return (vae(torch.from_numpy(images).float() / 255) * 255 + 0.5).to(torch.uint8)


def detail_of(levels: np.ndarray) -> np.ndarray:
    """The fine detail of one picture [H,W,3] in float64, by scipy."""
    soft = levels.astype(np.float64)
    for axis in (0, 1):
        soft = correlate1d(soft, np.array([1, 4, 6, 4, 1]) / 16, axis=axis)
    return (levels - soft)[2:-2, 2:-2]


def pooled(levels: np.ndarray, side: int) -> np.ndarray:
    height, width, _ = levels.shape
    blocks = levels.reshape(height // side, side, width // side, side, 3).astype(np.float64)
    return blocks.mean((1, 3)).repeat(side, 0).repeat(side, 1)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(TEXTURES)),
    seed=st.integers(0, 10**6),
    height=st.integers(3, 90),
    width=st.integers(3, 90),
    downscale=st.sampled_from([4, 8, 16]),
)
def test_it_is_the_independent_reference_or_nan(
    kind: str, seed: int, height: int, width: int, downscale: int
) -> None:
    """Random sizes: what does not fill a cell is left out at the right and bottom."""
    picture = texture(kind, seed, height, width)
    found = reconstruction_distance(torch.from_numpy(picture)[None], Pool(downscale))
    cut = picture[: height // downscale * downscale, : width // downscale * downscale]
    small = min(cut.shape[:2]) < max(16, 2 * downscale)
    own = 0.0 if small else np.abs(detail_of(cut)).mean()
    assert found.perceptual is None
    if own < MIN_DETAIL:
        assert math.isnan(found.detail) and math.isnan(found.levels) and math.isnan(found.vae)
        return
    lost = np.abs(detail_of(cut - pooled(cut, downscale))).mean()
    assert found.levels.item() == pytest.approx(lost, rel=1e-5, abs=1e-4)
    assert found.detail.item() == pytest.approx(lost / own, rel=1e-5, abs=1e-5)
    assert found.vae.item() == 0


def test_the_high_pass_is_scipys() -> None:
    picture = texture("noise", 3, 20, 33)
    found = high_pass(torch.from_numpy(picture)[None].double())[0]
    assert np.allclose(found, detail_of(picture), atol=1e-12)


def test_known_values() -> None:
    """All detail lost is 1, none is 0, half of it is one half; twice the contrast does not change that."""
    picture = torch.from_numpy(scenes(1, 64, 80)) // 4
    for images in (picture, picture * 2):
        own = high_pass(images.double()).abs().mean().item()
        for share in (0.0, 0.5, 1.0):
            found = reconstruction_distance(images, lambda x, share=share: 0.5 * share + (1 - share) * x)
            assert found.detail.item() == pytest.approx(share, abs=1e-5)
            assert found.levels.item() == pytest.approx(share * own, abs=1e-4)


@pytest.mark.parametrize("vae", [Pool(), blur], ids=["pool", "blur"])
@pytest.mark.parametrize("size", [(520, 264), (300, 777), (258, 1000), (256, 256)])
def test_tiles_change_nothing_for_a_local_vae(vae: Callable, size: tuple[int, int]) -> None:
    images = torch.from_numpy(texture("blurred", 1, *size))[None]
    whole = reconstruction_distance(images, vae, tile=1024)
    tiled = reconstruction_distance(images, vae, tile=256)
    assert tiled.detail.item() == pytest.approx(whole.detail.item(), rel=1e-9)
    assert tiled.levels.item() == pytest.approx(whole.levels.item(), rel=1e-9)


def test_what_tile_borders_do_is_left_out() -> None:
    """A VAE that spoils 32 pixels along the edges of what it gets shows it at the picture's edges only."""

    def spoilt(images: Tensor) -> Tensor:
        answer = images.clone()
        for dim in (1, 2):
            for start in (0, images.shape[dim] - 32):
                answer.narrow(dim, start, 32).zero_()
        return answer

    images = torch.from_numpy(texture("noise", 2, 600, 520))[None]
    whole = reconstruction_distance(images, spoilt, tile=1024).levels
    assert reconstruction_distance(images, spoilt, tile=256).levels.item() == pytest.approx(whole.item())


@settings(max_examples=200, deadline=None)
@given(length=st.integers(2, 9000), tile=st.sampled_from([256, 512, 1024]))
def test_kept_parts_cover_a_side_once(length: int, tile: int) -> None:
    spans = tiles(length, tile)
    assert spans[0].kept.start == 0 and spans[-1].kept.stop == length
    assert all(a.kept.stop == b.kept.start for a, b in zip(spans[:-1], spans[1:], strict=True))
    for span in spans:
        assert span.covered.start % 64 == 0 and span.covered.stop - span.covered.start <= tile
        assert span.kept.stop - span.kept.start >= min(length, 64)
        assert span.kept.start - span.covered.start in (0, 64)
        assert span.kept.start == 0 or span.covered.start == span.kept.start - 64
        assert span.covered.stop == min(length, span.kept.stop + 64)


def test_a_panorama_goes_through_in_tiles() -> None:
    """4096 x 2048: no more than a tile at once, 5 x 3 tiles that overlap by 128 pixels at most."""
    vae = Pool()
    images = torch.from_numpy(texture("blocks", 1, 2048, 4096))[None]
    assert reconstruction_distance(images, vae).detail.item() > 0
    assert len(vae.seen) == 5 * 3
    assert all(shape[0] == 1 and max(shape[1:3]) <= 1024 and shape[3] == 3 for shape in vae.seen)
    assert sum(height * width for _, height, width, _ in vae.seen) < 1.5 * 2048 * 4096


def test_a_batch_is_its_pictures() -> None:
    images = torch.from_numpy(scenes(4, 96, 120))
    images[2] = 7
    vaes = [Pool(), blur]
    batch = reconstruction_distance(images, vaes)
    for index in range(4):
        single = reconstruction_distance(images[index : index + 1], vaes)
        for many, one in zip(batch[:3], single[:3], strict=True):
            assert torch.equal(many[index : index + 1].nan_to_num(-1), one.nan_to_num(-1))
    assert batch.detail.isnan().tolist() == [False, False, True, False]


def test_the_least_of_several_vaes_and_which() -> None:
    images = torch.from_numpy(scenes(3, 64, 64))
    vaes = [constant(0.5), lambda x: 0.75 * x, lambda x: 0.5 * x]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        found = reconstruction_distance(images, [vaes[index] for index in order])
        assert found.detail.tolist() == pytest.approx([0.25] * 3, abs=1e-5)
        assert found.vae.tolist() == [order.index(1)] * 3
        alone = reconstruction_distance(images, vaes[1])
        assert torch.equal(found.levels, alone.levels)


def test_a_vae_with_large_cells_leaves_small_pictures_to_the_others() -> None:
    images = torch.from_numpy(texture("noise", 1, 40, 40))[None]
    assert reconstruction_distance(images, Pool(32)).detail.isnan().all()
    found = reconstruction_distance(images, [Pool(32), Pool(8)])
    assert found.detail.item() > 0 and found.vae.item() == 1


def test_pictures_decoded_by_a_vae_reconstruct_closer_than_photographs() -> None:
    """Each VAE that a model could have knows its own pictures from photographs and from the others'."""
    vaes = [TinyVae(kind) for kind in ("pool", "shifted", "smooth")]
    photographs = scenes(3, 64, 64, seed=4)
    photographed = measure_reconstruction(to_planes(torch.from_numpy(photographs)), vaes)
    for index, vae in enumerate(vaes):
        made = measure_reconstruction(to_planes(decoded(vae, photographs)), vaes)
        assert (made[:, 2] == index).all(), vae.name
        assert (made[:, 0] < 0.9 * photographed[:, 0]).all(), vae.name
    assert (photographed[:, 0] > 0.9).all()
    assert (reconstruction_distance(decoded(vaes[0], photographs), vaes[0]).detail < 0.01).all()
    strange = reconstruction_distance(torch.from_numpy(photographs), TinyVae("random"))
    assert torch.isfinite(strange.detail).all() and (strange.detail > 0.3).all()


class Small(nn.Module):
    """Group norms, attention over all cells and strided convolutions, as in latent diffusion's VAEs."""

    def __init__(self) -> None:
        super().__init__()
        down, up = [], []
        for _ in range(3):
            down += [nn.Conv2d(8, 8, 3, 2, 1), nn.GroupNorm(4, 8), nn.SiLU()]
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 3, 1, 1), nn.GroupNorm(4, 8), nn.SiLU()]
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), *down)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.decoder = nn.Sequential(*up, nn.Conv2d(8, 3, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        cells = self.encoder(images.movedim(-1, 1))
        tokens = cells.flatten(2).movedim(1, 2)
        mixed = self.attention(tokens, tokens, tokens)[0].movedim(1, 2).view_as(cells)
        return torch.sigmoid(self.decoder(cells + mixed)).movedim(1, -1)


def test_a_vae_that_looks_at_the_whole_tile_gives_finite_numbers() -> None:
    torch.manual_seed(0)
    images = torch.from_numpy(scenes(2, 280, 296))
    for tile in (256, 1024):
        found = reconstruction_distance(images, Small(), tile=tile)
        assert (found.detail > 0.3).all() and torch.isfinite(found.detail).all()
        assert not found.detail.requires_grad


@pytest.mark.parametrize("kind", ["float", "half", "grey", "alpha", "greyscale"])
def test_every_kind_of_batch(kind: str) -> None:
    rgb = torch.from_numpy(scenes(1, 48, 64))
    images = {
        "float": rgb.double() / 255,
        "half": rgb.half() / 255,
        "grey": rgb[..., :1],
        "alpha": torch.cat((rgb, rgb[..., :1]), 3),
        "greyscale": rgb[..., :1].expand(-1, -1, -1, 3),
    }[kind]
    truth = reconstruction_distance(to_planes(images).movedim(1, -1), Pool())
    assert torch.equal(reconstruction_distance(images, Pool()).detail, truth.detail)
    assert truth.detail.item() > 0.5


def test_columns_fit_into_a_table() -> None:
    pictures = torch.from_numpy(scenes(2, 64, 64))
    pictures[1] = 0
    planes = to_planes(pictures)
    values = measure_reconstruction(planes, [Pool(16), Pool(8)])
    table = ScoreTable(COLUMNS, values)
    found = reconstruction_distance(planes.movedim(1, -1), [Pool(16), Pool(8)])
    assert values.dtype == torch.float64 and values.shape == (2, len(COLUMNS))
    assert torch.equal(table["reconstruction"][:1], found.detail[:1])
    assert torch.equal(table["reconstruction_levels"][:1], found.levels[:1])
    assert torch.equal(table["reconstruction_vae"][:1], found.vae[:1])
    assert table.applies("reconstruction").tolist() == [True, False]
    assert all(column.meaning for column in COLUMNS) and COLUMNS[0].direction == "higher"


def test_features_by_tile_and_vae() -> None:
    """A mean squared difference over tiles is the whole picture's; small and flat pictures have none."""

    def squared(pictures: Tensor, others: Tensor) -> Tensor:
        return (pictures - others).square().flatten(1).mean(1)

    images = torch.from_numpy(texture("blurred", 5, 328, 600))[None]
    truth = squared(images.double() / 255, Pool()(images.float() / 255).double())
    vaes = [constant(2.0), Pool()]
    for tile in (256, 1024):
        found = measure_reconstruction(to_planes(images), vaes, tile=tile, features=squared)
        assert found.shape == (1, 4) and found[0, 3].item() == pytest.approx(truth.item(), rel=1e-4)
    for nothing in (torch.full((1, 80, 80, 3), 0.5), torch.from_numpy(texture("noise", 1, 63, 200))[None]):
        assert reconstruction_distance(nothing, Pool(), features=squared).perceptual.isnan().all()
    with pytest.raises(ValueError, match="one distance a picture"):
        reconstruction_distance(images, Pool(), features=lambda a, b: a - b)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_vae_that_gives_nan_is_named_with_the_picture(bad: float) -> None:
    images = torch.from_numpy(scenes(2, 64, 64))
    images[1, 0, 0] = 255

    def broken(pictures: Tensor) -> Tensor:
        return torch.where(pictures == 1, bad, pictures)

    images[0].clamp_(max=254)
    with pytest.raises(ValueError, match="VAE 1 gave NaN or infinite values for picture 1.*fp32"):
        reconstruction_distance(images, [Pool(), broken])
    assert reconstruction_distance(images[:1], [Pool(), broken]).vae.item() == 1


@pytest.mark.parametrize(
    ("vae", "words"),
    [
        (lambda images: images[:, :-8], "VAE 0 gave 1x56x64x3 for a picture 1x64x64x3.*image model"),
        (lambda images: images.movedim(-1, 1), "gave 1x3x64x64"),
        (lambda images: None, "gave NoneType"),
        ([], "no VAE came in"),
        (Pool(12), "pool 12 has 12 pixels a latent cell"),
        (Pool(0), "has 0 pixels a latent cell"),
    ],
)
def test_wrong_vaes_are_refused_with_the_fix(vae: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        reconstruction_distance(torch.from_numpy(scenes(1, 64, 64)), vae)


@pytest.mark.parametrize("tile", [0, 128, 300, -256])
def test_wrong_tiles_are_refused(tile: int) -> None:
    with pytest.raises(ValueError, match="multiple of 64 from 256"):
        reconstruction_distance(torch.from_numpy(scenes(1, 64, 64)), Pool(), tile=tile)


def test_lpips_is_used_where_it_is_installed_and_never_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match="pip install lpips"):
        load_lpips("alex")

    class LPIPS(nn.Module):
        """Stands in for the package's: the same call, the mean of the first picture less the second's."""

        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()
            assert net == "alex"

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            assert one.shape[1] == other.shape[1] == 3
            return (one - other).mean((1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=LPIPS))
    with pytest.raises(ValueError, match="alexnet-owt-7be5be79.pth"):
        load_lpips("alex")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    features = load_lpips("alex")
    # -1..1, so differences count twice
    assert features(torch.full((2, 8, 9, 3), 0.75), torch.full((2, 8, 9, 3), 0.5)).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="none of alex, vgg, squeeze"):
        load_lpips("resnet")
