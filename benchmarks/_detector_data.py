"""The pictures that the detector is fitted and judged on, each in several states, measured once and cached.

Photographs: devtools/pictures.json, by source. Generated: the stills and video frames of ComfyUI's workflow
templates, the lossless pictures of a folder given by REALISM_GENERATED (`../shared/pictures/generated`
beside a checkout that has it; left out, and said so, where there is none), and photographs as small trained
decoders give them back.

The states make both sides alike where the files are not: photographs had been through JPEG or WebP, most
generated pictures had not. `clean` is a photograph reduced to a half or less, which removes the codec's
traces; the other states give both sides the same codecs, qualities, factors and kernels, drawn with one
seed a picture.
"""

from __future__ import annotations

import ast
import hashlib
import os
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import _candidates as candidates
from benchmarks import _tiny_decoders as tiny_decoders
from devtools.environment import cache_folder
from devtools.pictures import animated, demo_generated, frame, generated, photographs
from realism_core.degrade import encode_jpeg, encode_webp, resize
from realism_core.evidence import codec, noise, resampling, size, statistics
from realism_core.pictures import read_picture

SIDE = 1024
MATCHED = 512
PHOTO_STATES = (
    "as_decoded", "webp80", "codec", "clean", "clean_webp80", "clean_codec", "resized", "matched",
    "matched_webp80",
)  # fmt: skip
MADE_STATES = ("as_decoded", "webp80", "codec", "resized", "matched", "matched_webp80")
TINY_EVERY = 4
EVIDENCE = (codec, resampling, noise, size)
EVIDENCE_COLUMNS = tuple(column.name for module in EVIDENCE for column in module.COLUMNS)


class Origin(NamedTuple):
    """A picture: where it is, what it is (1 = photograph), and the source or generator to hold out with it.

    also: a second group that must not be fitted on when it is judged (the source of a decoded photograph).
    shown: whether the demo or the tests show it, so that the detector that ships must not know it.
    frame: which frame of an animation it is.
    """

    path: Path
    label: int
    group: str
    also: str = ""
    shown: bool = False
    frame: int | None = None

    def read(self) -> Tensor:
        """Return the picture, or its frame, uint8 [1,H,W,3]."""
        if self.frame is None:
            return read_picture(self.path)[None]
        return torch.from_numpy(np.array(frame(self.path, self.frame)))[None]


class Sample(NamedTuple):
    """One state of a picture: the detector's statistics [37], the candidates [44], the codec and size
    columns.
    """

    origin: Origin
    state: str
    statistics: Tensor
    candidates: Tensor
    evidence: Tensor


