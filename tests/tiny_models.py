"""Small checkpoints with random weights that ComfyUI's own loaders accept, made once and kept in the cache.

They paint noise, but they are loaded, sampled and decoded as real models of their families are.
"""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from devtools.environment import cache_folder, locked
from tests import tiny_layouts, tiny_vae
from tests.tiny_layouts import CLIP_SD3, CLIP_SD15, Weights, clip_l, flux, sd3, unet

SEED = 20
# the checkpoint that the shipped workflows name, as ComfyUI's own default workflow does
SHIPPED = "v1-5-pruned-emaonly-fp16.safetensors"
SDXL_SIZES = 6 * 256  # what SDXL appends to the pooled conditioning: six sizes


class Conditioning(NamedTuple):
    """Widths of the conditioning a kind takes, for TestConditioning; pooled 0: none."""

    width: int
    pooled: int


CONDITIONING = {
    "sd15": Conditioning(768, 0),
    "sd15_noclip": Conditioning(768, 0),
    "koala_vpred": Conditioning(2048, 1280),
    "sd3": Conditioning(64, 2048),
    "sd3_clip": Conditioning(4096, 2048),
    "flux": Conditioning(64, 64),
}
KINDS = tuple(CONDITIONING)
CLIP = {"sd15": CLIP_SD15, "sd3_clip": CLIP_SD3}
LATENT_CHANNELS = {"sd3": 16, "sd3_clip": 16, "flux": 16}


def tiny_checkpoint(kind: str) -> Path:
    """Return a checkpoint of one of KINDS, in half precision, written at the first call.

    sd15: one level, CLIP-L; sd15_noclip: without CLIP; koala_vpred: SDXL's family with v prediction;
    sd3, flux (Dev): flow models without text encoders; sd3_clip: with CLIP-L. All have a TAESD as VAE. Flux
    needs ComfyUI 0.30.0. At 512 x 512 a step of sd15 takes seconds on a processor, of sd3_clip a hundredth.
    """
    if kind not in CONDITIONING:
        raise ValueError(f"there is no tiny model {kind!r}; there are: {', '.join(KINDS)}.")
    sources = (__file__, tiny_layouts.__file__, tiny_vae.__file__)
    version = hashlib.sha256(b"".join(Path(source).read_bytes() for source in sources)).hexdigest()[:10]
    path = cache_folder() / "tiny-models" / f"{kind}-{version}.safetensors"
    if not path.is_file():
        with locked("tiny-models"):
            if not path.is_file():
                _write(kind, path)
    return path


def link_checkpoint(base: Path, kind: str, name: str | None = None) -> str:
    """Link a kind into models/checkpoints of a ComfyUI base folder; returns its name there.

    name: default tiny-<kind>.safetensors. A running server sees the file with its next prompt.
    """
    name = name or f"tiny-{kind}.safetensors"
    link = base / "models" / "checkpoints" / name
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        target = tiny_checkpoint(kind)
        try:
            link.symlink_to(target)
        except OSError:
            if os.name != "nt":
                raise
            os.link(target, link)  # where Windows lets no links be made without a privilege
    return name


def _write(kind: str, path: Path) -> None:
    weights = Weights(SEED)
    width, pooled = CONDITIONING[kind]
    add = {
        "sd15": partial(unet, depths=(1,), context=width),
        "sd15_noclip": partial(unet, depths=(1,), context=width),
        # the depths by which ComfyUI knows KOALA
        "koala_vpred": partial(
            unet, depths=(0, 2, 5), context=width, vector=pooled + SDXL_SIZES, linear=True
        ),
        "sd3": partial(sd3, context=width, vector=pooled),
        "sd3_clip": partial(sd3, context=width, vector=pooled),
        "flux": partial(flux, context=width, vector=pooled),
    }[kind]
    add(weights)
    if kind in CLIP:
        clip_l(weights, CLIP[kind])
    if kind == "koala_vpred":
        weights.tensors["v_pred"] = torch.tensor([])
    prefix = "vae." if kind == "flux" else "first_stage_model."
    vae = tiny_vae.vae_file("random", SEED, LATENT_CHANNELS.get(kind, 4))
    weights.tensors.update({prefix + name: tensor.half() for name, tensor in vae.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    save_file({name: tensor.contiguous() for name, tensor in weights.tensors.items()}, unfinished)
    os.replace(unfinished, path)
