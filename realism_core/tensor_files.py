"""Safetensors files with metadata, written all at once or not at all, and read with every check."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

_HEADER_LIMIT = 100_000_000  # bytes, as safetensors has it
# how files begin that torch.save wrote: a zip archive, or a pickle of protocol 2 to 5
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICKLE_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, overwrite: bool = False
) -> None:
    """Write tensors and texts as a safetensors file, atomically: the file is whole or not there.

    Raises FileExistsError where the file is there and overwrite is False; ValueError for tensors with NaN
    or infinite values, naming one, and for metadata that is not text; OSError where it cannot be written.
    """
    if not overwrite and path.exists():
        raise _there(path)
    for key, text in metadata.items():
        if not isinstance(text, str):
            raise ValueError(f"the metadata {key} is {type(text).__name__}; safetensors holds texts only.")
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"{key} has values that are NaN or infinite in {tensor.dtype}: nothing was written. "
                "Take the weights of an earlier step, or save in float32."
            )
    whole = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    content = safetensors.torch.save(whole, dict(metadata))
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(part, path)
        else:
            _place(part, path)
    except FileExistsError:
        raise _there(path) from None
    except OSError as reason:
        what = "the disk is full" if reason.errno == errno.ENOSPC else reason.strerror or str(reason)
        raise OSError(
            reason.errno,
            f"{path.name} was not written ({what}; it needs {len(content) / 1e6:.1f} MB): "
            "make room or choose another folder",
            str(path),
        ) from reason
    finally:
        part.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Nothing in the file is ever run: pickles are refused by name or first bytes. Raises ValueError for a
    pickle and for files that are truncated, damaged or no safetensors; FileNotFoundError for no file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: choose a file that exists.")
    with path.open("rb") as file:
        start = file.read(9)
        # a header of 640 bytes begins as a pickle does, but a "{" follows its length
        if path.suffix.lower() in _PICKLE_SUFFIXES or (start.startswith(_PICKLES) and start[8:] != b"{"):
            raise ValueError(
                f"{path.name} is a pickle, which can run programs when it is read: only safetensors files "
                "are read. Convert it with a program that you trust."
            )
        content = start + file.read()
    metadata, needed = _header(content, path.name)
    if len(content) < needed:
        raise ValueError(
            f"{path.name} is truncated: it has {len(content)} of {needed} bytes. Copy or download it again."
        )
    try:
        return safetensors.torch.load(content), metadata
    except (SafetensorError, KeyError, ValueError) as reason:
        raise ValueError(f"{path.name} is damaged: {reason}. Copy or download it again.") from None


def _header(content: bytes, name: str) -> tuple[dict[str, str], int]:
    """Return the metadata of a safetensors file's bytes, and how many bytes the whole file has."""
    foreign = ValueError(f"{name} is no safetensors file, or damaged at its beginning: choose another.")
    if len(content) < 8:
        raise ValueError(f"{name} is truncated: it has {len(content)} bytes. Copy or download it again.")
    (length,) = struct.unpack("<Q", content[:8])
    if length > _HEADER_LIMIT or content[8:9] not in (b"{", b""):
        raise foreign
    if len(content) < 8 + length:
        return {}, 8 + length
    try:
        header = json.loads(content[8 : 8 + length])
        metadata = {str(key): str(text) for key, text in (header.pop("__metadata__", None) or {}).items()}
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        return metadata, 8 + length + int(end)
    except (ValueError, AttributeError, LookupError, TypeError):
        raise foreign from None


def _place(part: Path, path: Path) -> None:
    """Give a written file its name, which must be free; only file systems without links leave a gap."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        if path.exists():
            raise _there(path) from None
        os.replace(part, path)


def _there(path: Path) -> FileExistsError:
    return FileExistsError(f"{path} is there already: choose another name, or allow it to be replaced.")
