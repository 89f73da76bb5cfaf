"""Pictures that tests measure: seeded textures of any size, and the real photographs of scikit-image."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data

INPUTS = Path(__file__).resolve().parents[2] / "workflows" / "inputs"


def noise(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Independent uniform bytes."""
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def blurred(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise blurred at a random scale and stretched back to the full range."""
    soft = cv2.GaussianBlur(noise(random, height, width), (0, 0), random.uniform(0.5, 5)).astype(np.float64)
    span = max(float(soft.max() - soft.min()), 1.0)
    return ((soft - soft.min()) / span * 255).astype(np.uint8)


def blocks(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise repeated in squares: plateaus with ties in every direction."""
    side = int(random.integers(2, 9))
    small = noise(random, -(-height // side), -(-width // side))
    return np.ascontiguousarray(small.repeat(side, 0).repeat(side, 1)[:height, :width])


def gradient(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A slope in a random direction, wrapping around, another period in each channel."""
    rows, columns = np.mgrid[:height, :width]
    angle = random.uniform(0, 2 * np.pi)
    ramp = rows * np.sin(angle) + columns * np.cos(angle)
    return np.stack([(ramp * random.uniform(0.3, 40)) % 256 for _ in range(3)], 2).astype(np.uint8)


def strokes(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A few one- to three-pixel lines on an even ground."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = random.integers(0, 256, 3)
    for _ in range(int(random.integers(1, 12))):
        ends = [(int(random.integers(width)), int(random.integers(height))) for _ in range(2)]
        cv2.line(picture, *ends, random.integers(0, 256, 3).tolist(), int(random.integers(1, 4)))
    return picture


def checkers(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A checkerboard of two random colours."""
    rows, columns = np.mgrid[:height, :width]
    side = int(random.integers(1, 7))
    return random.integers(0, 256, (2, 3), dtype=np.uint8)[(rows // side + columns // side) % 2]


TEXTURES = {texture.__name__: texture for texture in (noise, blurred, blocks, gradient, strokes, checkers)}


def texture(kind: str, seed: int, height: int | None = None, width: int | None = None) -> np.ndarray:
    """Return one seeded uint8 picture [H,W,3]; sides not given are drawn from 3 to 150."""
    random = np.random.default_rng([list(TEXTURES).index(kind), seed])
    sides = random.integers(3, 151, 2)
    return TEXTURES[kind](random, height or int(sides[0]), width or int(sides[1]))


def scenes(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return seeded crops [count,H,W,3] of the photographs, all with some contrast."""
    random = np.random.default_rng(seed)
    crops = []
    while len(crops) < count:
        rgb = photographs()[("astronaut", "chelsea", "coffee", "rocket")[len(crops) % 4]]
        top, left = random.integers(rgb.shape[0] - height + 1), random.integers(rgb.shape[1] - width + 1)
        crop = rgb[top : top + height, left : left + width]
        if crop.std() > 20:
            crops.append(crop)
    return np.stack(crops)


@cache
def photographs() -> dict[str, np.ndarray]:
    """Return at least 20 uint8 RGB pictures made of real photographs, by name."""
    originals = {
        name: getattr(data, name)()[..., :3] for name in ("astronaut", "chelsea", "coffee", "rocket")
    }
    for path in sorted(INPUTS.glob("*.png")):
        originals.setdefault(path.stem, np.array(Image.open(path).convert("RGB")))
    pictures = {}
    for name, rgb in originals.items():
        height, width = rgb.shape[:2]
        pictures[name] = rgb
        pictures[f"{name} turned"] = np.ascontiguousarray(np.rot90(rgb))
        pictures[f"{name} cropped"] = np.ascontiguousarray(rgb[37:-50, 11:-22])
        pictures[f"{name} halved"] = cv2.resize(rgb, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        pictures[f"{name} enlarged"] = cv2.resize(rgb, (641, 479), interpolation=cv2.INTER_CUBIC)
    pictures["coffee at 2048x1536"] = cv2.resize(
        originals["coffee"], (2048, 1536), interpolation=cv2.INTER_CUBIC
    )
    return pictures
