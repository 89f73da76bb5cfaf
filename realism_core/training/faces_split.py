"""Which faces of a data set are trained on, and which are held out."""

from __future__ import annotations

from pathlib import Path

from .faces_entry import FaceFile
from .faces_files import FaceFolder
from .faces_names import PictureNames

SPLITS = ("training", "held out", "all")
# pictures that CelebAMask-HQ trains on in the 27,000/3,000 split; the others are held out
TRAINED_ON = 27_000


def split(found: FaceFolder, part: str, held_out_list: Path | None = None) -> list[FaceFile]:
    """Return the faces of one part of the split: training, held out, or all.

    held_out_list: a text file with the names (or numbers) of the held-out faces, one a line, as
    `faces_names.PictureNames` knows them. Without it the split is by place alone: of CelebAMask-HQ the
    pictures 0 to 26999 are trained on and 27000 to 29999 held out, of other data sets the last tenth. Raises
    ValueError for names that are not there or fit several pictures, an empty list and an empty part.
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


def _named(found: FaceFolder, listed: Path) -> set[int]:
    try:
        names = [line.strip() for line in listed.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        reason = error.strerror
        raise ValueError(f"held_out_list {listed} cannot be read ({reason}): check the path.") from None
    except UnicodeDecodeError:
        raise ValueError(f"held_out_list {listed} is no UTF-8 text: save it as UTF-8.") from None
    names = [name for name in names if name]
    such_as = f"one name such as {found.faces[0].name} a line"
    if not names:
        raise ValueError(
            f"held_out_list {listed} names no face: write {such_as}, or leave held_out_list empty."
        )
    pictures = PictureNames([face.name for face in found.faces], found.kind == "celebamask-hq")
    meant = {name: pictures.meant(name)[1] for name in names}
    unknown = [name for name in names if not meant[name]]
    if unknown:
        raise ValueError(
            f"held_out_list {listed} has {len(unknown)} names of no face, the first {unknown[0]!r}: write "
            f"{such_as}."
        )
    for name, fitting in meant.items():
        if len(fitting) > 1:
            fits = " and ".join(found.faces[index].name for index in fitting[:2])
            raise ValueError(
                f"held_out_list {listed} has {name!r}, which fits {len(fitting)} pictures, such as {fits}: "
                "give it with its folder and suffix."
            )
    return {found.faces[fitting[0]].place for fitting in meant.values()}
