"""What a drawn face is made of, chosen by seed, and which of CelebA's attributes follow from each choice."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

from realism_core.conditioning.attributes import FaceAttributes

NO_BEARD = {"No_Beard": 1, "Mustache": -1}
NO_HAIR = {name: -1 for name in ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")}
# of each part by its name in python-avatars: 1 yes, -1 no; what is not named is don't care. Only parts that
# leave no doubt are here: no dark brown hair, which might be black, and no hat
# with hair below it
HAIR = {
    "STRAIGHT_1": {"Straight_Hair": 1, "Wavy_Hair": -1, "Bangs": -1},
    "MIA_WALLACE": {"Straight_Hair": 1, "Wavy_Hair": -1, "Bangs": 1},
    "LONG_NOT_TOO_LONG": {"Straight_Hair": 1, "Wavy_Hair": -1, "Bangs": 1},
    "BOB": {"Straight_Hair": 1, "Wavy_Hair": -1},
    "CURLY": {"Straight_Hair": -1, "Wavy_Hair": 1, "Bangs": -1},
    "LOOSE_HAIR": {"Straight_Hair": -1, "Wavy_Hair": 1, "Bangs": 1},
    "BUN": {"Bangs": -1},
    "SHORT_FLAT": {"Bangs": -1},
    "CAESAR": {"Bangs": -1},
    "QUIFF": {"Bangs": -1},
}
HATS = ("HAT", "WINTER_HAT_1", "WINTER_HAT_2", "WINTER_HAT_3", "WINTER_HAT_4")
HAIR_COLOURS = {
    "BLACK": "Black_Hair", "BLONDE_GOLDEN": "Blond_Hair", "BROWN": "Brown_Hair", "SILVER_GRAY": "Gray_Hair",
}  # fmt: skip
SKINS = {"PALE": 1, "LIGHT": 0, "BROWN": -1, "DARK_BROWN": -1, "BLACK": -1}
GLASSES = ("PRESCRIPTION_2", "ROUND", "SUNGLASSES", "WAYFARERS", "KURT")
FACIAL_HAIR = {
    "BEARD_LIGHT": {"No_Beard": -1},
    "BEARD_MEDIUM": {"No_Beard": -1},
    "BEARD_MAGESTIC": {"No_Beard": -1},
    "MOUSTACHE_MAGNUM": {"Mustache": 1},
    "MOUSTACHE_FANCY": {"Mustache": 1},
}
MOUTHS = {
    "SMILE": (1, 1), "BIG_SMILE": (1, 1), "TWINKLE": (1, -1), "SERIOUS": (-1, -1), "SAD": (-1, -1),
    "SCREAM_OPEN": (-1, 1), "CONCERNED": (-1, 1),
}  # fmt: skip
EYES = ("DEFAULT", "SURPRISED", "SQUINT", "CLOSED")
BROWS = {"RAISED_EXCITED_NATURAL": 1, "FLAT_NATURAL": -1, "DEFAULT_NATURAL": 0}
NOSES = {"WIDE": 1, "SMALL": -1}
CLOTHES = (
    "HOODIE", "SHIRT_CREW_NECK", "SHIRT_V_NECK", "SHIRT_SCOOP_NECK", "COLLAR_SWEATER", "OVERALL",
    "SHIRT_WICK",
)  # fmt: skip
CLOTH_COLOURS = ("BLACK", "BLUE_01", "GRAY_01", "HEATHER", "PASTEL_GREEN", "PASTEL_ORANGE", "RED", "WHITE")
LIKE_A_SHIRT = ("GRAY_01", "WHITE")  # a tie that nobody sees is neither yes nor no
# of the 280 units that a whole drawing is high: where the picture begins, and how much of it is shown
_SHOWN, _ZOOM, _SHIFT = 236, 0.1, 8


class Choice(NamedTuple):
    """A face before it is drawn: parts by the name of python-avatars' input, and the window that is shown.

    hat: whether `top` is a hat, None where there is nothing. view: left, top and side in the drawing's units.
    """

    parts: Mapping[str, str]
    hat: bool | None
    background: str
    view: tuple[float, float, float]
    attributes: FaceAttributes


def choose(seed: int, number: int) -> Choice:
    """Return face `number` of a seed; it depends on nothing else."""
    dice = random.Random(f"{seed} {number}")
    states: dict[str, int] = {}
    parts = {
        "skin_color": dice.choice([*SKINS]),
        "eyes": dice.choice(EYES),
        "eyebrows": dice.choice([*BROWS]),
        "nose": dice.choice([*NOSES]),
        "mouth": dice.choice([*MOUTHS]),
        "clothing": dice.choice(CLOTHES[:-1]) if dice.random() < 0.7 else CLOTHES[-1],
        "clothing_color": dice.choice(CLOTH_COLOURS),
        "hat_color": dice.choice(CLOTH_COLOURS),
        "hair_color": dice.choice([*HAIR_COLOURS]),
        "accessory": dice.choice(GLASSES) if dice.random() < 0.4 else "NONE",
        "facial_hair": dice.choice([*FACIAL_HAIR]) if dice.random() < 0.4 else "NONE",
    }
    parts["facial_hair_color"] = parts["hair_color"]
    states |= {"Pale_Skin": SKINS[parts["skin_color"]], "Arched_Eyebrows": BROWS[parts["eyebrows"]]}
    states |= {"Big_Nose": NOSES[parts["nose"]], "Eyeglasses": 1 if parts["accessory"] != "NONE" else -1}
    states["Smiling"], states["Mouth_Slightly_Open"] = MOUTHS[parts["mouth"]]
    if parts["clothing"] != CLOTHES[-1] or parts["clothing_color"] not in LIKE_A_SHIRT:
        states["Wearing_Necktie"] = 1 if parts["clothing"] == CLOTHES[-1] else -1
    states |= FACIAL_HAIR.get(parts["facial_hair"], NO_BEARD)
    kind = dice.random()
    hat = True if kind < 0.2 else False if kind < 0.9 else None
    states["Wearing_Hat"] = 1 if hat else -1
    if hat:
        parts["top"] = dice.choice(HATS)
    elif hat is None:
        parts["top"] = "NONE"
        states |= NO_HAIR | {"Bald": 1, "Bangs": -1}
    else:
        parts["top"] = dice.choice([*HAIR])
        states |= NO_HAIR | {"Bald": -1} | HAIR[parts["top"]] | {HAIR_COLOURS[parts["hair_color"]]: 1}
    side = _SHOWN * dice.uniform(1 - _ZOOM, 1 + _ZOOM)
    left, top = (132 - side / 2 + dice.uniform(-_SHIFT, _SHIFT) for _ in range(2))
    background = "#" + "".join(f"{dice.randint(60, 235):02x}" for _ in range(3))
    wanted = {name: float(state) for name, state in states.items() if state}
    return Choice(parts, hat, background, (left, top, side), FaceAttributes(wanted))
