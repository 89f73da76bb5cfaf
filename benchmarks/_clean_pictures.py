"""Photographs without a codec's traces and generated pictures, 512 x 512, spread over their sources."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from devtools.environment import cache_folder
from devtools.pictures import generated, photographs
from realism_core.degrade import resize
from realism_core.pictures import read_picture

SIDE = 512
FAMILIES = ("flux", "sdxl", "cascade", "hidream", "sd3")


def photographic(count: int) -> list[Tensor]:
    """Return photographs from all sources in turn, reduced to half their size or less: uint8 [512,512,3]."""
    sources: dict[str, list[Path]] = {}
    for picture in photographs(cache_folder(), sys.executable):
        sources.setdefault(re.sub(r"[-.\d]+$", "", picture.source), []).append(picture.path)
    large = {
        name: [path for path in paths if _short_side(path) >= 2 * SIDE] for name, paths in sources.items()
    }
    chosen = in_turn(large.values(), count)
    print("photographs: " + _counted(large, chosen))
    return [_reduced(read_picture(path)) for path in chosen]


def made(count: int) -> list[Tensor]:
    """Return generated pictures from all families in turn: uint8 [512,512,3], lossless if there are any."""
    # brings the decoders' training along, which workers and tests do not need
    from benchmarks._detector_data import lossless_folder

    folder = lossless_folder()
    if folder is None:
        kind, paths = "stills of workflow templates (WebP)", {}
        for picture in generated(cache_folder(), sys.executable):
            paths.setdefault(_family(picture.model or "unsure"), []).append(picture.path)
    else:
        kind, paths = "lossless", {}
        for path in sorted(folder.glob("*.png")):
            paths.setdefault(_family(path.stem), []).append(path)
    large = {name: [path for path in found if _short_side(path) >= SIDE] for name, found in paths.items()}
    chosen = in_turn(large.values(), count)
    print(f"generated, {kind}: " + _counted(large, chosen))
    return [_middle(read_picture(path)) for path in chosen]


def in_turn(groups: Iterable[Sequence[Path]], count: int) -> list[Path]:
    """Return up to `count` items, as equally many of each group as there are, spread over each group."""
    groups = [list(group) for group in groups if group]
    shares = [0] * len(groups)
    for _ in range(min(count, sum(map(len, groups)))):
        open_groups = [i for i in range(len(groups)) if shares[i] < len(groups[i])]
        shares[min(open_groups, key=lambda i: shares[i])] += 1
    return [
        group[int((number + 0.5) * len(group) / share)]
        for group, share in zip(groups, shares, strict=True)
        for number in range(share)
    ]


def _counted(groups: dict[str, list[Path]], chosen: Sequence[Path]) -> str:
    counts = {name: len(set(paths) & set(chosen)) for name, paths in groups.items()}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _family(name: str) -> str:
    name = name.lower().replace("sd_xl", "sdxl")
    return next((family for family in FAMILIES if family in name), "sd15 and others")


def _short_side(path: Path) -> int:
    with Image.open(path) as picture:
        return min(picture.size)


def _reduced(picture: Tensor) -> Tensor:
    small = resize(picture[None], SIDE / min(picture.shape[:2]), "area")[0]
    return _middle(small)


def _middle(picture: Tensor) -> Tensor:
    top, left = ((side - SIDE) // 2 for side in picture.shape[:2])
    return picture[top : top + SIDE, left : left + SIDE].contiguous()
