"""What is trained on: latents with their conditioning, weight and mask, in epochs without replacement."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .seeds import dice_of


class LatentExample(NamedTuple):
    """One training image.

    latent: [C,H,W], or [C,T,H,W] for video, scaled as the model takes it in. conditioning: whatever the
    denoiser takes for one image. weight: >= 0, on this image's loss. mask: [h,w], 0..1, where the image
    counts; of another size than the latent it is averaged or repeated to fit.
    """

    latent: Tensor
    conditioning: Any = None
    weight: float = 1.0
    mask: Tensor | None = None


class Dataset:
    """Examples in buckets of one latent shape each: a batch never mixes shapes.

    Raises ValueError where there is no example, where shapes differ without `buckets`, and for a latent,
    weight or mask that cannot be trained on, naming the image by its place, counted from 1.
    """

    def __init__(self, examples: Sequence[LatentExample], buckets: bool = False) -> None:
        if not examples:
            raise ValueError("latents: there are no images to train on: connect at least one.")
        self.examples = [_checked(example, place) for place, example in enumerate(examples, 1)]
        if not any(example.weight for example in self.examples):
            raise ValueError("image_weights: every image has weight 0: nothing would be learned. Raise one.")
        self.buckets: dict[tuple[int, ...], list[int]] = {}
        for index, example in enumerate(self.examples):
            self.buckets.setdefault(tuple(example.latent.shape), []).append(index)
        if len(self.buckets) > 1 and not buckets:
            one, other = list(self.buckets)[:2]
            raise ValueError(
                f"latents: image 1 has the shape {one}, image {self.buckets[other][0] + 1} {other}: turn "
                "aspect buckets on (`buckets`), or bring all images to one size."
            )

    def __len__(self) -> int:
        return len(self.examples)

    def epochs(self, batch_size: int, seed: int) -> Epochs:
        """Return an endless iterator over batches, lists of indices; raises ValueError for its size."""
        return Epochs(list(self.buckets.values()), batch_size, seed)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 in hex of the latents, conditionings, weights and masks, in their order."""
        return digest_of([tuple(example) for example in self.examples])


class Epochs:
    """Batches of indices: every epoch shows each image once, in a new order of the seeded dice.

    Images wait in their bucket until it holds a batch, over the end of an epoch where needed; so no image
    is left out and no batch is short. A bucket smaller than a batch may give an image twice in one. `state`
    and `restore` give and take the place, all else follows from the seed.
    """

    def __init__(self, buckets: list[list[int]], batch_size: int, seed: int) -> None:
        self.count = sum(map(len, buckets))
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it must be 1 or more.")
        if batch_size > self.count:
            raise ValueError(
                f"batch_size is {batch_size}, but there are only {self.count} images: lower it to "
                f"{self.count} or less, or raise accumulation instead."
            )
        self._bucket_of = {index: number for number, bucket in enumerate(buckets) for index in bucket}
        self.batch_size, self.seed = batch_size, seed
        self.epoch, self.position = 0, 0
        self._waiting: list[list[int]] = [[] for _ in buckets]
        self._order = self._shuffled()

    def __iter__(self) -> Iterator[list[int]]:
        return self

    def __next__(self) -> list[int]:
        while True:
            if self.position == self.count:
                self.epoch, self.position = self.epoch + 1, 0
                self._order = self._shuffled()
            index = self._order[self.position]
            self.position += 1
            number = self._bucket_of[index]
            self._waiting[number].append(index)
            if len(self._waiting[number]) == self.batch_size:
                batch, self._waiting[number] = self._waiting[number], []
                return batch

    def state(self) -> dict:
        """Return the place as JSON-ready numbers: epoch, position in it, and the images that wait."""
        waiting = [list(images) for images in self._waiting]
        return {"epoch": self.epoch, "position": self.position, "waiting": waiting}

    def restore(self, state: Mapping) -> None:
        """Go on from a `state` of the same examples, batch size and seed."""
        self.epoch, self.position = state["epoch"], state["position"]
        self._waiting = [list(images) for images in state["waiting"]]
        self._order = self._shuffled()

    def _shuffled(self) -> list[int]:
        order = list(range(self.count))
        dice_of(self.seed, "order", self.epoch).shuffle(order)
        return order


