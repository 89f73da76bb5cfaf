"""How IRS and typicality behave: python dev.py bench behaviour

Degrades photographs and prints what happens to the numbers, then asks whether they tell generated pictures
from photographs: the AUC with a 95 % bootstrap interval over pictures. All are brought to a short side of
512 px (Lanczos). Photographs: every fourth of devtools/pictures.json, scored against a profile fitted on the
other three. Generated: the stills of ComfyUI's workflow templates. Both had been through lossy compression.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter

from devtools.environment import cache_folder
from devtools.pictures import generated, photographs
from realism_core.irs import Profile, Scores, score
from realism_core.pictures import read_picture

SIDE = 512


def main() -> None:
    photos = [at_side(p.path) for p in photographs(cache_folder(), sys.executable)]
    held, fitted = photos[::4], [photo for i, photo in enumerate(photos) if i % 4]
    profile = Profile.fit(map(batch, fitted), name="three quarters of the photographs")
    print(f"{len(held)} photographs, profile of {profile.count} others, short side {SIDE} px, reference")
    heads = f"{'median IRS':>10} {'IRS rose':>9} {'fell':>5} {'median typicality':>18} {'below 0.05':>11}"
    print(f"{'':<22} {heads}")
    plain = rate(held, profile)
    for name, change in CHANGES.items():
        found = rate([change(photo) for photo in held], profile)
        rose, fell = ((sign * (found.irs - plain.irs) > 0).sum() for sign in (1, -1))
        unlike = (found.typicality < 0.05).double().mean()
        print(
            f"{name:<22} {found.irs.median():>10.2f} {rose:>9} {fell:>5} {found.typicality.median():>18.2f} "
            f"{unlike:>10.0%}"
        )
    made = rate([at_side(p.path) for p in generated(cache_folder(), sys.executable)], profile)
    print(f"\n{len(made.irs)} generated pictures against the {len(held)} photographs, AUC with 95 % interval")
    print(f"{'raw IRS, higher = real':<22} {interval(plain.irs, made.irs)}")
    print(f"{'typicality':<22} {interval(plain.typicality, made.typicality)}")


def at_side(path) -> Image.Image:
    """Return a picture file at a short side of 512 px."""
    image = Image.fromarray(read_picture(path).numpy())
    scale = SIDE / min(image.size)
    return image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS)


def batch(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))[None]


def rate(images: list[Image.Image], profile: Profile) -> Scores:
    """Return the irs and typicality of pictures of any sizes, in one table of scores."""
    single = [score(batch(image), profile=profile) for image in images]
    return single[0]._replace(
        irs=torch.cat([s.irs for s in single]), typicality=torch.cat([s.typicality for s in single])
    )


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def noise(image: Image.Image) -> Image.Image:
    grain = np.random.default_rng(0).normal(0, 10, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + grain).round().clip(0, 255).astype(np.uint8))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda image: image,
    "Gaussian blur 1.5": lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
    "JPEG quality 30": jpeg,
    "noise, sigma 10": noise,
    "unsharp mask 150 %": lambda image: image.filter(ImageFilter.UnsharpMask(2, 150, 0)),
}


def interval(real: torch.Tensor, made: torch.Tensor) -> str:
    """Return the chance that a photograph's number is above a generated picture's, with its interval."""
    random = np.random.default_rng(0)

    def auc(a: np.ndarray, b: np.ndarray) -> float:
        above = a[:, None] - b[None]
        return float((above > 0).mean() + (above == 0).mean() / 2)

    a, b = real.numpy(), made.numpy()
    draws = [auc(random.choice(a, len(a)), random.choice(b, len(b))) for _ in range(1000)]
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{auc(a, b):.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
