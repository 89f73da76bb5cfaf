"""A face of ellipses and boxes as a label map, and any masks that hypothesis likes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from realism_core.conditioning.masks import CLASSES, SemanticMask
from realism_core.conditioning.vocabulary import LABELS

# class, middle x and y, half width and height, as shares of the sides; later ones lie over earlier ones
ELLIPSES = (
    ("hair", 0.5, 0.45, 0.3, 0.36), ("cloth", 0.5, 1.0, 0.45, 0.15), ("neck", 0.5, 0.8, 0.1, 0.12),
    ("l_ear", 0.27, 0.5, 0.035, 0.07), ("r_ear", 0.73, 0.5, 0.035, 0.07), ("skin", 0.5, 0.5, 0.22, 0.28),
    ("l_eye", 0.41, 0.45, 0.05, 0.03), ("r_eye", 0.59, 0.45, 0.05, 0.03), ("l_brow", 0.41, 0.38, 0.06, 0.02),
    ("r_brow", 0.59, 0.38, 0.06, 0.02), ("nose", 0.5, 0.55, 0.035, 0.06), ("u_lip", 0.5, 0.65, 0.075, 0.03),
    ("l_lip", 0.5, 0.68, 0.07, 0.03), ("mouth", 0.5, 0.665, 0.05, 0.012), ("ear_r", 0.26, 0.59, 0.02, 0.03),
)  # fmt: skip


def face(height: int = 64, width: int = 64) -> Tensor:
    """Return the labels [H,W] of a face that is symmetric but for its one earring."""
    y, x = np.mgrid[:height, :width] + 0.5
    labels = np.zeros((height, width), np.uint8)
    for name, left, top, wide, tall in ELLIPSES:
        inside = ((x / width - left) / wide) ** 2 + ((y / height - top) / tall) ** 2 <= 1
        labels[inside] = LABELS[name]
    return torch.from_numpy(labels)


SIDES = st.integers(1, 9)
# a few classes, so that neighbours are often alike
SOME = st.sampled_from([0, 1, 4, 5, 13, 15, 17, 18])


@st.composite
def label_maps(draw, labels: st.SearchStrategy[int] = SOME) -> Tensor:
    """Label maps [B,H,W] of one to three small pictures."""
    shape = (draw(st.integers(1, 3)), draw(SIDES), draw(SIDES))
    return torch.from_numpy(draw(arrays.arrays(np.uint8, shape, elements=labels)))


@st.composite
def soft_masks(draw) -> SemanticMask:
    """Soft masks of small pictures, some of them with pixels of one class for certain."""
    shape = (draw(st.integers(1, 2)), draw(SIDES), draw(SIDES))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = random.random((shape[0], CLASSES, *shape[1:])) ** draw(st.sampled_from([1, 8]))
    weights *= random.random((shape[0], CLASSES, *shape[1:])) < draw(st.sampled_from([1.0, 0.3]))
    weights[:, 0] += weights.sum(1) == 0
    return SemanticMask.from_classes(torch.from_numpy(weights / weights.sum(1, keepdims=True)))
