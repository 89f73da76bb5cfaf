"""Where the faces of a data set lie on disk: CelebAMask-HQ, folders of one's own, pictures with a list."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..conditioning.vocabulary import CLASS_NAMES
from ..pictures import SUFFIXES, find_pictures
from .faces_attributes import States, read_attribute_file
from .faces_problems import Problem

KINDS = ("celebamask-hq", "folder", "csv")
IMAGES, PARTS, ATTRIBUTES = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "CelebAMask-HQ-attribute-anno.txt"
PER_FOLDER = 2000  # pictures whose parts lie in one folder
# of pictures and folders in a data set of one's own
_IMAGES, _MASKS, _JSON = "images", "masks", "attributes"
_MASK_SUFFIX = ".mask.png"
_LISTS = ("list_attr_celeba.txt", "list_attr_celeba.csv", "attributes.csv")
# pictures that CelebAMask-HQ trains on in the 27,000/3,000 split; the others are held out
TRAINED_ON = 27_000
SPLITS = ("training", "held out", "all")
# what lies in folders without belonging to anybody
_IGNORED = (".ds_store", "thumbs.db", "desktop.ini", "readme.txt", "readme.md", "license.txt")


class FaceFile(NamedTuple):
    """A face on disk.

    place: in the whole data set, from 0. name: of its picture. mask: the label map, or the folder of the
    parts of picture `number`. attributes: states, or the path of a JSON file; None where they are missing.
    """

    place: int
    name: str
    picture: str
    mask: str | None = None
    number: int | None = None
    attributes: States | str | None = None


@dataclass(frozen=True)
class FaceFolder:
    """The faces of a data set in their order; problems: what its lists and folders showed already."""

    kind: str
    folder: Path
    faces: list[FaceFile]
    problems: list[Problem]

    @property
    def has_masks(self) -> bool:
        """Whether a mask belongs to each face."""
        return self.kind != "csv"


def find_faces(folder: Path, kind: str, attribute_file: Path | None = None) -> FaceFolder:
    """Return the faces of a data set; no picture is opened.

    celebamask-hq: as it is unpacked, CelebA-HQ-img, CelebAMask-HQ-mask-anno and the attribute list. folder:
    name.jpg (or another picture), name.mask.png and name.json beside one another, or images/name.jpg,
    masks/name.png and attributes/name.json. csv: pictures, sub-folders too, with an attribute file
    (list_attr_celeba.txt, list_attr_celeba.csv or attributes.csv in the folder, if none is given); no masks.
    Raises ValueError with the fix where there is no such data set.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: use {', '.join(KINDS)}.")
    if attribute_file is not None and kind != "csv":
        raise ValueError(
            f"attribute_file is given, but kind is {kind}, which has attributes of its own: leave it "
            "empty, or set kind to csv."
        )
    if not folder.is_dir():
        raise ValueError(f"folder {folder} does not exist or is no folder: check the path.")
    found = {"celebamask-hq": _celebamask, "folder": _own}
    faces, problems = found[kind](folder) if kind in found else _listed(folder, attribute_file)
    if not faces:
        raise ValueError(f"folder {folder} has no faces of kind {kind}: check the folder and the kind.")
    return FaceFolder(kind, folder, faces, problems)


