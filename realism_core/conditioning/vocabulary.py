"""The 40 attributes of CelebA and the 19 classes of CelebAMask-HQ, and what prompts say of the attributes.

Orders, names and colours are those of the data sets: CelebA (arXiv 1411.7766) and CelebAMask-HQ
(arXiv 1907.11922).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class MaskClass(NamedTuple):
    """A class of the semantic mask; its label is its place in MASK_CLASSES."""

    name: str
    colour: tuple[int, int, int]
    title: str


MASK_CLASSES = (
    MaskClass("background", (0, 0, 0), "background"),
    MaskClass("skin", (204, 0, 0), "skin"),
    MaskClass("nose", (76, 153, 0), "nose"),
    MaskClass("eye_g", (204, 204, 0), "eyeglasses"),
    MaskClass("l_eye", (51, 51, 255), "left eye"),
    MaskClass("r_eye", (204, 0, 204), "right eye"),
    MaskClass("l_brow", (0, 255, 255), "left brow"),
    MaskClass("r_brow", (255, 204, 204), "right brow"),
    MaskClass("l_ear", (102, 51, 0), "left ear"),
    MaskClass("r_ear", (255, 0, 0), "right ear"),
    MaskClass("mouth", (102, 204, 0), "mouth"),
    MaskClass("u_lip", (255, 255, 0), "upper lip"),
    MaskClass("l_lip", (0, 0, 153), "lower lip"),
    MaskClass("hair", (0, 0, 204), "hair"),
    MaskClass("hat", (255, 51, 153), "hat"),
    MaskClass("ear_r", (0, 204, 204), "earring"),
    MaskClass("neck_l", (0, 51, 0), "necklace"),
    MaskClass("neck", (255, 153, 51), "neck"),
    MaskClass("cloth", (0, 204, 0), "clothing"),
)
CLASS_NAMES = tuple(entry.name for entry in MASK_CLASSES)
LABELS = {name: label for label, name in enumerate(CLASS_NAMES)}

EYES = ("l_eye", "r_eye")
BROWS = ("l_brow", "r_brow")
EARS = ("l_ear", "r_ear")
LIPS = ("u_lip", "l_lip")
MOUTH = ("mouth", *LIPS)
FACE = ("skin", "nose", "eye_g", *EYES, *BROWS, *MOUTH)
HEAD = (*FACE, *EARS, "ear_r", "hair", "hat", "neck", "neck_l")
GROUPS = {"eyes": EYES, "brows": BROWS, "ears": EARS, "lips": LIPS, "face": FACE, "head": HEAD}
# the label that takes the place of each when left and right change sides
MIRRORED = tuple(
    LABELS[("r" if name[0] == "l" else "l") + name[1:]] if name in (*EYES, *BROWS, *EARS) else label
    for name, label in LABELS.items()
)


class Attribute(NamedTuple):
    """An attribute of CelebA, what says yes and no to it in a positive prompt, and the regions it speaks of.

    no: the opposite, in words that do not name what is unwanted and that go with any other attributes; empty
    where there is none: then `yes` belongs into the negative prompt.
    """

    name: str
    yes: str
    no: str
    regions: tuple[str, ...]


def _attributes(*rows: tuple[str, str, str, Iterable[str]]) -> tuple[Attribute, ...]:
    return tuple(Attribute(name, yes, no, tuple(regions)) for name, yes, no, regions in rows)


ATTRIBUTES = _attributes(
    ("5_o_Clock_Shadow", "stubble, five o'clock shadow", "", ("skin", "u_lip", "l_lip")),
    ("Arched_Eyebrows", "arched eyebrows", "straight eyebrows", BROWS),
    ("Attractive", "attractive face", "plain face", FACE),
    ("Bags_Under_Eyes", "bags under the eyes", "smooth skin under the eyes", ("skin", *EYES)),
    ("Bald", "bald head", "head of hair", ("hair", "skin")),
    ("Bangs", "bangs over the forehead", "uncovered forehead", ("hair", "skin")),
    ("Big_Lips", "full lips", "thin lips", LIPS),
    ("Big_Nose", "big nose", "small nose", ("nose",)),
    ("Black_Hair", "black hair", "", ("hair",)),
    ("Blond_Hair", "blond hair", "", ("hair",)),
    ("Blurry", "blurry, out of focus", "in sharp focus", CLASS_NAMES),
    ("Brown_Hair", "brown hair", "", ("hair",)),
    ("Bushy_Eyebrows", "bushy eyebrows", "thin eyebrows", BROWS),
    ("Chubby", "chubby face", "lean face", (*FACE, "neck")),
    ("Double_Chin", "double chin", "defined jawline", ("skin", "neck")),
    ("Eyeglasses", "wearing eyeglasses", "", ("eye_g", *EYES)),
    ("Goatee", "goatee", "", ("skin", "l_lip")),
    ("Gray_Hair", "gray hair", "", ("hair",)),
    ("Heavy_Makeup", "heavy makeup", "natural skin", FACE),
    ("High_Cheekbones", "high cheekbones", "low cheekbones", ("skin",)),
    ("Male", "man", "woman", HEAD),
    ("Mouth_Slightly_Open", "mouth slightly open", "closed mouth", MOUTH),
    ("Mustache", "mustache", "", ("skin", "u_lip")),
    ("Narrow_Eyes", "narrow eyes", "large eyes", EYES),
    ("No_Beard", "smooth chin and cheeks", "beard", ("skin", *LIPS)),
    ("Oval_Face", "oval face", "", FACE),
    ("Pale_Skin", "pale skin", "tanned skin", ("skin", "nose", *EARS, "neck")),
    ("Pointy_Nose", "pointy nose", "rounded nose", ("nose",)),
    ("Receding_Hairline", "receding hairline", "", ("hair", "skin")),
    ("Rosy_Cheeks", "rosy cheeks", "", ("skin",)),
    ("Sideburns", "sideburns", "", ("skin", "hair")),
    ("Smiling", "smiling", "neutral expression", FACE),
    ("Straight_Hair", "straight hair", "", ("hair",)),
    ("Wavy_Hair", "wavy hair", "", ("hair",)),
    ("Wearing_Earrings", "wearing earrings", "bare ears", ("ear_r", *EARS)),
    ("Wearing_Hat", "wearing a hat", "bareheaded", ("hat", "hair")),
    ("Wearing_Lipstick", "wearing lipstick", "natural lips", LIPS),
    ("Wearing_Necklace", "wearing a necklace", "", ("neck_l", "neck")),
    ("Wearing_Necktie", "wearing a necktie", "", ("cloth",)),
    ("Young", "young face", "old face", HEAD),
)
NAMES = tuple(attribute.name for attribute in ATTRIBUTES)
BY_NAME = {attribute.name: attribute for attribute in ATTRIBUTES}
