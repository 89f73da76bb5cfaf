"""What happens to pictures on their way: compression, resizing, blur, grain, sharpening, cropping."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..images import check_finite, check_images
from .codecs import SUBSAMPLINGS, encode_jpeg, encode_webp
from .filters import gaussian_blur, unsharp_mask
from .resample import KERNELS, resize
from .seeded import gaussian_noise, random_crop
from .shared import check_choice, check_number, check_whole

__all__ = [
    "KERNELS", "KINDS", "SUBSAMPLINGS", "Kind", "degrade", "encode_jpeg", "encode_webp", "gaussian_blur",
    "gaussian_noise", "random_crop", "resize", "setting", "unsharp_mask",
]  # fmt: skip


class Kind(NamedTuple):
    """A degradation: apply(images, value, seed), the values at the two ends of strength, and the unit.

    text: the value in the field's unit, for labels. whole: whether only whole values are used.
    """

    apply: Callable[[Tensor, float, int], Tensor]
    weakest: float
    strongest: float
    text: str
    whole: bool = False

    def value(self, strength: float) -> float:
        """Return the value for a strength 0..1, on the straight line between the two ends."""
        value = self.weakest + strength * (self.strongest - self.weakest)
        return math.floor(value + 0.5) if self.whole else value


KINDS = {
    "jpeg": Kind(lambda x, quality, _: encode_jpeg(x, int(quality)), 100, 10, "quality {:d}", True),
    "webp": Kind(lambda x, quality, _: encode_webp(x, int(quality)), 100, 10, "quality {:d}", True),
    "resize": Kind(lambda x, factor, _: resize(x, factor), 1, 0.25, "factor {:.3g}"),
    "upscale": Kind(lambda x, factor, _: resize(x, factor), 1, 4, "factor {:.3g}"),
    "blur": Kind(lambda x, sigma, _: gaussian_blur(x, sigma), 0, 4, "sigma {:.3g} px"),
    "noise": Kind(gaussian_noise, 0, 25, "sigma {:.3g} levels"),
    "sharpen": Kind(lambda x, amount, _: unsharp_mask(x, amount), 0, 3, "amount {:.0%}"),
    "crop": Kind(random_crop, 1, 0.25, "keeps {:.3g} of each side"),
}


def degrade(images: Tensor, kind: str, strength: float, seed: int = 0) -> Tensor:
    """Return the pictures degraded as they are in practice, from not at all (0) to the strongest met (1).

    images: [B,H,W,C], float 0..1 (clamped to it) or uint8; the same type, device and channels out, and
    one size for the whole batch. seed: for noise and crop; picture i gets what the first picture of a batch
    gets from seed + i: degrade(images[i:i+1], kind, strength, seed + i) is picture i of the whole.
    Strength 0 returns the pictures bit for bit; what strength means, in a straight line:

    jpeg     libjpeg quality 100 to 10, chroma 4:2:0     blur     Gaussian, sigma 0 to 4 pixels
    webp     libwebp quality 100 to 10, lossy            noise    Gaussian, sigma 0 to 25 of 255 levels
    resize   each side times 1 to 0.25, bicubic          sharpen  unsharp mask, 0 to 300 % at sigma 1 pixel
    upscale  each side times 1 to 4, bicubic             crop     keeps 1 to 0.25 of each side, random place

    Resized and cropped pictures keep their new size. Alpha is resized and cropped with its picture and
    otherwise stays. Raises ValueError for bad pictures, kinds and strengths, and for results below 3 x 3
    pixels; TypeError for a strength or seed that is no number.
    """
    entry = _entry(kind, strength)
    check_whole("seed", seed)
    if strength == 0:
        images = check_images(images)
        check_finite(images)
        return images
    return entry.apply(images, entry.value(strength), seed)


def setting(kind: str, strength: float) -> str:
    """Return what a strength means in the field's unit: setting("jpeg", 0.5) is "quality 55".

    Strength 0 is "unchanged". Raises ValueError or TypeError as `degrade` does.
    """
    entry = _entry(kind, strength)
    return "unchanged" if strength == 0 else entry.text.format(entry.value(strength))


def _entry(kind: str, strength: float) -> Kind:
    check_choice("kind", kind, KINDS)
    check_number("strength", strength, 0, 1)
    return KINDS[kind]
