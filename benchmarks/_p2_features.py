"""How far sampled pictures lie from photographs: the kernel distance on features of an ImageNet network.

The network is EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946; see _p2_packages). Pictures of 32 x 32 are
enlarged to 128 x 128, so that the features speak of shapes, shading and coarse texture. The numbers are not
the FID or KID of the literature, which use Inception at 299 x 299: they compare only with each other.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import _p2_packages

ENLARGED, BATCH = 128, 32


@torch.no_grad()
def features(pictures: Tensor) -> Tensor:
    """Return the pooled features [N,1280], float32, of uint8 pictures [N,3,H,W]."""
    network = _network()
    found = []
    for some in pictures.split(BATCH):
        large = functional.interpolate(some.float(), size=(ENLARGED, ENLARGED), mode="bicubic")
        found.append(network.extract_features((large.clamp(0, 255) - 127) / 128).mean((2, 3)))
    return torch.cat(found)


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return (a . b / d + 1)^3 for all pairs of features [N,d] and [M,d]: float64 [N,M]."""
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3


def distance(
    made: Tensor, cross: Tensor, real: Tensor, v: Tensor | None = None, w: Tensor | None = None
) -> Tensor:
    """Return the squared maximum mean discrepancy between two sets, unbiased: about 0 for alike ones.

    made [N,N], cross [N,M], real [M,M]: `kernel` within and between the sets. v [...,N], w [...,M]: how often
    each picture counts, 1 if None; none is ever paired with itself. Returns [...]. Source: Binkowski et al.,
    arXiv 1801.01401.
    """
    v = torch.ones(len(made), dtype=made.dtype) if v is None else v
    w = torch.ones(len(real), dtype=real.dtype) if w is None else w
    between = (v @ cross * w).sum(-1) / (v.sum(-1) * w.sum(-1))
    return _within(made, v) + _within(real, w) - 2 * between


def _within(kernels: Tensor, counts: Tensor) -> Tensor:
    pairs = counts.sum(-1) ** 2 - counts.square().sum(-1)
    return ((counts @ kernels * counts).sum(-1) - counts.square() @ kernels.diagonal()) / pairs


@cache
def _network() -> nn.Module:
    place = _p2_packages.folder()
    sys.path.insert(0, str(place))
    try:
        module = importlib.import_module("efficientnet_lite_pytorch")
    finally:
        sys.path.remove(str(place))
    network = module.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(place / _p2_packages.WEIGHTS, weights_only=True))
    return network.eval().requires_grad_(False)
