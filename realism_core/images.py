"""Checks on image batches, and their one conversion to 8-bit planes."""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import Block, map_blocks

MIN_SIDE = 3


def check_images(images: Tensor, name: str = "images") -> Tensor:
    """Return the batch as a tensor, or raise a ValueError that names the input and the fix.

    Accepts [B,H,W,C] with C of 1, 3 or 4 and sides of at least 3 pixels: floating point 0..1, or uint8
    0..255. Finiteness is checked in `to_planes`, where the values are read anyway.
    """
    if isinstance(images, (list, tuple)):
        raise ValueError(
            f"{name} is a list of {len(images)} items, but one batch [B,H,W,C] is needed: "
            "pass the pictures one batch at a time, one batch for each size."
        )
    try:
        images = torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"{name} is a {type(images).__name__}, not an image batch: pass a tensor [B,H,W,C]."
        ) from None
    shape = "x".join(map(str, images.shape)) or "a single number"
    if images.ndim != 4:
        raise ValueError(
            f"{name} has shape {shape}, but a batch [B,H,W,C] has four dimensions: add or take away "
            "dimensions (one picture is images[None])."
        )
    batch, height, width, channels = images.shape
    if batch == 0:
        raise ValueError(f"{name} holds no pictures (shape {shape}): connect at least one picture.")
    if channels not in (1, 3, 4):
        raise ValueError(
            f"{name} has {channels} channels (shape {shape}); grey has 1, RGB 3, RGBA 4, as the last "
            "dimension: move the channels last or convert the pictures to RGB."
        )
    if height < MIN_SIDE or width < MIN_SIDE:
        raise ValueError(
            f"{name} is {width} x {height} pixels; the measures need at least {MIN_SIDE} x {MIN_SIDE}: "
            "use larger pictures."
        )
    if not (images.is_floating_point() or images.dtype == torch.uint8):
        raise ValueError(f"{name} is of type {images.dtype}: use floating point in 0..1 or uint8 in 0..255.")
    return images


def to_planes(images: Tensor, name: str = "images") -> Tensor:
    """Return uint8 planes [B,3,H,W], contiguous, from a batch that `check_images` accepts.

    Floats are clamped to 0..1 and rounded half up: floor(255 x + 0.5). Grey is repeated to three channels;
    alpha is left out and the colour under it is taken as stored, as Pillow's convert("RGB") does.
    Devices without float64 (MPS) are measured on the CPU, since the exactness promised needs it.
    Raises ValueError for NaN and infinities, naming the first picture that has one.
    """
    images = check_images(images, name)
    if images.device.type == "mps":
        images = images.cpu()
    if images.shape[-1] == 4:
        images = images[..., :3]
    if images.dtype == torch.uint8:
        return images.movedim(-1, 1).expand(-1, 3, -1, -1).contiguous()
    batch, height, width, _ = images.shape
    planes = torch.empty(batch, 3, height, width, dtype=torch.uint8, device=images.device)

    def quantise(block: Block) -> Tensor:
        part = images[block.images, block.rows].to(torch.float32)
        levels = part.clamp(0, 1).mul_(255).add_(0.5).to(torch.uint8)
        planes[block.images, :, block.rows] = levels.movedim(-1, 1)
        return part.sum()

    sums = torch.stack(map_blocks(quantise, (batch, height, width), images.device))
    if not torch.isfinite(sums).all():
        check_finite(images, name)
    return planes


def check_mask(mask: Tensor | None, planes: Tensor, name: str = "mask") -> Tensor | None:
    """Return the mask as bool [B,H,W] (above one half means measured), or raise a ValueError with the fix.

    A mask of batch 1 serves every picture of the batch.
    """
    if mask is None:
        return None
    mask = torch.as_tensor(mask, device=planes.device)
    batch, _, height, width = planes.shape
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or mask.shape[1:] != (height, width) or mask.shape[0] not in (1, batch):
        raise ValueError(
            f"{name} has shape {'x'.join(map(str, mask.shape))}, but the pictures need "
            f"{batch}x{height}x{width} (or 1x{height}x{width}): resize the mask to the pictures."
        )
    mask = mask if mask.dtype == torch.bool else mask > 0.5
    covered = mask.flatten(1).sum(1)
    pairs = (mask[:, :, :-1] & mask[:, :, 1:]).flatten(1).sum(1)
    fewest, fewest_pairs = torch.stack((covered.min(), pairs.min())).tolist()
    if fewest < MIN_SIDE * MIN_SIDE:
        raise ValueError(
            f"{name} selects only {fewest} pixels of picture {int(covered.argmin())}: paint at least "
            f"{MIN_SIDE * MIN_SIDE} pixels, or disconnect the mask to measure the whole picture."
        )
    if fewest_pairs < 1:
        raise ValueError(
            f"{name} selects no two pixels side by side of picture {int(pairs.argmin())}, and contrast is "
            "measured between such: paint an area at least 2 pixels wide."
        )
    return mask.expand(batch, -1, -1)


def check_finite(images: Tensor, name: str = "images", first: int = 0) -> None:
    """Raise a ValueError naming the first picture of a batch [B,...] with NaN or infinite values, if any.

    first: the number of the batch's first picture.
    """
    if not images.is_floating_point() or torch.isfinite(images.sum(dtype=torch.float32)):
        return
    # finite values can add up to infinity
    bad = ~torch.isfinite(images).flatten(1).all(1)
    if bad.any():
        raise ValueError(
            f"{name}: picture {first + int(bad.nonzero()[0])} contains NaN or infinite values, so it can be "
            "neither measured nor saved: check the sampler or VAE before this node (a VAE in fp16 often "
            "does this; use fp32 or bf16)."
        )
