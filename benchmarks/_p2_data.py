"""Real photographs for benchmarks/p2.py, 32 x 32: scenes for the start, faces to train and to test on.

The start learns crops of the photographs that the profiles are made with. The adapters learn faces of the
ORL/AT&T database (see _p2_packages), people by people: those who are held out are never trained on, and
rates are chosen by other people than the test is made on.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import _p2_packages
from benchmarks._p2_model import SIDE
from devtools.environment import cache_folder
from devtools.pictures import listing, photographs
from devtools.pip import SetupError
from realism_core.degrade import resize
from realism_core.pictures import read_picture
from realism_core.training.data import Dataset, LatentExample

SHORT_SIDE = 2 * SIDE
PEOPLE, FACES = 40, 10
TEST, VALIDATION = 14, 6  # people


@dataclass(frozen=True)
class Pictures:
    """Pictures uint8 [H,W,3], 32 x 32 or larger; those for training, validation and test by person."""

    start: list[Tensor]
    training: list[list[Tensor]]
    validation: list[list[Tensor]]
    test: list[list[Tensor]]


@dataclass(frozen=True)
class Parts:
    """What is trained and tested on; the held-out parts have a dataset a person.

    mean, deviation: of the start's pixels in 0..1; latents are pixels less the mean, over the deviation, so
    that SNR means what it does for a VAE's latents of variance 1.
    """

    start: Dataset
    training: Dataset
    validation: list[Dataset]
    test: list[Dataset]
    mean: float
    deviation: float

    def pixels(self, latents: Tensor) -> Tensor:
        """Return latents [...] as uint8 pixels."""
        return (latents * self.deviation + self.mean).clamp(0, 1).mul(255).round().to(torch.uint8)


def read_pictures(folder: Path) -> Pictures:
    """Return all pictures, by part; folder: to keep reduced scenes in.

    SetupError says how to have the pictures where they are missing.
    """
    scenes = _scenes(folder)
    faces = _p2_packages.folder() / _p2_packages.FACES
    people = [
        [_face(faces / f"s{person}" / f"{number}.pgm") for number in range(1, FACES + 1)]
        for person in range(1, PEOPLE + 1)
    ]
    random.Random(0).shuffle(people)
    return Pictures(
        scenes, people[TEST + VALIDATION :], people[TEST : TEST + VALIDATION], people[:TEST]
    )


def cut(pictures: Pictures, crops: int) -> Parts:
    """Return the datasets: `crops` of every picture of the start, every second mirrored, and all faces."""
    start = torch.cat([_crops(picture, crops, number) for number, picture in enumerate(pictures.start)])
    pixels = start.double() / 255
    mean, deviation = float(pixels.mean()), float(pixels.std())

    def latents(planes: Tensor) -> Dataset:
        return Dataset([LatentExample((picture.float() / 255 - mean) / deviation) for picture in planes])

    faces = torch.cat([_planes(person) for person in pictures.training])
    return Parts(
        latents(start),
        latents(torch.cat((faces, faces.flip(3)))),
        [latents(_planes(person)) for person in pictures.validation],
        [latents(_planes(person)) for person in pictures.test],
        mean,
        deviation,
    )


def _planes(pictures: Sequence[Tensor]) -> Tensor:
    return torch.stack([picture.movedim(-1, 0) for picture in pictures])


def _crops(picture: Tensor, count: int, number: int) -> Tensor:
    """Return [count,3,32,32] from places that depend on the picture's number alone."""
    dice, planes, found = random.Random(number), picture.movedim(-1, 0), []
    for place in range(count):
        top, left = (dice.randint(0, side - SIDE) for side in planes.shape[1:])
        piece = planes[:, top : top + SIDE, left : left + SIDE]
        found.append(piece.flip(2) if place % 2 else piece)
    return torch.stack(found)


def _scenes(folder: Path) -> list[Tensor]:
    paths = [picture.path for picture in photographs(cache_folder(), sys.executable)]
    listed = repr((SHORT_SIDE, listing()["photographs"]))
    kept = folder / f"scenes-{hashlib.sha256(listed.encode()).hexdigest()[:20]}.safetensors"
    if not kept.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}.part")
        save_file({str(number): _scene(path) for number, path in enumerate(paths)}, part)
        os.replace(part, kept)
    scenes = load_file(kept)
    return [scenes[str(number)] for number in range(len(paths))]


def _scene(path: Path) -> Tensor:
    picture = read_picture(path)
    return resize(picture[None], SHORT_SIDE / min(picture.shape[:2]), "area")[0].contiguous()


def _face(path: Path) -> Tensor:
    """Return the middle square of a face, 92 x 92 of 92 x 112, reduced: uint8 [32,32,3]."""
    if not path.is_file():
        raise SetupError(f"{path} is missing: delete {path.parents[3]} and run this again.")
    with Image.open(path) as opened:
        picture = torch.from_numpy(np.array(opened.convert("RGB")))
    height, width = picture.shape[:2]
    top = (height - width) // 2
    return resize(picture[None, top : top + width], SIDE / width, "area")[0]
