"""Perceptual distances: what compares pictures by a network's features, and LPIPS where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

# (pictures, others), both float [B,H,W,3] in 0..1, to distances [B]
Features = Callable[[Tensor, Tensor], Tensor]

_BACKBONES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}


def load_lpips(backbone: str = "vgg", device: torch.device | str = "cpu") -> Features:
    """Return LPIPS as `features`, from the package lpips and a backbone file that is already there.

    backbone: "alex", "vgg" or "squeeze"; nothing is downloaded.
    Raises ValueError with the fix where the package or the backbone is missing. Source: arXiv 1801.03924.
    """
    if backbone not in _BACKBONES:
        raise ValueError(f"backbone {backbone!r} is none of {', '.join(_BACKBONES)}: choose one of them.")
    try:
        import lpips  # only where a user has installed it
    except ImportError as error:
        raise ValueError(
            f"the perceptual distance needs the package lpips, which cannot be imported ({error}): install "
            "it with pip install lpips, or switch the perceptual distance off."
        ) from None
    path = Path(torch.hub.get_dir()) / "checkpoints" / _BACKBONES[backbone]
    if not path.is_file():
        raise ValueError(
            f"the perceptual distance needs the backbone file {path}: download "
            f"https://download.pytorch.org/models/{path.name} to there, choose another backbone, or switch "
            "the perceptual distance off."
        )
    network = lpips.LPIPS(net=backbone, verbose=False).train(False).to(device)

    def distance(pictures: Tensor, others: Tensor) -> Tensor:
        pair = (images.to(device).movedim(-1, 1) * 2 - 1 for images in (pictures, others))
        return network(*pair).flatten()

    return distance
