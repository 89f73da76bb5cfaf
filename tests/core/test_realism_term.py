"""The realism term: its slopes, its band, the gate, the decoded crop, and what descending it does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from realism_core.degrade import gaussian_blur, gaussian_noise
from realism_core.irs import Profile, score
from realism_core.irs.distribution import features
from realism_core.irs.measures import measure
from realism_core.irs.soft import soft_measures
from realism_core.irs.soft_reference import SoftReference, fit_soft_reference
from realism_core.training.realism_term import (
    RealismLoss,
    decode_crop,
    published_term,
    random_crops,
    realism_term,
    snr_gate,
)
from tests.core.textures import scenes

SIDE = 64


def pictures(count: int, seed: int = 0, side: int = SIDE) -> Tensor:
    return torch.from_numpy(scenes(count, side, side, seed)).float() / 255


@pytest.fixture(scope="module")
def reference() -> SoftReference:
    return fit_soft_reference(pictures(60, seed=1), SIDE)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the term


def test_the_term_is_the_squared_excess_over_the_band(reference: SoftReference) -> None:
    images = torch.cat((pictures(6), gaussian_blur(pictures(6), 3.0), gaussian_noise(pictures(6), 25.0, 1)))
    table = features(soft_measures(images)).double().numpy()
    z = np.abs((table - reference.mean.numpy()) / reference.spread.numpy())
    for tolerance in (0.5, 1.0, 2.0):
        found = realism_term(images, reference, tolerance).double().numpy()
        wanted = np.mean(np.maximum(0, z - tolerance) ** 2, 1)
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_too_little_and_too_much_both_cost(reference: SoftReference) -> None:
    clean = pictures(12)
    cost = realism_term(clean, reference)
    for harmed in (gaussian_blur(clean, 8.0), gaussian_noise(clean, 60.0, 1)):
        assert (realism_term(harmed, reference) > cost + 0.1).all()


def test_inside_the_band_value_and_gradient_are_exactly_zero(reference: SoftReference) -> None:
    images = pictures(40, seed=2)
    inside = images[(reference.deviations(images).abs() < 1).all(1)].requires_grad_()
    assert len(inside) >= 3
    term = realism_term(inside, reference)
    (gradient,) = torch.autograd.grad(term.sum(), inside)
    assert not term.any() and not gradient.any()
    edge = SoftReference(SIDE, 60, features(soft_measures(inside))[0].double().detach(), reference.spread)
    assert realism_term(inside[:1], edge).item() == 0


def test_slopes_of_the_term_against_central_differences(reference: SoftReference) -> None:
    """float64, a step of 1e-7 along random directions, relative to 1e-4."""
    blurred, grainy = gaussian_blur(pictures(3), 2.0), gaussian_noise(pictures(3), 40.0, 1)
    images = (torch.cat((blurred, grainy)) * 0.9 + 0.05).double()
    images = (images + 1e-3 * torch.rand(images.shape, generator=generator())).requires_grad_()
    values = realism_term(images, reference)
    assert (values > 0.01).sum() >= 4
    (gradient,) = torch.autograd.grad(values.sum(), images)
    random = generator(4)
    for _ in range(4):
        direction = torch.randn(images.shape, generator=random, dtype=torch.float64)
        with torch.no_grad():
            above, below = (realism_term(images + step * direction, reference) for step in (1e-7, -1e-7))
        slope = (gradient * direction).sum((1, 2, 3))
        torch.testing.assert_close((above - below) / 2e-7, slope, rtol=1e-4, atol=1e-4 * slope.abs().max())


def test_gradcheck_of_the_whole_term() -> None:
    small = fit_soft_reference(pictures(30, side=16), 16)
    noise = torch.rand(1, 3, 16, 16, generator=generator(5), dtype=torch.float64)
    images = (0.1 + 0.8 * noise).requires_grad_()
    assert (realism_term(images, small) > 0.1).all()
    assert torch.autograd.gradcheck(
        lambda x: realism_term(x, small), (images,), eps=1e-7, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_flat_pictures_have_a_finite_term_and_gradient(reference: SoftReference, level: float) -> None:
    images = torch.full((1, 3, SIDE, SIDE), level).requires_grad_()
    term = realism_term(images, reference)
    (gradient,) = torch.autograd.grad(term.sum(), images)
    assert torch.isfinite(term).all() and torch.isfinite(gradient).all() and term.item() > 1


def typicality(images: Tensor) -> Tensor:
    """Return the hard typicality of 8-bit copies among the shipped profile's tiles of this side."""
    return Profile.shipped().tile_distribution(SIDE).typicality(features(measure(images)))


