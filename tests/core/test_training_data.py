"""The training's data: epochs without replacement, buckets, and input that cannot be trained on."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.training.data import Dataset, Epochs, LatentExample, pair
from realism_core.training.seeds import derived_seed
from tests.core.toy_denoisers import toy_data


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_epoch_shows_each_image_once_and_no_batch_mixes_buckets(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    numbers = iter(range(sum(sizes)))
    buckets = [[next(numbers) for _ in range(size)] for size in sizes]
    batch_size = data.draw(st.integers(1, sum(sizes)))
    epochs = Epochs(buckets, batch_size, data.draw(st.integers(0, 2**40)))
    shown: Counter = Counter()
    for _ in range(data.draw(st.integers(1, 30))):
        batch = next(epochs)
        assert len(batch) == batch_size
        assert sum(set(batch) <= set(bucket) for bucket in buckets) == 1
        shown.update(batch)
        waiting = [index for images in epochs.state()["waiting"] for index in images]
        seen = shown + Counter(waiting)
        assert all(epochs.epoch <= seen[index] <= epochs.epoch + 1 for index in range(sum(sizes)))
        assert sum(seen.values()) == epochs.epoch * sum(sizes) + epochs.position


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.integers(0, 2**63), st.integers(0, 25))
def test_epochs_go_on_from_their_state(batch_size: int, seed: int, first: int) -> None:
    data = toy_data(7, (4, 6))
    whole, before, after = (data.epochs(batch_size, seed) for _ in range(3))
    batches = [next(whole) for _ in range(first + 20)]
    assert [next(before) for _ in range(first)] == batches[:first]
    after.restore(before.state())
    assert [next(after) for _ in range(20)] == batches[first:]


def test_orders_differ_by_epoch_and_seed() -> None:
    orders = set()
    for seed in range(20):
        epochs = Epochs([list(range(8))], 8, seed)
        orders |= {tuple(next(epochs)) for _ in range(20)}
    assert len(orders) > 390


@given(st.integers(0, 2**64), st.integers(0, 2**31))
def test_derived_seeds_do_not_meet(seed: int, start: int) -> None:
    seeds = {derived_seed(seed, "step", count) for count in range(start, start + 500)}
    assert len(seeds) == 500
    assert all(0 <= one < 2**32 for one in seeds)
    assert derived_seed(seed, "step", start) != derived_seed(seed, "layers", start)


def test_derived_seeds_change_half_of_their_bits() -> None:
    flipped = [(derived_seed(1, "a", n) ^ derived_seed(1, "a", n + 1)).bit_count() for n in range(4000)]
    assert 15.8 < sum(flipped) / len(flipped) < 16.2


def test_a_mask_of_the_picture_s_size_is_averaged_to_the_latent_s() -> None:
    mask = torch.zeros(16, 24)
    mask[:, :12] = 1
    example = Dataset([LatentExample(torch.zeros(4, 2, 3), mask=mask)]).examples[0]
    assert torch.equal(example.mask, torch.tensor([[1.0, 0.5, 0.0]] * 2))


LATENT = torch.zeros(2, 4, 4)
BAD = {
    "there are no images": [],
    "image 2 .*aspect buckets": [LatentExample(LATENT), LatentExample(torch.zeros(2, 4, 5))],
    "image 1 has the shape": [LatentExample(torch.zeros(4))],
    "image 2 holds NaN": [LatentExample(LATENT), LatentExample(LATENT / 0)],
    "weights: image 1 has -1": [LatentExample(LATENT, weight=-1)],
    "weights: image 1 has nan": [LatentExample(LATENT, weight=float("nan"))],
    "every image has weight 0": [LatentExample(LATENT, weight=0)],
    "masks: image 1 has an empty mask": [LatentExample(LATENT, mask=torch.zeros(4, 4))],
    "masks: image 1 has values outside": [LatentExample(LATENT, mask=torch.full((4, 4), 2.0))],
    "masks: image 1 has a mask of shape": [LatentExample(LATENT, mask=torch.ones(1, 4, 4))],
}


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_trained_on_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Dataset(BAD[text])


def test_batches_larger_than_the_data_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 7, but there are only 6 images: lower it to 6"):
        toy_data(6).epochs(7, 0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        toy_data(6).epochs(0, 0)
    assert len(next(toy_data(1).epochs(1, 0))) == 1


def test_what_belongs_to_images_must_be_as_many() -> None:
    latents = [LATENT] * 3
    assert [e.conditioning for e in pair(latents, ["a"])] == ["a"] * 3
    examples = pair(latents, ["a", "b", "c"], [1, 2, 3], [None, torch.ones(4, 4), None])
    assert [e.weight for e in examples] == [1, 2, 3]
    for given_inputs, text in (
        ((["a", "b"],), "conditioning: 2 for 3 images: give one an image, or one for all"),
        ((["a"], [1.0]), "weights: 1 for 3 images"),
        ((["a"], None, [None] * 4), "masks: 4 for 3 images"),
    ):
        with pytest.raises(ValueError, match=text):
            pair(latents, *given_inputs)


def test_the_digest_tells_data_apart() -> None:
    def digest(**changes) -> str:
        example = {"latent": LATENT, "conditioning": {"text": torch.ones(3), "size": [4, "a"]}, **changes}
        return Dataset([LatentExample(**example)]).digest

    mask = torch.ones(4, 4)
    variants = [
        digest(),
        digest(latent=LATENT + 1),
        digest(latent=LATENT.half()),
        digest(latent=LATENT.view(4, 4, 2)),
        digest(weight=2.0),
        digest(mask=mask),
        digest(conditioning={"text": torch.zeros(3), "size": [4, "a"]}),
        digest(conditioning={"text": torch.ones(3), "size": [5, "a"]}),
        digest(conditioning=None),
    ]
    assert len(set(variants)) == len(variants)
    assert digest() == digest()