def origins() -> list[Origin]:
    """Return all pictures, fetching what is missing."""
    cache = cache_folder()
    found = []
    for picture in photographs(cache, sys.executable):
        group = (
            "lomiri" if picture.source.startswith("lomiri") else picture.source.removesuffix("-wallpapers")
        )
        found.append(Origin(picture.path, 1, group, shown=picture.source == "scikit-image"))
    shown = {picture.path for picture in demo_generated(cache, sys.executable)}
    for picture in generated(cache, sys.executable):
        found.append(Origin(picture.path, 0, _generator(picture.model or ""), shown=picture.path in shown))
    for picture in animated(cache, sys.executable):
        chosen = {picture.frames[0], picture.frames[len(picture.frames) // 2]}
        found += [
            Origin(picture.path, 0, _generator(picture.model or ""), frame=place)
            for place in sorted(chosen)
        ]
    folder = lossless_folder()
    if folder is None:
        print("no lossless generated pictures: REALISM_GENERATED names no folder, so they are left out")
    else:
        found += [Origin(path, 0, _generator(path.stem, "sd15")) for path in sorted(folder.glob("*.png"))]
    tiny = [origin for origin in found if origin.label][::TINY_EVERY]
    found += [Origin(origin.path, 0, "tiny", origin.group) for origin in tiny]
    return found


def lossless_folder() -> Path | None:
    """Return the folder of lossless generated pictures, or None."""
    beside = Path(__file__).parents[2] / "shared" / "pictures" / "generated"
    folder = Path(os.environ.get("REALISM_GENERATED", beside))
    return folder if folder.is_dir() else None


def _generator(name: str, otherwise: str = "unsure") -> str:
    """Return the family of generators that made the picture, by the name of the checkpoint or the file."""
    name = name.lower()
    for family, marks in {
        "flux": ("flux",), "sdxl": ("sdxl", "sd_xl"), "cascade": ("cascade",), "hidream": ("hidream",),
        "sd3": ("sd3",), "wan": ("wan",), "svd": ("svd",), "mochi": ("mochi",), "ltxv": ("ltx",),
        "hunyuan": ("hunyuan",),
        "sd15": ("v1-5",),
    }.items():  # fmt: skip
        if any(mark in name for mark in marks):
            return family
    return otherwise


def samples(chosen: list[Origin]) -> list[Sample]:
    """Return all states of the pictures, measured on all processor cores and cached by content."""
    folder = cache_folder() / "detector-data" / _state_of_code()
    folder.mkdir(parents=True, exist_ok=True)
    decoders = decoder_folder(chosen)
    jobs = [(origin, folder, decoders) for origin in chosen]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        measured = []
        for number, found in enumerate(pool.map(_measured, jobs), 1):
            measured += found
            if number % 20 == 0:
                print(f"\r{number} of {len(jobs)} pictures measured", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return measured


def decoder_folder(chosen: list[Origin]) -> Path | None:
    """Return the folder of the small decoders trained on these photographs, training missing ones."""
    if not any(origin.group == "tiny" for origin in chosen):
        return None
    training = [
        read_picture(o.path, max_side=768).movedim(-1, 0) for o in chosen if o.label and not o.shown
    ]
    for kind in tiny_decoders.KINDS:
        tiny_decoders.trained(kind, training, cache_folder())
    return tiny_decoders.folder(training, cache_folder())


def _measured(job: tuple[Origin, Path, Path | None]) -> list[Sample]:
    torch.set_num_threads(1)
    origin, folder, decoders = job
    key = hashlib.sha256(
        origin.path.read_bytes() + repr((origin.label, origin.group, origin.also, origin.frame)).encode()
    )
    file = folder / f"{key.hexdigest()[:24]}.pt"
    if file.is_file():
        values = torch.load(file, weights_only=True)
    else:
        values = {state: _measure(picture) for state, picture in states(origin, decoders)}
        part = file.with_suffix(f".{os.getpid()}")
        torch.save(values, part)
        os.replace(part, file)
    return [Sample(origin, state, *parts) for state, parts in values.items()]


def _measure(picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    planes = picture.movedim(-1, 1).contiguous()
    evidence = torch.cat(
        [getattr(module, f"measure_{module.__name__.split('.')[-1]}")(planes) for module in EVIDENCE], 1
    )
    return statistics.detector_statistics(planes)[0], candidates.candidates(planes)[0], evidence[0]


def states(origin: Origin, decoders: Path | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield each state of a picture by name, uint8 [1,H,W,3]."""
    draw = random.Random(f"{origin.path.name} {origin.frame}")
    whole = origin.read()
    if origin.group == "tiny":
        kind = draw.choice(tiny_decoders.KINDS)
        plane = _reduced(whole, draw)[0].movedim(-1, 0)
        whole = tiny_decoders.reconstruct(tiny_decoders.load(kind, decoders), plane).movedim(0, -1)[None]
    crop = _cropped(whole, draw)
    yield "as_decoded", crop
    yield "webp80", encode_webp(crop, 80)
    yield "codec", _coded(crop, draw)
    clean = crop
    if origin.label:
        clean = _cropped(_reduced(whole, draw), draw)
        yield "clean", clean
        yield "clean_webp80", encode_webp(clean, 80)
        yield "clean_codec", _coded(clean, draw)
    yield (
        "resized",
        _cropped(
            resize(clean, draw.uniform(0.5, 1.5), draw.choice(("bilinear", "bicubic", "lanczos"))), draw
        ),
    )
    matched = _cropped(resize(whole, MATCHED / min(whole.shape[1:3]), "lanczos"), draw)
    yield "matched", matched
    yield "matched_webp80", encode_webp(matched, 80)


def _reduced(whole: Tensor, draw: random.Random) -> Tensor:
    """Return a photograph at half its size or less, down to a short side of 512 to 640 pixels if it is
    large.
    """
    factor = min(0.5, max(0.25, draw.uniform(512, 640) / min(whole.shape[1:3])))
    return resize(whole, factor, draw.choice(("bilinear", "bicubic", "lanczos", "area")))


def _cropped(picture: Tensor, draw: random.Random) -> Tensor:
    """Return a random part of at most 1024 pixels a side, so that codec grids lie at any phase."""
    starts = [draw.randint(0, max(0, side - SIDE)) for side in picture.shape[1:3]]
    return picture[:, starts[0] : starts[0] + SIDE, starts[1] : starts[1] + SIDE].contiguous()


def _coded(picture: Tensor, draw: random.Random) -> Tensor:
    quality = draw.randint(60, 98)
    if draw.random() < 0.5:
        return encode_webp(picture, quality)
    return encode_jpeg(picture, quality, draw.choice(("4:2:0", "4:4:4")))


def _state_of_code() -> str:
    """Return a hash of the code that the measured numbers depend on, whatever its layout and comments."""
    here, core = Path(__file__).parent, Path(__file__).parents[1] / "realism_core"
    names = ("codec", "jpeg", "lattice", "noise", "resampling", "residual", "samples", "size", "statistics")
    files = [here / "_candidates.py", here / "_tiny_decoders.py", Path(__file__)]
    files += [core / "evidence" / f"{name}.py" for name in names]
    files += sorted((core / "degrade").glob("*.py"))
    state = hashlib.sha256()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value = ast.Constant(0)  # a docstring
        state.update(ast.dump(tree).encode())
    return state.hexdigest()[:16]
