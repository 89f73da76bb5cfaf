"""Pictures on disk: finding them, and reading them as 8-bit RGB."""

from __future__ import annotations

import glob
import os
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
# only these decoders run, whatever a file is called: others of Pillow's start programs (EPS)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


class PictureError(ValueError):
    """A picture that cannot be used; the message names the file, what is wrong and what to do."""


def find_pictures(
    paths: Iterable[str | os.PathLike], recursive: bool = True, skip: Collection[str | os.PathLike] = ()
) -> Iterator[Path]:
    """Return an iterator over the pictures that files, folders and glob patterns name, each one once.

    A file that is named counts whatever its suffix. Of folders and patterns the files with a suffix in
    SUFFIXES count, in natural order (img2 before img10), a folder's own files before its sub-folders; hidden
    files and links to folders are passed over. Folders in `skip` and what lies in them are passed over too.
    One folder's names at a time are held in memory. A sub-folder that cannot be listed is given out as a
    path, which then fails to read. Raises ValueError at once for a path that is not there, a folder without
    pictures or a pattern without a match.
    """
    paths = [os.fspath(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    if not paths:
        raise ValueError("no pictures were named: give files, folders or patterns such as photos/*.jpg.")
    skipped = [os.path.realpath(folder) for folder in skip]
    found = [_at_least_one(path, recursive, skipped) for path in paths]
    return found[0] if len(found) == 1 else _each_once(chain.from_iterable(found))


def read_picture(path: str | os.PathLike, max_side: int | None = None) -> Tensor:
    """Return a picture file as uint8 RGB [H,W,3], upright, or raise a PictureError.

    The EXIF orientation is applied. Grey, palette, CMYK and other modes become RGB as Pillow's
    convert("RGB") does it, which drops alpha and keeps the colour stored under it. Of 16-bit channels the
    high byte counts (as Pillow reads 16-bit RGB); 32-bit and floating-point pixels are refused. Of an
    animation the first frame counts. A truncated file is refused, never half read. max_side: larger pictures
    are scaled down to it (Lanczos).
    """
    path = Path(path)

    def take(image: Image.Image) -> Tensor:
        rgb = _to_rgb(_upright(image), path)
        if max_side is not None and max(rgb.size) > max_side:
            scale = max_side / max(rgb.size)
            size = [max(1, round(side * scale)) for side in rgb.size]
            rgb = rgb.resize(size, Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(rgb))

    return _decoded(path, take)


def read_label_map(path: str | os.PathLike) -> Tensor:
    """Return a picture file whose values are labels, upright, or raise a PictureError.

    Grey values of 16 bits are given as they are stored, int32 [H,W,1]; all other pictures as by
    `read_picture`, uint8 RGB [H,W,3].
    """
    path = Path(path)

    def take(image: Image.Image) -> Tensor:
        image = _upright(image)
        if image.mode.startswith("I"):
            return torch.from_numpy(_deep_grey(image, path).astype(np.int32))[..., None]
        return torch.from_numpy(np.array(_to_rgb(image, path)))

    return _decoded(path, take)


def read_batches(
    paths: Iterable[str | os.PathLike],
    threads: int | None = None,
    ahead: int | None = None,
    max_side: int | None = None,
) -> Iterator[tuple[Path, Tensor | PictureError]]:
    """Yield (path, picture uint8 [H,W,3] or the PictureError of reading it) in the order of the paths.

    threads: decoders (default: one a CPU core, at most 4). ahead: pictures held beyond the one given out
    (default: two a thread), so memory does not grow with the number of paths. max_side: as for
    `read_picture`.
    """
    threads = threads or min(4, os.cpu_count() or 1)
    ahead = 2 * threads if ahead is None else ahead
    waiting: deque[tuple[Path, Future]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read-picture")
    try:
        for path in map(Path, paths):
            waiting.append((path, pool.submit(_try_read, path, max_side)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def fixed_part(pattern: str) -> str:
    """Return the folder in front of a glob pattern's first wildcard, "" if there is none."""
    parts = pattern.replace(os.sep, "/").split("/")
    wild = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return "/".join(parts[:wild]) or ("/" if wild else "")


def is_inside(path: str | os.PathLike, folders: Collection[str]) -> bool:
    """Tell whether a path is one of the folders, or lies in one; the folders are real paths.

    A link to a file lies where the link is, a link to a folder where it leads.
    """
    if os.path.isdir(path):
        whole = os.path.realpath(path)
    else:
        folder, name = os.path.split(os.path.abspath(path))
        whole = os.path.join(os.path.realpath(folder), name)
    return any(whole == folder or whole.startswith(os.path.join(folder, "")) for folder in folders)


def _try_read(path: Path, max_side: int | None) -> Tensor | PictureError:
    try:
        return read_picture(path, max_side)
    except PictureError as error:
        return error


def _decoded(path: Path, take: Callable[[Image.Image], Tensor]) -> Tensor:
    """Return what is taken of a decoded picture; whatever fails becomes a PictureError."""
    if not os.path.isfile(path):
        what = "is a folder that cannot be listed" if os.path.isdir(path) else "does not exist or is no file"
        raise PictureError(f"{path} {what}: check the name and the permissions.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            return take(image)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(
            f"{path} is no PNG, JPEG, WebP, BMP, TIFF or GIF that can be read: convert it, or leave it out."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(
            f"{path} has more pixels than is safe to decode ({error}): scale it down, or leave it out."
        ) from None
    except PermissionError:
        raise PictureError(f"{path} may not be read by this user: change its permissions.") from None
    except MemoryError:
        raise PictureError(f"{path} does not fit into memory: scale it down, or leave it out.") from None
    except Exception as error:  # noqa: BLE001 - decoders meet damaged files with errors of every kind
        reason = str(error).rstrip(".") or type(error).__name__
        raise PictureError(
            f"{path} is damaged or cut short ({reason}): get it again, or leave it out."
        ) from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION))
    except Exception:  # noqa: BLE001 - damaged EXIF data says nothing about the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "F":
        raise PictureError(
            f"{path} holds floating-point pixels, whose range is unknown: save it with 8 or 16 bits."
        )
    if image.mode.startswith("I"):
        image = Image.fromarray((_deep_grey(image, path) >> 8).astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image.convert("RGB")


def _deep_grey(image: Image.Image, path: Path) -> np.ndarray:
    """Return the grey values of 16 bits, uint16 [H,W]."""
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 65535:
        raise PictureError(f"{path} holds 32-bit pixels: save it as an 8-bit or 16-bit picture.")
    return grey.astype(np.uint16)


def _at_least_one(path: str, recursive: bool, skip: list[str]) -> Iterator[Path]:
    found = _find(path, recursive, skip)
    first = next(found, None)
    if first is None:
        kinds = ", ".join(SUFFIXES)
        if os.path.isdir(path):
            raise ValueError(f"the folder {path} holds no pictures ({kinds}): name a folder that does.")
        raise ValueError(f"{path} matches no picture ({kinds}): check the pattern.")
    return chain((first,), found)


def _find(path: str, recursive: bool, skip: list[str]) -> Iterator[Path]:
    if os.path.isdir(path):
        yield from _walk(Path(path), recursive, skip)
    elif os.path.lexists(path):
        if is_inside(path, skip):
            raise ValueError(f"{path} lies in a folder that is left out: choose another folder or file.")
        yield Path(path)
    elif glob.has_magic(path):
        for match in sorted(map(Path, glob.iglob(path, recursive=True)), key=_natural_path):
            if os.path.isdir(match):
                # "**" finds the files of sub-folders itself
                if recursive and "**" not in path:
                    yield from _walk(match, recursive, skip)
            elif match.suffix.lower() in SUFFIXES and not is_inside(match, skip):
                yield match
    else:
        raise ValueError(f"{path} does not exist: check the path.")


def _walk(folder: Path, recursive: bool, skip: list[str]) -> Iterator[Path]:
    if is_inside(folder, skip):
        return
    try:
        with os.scandir(folder) as entries:
            files, folders = [], []
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if recursive and not entry.is_symlink():
                        folders.append(entry.name)
                elif entry.name.lower().endswith(SUFFIXES):
                    files.append(entry.name)
    except OSError:
        yield folder
        return
    for name in sorted(files, key=_natural):
        yield folder / name
    for name in sorted(folders, key=_natural):
        yield from _walk(folder / name, recursive, skip)


def _each_once(paths: Iterable[Path]) -> Iterator[Path]:
    seen = set()
    for path in paths:
        place = os.path.abspath(path)
        if place not in seen:
            seen.add(place)
            yield path


def _natural(name: str) -> tuple:
    # split() alternates text and digits, so text never meets a number; the name settles "a1" and "A01"
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def _natural_path(path: Path) -> list[tuple]:
    return [_natural(part) for part in path.parts]