def pair(
    latents: Sequence[Tensor],
    conditionings: Sequence[Any],
    weights: Sequence[float] | None = None,
    masks: Sequence[Tensor | None] | None = None,
) -> list[LatentExample]:
    """Return examples of latents and what belongs to each; one conditioning is used for all images.

    Raises ValueError where the numbers do not agree, naming the input.
    """
    count = len(latents)
    if len(conditionings) == 1:
        conditionings = [conditionings[0]] * count
    given = {"conditioning": conditionings, "weights": weights, "masks": masks}
    for name, values in given.items():
        if values is not None and len(values) != count:
            raise ValueError(
                f"{name}: {len(values)} for {count} images: give one an image"
                f"{', or one for all' if name == 'conditioning' else ''}."
            )
    weights = [1.0] * count if weights is None else weights
    masks = [None] * count if masks is None else masks
    return [LatentExample(*parts) for parts in zip(latents, conditionings, weights, masks, strict=True)]


def held_out(
    examples: Sequence[LatentExample], count: int
) -> tuple[list[LatentExample], list[LatentExample]]:
    """Return (those to train on, `count` of them kept out), spread evenly over those that have a weight.

    Which they are depends on nothing else, so that trainings can be compared. Raises ValueError if none
    would be left.
    """
    counted = [place for place, example in enumerate(examples) if example.weight]
    if count and count >= len(counted):
        raise ValueError(
            f"held_out is {count} of {len(counted)} images: nothing would be left to train on. Lower it, or "
            "add images."
        )
    kept_out = {counted[(2 * n + 1) * len(counted) // (2 * count)] for n in range(count)}
    return (
        [example for place, example in enumerate(examples) if place not in kept_out],
        [example for place, example in enumerate(examples) if place in kept_out],
    )


def _checked(example: LatentExample, place: int) -> LatentExample:
    latent, weight, mask = example.latent, float(example.weight), example.mask
    if latent.ndim < 2 or not latent.numel():
        raise ValueError(
            f"latents: image {place} has the shape {tuple(latent.shape)}: channels and size are needed, "
            "without a batch dimension."
        )
    if not bool(torch.isfinite(latent).all()):
        raise ValueError(f"latents: image {place} holds NaN or infinite values: encode it again.")
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"image_weights: image {place} has {weight}: a weight is a number from 0 on.")
    if mask is not None:
        mask = _fitted(mask, latent, place)
    return LatentExample(latent.detach(), example.conditioning, weight, mask)


def _fitted(mask: Tensor, latent: Tensor, place: int) -> Tensor:
    if mask.ndim != 2 or latent.ndim < 3:
        raise ValueError(
            f"masks: image {place} has a mask of shape {tuple(mask.shape)} for a latent of shape "
            f"{tuple(latent.shape)}: height and width are needed, without batch or channel dimensions."
        )
    mask = mask.detach().to(latent.device, torch.float32)
    if mask.shape != latent.shape[-2:]:
        mask = interpolate(mask[None, None], size=tuple(latent.shape[-2:]), mode="area")[0, 0]
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError(f"masks: image {place} has values outside 0 to 1.")
    if not bool(mask.any()):
        raise ValueError(f"masks: image {place} has an empty mask: paint where it counts, or leave it out.")
    return mask


def digest_of(value: Any) -> str:
    """Return the SHA-256 in hex of tensors, numbers, texts, and lists and mappings of them."""
    sha = hashlib.sha256()
    _feed(sha, value)
    return sha.hexdigest()


def _feed(sha, value: Any) -> None:
    if isinstance(value, Tensor):
        sha.update(f"{value.dtype} {tuple(value.shape)} ".encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            sha.update(f"{key}: ".encode())
            _feed(sha, value[key])
    elif isinstance(value, (list, tuple)):
        sha.update(f"{len(value)} ".encode())
        for part in value:
            _feed(sha, part)
    elif value is None or isinstance(value, (bool, int, float, str)):
        sha.update(f"{value!r} ".encode())
    else:
        sha.update(f"{type(value).__name__} ".encode())
