"""Draw the faces that the example workflows read: python dev.py bench example_faces

Each is a picture, its label map in CelebAMask-HQ's colours and its attributes, as Face Data reads folders.
Both pictures come from the same outlines. Lengths are in pixels of 512, from the middle of the picture.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from benchmarks._example_outlines import (
    BACKS,
    BEARD,
    BROW,
    CAP,
    CLOTH,
    CUFF,
    EAR,
    EYE,
    FACE,
    FRONTS,
    LENS,
    MOUSTACHE,
    MOUTHS,
    NECK,
    NOSE,
    SHADE,
    STRAND,
)
from realism_core.conditioning.vocabulary import CLASS_NAMES, LABELS, MASK_CLASSES

INPUTS = Path(__file__).resolve().parent.parent / "workflows" / "inputs"
SIDE, FINE = 512, 4
ZOOM, LOW, HIGH = 1.2, 250, 238  # height HIGH of the outlines comes to LOW
Points = Sequence[tuple[float, float]]


class Look(NamedTuple):
    """A face to draw; colours are hexadecimal, "" where there is no such thing."""

    skin: str
    hair: str
    style: str  # waves, bob, short, curls, cap or none
    cloth: str
    background: str
    attributes: dict[str, int]
    lips: str = ""
    mouth: str = "closed"  # smile, open or closed
    glasses: str = ""
    beard: str = ""
    moustache: str = ""
    jewels: str = ""
    width: float = 1.0
    drop: float = 0.0


NO_HAIR = {"Black_Hair": -1, "Blond_Hair": -1, "Brown_Hair": -1, "Gray_Hair": -1}
SHAVEN = {"No_Beard": 1, "Mustache": -1, "Goatee": -1}
PLAIN = {"Eyeglasses": -1, "Wearing_Hat": -1, "Bald": -1, "Wearing_Earrings": -1, "Wearing_Necklace": -1}
SMILING = {"Smiling": 1, "Mouth_Slightly_Open": 1}
LOOKS = (
    Look("#f0c3a0", "#6b4028", "waves", "#3d6f73", "#d9cdbb",
         PLAIN | SHAVEN | NO_HAIR | SMILING | {"Brown_Hair": 1, "Wavy_Hair": 1, "Straight_Hair": -1,
         "Bangs": -1, "Wearing_Lipstick": 1, "Wearing_Earrings": 1},
         lips="#b3323f", mouth="smile", jewels="earrings"),
    Look("#e0b183", "#1d1715", "short", "#d8d3c8", "#7f95a8",
         PLAIN | SHAVEN | NO_HAIR | {"Black_Hair": 1, "Eyeglasses": 1, "Smiling": -1, "Bangs": -1,
         "Mouth_Slightly_Open": -1, "Wearing_Lipstick": -1}, glasses="#22201f", width=1.05),
    Look("#f6d3b8", "#d9b062", "bob", "#b65a4a", "#a9bfae",
         PLAIN | SHAVEN | NO_HAIR | {"Blond_Hair": 1, "Straight_Hair": 1, "Wavy_Hair": -1, "Bangs": 1,
         "Smiling": -1, "Mouth_Slightly_Open": -1, "Wearing_Lipstick": 1, "Wearing_Necklace": 1},
         lips="#cf5f74", jewels="necklace", width=0.97, drop=4),
    Look("#dfa67c", "#8c8781", "none", "#33425c", "#c7b49a",
         PLAIN | NO_HAIR | SMILING | {"Bald": 1, "Bangs": -1, "No_Beard": -1, "Goatee": -1,
         "Wearing_Lipstick": -1}, mouth="smile", beard="#8c8781", width=1.06, drop=-6),
    Look("#6f432c", "#181312", "curls", "#d39a2f", "#97a98f",
         PLAIN | SHAVEN | NO_HAIR | SMILING | {"Black_Hair": 1, "Wavy_Hair": 1, "Straight_Hair": -1,
         "Bangs": -1, "Wearing_Lipstick": 1, "Wearing_Earrings": 1},
         lips="#8e2b3f", mouth="open", jewels="earrings"),
    Look("#efbf9c", "#9b9691", "cap", "#4b5a52", "#cbb6a6",
         PLAIN | NO_HAIR | {"Gray_Hair": 1, "Eyeglasses": 1, "Wearing_Hat": 1, "Mustache": 1, "Goatee": -1,
         "Smiling": -1, "Mouth_Slightly_Open": -1, "Wearing_Lipstick": -1},
         glasses="#5a3a22", moustache="#9b9691", width=1.02),
)  # fmt: skip


class Drawing:
    """A picture and its labels, drawn outline by outline."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.picture = Image.new("RGB", (SIDE * FINE, SIDE * FINE), look.background)
        self.labels = Image.new("L", (SIDE, SIDE), 0)

    def fill(self, points: Points, colour: str, label: str | None = None, smooth: bool = True) -> None:
        """Fill an outline unless colour is "", and give it a label unless it is only light or shadow."""
        wide = ZOOM * self.look.width
        placed = [(SIDE / 2 + x * wide, LOW + (y - HIGH) * ZOOM + self.look.drop) for x, y in points]
        outline = curve(placed) if smooth else placed
        if colour:
            ImageDraw.Draw(self.picture).polygon([(x * FINE, y * FINE) for x, y in outline], fill=colour)
        if label is not None:
            ImageDraw.Draw(self.labels).polygon([(x - 0.5, y - 0.5) for x, y in outline], fill=LABELS[label])

    def both(self, points: Points, colour: str, left: str | None = None, right: str | None = None) -> None:
        """Fill an outline and its mirror image; left and right as the picture is looked at."""
        self.fill(mirrored(points), colour, left)
        self.fill(points, colour, right)

    def dot(self, x: float, y: float, radius: float, colour: str, label: str | None = None) -> None:
        turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        self.fill([(x + radius * np.cos(t), y + radius * np.sin(t)) for t in turns], colour, label)


