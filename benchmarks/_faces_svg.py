"""A chosen face as a picture and as labels: one drawing, as it is and in the classes' colours."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import _faces_packages
from benchmarks._faces_choices import Choice
from realism_core.conditioning.masks import SemanticMask
from realism_core.conditioning.vocabulary import LABELS, MASK_CLASSES

SIDE = 128
FINE = 2  # labels are drawn twice as fine, without smooth edges; a pixel is what most of its four are
_KINDS = {"eyes": "EyeType", "eyebrows": "EyebrowType", "nose": "NoseType", "mouth": "MouthType",
          "clothing": "ClothingType", "accessory": "AccessoryType", "facial_hair": "FacialHairType",
          "skin_color": "SkinColor", "hair_color": "HairColor", "facial_hair_color": "HairColor",
          "clothing_color": "ClothingColor", "hat_color": "ClothingColor"}  # fmt: skip
# groups of the drawing by the end of their id, and their class
_GROUPS = {"Body": "skin", "Clothing": "cloth", "Mouth": "mouth", "Nose": "nose", "Eyes": "l_eye",
           "Eyebrow": "l_brow", "Facial-Hair": "neck_l", "Accessory": "eye_g"}  # fmt: skip
_FAINT = 0.35  # what is fainter in hair and clothes is a shadow on what lies below
# in the drawing's units: the middle of the face, the circle of the chin, and where the ears begin
_MIDDLE, _CHIN, _CHIN_RADIUS, _EAR = 132.0, 130.0, 56.0, 56.0
_FILLED = ("path", "rect", "circle", "ellipse", "polygon", "polyline", "line", "use", "g", "text", "tspan")


def draw(choice: Choice) -> tuple[Tensor, Tensor]:
    """Return a face as a picture, uint8 [128,128,3], and its labels, uint8 [128,128]."""
    avatars, resvg = _faces_packages.modules()
    chosen = {
        name: vars(avatars)[kind][choice.parts[name]] for name, kind in _KINDS.items()
    }
    tops = avatars.HatType if choice.hat else avatars.HairType
    avatar = avatars.Avatar(style=avatars.AvatarStyle.TRANSPARENT, top=tops[choice.parts["top"]], **chosen)
    root = ElementTree.fromstring(avatar.render())
    left, top, side = choice.view
    # resvg rounds half a unit up on one side and down on the other
    shown = f"{side:.3f}".replace(".500", ".501")
    root.set("viewBox", f"{left:.3f} {top:.3f} {shown} {shown}")
    for name in ("width", "height"):
        root.attrib.pop(name, None)

    def rendered(pixels: int, background: str, shapes: str) -> np.ndarray:
        svg = ElementTree.tostring(root, encoding="unicode")
        made = resvg.svg_to_bytes(
            svg_string=svg, width=pixels, height=pixels, background=background, skip_system_fonts=True,
            shape_rendering=shapes,
        )  # fmt: skip
        return np.array(Image.open(io.BytesIO(made)).convert("RGB"))

    picture = rendered(SIDE, choice.background, "geometric_precision")
    _recolour(root, "hat" if choice.hat else "hair")
    colours = rendered(SIDE * FINE, "#000000", "crisp_edges")
    fine = _by_place(_labels(colours), choice.view)
    return torch.from_numpy(picture), SemanticMask.from_labels(fine[None]).resized(SIDE, SIDE).labels[0]


def _recolour(root: ElementTree.Element, top: str) -> None:
    """Give every part of a drawing the colour of its class, without shadows and transparency."""
    groups = _GROUPS | {"Top": top}

    def visit(element: ElementTree.Element, label: str | None, exact: bool) -> None:
        for child in list(element):
            kind = child.tag.rpartition("}")[2]
            if kind in ("defs", "mask", "clipPath", "filter", "title", "desc"):
                continue
            end = child.get("id", "").rpartition("_")[2]
            here = groups.get(end, label) if _is_place(child, end, label) else label
            in_face = exact or end == "Face"
            if not in_face and here is not None and (_faint(child) or "Shadow" in child.get("id", "")):
                element.remove(child)
                continue
            if here is not None and kind in _FILLED:
                _paint(child, "#{:02x}{:02x}{:02x}".format(*MASK_CLASSES[LABELS[here]].colour))
            visit(child, here, in_face)

    visit(root, None, exact=False)


def _is_place(element: ElementTree.Element, end: str, label: str | None) -> bool:
    """Tell whether a group is one of the places that parts are put into, and no part's own piece."""
    if end in ("Facial-Hair", "Accessory"):
        return True
    return label is None and element.tag.endswith("}g")


def _paint(element: ElementTree.Element, colour: str) -> None:
    for name in ("fill", "stroke"):
        if element.get(name) not in (None, "none"):
            element.set(name, colour)
    for name in ("fill-opacity", "opacity", "stroke-opacity", "filter", "style"):
        element.attrib.pop(name, None)


def _faint(element: ElementTree.Element) -> bool:
    return any(float(element.get(name, 1)) < _FAINT for name in ("fill-opacity", "opacity", "stroke-opacity"))


def _labels(colours: np.ndarray) -> np.ndarray:
    """Return the labels of a picture in the classes' colours; raises ValueError for any other colour."""
    coded = colours.astype(np.int64) @ np.array([65536, 256, 1])
    known = np.array([entry.colour for entry in MASK_CLASSES]) @ np.array([65536, 256, 1])
    order = known.argsort()
    place = np.searchsorted(known[order], coded).clip(max=len(known) - 1)
    labels = order[place]
    wrong = known[labels] != coded
    if wrong.any():
        raise ValueError(f"{wrong.sum()} pixels of a mask are of no class, such as {colours[wrong][0]}.")
    return labels.astype(np.uint8)


def _by_place(labels: np.ndarray, view: tuple[float, float, float]) -> Tensor:
    """Tell left from right, and face from ears and neck, which are one piece in the drawing."""
    left, top, side = view
    steps = (np.arange(len(labels)) + 0.5) / len(labels) * side
    x, y = (left + steps)[None, :], (top + steps)[:, None]
    right = x > _MIDDLE
    for one, other in (("l_eye", "r_eye"), ("l_brow", "r_brow")):
        labels[(labels == LABELS[one]) & right] = LABELS[other]
    skin = labels == LABELS["skin"]
    below = (y > _CHIN) & ((x - _MIDDLE) ** 2 + (y - _CHIN) ** 2 > _CHIN_RADIUS**2)
    beside = (np.abs(x - _MIDDLE) > _EAR) & (y <= _CHIN + 6)
    labels[skin & below & ~beside] = LABELS["neck"]
    labels[skin & beside & ~right] = LABELS["l_ear"]
    labels[skin & beside & right] = LABELS["r_ear"]
    # no face has a necklace: the label kept beards, which are skin wherever they reach, apart from the neck
    labels[labels == LABELS["neck_l"]] = LABELS["skin"]
    return torch.from_numpy(labels)
