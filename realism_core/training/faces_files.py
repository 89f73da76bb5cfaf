"""Where the faces of a data set lie on disk: CelebAMask-HQ, folders of one's own, pictures with a list."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..conditioning.vocabulary import CLASS_NAMES
from ..pictures import SUFFIXES, find_pictures
from .faces_attributes import is_number, read_attribute_file
from .faces_entry import FaceFile
from .faces_names import match_rows
from .faces_problems import Problem

KINDS = ("celebamask-hq", "folder", "csv")
IMAGES, PARTS, ATTRIBUTES = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "CelebAMask-HQ-attribute-anno.txt"
PER_FOLDER = 2000  # pictures whose parts lie in one folder
# of pictures and folders in a data set of one's own
_IMAGES, _MASKS, _JSON = "images", "masks", "attributes"
_MASK_SUFFIX = ".mask.png"
_LISTS = ("list_attr_celeba.txt", "list_attr_celeba.csv", "attributes.csv")
# what lies in folders without belonging to anybody
_IGNORED = (".ds_store", "thumbs.db", "desktop.ini", "readme.txt", "readme.md", "license.txt")


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
        first = f" ({problems[0].file}: {problems[0].about})" if problems else ""
        raise ValueError(
            f"folder {folder} has no faces of kind {kind}{first}: check the folder and the kind."
        )
    return FaceFolder(kind, folder, faces, problems)


def _celebamask(folder: Path) -> tuple[list[FaceFile], list[Problem]]:
    missing = [name for name in (IMAGES, PARTS) if not (folder / name).is_dir()]
    missing += [] if (folder / ATTRIBUTES).is_file() else [ATTRIBUTES]
    if missing:
        raise ValueError(
            f"folder {folder} has no {' and no '.join(missing)}: give the folder into which CelebAMask-HQ "
            "was unpacked."
        )
    rows, problems = read_attribute_file(folder / ATTRIBUTES)
    names: dict[int, str] = {}
    for entry in sorted(_entries(folder / IMAGES), key=_by_name):
        stem, suffix = os.path.splitext(entry.name)
        number = int(stem) if is_number(stem) and suffix.lower() in SUFFIXES else None
        if number is None:
            problems.append(_extra(entry, "is no picture of the data set"))
        elif number in names:
            problems.append(_extra(entry, f"{names[number]} has the same number"))
        else:
            names[number] = entry.name
    numbers = sorted(names)
    told = match_rows([names[number] for number in numbers], numbers, rows, problems, by_number=True)
    faces = [
        FaceFile(
            number, names[number], str(folder / IMAGES / names[number]),
            str(folder / PARTS / f"{number // PER_FOLDER}"), number, states, wrong,
        )
        for number, states, wrong in zip(numbers, told.states, told.wrong, strict=True)
    ]  # fmt: skip
    return faces, [*told.problems, *_extra_parts(folder / PARTS, names)]


def _extra_parts(folder: Path, numbers: Collection[int]) -> Iterator[Problem]:
    """Yield the files among the parts that are not read: of no picture, no class, or in a wrong folder."""
    for below in _entries(folder):
        if not below.is_dir():
            yield _extra(below, "is no folder of parts")
            continue
        for entry in _entries(Path(below.path)):
            number, _, rest = entry.name.partition("_")
            part, suffix = os.path.splitext(rest)
            if not (is_number(number) and len(number) == 5 and suffix == ".png"):
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
        [folder / name for name in (_IMAGES, _MASKS, _JSON)] if apart else [folder] * 3
    )
    ending = ".png" if apart else _MASK_SUFFIX
    stems: dict[str, str] = {}
    problems = []
    for entry in sorted(_entries(pictures), key=_by_name):
        stem, suffix = os.path.splitext(entry.name)
        if not apart and entry.name.lower().endswith((_MASK_SUFFIX, ".json")):
            continue
        if suffix.lower() not in SUFFIXES:
            problems.append(_extra(entry, "is no picture" if apart else "is no picture, mask or JSON"))
        elif stem in stems:
            problems.append(_extra(entry, f"{stems[stem]} has the same name"))
        else:
            stems[stem] = entry.name
    mask_of = _companions(masks, ending, stems, apart, problems)
    text_of = _companions(texts, ".json", stems, apart, problems)
    faces = [
        FaceFile(
            place, name, str(pictures / name), str(masks / mask_of.get(stem, f"{stem}{ending}")), None,
            str(texts / text_of.get(stem, f"{stem}.json")),
        )
        for place, (stem, name) in enumerate(stems.items())
    ]  # fmt: skip
    return faces, problems


def _companions(
    folder: Path, ending: str, stems: Collection[str], apart: bool, problems: list[Problem]
) -> dict[str, str]:
    """Return the files with an ending, in any case, that belong to pictures, by the stem of these."""
    found: dict[str, str] = {}
    for entry in sorted(_entries(folder), key=_by_name) if folder.is_dir() else ():
        stem = entry.name[: -len(ending)]
        if not entry.name.lower().endswith(ending):
            if apart:
                problems.append(_extra(entry, f"is no {ending} file"))
        elif stem not in stems:
            problems.append(_extra(entry, f"there is no picture {stem}"))
        elif stem in found:
            problems.append(_extra(entry, f"{found[stem]} has the same name"))
        else:
            found[stem] = entry.name
    return found


def _listed(folder: Path, attribute_file: Path | None) -> tuple[list[FaceFile], list[Problem]]:
    if attribute_file is None:
        there = [folder / name for name in _LISTS if (folder / name).is_file()]
        if not there:
            raise ValueError(f"folder {folder} has none of {', '.join(_LISTS)}: give attribute_file.")
        attribute_file = there[0]
    rows, problems = read_attribute_file(attribute_file)
    paths = list(find_pictures([folder]))
    names = [path.relative_to(folder).as_posix() for path in paths]
    told = match_rows(names, range(len(names)), rows, problems)
    faces = [
        FaceFile(place, name, str(path), attributes=states, wrong=wrong)
        for place, (name, path, states, wrong) in enumerate(
            zip(names, paths, told.states, told.wrong, strict=True)
        )
    ]
    return faces, told.problems


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


def _by_name(entry: os.DirEntry) -> str:
    return entry.name
