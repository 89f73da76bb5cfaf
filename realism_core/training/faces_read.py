"""One face of a data set, read and brought to size; in this process or in workers of their own."""

from __future__ import annotations

import os
import pkgutil
import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..conditioning.mask_pictures import from_picture, read_parts
from ..conditioning.masks import CLASSES, SemanticMask
from ..pictures import PictureError, read_label_map, read_picture
from .faces_attributes import read_json, to_strengths
from .faces_entry import FaceFile, part_files
from .faces_problems import Problem
from .pictures import cut

# what every face of the data set has
_NEEDED = "skin"
_ROOT = Path(__file__).resolve().parents[2]
# how torch begins what it says of a worker that is gone; what one raises comes with its own text
_DIED = "DataLoader worker (pid"
_DEEP = 257  # by which programs multiply grey values of 8 bits that they save with 16
_SHOWN = 4  # labels that are none
_AHEAD = 4  # faces that a worker reads ahead


class Task(NamedTuple):
    """A face to read, and the sides in pixels that picture and mask are brought to."""

    face: FaceFile
    side: int
    mask_side: int


class Reading(NamedTuple):
    """What was read: picture uint8 [side,side,3], labels uint8 [mask_side,mask_side] or None, 40 strengths.

    With problems, the face cannot be used and the rest is None.
    """

    picture: np.ndarray | None
    labels: np.ndarray | None
    attributes: list[float] | None
    problems: list[Problem]


def read_face(task: Task) -> Reading:
    """Return a face, its middle square scaled to the sides of the task (Lanczos; labels by area).

    All that is wrong with the face is among the problems; nothing is raised for it.
    """
    face, problems = task.face, []
    picture = labels = attributes = None
    try:
        picture = read_picture(face.picture)
    except PictureError as error:
        problems.append(Problem("broken picture", face.name, _after(error, face.picture)))
    if face.mask is not None:
        labels = _labels(face, problems)
    if face.wrong is not None:
        problems.append(Problem("wrong attributes", *face.wrong))
    elif face.attributes is None:
        problems.append(Problem("missing attributes", face.name, "has no row in the attribute file"))
    elif isinstance(face.attributes, bytes):
        attributes = to_strengths(face.attributes)
    elif not os.path.isfile(face.attributes):
        about = f"{os.path.basename(face.attributes)} is not there"
        problems.append(Problem("missing attributes", face.name, about))
    else:
        try:
            attributes = read_json(Path(face.attributes)).values().tolist()
        except ValueError as error:
            about = " ".join(str(error).split())
            problems.append(Problem("wrong attributes", os.path.basename(face.attributes), about))
    if picture is not None:
        problems += _sizes(task, picture.shape[:2], labels.size if labels is not None else None)
    if problems:
        return Reading(None, None, None, problems)
    square = cut(picture, [(task.side, task.side)]).picture.numpy()
    small = None
    if labels is not None:
        small = labels.fitted(task.mask_side, task.mask_side, "crop").labels[0].numpy()
    return Reading(square, small, attributes, [])


def read_faces(tasks: Iterable[Task], workers: int = 0) -> Iterator[Reading]:
    """Yield what is read of tasks, in their order; workers: processes that read ahead, 0: this one.

    A few faces a worker are held in memory, however many there are. Raises RuntimeError, with the fix, if a
    worker ends by itself.
    """
    if not workers:
        yield from map(read_face, tasks)
        return
    from torch.utils.data import DataLoader  # not when the pack starts

    # plain values go there and back: classes have other names in a worker
    plain = ((tuple(task.face), task.side, task.mask_side) for task in tasks)
    loader = DataLoader(
        _READER, sampler=plain, batch_size=None, num_workers=workers, prefetch_factor=_AHEAD,
        collate_fn=_READER.as_it_is, multiprocessing_context="spawn",
        generator=torch.Generator(),  # else the seed of others' noise would move on
    )  # fmt: skip
    with _as_workers_see_it():
        readings = iter(loader)
    try:
        for picture, labels, attributes, problems in readings:
            yield Reading(picture, labels, attributes, [Problem(*problem) for problem in problems])
    except RuntimeError as error:
        if not str(error).startswith(_DIED):
            raise
        raise RuntimeError(
            f"a process that read faces ended by itself, for want of memory perhaps ({error}): lower "
            "workers, or set it to 0."
        ) from error
    finally:
        del readings