def descend(images: Tensor, reference: SoftReference, steps: int = 60, rate: float = 0.004) -> Tensor:
    images = images.clone().requires_grad_()
    adam = torch.optim.Adam([images], lr=rate)
    for _ in range(steps):
        adam.zero_grad()
        realism_term(images, reference).sum().backward()
        adam.step()
    return images.detach().clamp(0, 1)


def test_descending_the_term_brings_blurred_photographs_back(reference: SoftReference) -> None:
    """As measured: term 0.56 to 0, mean |z| 1.18 to 0.46, hard typicality 0.27 to 0.65 (unblurred: 0.40)."""
    blurred = gaussian_blur(pictures(12), 2.5)
    moved = descend(blurred, reference)
    before, after = (reference.deviations(x).abs() for x in (blurred, moved))
    assert realism_term(moved, reference).mean() < 0.02 * realism_term(blurred, reference).mean()
    assert after.mean() < 0.5 * before.mean()
    assert typicality(moved).mean() > typicality(blurred).mean() + 0.25


def test_descending_from_inside_the_band_changes_nothing(reference: SoftReference) -> None:
    images = pictures(40, seed=2)
    inside = images[(reference.deviations(images).abs() < 1).all(1)]
    assert len(inside) >= 3 and torch.equal(descend(inside, reference, steps=3), inside)


def test_a_tolerance_that_is_no_width_is_refused(reference: SoftReference) -> None:
    for tolerance in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="tolerance"):
            realism_term(pictures(1), reference, tolerance)


# --- the published form


def test_the_published_term_has_no_gradient() -> None:
    images = pictures(3).requires_grad_()
    term = published_term(images)
    assert (term > 0).all() and not term.requires_grad
    weight = torch.tensor(2.0, requires_grad=True)
    with_term = torch.autograd.grad((weight * images).sum() + term.sum(), (weight, images))
    without = torch.autograd.grad((weight * images).sum(), (weight, images))
    assert all(map(torch.equal, with_term, without))
    lone = weight * 0 + term.sum()
    assert torch.autograd.grad(lone, images, allow_unused=True) == (None,)


def test_the_published_term_is_one_over_the_score() -> None:
    images = pictures(4)
    wanted = 1 / score(images).irs
    assert torch.equal(published_term(images), wanted)
    assert torch.equal(published_term(images.movedim(3, 1)), wanted)
    assert published_term(torch.full((1, 32, 32, 3), 0.3)).isnan().all()


# --- the gate


def test_the_gate_opens_with_log_snr() -> None:
    snr = torch.tensor([0.0, 1.0, 5.0, 250.0**0.5, 50.0, 1e6, math.inf], dtype=torch.float64)
    gate = snr_gate(snr, 5.0, 50.0)
    torch.testing.assert_close(gate, torch.tensor([0, 0, 0, 0.5, 1, 1, 1], dtype=torch.float64))
    assert not gate[:3].any() and (gate[4:] == 1).all()
    rising = snr_gate(torch.logspace(-2, 3, 200))
    assert (rising.diff() >= 0).all() and (rising >= 0).all() and (rising <= 1).all()
    for low, high in ((0.0, 1.0), (5.0, 5.0), (5.0, 1.0), (1.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="low"):
            snr_gate(snr, low, high)


# --- the decoded crop


def decoder() -> nn.Module:
    torch.manual_seed(7)
    layers: list[nn.Module] = [nn.Conv2d(4, 16, 3, padding=1), nn.SiLU()]
    for _ in range(3):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(16, 16, 3, padding=1), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(16, 3, 3, padding=1), nn.Sigmoid()).requires_grad_(False)