def curve(points: Points) -> list[tuple[float, float]]:
    """Return a smooth closed line through points (Catmull-Rom)."""
    p = np.array(points, dtype=float)
    t = np.linspace(0, 1, 12, endpoint=False)[:, None]
    lines = []
    for n in range(len(p)):
        a, b, c, d = (p[(n + k) % len(p)] for k in (-1, 0, 1, 2))
        bend = (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
        lines.append((2 * b + (c - a) * t + bend) / 2)
    return [tuple(point) for point in np.concatenate(lines)]


def mirrored(points: Points) -> list[tuple[float, float]]:
    return [(-x, y) for x, y in points]


def whole(half: Points) -> list[tuple[float, float]]:
    """Return a right half with its left one."""
    return [*half, *((-x, y) for x, y in reversed(half) if x)]


def mixed(colour: str, other: str, share: float) -> str:
    one, two = (np.array([int(c[n : n + 2], 16) for n in (1, 3, 5)]) for c in (colour, other))
    return "#" + "".join(f"{round(value):02x}" for value in one + (two - one) * share)


def draw(look: Look) -> tuple[Image.Image, Image.Image]:
    """Return a face as a picture and as a label map in colours, both 512 x 512."""
    made = Drawing(look)
    dark, light = mixed(look.skin, "#5a2418", 0.22), mixed(look.skin, "#ffffff", 0.25)
    if look.style in BACKS:
        made.fill(whole(BACKS[look.style]), mixed(look.hair, "#000000", 0.25), "hair")
    made.fill(whole(NECK), look.skin, "neck")
    made.fill(whole(((0, 330), (50, 320), (50, 372), (30, 396), (0, 404))), dark)
    made.fill(whole(CLOTH), look.cloth, "cloth")
    made.fill(whole(((0, 470), (36, 460), (70, 430), (84, 416), (74, 436), (40, 470), (0, 482))),
              mixed(look.cloth, "#000000", 0.25))  # fmt: skip
    if look.jewels == "necklace":
        arc = [(68 * np.sin(t), 404 + 40 * np.cos(t)) for t in np.linspace(-1.35, 1.35, 15)]
        back = [(x, y + 7) for x, y in reversed(arc)]
        made.fill([*arc, *back], "#d9b54a", "neck_l", smooth=False)
    if look.style not in ("waves", "bob"):
        made.both(EAR, dark, "l_ear", "r_ear")
    made.fill(whole(FACE), look.skin, "skin")
    made.both(((52, 270), (76, 262), (86, 280), (70, 302), (50, 294)), mixed(look.skin, "#d0503c", 0.09))
    features(made, dark, light)
    if look.style == "waves":
        made.both(STRAND, look.hair, "hair", "hair")
    if look.style in FRONTS:
        made.fill(FRONTS[look.style], look.hair, "hair")
    if look.style == "cap":
        made.fill(CAP, "#a8483c", "hat")
        made.fill(CUFF, "#8c3a31", "hat")
    if look.jewels == "earrings":
        for x in (-104, 104):
            made.dot(x, 292, 8, "#e0bd55", "ear_r")
    if look.glasses:
        spectacles(made)
    return made.picture.resize((SIDE, SIDE), Image.Resampling.BOX), coloured(made.labels)


def features(made: Drawing, dark: str, light: str) -> None:
    look = made.look
    if look.beard:
        made.fill(whole(BEARD), look.beard)
    for sign in (-1, 1):
        made.fill([(sign * x, y) for x, y in EYE], "#fbf7f2", "l_eye" if sign < 0 else "r_eye")
        made.dot(sign * 44, 238, 10, "#5b4230")
        made.dot(sign * 44, 238, 5, "#17110e")
        made.dot(sign * 44 + 3, 234, 2.5, "#ffffff")
    made.both(((20, 242), (31, 229), (45, 224), (58, 228), (71, 238), (57, 232), (45, 229), (31, 233)),
              "#2a1c17")  # fmt: skip
    brow = mixed(look.hair, "#2a1a12", 0.45)
    made.both(BROW, brow, "l_brow", "r_brow")
    made.fill(whole(NOSE), look.skin, "nose")
    made.fill(SHADE, mixed(look.skin, dark, 0.65))
    made.fill(((-6, 244), (-1, 244), (-1, 290), (-6, 290)), mixed(look.skin, light, 0.5))
    for x in (-10, 10):
        made.dot(x, 301, 3.2, mixed(dark, "#3a1510", 0.5))
    if look.moustache:
        made.fill(whole(MOUSTACHE), look.moustache)
    upper, between, lower = MOUTHS[look.mouth]
    lips = look.lips or mixed(look.skin, "#a8403c", 0.42)
    made.fill(lower, lips, "l_lip")
    if between:
        made.fill(between, "#5d1a1e", "mouth")
        teeth = [(x * 0.86, min(y, 334)) for x, y in between]
        made.fill(teeth, "#fbf8f3")
    made.fill(upper, mixed(lips, "#000000", 0.14), "u_lip")


def spectacles(made: Drawing) -> None:
    frame = made.look.glasses
    outline = [(x, y) for x, y in curve(LENS)]
    middle = np.mean(outline, axis=0)
    inner = [tuple(middle + (np.array(point) - middle) * 0.86) for point in outline]
    for sign in (-1, 1):
        ring = [(sign * x, y) for x, y in [*outline, outline[0], inner[0], *inner[::-1]]]
        made.fill(ring, frame, smooth=False)
        made.fill([(sign * x, y) for x, y in outline], "", "eye_g", smooth=False)
        made.fill([(sign * 76, 232), (sign * 100, 226), (sign * 100, 232), (sign * 76, 239)], frame, "eye_g",
                  smooth=False)  # fmt: skip
    made.fill([(-9, 232), (0, 228), (9, 232), (9, 238), (0, 234), (-9, 238)], frame, "eye_g", smooth=False)


def coloured(labels: Image.Image) -> Image.Image:
    """Return labels as a picture with CelebAMask-HQ's palette."""
    made = labels.copy()
    made.putpalette([part for entry in MASK_CLASSES for part in entry.colour])
    return made


def save(looks: Iterable[Look], folder: Path) -> dict[str, int]:
    """Write the faces to a folder; returns how many pixels each class covers in all, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    covered = np.zeros(len(CLASS_NAMES), dtype=np.int64)
    for number, look in enumerate(looks, 1):
        picture, mask = draw(look)
        name = f"face-{number}"
        picture.quantize(64, dither=Image.Dither.NONE).save(folder / f"{name}.png", optimize=True)
        mask.save(folder / f"{name}.mask.png", optimize=True)
        told = json.dumps(look.attributes, indent=1)
        (folder / f"{name}.json").write_text(told + "\n", encoding="utf-8")
        covered += np.bincount(np.array(mask).ravel(), minlength=len(CLASS_NAMES))
    return dict(zip(CLASS_NAMES, covered.tolist(), strict=True))


def main() -> None:
    covered = save(LOOKS, INPUTS / "faces")
    (INPUTS / "mask").mkdir(exist_ok=True)
    shutil.copyfile(INPUTS / "faces" / "face-1.mask.png", INPUTS / "mask" / "realism-kit-face.png")
    print("pixels of each class: " + ", ".join(f"{name} {count}" for name, count in covered.items()))


if __name__ == "__main__":
    main()
