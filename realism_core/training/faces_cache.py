"""Encoded faces on disk: safetensors shards that are checked, and bound to what they were made with."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..tensor_files import read_tensors, write_tensors

FORMAT, VERSION = "realism-faces", 1
# faces a shard: so many are encoded again at most after a kill
PER_SHARD = 64
# seconds after which an unfinished file is taken for what a killed process left
_ABANDONED = 3600


class Entry(NamedTuple):
    """An encoded face; mark: of its files, see `faces_files.mark_of`.

    latent: [C,h,w] or [C,T,h,w]. attributes: float32 [40]. labels: uint8 [H,W], None without masks.
    """

    place: int
    name: str
    mark: str
    latent: Tensor
    attributes: Tensor
    labels: Tensor | None


class FaceCache:
    """The shards in a folder that were made with the same settings, and no others.

    about: JSON-ready: data set, sides, the VAE's fingerprint. Each set of settings has a folder of its own
    below, so that going back to another VAE finds its latents again.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.about = json.loads(json.dumps(about))
        told = json.dumps([FORMAT, VERSION, self.about], sort_keys=True)
        self.folder = folder / hashlib.sha256(told.encode()).hexdigest()[:16]

    def path(self, shard: int) -> Path:
        """Return where a shard lies."""
        return self.folder / f"faces-{shard:05d}.safetensors"

    def read(self, shard: int) -> list[Entry]:
        """Return the entries of a shard, as views of its tensors; none if it is not there.

        Raises ValueError if it is damaged, or was made with other settings.
        """
        path = self.path(shard)
        if not path.is_file():
            return []
        tensors, metadata = read_tensors(path)
        try:
            told = json.loads(metadata["realism"])
            kind = (told["format"], told["version"], told["about"])
            samples, digest = told["samples"], told["sha256"]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path.name} is no shard of encoded faces.") from None
        if kind != (FORMAT, VERSION, self.about):
            raise ValueError(f"{path.name} was made with other settings.")
        if digest != _digest(samples, tensors):
            raise ValueError(f"{path.name} is not as it was written.")
        labels = tensors.get("labels")
        return [
            Entry(
                place, name, mark, tensors["latents"][row], tensors["attributes"][row],
                None if labels is None else labels[row],
            )
            for row, (place, name, mark) in enumerate(samples)
        ]  # fmt: skip

    def open(self) -> None:
        """Make the folder, and clear away what killed processes left in it.

        Raises ValueError with the fix if nothing can be written there.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"the latents cannot be kept in {self.folder} ({error.strerror}): let this user write there, "
                "or remove what stands in the way."
            ) from None
        for part in self.folder.glob("faces-*.part"):
            with contextlib.suppress(OSError):  # another process may be clearing too
                if time.time() - part.stat().st_mtime > _ABANDONED:
                    part.unlink()

    def write(self, shard: int, entries: Sequence[Entry]) -> None:
        """Write a shard of one or more entries, whole or not at all; the one that was there is replaced.

        The same entries give the same bytes. Raises ValueError if a latent is not finite, OSError if the disk
        is full.
        """
        ordered = sorted(entries, key=lambda entry: entry.place)
        tensors = {
            "latents": torch.stack([entry.latent for entry in ordered]),
            "attributes": torch.stack([entry.attributes for entry in ordered]),
        }
        if ordered[0].labels is not None:
            tensors["labels"] = torch.stack([entry.labels for entry in ordered])
        samples = [[entry.place, entry.name, entry.mark] for entry in ordered]
        told = {
            "format": FORMAT,
            "version": VERSION,
            "about": self.about,
            "samples": samples,
            "sha256": _digest(samples, tensors),
        }
        # one text alone: safetensors writes several in any order
        write_tensors(self.path(shard), tensors, {"realism": json.dumps(told)}, overwrite=True)


def _digest(samples: list, tensors: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256(json.dumps(samples).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