def test_crops_are_windows_of_their_latent() -> None:
    latents = torch.arange(2 * 3 * 7 * 9.0).view(2, 3, 7, 9)
    seen = set()
    for seed in range(60):
        crops = random_crops(latents, 5, generator(seed))
        assert crops.shape == (2, 3, 5, 5)
        for one, crop in zip(latents, crops, strict=True):
            top, left = divmod(int(crop[0, 0, 0] - one[0, 0, 0]), 9)
            assert torch.equal(one[:, top : top + 5, left : left + 5], crop)
            seen.add((top, left))
    assert seen == {(top, left) for top in range(3) for left in range(5)}
    assert torch.equal(random_crops(latents, 5, generator(3)), random_crops(latents, 5, generator(3)))
    assert random_crops(latents[:, :, None], 5, generator()).shape == (2, 3, 1, 5, 5)
    for crop in (0, 8):
        with pytest.raises(ValueError, match="9 x 7"):
            random_crops(latents, crop, generator())


def test_recomputing_gives_the_same_gradient_and_keeps_less(reference: SoftReference) -> None:
    net, kept = decoder(), {}
    latents = torch.randn(2, 4, 12, 12, generator=generator(1))
    gradients = []
    for recompute in (False, True):
        leaf, sizes = latents.clone().requires_grad_(), {}

        def pack(saved: Tensor, sizes: dict = sizes) -> Tensor:
            storage = saved.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            images = decode_crop(net, leaf, 8, generator(2), recompute)
        kept[recompute] = sum(sizes.values())
        assert images.shape == (2, 3, SIDE, SIDE)
        realism_term(images, reference).sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients) and gradients[0].any()
    assert kept[True] < 0.05 * kept[False]
    # only the windows that were decoded have a gradient
    assert ((gradients[0] != 0).any(1).sum((1, 2)) <= 64).all()


# --- all of it


class Counting:
    """A decoder that counts what it decodes."""

    def __init__(self) -> None:
        self.net, self.rows = decoder(), []

    def __call__(self, latents: Tensor) -> Tensor:
        self.rows.append(len(latents))
        return self.net(latents)


def test_the_loss_decodes_only_what_the_gate_lets_through(reference: SoftReference) -> None:
    decode = Counting()
    loss = RealismLoss(decode, reference, crop=8, weight=0.5)
    x0 = torch.randn(4, 4, 12, 12, generator=generator(1)).requires_grad_()
    snr = torch.tensor([0.1, 100.0, 250.0**0.5, 2.0])
    added = loss(x0, snr, generator(2))
    images = decode.net(random_crops(x0[1:3], 8, generator(2)))
    wanted = realism_term(images, reference) * 0.5 * torch.tensor([1.0, 0.5])
    torch.testing.assert_close(added[1:3], wanted)
    assert decode.rows == [2] and added[0] == 0 and added[3] == 0 and added.shape == (4,)
    added.sum().backward()
    assert x0.grad[1].any() and x0.grad[2].any() and not x0.grad[0].any() and not x0.grad[3].any()

    decode.rows.clear()
    noisy = loss(x0, torch.full((4,), 0.5), generator())
    assert not noisy.any() and noisy.shape == (4,) and decode.rows == []


def test_numbers_without_effect_are_refused(reference: SoftReference) -> None:
    wrong = {"weight": (0.0, -1.0, math.nan), "low": (60.0, 0.0), "tolerance": (0.0, math.nan)}
    for name, value in ((name, value) for name, values in wrong.items() for value in values):
        with pytest.raises(ValueError, match=name):
            RealismLoss(decoder(), reference, **({"crop": 8, "weight": 1.0} | {name: value}))
    loss = RealismLoss(decoder(), reference, crop=4, weight=1.0)
    with pytest.raises(ValueError, match="32 x 32 pixels.*64 x 64"):
        loss(torch.randn(1, 4, 12, 12), torch.tensor([100.0]), generator())
