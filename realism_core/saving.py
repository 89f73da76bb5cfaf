"""Pictures and manifests written to disk, with what is known of them inside."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .images import check_finite

FORMATS = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
# the tags in which ComfyUI's frontend looks for "prompt:" and "workflow:", then downwards
_FIRST_TAG = 0x0110
_JPEG_EXIF_LIMIT = 65_000


def save_picture(
    image: Tensor,
    path: Path,
    format: str = "png",
    quality: int = 95,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write one picture [H,W,C], float 0..1 or uint8, atomically, with texts in its metadata.

    format: png (lossless, alpha kept), webp (lossless at quality 100, alpha kept) or jpeg (alpha left out).
    metadata: name -> text; PNG text chunks, or EXIF entries "name:text" as ComfyUI writes them. A JPEG holds
    64 kB of EXIF; what is longer goes to <path>.json beside it, whole. Never overwrites: raises
    FileExistsError.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; use one of {', '.join(FORMATS)}.")
    if path.exists():
        raise FileExistsError(f"{path} is there already: choose another name.")
    picture, texts = to_pillow(image), dict(metadata or {})
    options: dict = {}
    if format == "png":
        info = PngInfo()
        for name, text in texts.items():
            info.add_text(name, text)
        options = {"pnginfo": info, "compress_level": 4}
    else:
        exif = _exif(texts)
        if format == "jpeg":
            picture = picture.convert("RGB")
            if len(exif) > _JPEG_EXIF_LIMIT:
                _write(path.with_name(path.name + ".json"), json.dumps(texts).encode())
                exif = b""
            options = {"quality": quality, "subsampling": 0, "exif": exif}
        else:
            options = {"quality": quality, "lossless": quality == 100, "exif": exif}
    buffer = io.BytesIO()
    picture.save(buffer, format.upper(), **options)
    _write(path, buffer.getvalue())


def to_pillow(image: Tensor) -> Image.Image:
    """Return a picture [H,W,C] (float 0..1, rounded half up, or uint8) as a Pillow image of mode RGB or RGBA.

    Raises ValueError for NaN and infinite values.
    """
    check_finite(image[None], "image")
    if image.dtype != torch.uint8:
        image = image.float().clamp(0, 1).mul(255).add(0.5).to(torch.uint8)
    array = image.detach().cpu().numpy()
    if array.shape[-1] == 1:
        array = array.repeat(3, axis=-1)
    return Image.fromarray(array)


def save_manifest(rows: Sequence[Mapping], path: Path, about: Mapping | None = None) -> None:
    """Write one row a picture as CSV or JSON, by the path's suffix, atomically."""
    if path.suffix == ".json":
        data = {"format": "realism-manifest", "version": 1, "about": dict(about or {}), "images": list(rows)}
        _write(path, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    writer.writerows(rows)
    _write(path, text.getvalue().encode())


def _exif(texts: Mapping[str, str]) -> bytes:
    exif = Image.Exif()
    for offset, (name, text) in enumerate(texts.items()):
        exif[_FIRST_TAG - offset] = f"{name}:{text}"
    return exif.tobytes() if texts else b""


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)
