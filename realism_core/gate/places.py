"""Where a picture belongs below the gate's folders, and under which names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

from ..pictures import fixed_part, is_inside


def base_folders(roots: Iterable[str | os.PathLike]) -> list[str]:
    """Return the folders whose inner order is kept, innermost first: those named, and the fixed part of
    patterns.
    """
    named = [os.fspath(root) for root in roots]
    bases = {root if os.path.isdir(root) else fixed_part(root) for root in named if not os.path.isfile(root)}
    return sorted(bases, key=lambda base: (-len(Path(base).parts), base))


def place_below(path: Path, bases: Iterable[str]) -> Path:
    """Return where a picture belongs below a target folder: its path below the first base it lies in, else
    its name.
    """
    for base in bases:
        with contextlib.suppress(ValueError):
            below = path.relative_to(base)
            if below.parts and ".." not in below.parts:
                return below
    return Path(path.name)


def numbered(path: Path) -> Iterator[Path]:
    """Yield name.png, name (2).png, name (3).png ... without end."""
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem} ({number}){path.suffix}")


def is_numbered(target: Path, wanted: Path) -> bool:
    """Tell whether a path is one of those that `numbered` gives for the wanted one."""
    if target.parent != wanted.parent or target.suffix != wanted.suffix:
        return False
    tail = target.stem[len(wanted.stem) :]
    return target.stem.startswith(wanted.stem) and (
        not tail or (tail[:2] == " (" and tail[-1] == ")" and tail[2:-1].isdecimal())
    )


def check_folders(roots: Sequence[str | os.PathLike], folders: Mapping[str, Path]) -> None:
    """Raise ValueError, naming the fix, if the folders "passed" and "rejected" and the roots overlap."""
    real = {name: os.path.realpath(folder) for name, folder in folders.items()}
    for one, other in (("passed", "rejected"), ("rejected", "passed")):
        if is_inside(real[one], [real[other]]):
            raise ValueError(
                f"the {one} folder {folders[one]} is or lies in the {other} folder {folders[other]}: "
                "use two folders side by side."
            )
    for root in roots:
        base = root if os.path.lexists(root) else fixed_part(os.fspath(root)) or "."
        for name, folder in folders.items():
            if is_inside(base, [real[name]]):
                raise ValueError(
                    f"{root} is to be scored but is or lies in the {name} folder {folder}: "
                    f"choose another {name} folder."
                )