def split(found: FaceFolder, part: str, held_out_list: Path | None = None) -> list[FaceFile]:
    """Return the faces of one part of the split: training, held out, or all.

    held_out_list: a text file with the names (or numbers) of the held-out faces, one a line. Without it the
    split is by place alone: of CelebAMask-HQ the pictures 0 to 26999 are trained on and 27000 to 29999 held
    out, of other data sets the last tenth. Raises ValueError for names that are not there and an empty part.
    """
    if part not in SPLITS:
        raise ValueError(f"split is {part!r}: use {', '.join(SPLITS)}.")
    if held_out_list is not None:
        away = _named(found, held_out_list)
    elif found.kind == "celebamask-hq":
        away = {face.place for face in found.faces if face.place >= TRAINED_ON}
    else:
        away = {face.place for face in found.faces[len(found.faces) * 9 // 10 :]}
    if part == "all":
        return found.faces
    chosen = [face for face in found.faces if (face.place in away) == (part == "held out")]
    if not chosen:
        raise ValueError(
            f"split is {part}, but none of the {len(found.faces)} faces is of that part: set split to all, "
            "or give a list of the held-out ones."
        )
    return chosen


def describe_split(found: FaceFolder, part: str, held_out_list: Path | None = None) -> str:
    """Return a sentence on what a part of the split is."""
    if part == "all":
        return "All faces."
    if held_out_list is not None:
        told = f"those in {held_out_list.name} are held out"
    elif found.kind == "celebamask-hq":
        told = (
            f"by number alone, {TRAINED_ON - 1} and below for training, the others held out; the official "
            "list from CelebA-HQ to CelebA's own split is not used"
        )
    else:
        told = "by place alone, the last tenth is held out"
    return f"The {part} part: {told}."


def mark_of(face: FaceFile) -> str:
    """Return 16 hex digits that change with the name, size or time of a face's files, or with its row."""
    files = [face.picture]
    if face.mask is not None:
        files += part_files(face).values() if face.number is not None else [face.mask]
    states = face.attributes
    if isinstance(states, str):
        files.append(states)
    told = [(os.path.basename(file), *_size_and_time(file)) for file in files]
    row = states if isinstance(states, bytes) else states is not None
    return hashlib.sha256(repr((told, row)).encode()).hexdigest()[:16]


def part_files(face: FaceFile) -> dict[str, str]:
    """Return the path of every part that a face of CelebAMask-HQ may have, by its class."""
    return {
        name: os.path.join(face.mask or "", f"{face.number:05d}_{name}.png") for name in CLASS_NAMES[1:]
    }


def _celebamask(folder: Path) -> tuple[list[FaceFile], list[Problem]]:
    missing = [name for name in (IMAGES, PARTS) if not (folder / name).is_dir()]
    missing += [] if (folder / ATTRIBUTES).is_file() else [ATTRIBUTES]
    if missing:
        raise ValueError(
            f"folder {folder} has no {' and no '.join(missing)}: give the folder into which CelebAMask-HQ "
            "was unpacked."
        )
    rows, problems = read_attribute_file(folder / ATTRIBUTES)
    numbers = set()
    for entry in _entries(folder / IMAGES):
        stem, suffix = os.path.splitext(entry.name)
        if _is_number(stem) and suffix == ".jpg":
            numbers.add(int(stem))
        else:
            problems.append(_extra(entry, "is no picture of the data set"))
    for name in rows:
        if not (_is_number(os.path.splitext(name)[0]) and int(os.path.splitext(name)[0]) in numbers):
            problems.append(Problem("missing picture", name, "has a row of attributes, but no file"))
    problems += _extra_parts(folder / PARTS, numbers)
    faces = [
        FaceFile(
            number, f"{number}.jpg", str(folder / IMAGES / f"{number}.jpg"),
            str(folder / PARTS / f"{number // PER_FOLDER}"), number, rows.get(f"{number}.jpg"),
        )
        for number in sorted(numbers)
    ]  # fmt: skip
    return faces, problems


def _extra_parts(folder: Path, numbers: Collection[int]) -> Iterator[Problem]:
    """Yield the files among the parts that are not read: of no picture, no class, or in a wrong folder."""
    for below in _entries(folder):
        if not below.is_dir():
            yield _extra(below, "is no folder of parts")
            continue
        for entry in _entries(Path(below.path)):
            number, _, rest = entry.name.partition("_")
            part, suffix = os.path.splitext(rest)
            if not (_is_number(number) and len(number) == 5 and suffix == ".png"):
                yield _extra(entry, "is no part of a mask")
            elif part not in CLASS_NAMES[1:]:
                yield _extra(entry, f"{part!r} is none of the 18 parts")
            elif str(int(number) // PER_FOLDER) != below.name:
                yield _extra(entry, f"belongs into {int(number) // PER_FOLDER}, not into {below.name}")
            elif int(number) not in numbers:
                yield _extra(entry, f"there is no picture {int(number)}.jpg")


def _own(folder: Path) -> tuple[list[FaceFile], list[Problem]]:
    apart = (folder / _IMAGES).is_dir()
    pictures, masks, texts = (
        [folder / name if apart else folder for name in (_IMAGES, _MASKS, _JSON)] if apart else [folder] * 3
    )
    suffix = ".png" if apart else _MASK_SUFFIX
    names = sorted(entry.name for entry in _entries(pictures))
    stems: dict[str, str] = {}
    problems = []
    for name in names:
        stem, ending = os.path.splitext(name)
        if ending.lower() not in SUFFIXES or (not apart and name.endswith(_MASK_SUFFIX)):
            continue
        if stem in stems:
            problems.append(Problem("extra file", name, f"{stems[stem]} has the same name", left_out=False))
        else:
            stems[stem] = name
    for below, ending in ((masks, suffix), (texts, ".json")):
        for entry in _entries(below) if below.is_dir() else ():
            stem = entry.name.removesuffix(ending)
            if entry.name.endswith(ending) and stem not in stems:
                problems.append(_extra(entry, f"there is no picture {stem}"))
            elif apart and not entry.name.endswith(ending):
                problems.append(_extra(entry, f"is no {ending} file"))
    if not apart:
        known = (*SUFFIXES, ".json")
        problems += [
            Problem("extra file", name, "is no picture, mask or JSON", left_out=False)
            for name in names
            if not name.lower().endswith(known)
        ]
    faces = [
        FaceFile(
            place, name, str(pictures / name), str(masks / f"{stem}{suffix}"), None,
            str(texts / f"{stem}.json"),
        )
        for place, (stem, name) in enumerate(stems.items())
    ]  # fmt: skip
    return faces, problems


def _listed(folder: Path, attribute_file: Path | None) -> tuple[list[FaceFile], list[Problem]]:
    if attribute_file is None:
        there = [folder / name for name in _LISTS if (folder / name).is_file()]
        if not there:
            raise ValueError(f"folder {folder} has none of {', '.join(_LISTS)}: give attribute_file.")
        attribute_file = there[0]
    rows, problems = read_attribute_file(attribute_file)
    faces, seen = [], set()
    for place, path in enumerate(find_pictures([folder])):
        name = path.relative_to(folder).as_posix()
        key = next((key for key in (name, path.name, path.stem) if key in rows), None)
        seen.add(key)
        faces.append(FaceFile(place, name, str(path), attributes=rows[key] if key is not None else None))
    for name in rows:
        if name not in seen:
            problems.append(Problem("missing picture", name, "has a row of attributes, but no file"))
    return faces, problems


def _named(found: FaceFolder, listed: Path) -> set[int]:
    try:
        names = [line.strip() for line in listed.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"held_out_list {listed} cannot be read ({error}): check the path.") from None
    places = {}
    for face in found.faces:
        places[os.path.splitext(face.name)[0]] = places[face.name] = face.place
    unknown = [name for name in names if name and name not in places]
    if unknown:
        raise ValueError(
            f"held_out_list {listed} has {len(unknown)} names of no face, the first {unknown[0]!r}: one name "
            f"such as {found.faces[0].name} a line."
        )
    return {places[name] for name in names if name}


def _entries(folder: Path) -> Iterator[os.DirEntry]:
    """Yield what lies in a folder but for hidden files and the like."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name.lower() not in _IGNORED:
                    yield entry
    except OSError as error:
        raise ValueError(f"folder {folder} cannot be listed ({error.strerror}): check it.") from None


def _extra(entry: os.DirEntry, about: str) -> Problem:
    return Problem("extra file", entry.name, about, left_out=False)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _size_and_time(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
