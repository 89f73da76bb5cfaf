"""The research recipe of the Image Realism Score in OpenCV, scikit-image and numpy: the peer we compare with.

Written from science.md section 1 once, for tests (equality) and benchmarks (time). One uint8 RGB picture at
a time, as the research code works. Nothing here imports realism_core.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from PIL import Image
from skimage.feature import graycomatrix, graycoprops

PAPER_SIDE = 512
REFERENCE_MEANS = (0.11623, 418.309, 0.04643, 3317.952377, 96.773)


def recipe_measures(
    rgb: np.ndarray, definition: str = "reference"
) -> tuple[float, float, float, float, float]:
    """Return edge density, GLCM contrast, GLCM energy, blur variance, mean spectrum of uint8 RGB [H,W,3]."""
    if definition == "reference":
        return reference_measures(rgb)
    return paper_measures(recipe_fit_paper_size(rgb))


def reference_measures(rgb: np.ndarray) -> tuple[float, float, float, float, float]:
    """The research code's measures: its grey has R and B swapped, its fft2 runs over the axes (W, C)."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_BGR2GRAY)
    contrast, energy = _glcm(rgb, "energy")
    spectrum = np.mean(20 * np.log(np.abs(np.fft.fft2(rgb)) + 1e-8))
    return _edge_density(grey), contrast, energy, float(np.var(grey)), float(spectrum)


def paper_measures(rgb: np.ndarray) -> tuple[float, float, float, float, float]:
    """The paper's measures of a picture as it is (no fixed size)."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    contrast, asm = _glcm(rgb, "ASM")
    blur = cv2.Laplacian(grey, cv2.CV_64F).var()
    return _edge_density(grey), contrast, asm, float(blur), float(np.abs(np.fft.fft2(grey)).mean())


def recipe_fit_paper_size(rgb: np.ndarray) -> np.ndarray:
    """Crop the centre square and bring it to 512 x 512 (area when shrinking, bicubic when growing)."""
    height, width = rgb.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(rgb[top : top + side, left : left + side])
    if side == PAPER_SIDE:
        return square
    kind = cv2.INTER_AREA if side > PAPER_SIDE else cv2.INTER_CUBIC
    return cv2.resize(square, (PAPER_SIDE, PAPER_SIDE), interpolation=kind)


def recipe_radii(measures: tuple, definition: str = "reference", means: tuple | None = None) -> tuple:
    """Return the five radii in plain floats; `means` are the paper's means of real pictures."""
    ced, contrast, energy, blur, spectrum = measures
    if definition == "reference":
        ced0, contrast0, energy0, blur0, spectrum0 = REFERENCE_MEANS
        return (
            ced / ced0 / 0.637340,
            contrast / contrast0 / 0.43478,
            energy0 / energy / 1.03037,
            blur0 / blur / 1.1126 if blur else math.inf,
            abs(spectrum) / spectrum0 / 1.01640,
        )
    ced0, contrast0, energy0, blur0, spectrum0 = means
    return (
        ced / ced0,
        contrast / contrast0,
        energy0 / energy,
        blur0 / blur if blur else math.inf,
        spectrum0 / spectrum if spectrum else math.inf,
    )


def recipe_area(radii: tuple, definition: str = "reference") -> float:
    """Return the pentagon's area: 1/2 sin 72 degrees times the products of neighbouring radii."""
    a, b, c, d, e = radii
    if definition == "reference":
        total = a * b + a * e + b * d + c * d + e * c
    else:
        total = a * b + b * c + c * d + d * e + e * a
    return 0.5 * math.sin(2 * math.pi / 5) * total


def recipe_irs(rgb: np.ndarray, definition: str = "reference", means: tuple | None = None) -> float:
    """Return the Image Realism Score of one uint8 RGB picture [H,W,3]."""
    return recipe_area(recipe_radii(recipe_measures(rgb, definition), definition, means), definition)


def _edge_density(grey: np.ndarray) -> float:
    return float(np.count_nonzero(cv2.Canny(grey, 100, 200)) / grey.size)


def _glcm(rgb: np.ndarray, energy: str) -> tuple[float, float]:
    grey = np.array(Image.fromarray(rgb).convert("L"))
    matrix = graycomatrix(grey, [1], [0], levels=256, symmetric=True, normed=True)
    return float(graycoprops(matrix, "contrast")[0, 0]), float(graycoprops(matrix, energy)[0, 0])
