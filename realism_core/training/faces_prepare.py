"""From a data set of faces to encoded faces on disk, and back from there one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..conditioning.attributes import FaceAttributes
from ..conditioning.masks import SemanticMask
from .faces_attributes import to_attributes
from .faces_cache import PER_SHARD, Entry, FaceCache
from .faces_entry import FaceFile, mark_of
from .faces_files import FaceFolder
from .faces_problems import Problem, ProblemTable
from .faces_read import Task, read_faces

ON_PROBLEM = ("skip", "refuse")


@dataclass(frozen=True)
class FaceSettings:
    """How faces are prepared.

    side: of the pictures in pixels. mask_side: of the masks. workers: processes that read, 0: this one.
    on_problem: skip leaves out faces with problems, refuse raises at the end if there was any problem.
    """

    side: int = 512
    mask_side: int = 128
    workers: int = 0
    on_problem: str = "skip"

    def __post_init__(self) -> None:
        if self.side < 8 or self.mask_side < 1:
            raise ValueError(f"side is {self.side} and mask_side {self.mask_side}: use 8 and 1, or more.")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}: use 0 or more.")
        if self.on_problem not in ON_PROBLEM:
            raise ValueError(f"on_problem is {self.on_problem!r}: use {', '.join(ON_PROBLEM)}.")


class Face(NamedTuple):
    """A face that can be trained on; latent: [C,h,w] or [C,T,h,w]; mask: of one picture."""

    name: str
    latent: Tensor
    attributes: FaceAttributes
    mask: SemanticMask | None


class FaceProblems(ValueError):
    """The problems of a data set, as a table, where it was to be refused for any."""


class _Shard(NamedTuple):
    number: int
    faces: list[FaceFile]
    kept: list[str]
    missing: list[tuple[FaceFile, str]]


@dataclass(frozen=True)
class PreparedFaces:
    """Encoded faces on disk: iterating gives a `Face` after the other, with one shard in memory.

    It raises ValueError where a shard is damaged, or has lost faces since.
    encoded, found: how many of them were encoded now, and how many were there from before.
    """

    cache: FaceCache
    names: dict[int, list[str]]
    problems: ProblemTable
    encoded: int
    found: int

    def __len__(self) -> int:
        return self.encoded + self.found

    def __iter__(self) -> Iterator[Face]:
        for shard, names in self.names.items():
            entries = {entry.name: entry for entry in self.cache.read(shard)}
            gone = sum(name not in entries for name in names)
            if gone:
                raise ValueError(
                    f"{gone} of {len(names)} encoded faces are gone from "
                    f"{self.cache.path(shard)}, which was deleted, or written by another run at the same "
                    "time: run this again, one run at a time."
                )
            for name in names:
                yield _face(entries[name])

    def report(self) -> str:
        """Return what was prepared and the table of problems, as text."""
        told = (
            f"{len(self)} faces: {self.encoded} encoded now, {self.found} from {self.cache.folder.name}, "
            f"{self.problems.serious} problems that left faces out."
        )
        table = self.problems.text()
        return f"{told}\n\n{table}" if table else told


def prepare_faces(
    source: FaceFolder,
    chosen: Sequence[FaceFile],
    encode: Callable[[Tensor], Tensor],
    fingerprint: str,
    folder: Path,
    settings: FaceSettings,
    step: Callable[[], None] = lambda: None,
) -> PreparedFaces:
    """Encode the chosen faces of a data set that are not on disk yet, and return all that can be used.

    encode: from a picture, uint8 [side,side,3], to its latent, float32 on the processor. fingerprint: of the
    VAE. folder: for the shards. step: called once a face; what it raises ends the work, and what was encoded
    by then is kept. A face is encoded again if one of its files has another size or time than before, or its
    row of attributes differs. Raises FaceProblems (see settings), ValueError if no face is left or nothing
    can be written to the folder, and OSError if the disk is full.
    """
    about = {
        "folder": str(source.folder), "kind": source.kind, "side": settings.side,
        "mask_side": settings.mask_side if source.has_masks else None, "vae": fingerprint,
    }  # fmt: skip
    cache, table = FaceCache(folder, about), ProblemTable()
    for problem in _that_concern(chosen, source.problems):
        table.add(problem)
    shards = list(_plan(cache, chosen, table, step))
    if any(shard.missing for shard in shards):
        cache.open()
    tasks = (
        Task(face, settings.side, settings.mask_side) for shard in shards for face, _ in shard.missing
    )
    readings = read_faces(tasks, settings.workers if any(shard.missing for shard in shards) else 0)
    names, encoded = {}, 0
    try:
        for shard in shards:
            made: list[Entry] = []
            try:
                for face, mark in shard.missing:
                    reading = next(readings)
                    if reading.problems:
                        for problem in reading.problems:
                            table.add(problem)
                    else:
                        latent = encode(torch.from_numpy(reading.picture))
                        if torch.isfinite(latent).all():
                            made.append(_entry(face, mark, latent, reading.labels, reading.attributes))
                        else:
                            about = "the VAE gave NaN or infinite values for it"
                            table.add(Problem("broken latent", face.name, about))
                    step()
            except BaseException:
                with suppress(OSError, ValueError):  # what ended the work is told, not that this failed too
                    _add(cache, shard, made)
                raise
            _add(cache, shard, made)
            encoded += len(made)
            # in the order of today: a face that was added moved those behind it, not their entries
            usable = {*shard.kept, *(entry.name for entry in made)}
            names[shard.number] = [face.name for face in shard.faces if face.name in usable]
    finally:
        readings.close()
    prepared = PreparedFaces(cache, names, table, encoded, sum(len(shard.kept) for shard in shards))
    if settings.on_problem == "refuse" and table.to_refuse:
        raise FaceProblems(
            f"the data set has {table.to_refuse} problems, and on_problem is refuse:\n{table.text()}"
        )
    if not len(prepared):
        raise ValueError(f"no face of the data set can be used:\n{table.text()}")
    return prepared


def _that_concern(chosen: Sequence[FaceFile], problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield the problems of the chosen faces and of the data set; rows without a picture as unused ones if
    they stand before all or behind all of the chosen.
    """
    places = {face.place for face in chosen}
    first, last = min(places, default=0), max(places, default=0)
    for problem in problems:
        if problem.kind == "missing picture" and not first < problem.place < last:
            yield problem._replace(kind="unused row", left_out=False)
        elif problem.kind == "missing picture" or problem.place is None or problem.place in places:
            yield problem


