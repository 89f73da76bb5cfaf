"""Miniature data sets of faces on disk, in the layouts that the reader knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from realism_core.conditioning.vocabulary import CLASS_NAMES, NAMES
from tests.core.faces import face

SIDE, MASK_SIDE = 32, 16
IMAGES, PARTS, ATTRIBUTES = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "CelebAMask-HQ-attribute-anno.txt"
LABELS = face(MASK_SIDE, MASK_SIDE).numpy()


def pixels(number: int, side: int = SIDE) -> np.ndarray:
    """Return the picture of a number, uint8 [side,side,3]."""
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def states(number: int) -> list[int]:
    """Return the 40 states of a number, -1 or 1."""
    return [1 if value else -1 for value in np.random.default_rng(number).integers(0, 2, len(NAMES))]


def celebamask(root: Path, numbers: range | list[int]) -> Path:
    """Write pictures (JPEG), parts and attribute list of these numbers; returns the folder."""
    (root / IMAGES).mkdir(parents=True)
    for number in numbers:
        Image.fromarray(pixels(number)).save(root / IMAGES / f"{number}.jpg", quality=95)
        parts = root / PARTS / f"{number // 2000}"
        parts.mkdir(parents=True, exist_ok=True)
        for label in np.unique(LABELS)[1:]:
            part = np.where(label == LABELS, 255, 0).astype(np.uint8)
            Image.fromarray(part).convert("RGB").save(parts / f"{number:05d}_{CLASS_NAMES[label]}.png")
    write_list(root / ATTRIBUTES, {f"{number}.jpg": states(number) for number in numbers})
    return root


def write_list(path: Path, rows: dict[str, list[int]]) -> None:
    """Write attributes as CelebA has them."""
    lines = [f"{name} {' '.join(f'{value:2d}' for value in row)}" for name, row in rows.items()]
    path.write_text("\n".join([str(len(rows)), " ".join(NAMES), *lines, ""]))


def own(root: Path, count: int, apart: bool) -> Path:
    """Write a data set of one's own, in one folder or apart in three."""
    folders = [root / name if apart else root for name in ("images", "masks", "attributes")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(pixels(number)).save(folders[0] / f"p{number}.png")
        Image.fromarray(LABELS).save(folders[1] / f"p{number}{'' if apart else '.mask'}.png")
        told = {"Smiling": number % 2 == 0, "glasses": 0.8, "Bald": None}
        (folders[2] / f"p{number}.json").write_text(json.dumps(told))
    return root


def listed(root: Path, count: int, text: str, name: str = "attributes.csv") -> Path:
    """Write pictures f0.png, f1.png ... and an attribute file with a text."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(pixels(number)).save(root / f"f{number}.png")
    (root / name).write_text(text)
    return root