class _Reader:
    """Reads tasks. A worker finds it by the name that this package has on its own, whatever it has here."""

    def __getitem__(self, task: tuple) -> tuple:
        face, side, mask_side = task
        reading = read_face(Task(FaceFile(*face), side, mask_side))
        return (*reading[:3], [tuple(problem) for problem in reading.problems])

    def __reduce__(self) -> tuple:
        return pkgutil.resolve_name, ("realism_core.training.faces_read:_READER",)

    def as_it_is(self, reading: tuple) -> tuple:
        """Return what a worker read without making tensors of it."""
        return reading


_READER = _Reader()


@contextmanager
def _as_workers_see_it() -> Iterator[None]:
    """Let processes that start now find this package, and not run the program again that started this one.

    A process that Python spawns runs the main program's file first; ComfyUI's would start its custom nodes.
    """
    main, path = sys.modules["__main__"], list(sys.path)
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.path.insert(0, str(_ROOT))
    try:
        yield
    finally:
        sys.modules["__main__"], sys.path[:] = main, path


def _labels(face: FaceFile, problems: list[Problem]) -> SemanticMask | None:
    if face.number is None:
        return _label_map(face, problems)
    there = {name for name, file in part_files(face).items() if os.path.isfile(file)}
    if not there:
        problems.append(Problem("missing mask", face.name, "has no part file"))
        return None
    if _NEEDED not in there:
        file = os.path.basename(part_files(face)[_NEEDED])
        problems.append(Problem("missing part", file, f"of {len(there)} parts {_NEEDED} is not there"))
    try:
        return read_parts(Path(face.mask), face.number)
    except Exception as error:  # noqa: BLE001 - decoders meet damaged files with errors of every kind
        told = _after(error, face.mask)
        kind = "wrong size" if "make them one size" in told else "broken mask"
        problems.append(Problem(kind, face.name, told))
        return None


def _label_map(face: FaceFile, problems: list[Problem]) -> SemanticMask | None:
    name = os.path.basename(face.mask)
    if not os.path.isfile(face.mask):
        problems.append(Problem("missing mask", face.name, f"{name} is not there"))
        return None
    try:
        mask = _from_values(read_label_map(face.mask))
    except PictureError as error:
        problems.append(Problem("broken mask", name, _after(error, face.mask)))
        return None
    except ValueError as error:
        problems.append(Problem("unknown label", name, str(error)))
        return None
    if not mask.stored.any():
        problems.append(Problem("empty mask", name, "is background everywhere, without any part of a face"))
    return mask


def _from_values(picture: torch.Tensor) -> SemanticMask:
    """Return the mask of a label map, grey or coloured; raises ValueError with what is wrong with it."""
    if (picture != picture[..., :1]).any():
        try:
            return from_picture(picture[None].float() / 255, "colours")
        except ValueError as error:  # what it advises for more is for a node
            told = str(error).removeprefix("label_map ")
            raise ValueError(told.partition(". If the picture is CelebAMask-HQ's")[0]) from None
    labels = picture[..., 0].to(torch.int64)
    if (labels % _DEEP == 0).all():
        labels = labels // _DEEP
    if ((labels == 0) | (labels >= 254)).all() and labels.any():
        raise ValueError("is black and white, the mask of one part, and no label map")
    wrong = labels >= CLASSES
    if wrong.any():
        found, counts = torch.unique(labels[wrong], return_counts=True)
        order = counts.argsort(descending=True, stable=True)[:_SHOWN]
        named = ", ".join(f"{int(counts[i])} with the label {int(found[i])}" for i in order)
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ValueError(f"has {int(wrong.sum())} pixels of no class: {named}{more}")
    return SemanticMask.from_labels(labels[None])


def _sizes(task: Task, picture: tuple[int, int], mask: tuple[int, int] | None) -> list[Problem]:
    tall, wide = picture
    problems = []
    if min(picture) < task.side:
        about = f"{wide} x {tall} is smaller than {task.side} x {task.side}"
        problems.append(Problem("wrong size", task.face.name, about))
    if mask is not None and abs(mask[0] * wide - mask[1] * tall) > max(*mask, *picture):
        about = f"the mask is {mask[1]} x {mask[0]}, another aspect than {wide} x {tall}"
        problems.append(Problem("wrong size", task.face.name, about))
    return problems


def _after(error: Exception, path: str) -> str:
    """Return what an error says behind the path that it begins with."""
    told = str(error) or type(error).__name__
    return " ".join(told.removeprefix(path).removeprefix(os.sep).split())