def _plan(
    cache: FaceCache, chosen: Sequence[FaceFile], table: ProblemTable, step: Callable[[], None]
) -> Iterator[_Shard]:
    """Yield, shard by shard, which of the chosen faces are on disk as they are now, and which are not."""
    by_shard: dict[int, list[FaceFile]] = {}
    for face in chosen:
        by_shard.setdefault(face.place // PER_SHARD, []).append(face)
    for number, faces in sorted(by_shard.items()):
        marks = {entry.name: entry.mark for entry in _read(cache, number, table)}
        shard = _Shard(number, faces, [], [])
        for face in faces:
            mark = mark_of(face)
            if marks.get(face.name) == mark:
                shard.kept.append(face.name)
                step()
            else:
                shard.missing.append((face, mark))
        yield shard


def _read(cache: FaceCache, shard: int, table: ProblemTable | None = None) -> list[Entry]:
    try:
        return cache.read(shard)
    except (ValueError, OSError) as error:
        if table is not None:
            table.add(Problem("cache", cache.path(shard).name, str(error), left_out=False))
        return []


def _add(cache: FaceCache, shard: _Shard, made: Sequence[Entry]) -> None:
    """Write a shard with what was made, beside what it has of other faces."""
    if made:
        anew = {face.name for face, _ in shard.missing}
        cache.write(shard.number, [e for e in _read(cache, shard.number) if e.name not in anew] + list(made))


def _entry(
    face: FaceFile, mark: str, latent: Tensor, labels: object, attributes: Sequence[float]
) -> Entry:
    return Entry(
        face.place, face.name, mark, latent.contiguous(), torch.tensor(attributes),
        None if labels is None else torch.from_numpy(labels),
    )  # fmt: skip


def _face(entry: Entry) -> Face:
    mask = None if entry.labels is None else SemanticMask.from_labels(entry.labels[None])
    # a copy, or the whole shard stays in memory for one of its rows
    return Face(entry.name, entry.latent.clone(), to_attributes(entry.attributes.tolist()), mask)
