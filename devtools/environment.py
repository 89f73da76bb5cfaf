"""Make, find and repair the environment in which ComfyUI, the tests and the benchmarks run.

It lives in the user's cache (REALISM_CACHE, default ~/.cache/realism-kit) as `env-<hash>`; the hash covers
the pinned requirements, the Python version and the platform: a changed pin makes a new one beside the old.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .pip import SetupError, blamed_package, make_venv, run, say

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
MARKER = "realism-env.json"
NEEDED = ("torch", "aiohttp", "PIL", "numpy")
PYTHONS = ((3, 10), (3, 13))
SPEC_CHECK = (
    "import importlib.util, json, sys\n"
    "missing = [n for n in sys.argv[1:] if importlib.util.find_spec(n) is None]\n"
    "print(json.dumps([list(sys.version_info[:2]), missing]))"
)


def cache_folder() -> Path:
    """The folder that holds environments, ComfyUI trees and downloads."""
    named = os.environ.get("REALISM_CACHE")
    return Path(named).expanduser().resolve() if named else Path.home() / ".cache" / "realism-kit"


def environment_hash(requirements: Path = REQUIREMENTS) -> str:
    """Ten hex digits that change with any pinned requirement, the Python version or the platform."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {platform.system()} {platform.machine()}".encode())
    for file in sorted(requirements.glob("*.txt")):
        pins = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        digest.update(repr((file.name, [pin for pin in pins if pin and not pin.startswith("#")])).encode())
    return digest.hexdigest()[:10]


def interpreter(environment: Path) -> Path:
    """The Python of a virtual environment, on any platform."""
    windows = environment / "Scripts" / "python.exe"
    return windows if os.name == "nt" else environment / "bin" / "python"


def is_ours(python: Path | str) -> bool:
    """Whether this interpreter belongs to an environment that dev.py made."""
    return (Path(python).parent.parent / MARKER).is_file()


def what_is_missing(python: Path | str, modules: tuple[str, ...] = NEEDED) -> str | None:
    """Say why an interpreter cannot serve (does not run, too old, lacks modules), or None if it can."""
    try:
        done = subprocess.run(
            [str(python), "-c", SPEC_CHECK, *modules],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=Path(python).parent,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{python} does not run ({error})"
    if done.returncode:
        return f"{python} does not run: {done.stderr.strip()[-400:]}"
    version, missing = json.loads(done.stdout)
    if tuple(version) < PYTHONS[0]:
        return f"{python} is Python {version[0]}.{version[1]}; 3.10 or newer is needed"
    return f"{python} has no {', '.join(missing)}" if missing else None


def what_is_broken(environment: Path) -> str | None:
    """Say in a few words why an existing environment cannot be used, or None if it can."""
    if not (environment / MARKER).is_file():
        return "its installation was never finished"
    if not interpreter(environment).is_file():
        return "its interpreter is gone"
    return what_is_missing(interpreter(environment))


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock file in the cache, so that two processes do not build the same thing at once."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with open(cache_folder() / f"{name}.lock", "a+b") as file:
        told = False
        while not _try_lock(file.fileno()):
            if not told:
                say(f"Another dev.py is at work on {name}; waiting for it.")
                told = True
            time.sleep(0.5)
        yield  # the system releases the lock with the file, also when this process is killed


def _try_lock(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def ensure() -> Path:
    """The interpreter of a working environment, made or remade when needed. Raises SetupError."""
    check_python()
    environment = cache_folder() / f"env-{environment_hash()}"
    if environment.is_dir() and what_is_broken(environment) is None:
        return interpreter(environment)
    with locked(environment.name):
        if environment.is_dir():  # looked at again: another process may have finished it meanwhile
            broken = what_is_broken(environment)
            if broken is None:
                return interpreter(environment)
            say(f"The environment {environment} cannot be used: {broken}. It is removed and made again.")
            shutil.rmtree(environment)
        build(environment)
    return interpreter(environment)


def check_python() -> None:
    """Raise SetupError if the running Python is outside the range the pinned packages exist for."""
    here = sys.version_info[:2]
    if not PYTHONS[0] <= here <= PYTHONS[1]:
        raise SetupError(
            f"Python {here[0]}.{here[1]} is outside 3.10 to 3.13, for which the pinned packages exist. "
            "Run dev.py with one of those, for example: python3.12 dev.py demo"
        )


def build(environment: Path) -> None:
    """Install everything into a new environment; the marker that declares it whole is written last."""
    began = time.monotonic()
    say(
        f"Making the environment {environment} (once; about 2 GB on disk with a CPU build of torch, "
        "6 GB with one for graphics cards)"
    )
    make_venv(environment)
    python = interpreter(environment)
    install_torch(python)
    say("  3/4 what ComfyUI imports: 35 packages, about 150 MB")
    run(python, ["install", "-r", str(REQUIREMENTS / "comfyui.txt")], "ComfyUI's requirements")
    say("      its frontend, pages and image libraries: 7 packages, about 40 MB")
    run(python, ["install", "--no-deps", "-r", str(REQUIREMENTS / "comfyui-bare.txt")], "ComfyUI's frontend")
    say("  4/4 what the tests and benchmarks import: 7 packages, about 150 MB")
    run(python, ["install", "-r", str(REQUIREMENTS / "test.txt")], "test requirements")
    drop_unloadable_extensions(python)
    seconds = round(time.monotonic() - began)
    unfinished = environment / (MARKER + ".tmp")
    unfinished.write_text(
        json.dumps({"python": platform.python_version(), "seconds": seconds}), encoding="utf-8"
    )
    os.replace(unfinished, environment / MARKER)
    say(f"  ready after {seconds} s")


def install_torch(python: Path) -> None:
    """Install the pinned torch and its companions, or what belongs together where pip has no such file."""
    say("  1/4 torch: about 0.2 GB where pip offers a CPU build, about 3 GB where it does not")
    try:
        run(python, ["install", "-r", str(REQUIREMENTS / "torch.txt")], "torch")
        say("  2/4 torchvision and torchaudio: about 10 MB")
        run(
            python,
            ["install", "--no-deps", "-r", str(REQUIREMENTS / "torch-companions.txt")],
            "torchvision and torchaudio",
        )
    except SetupError as error:
        unreachable = "(from versions: none)" in str(error)  # pip's words also when no index answers
        if unreachable or not (blamed_package(str(error)) or "").startswith("torch"):
            raise
        say("      the pinned release is not offered for this Python and platform; taking what pip offers")
        run(python, ["install", "-r", str(REQUIREMENTS / "torch-fallback.txt")], "torch of pip's choice")


def drop_unloadable_extensions(python: Path) -> None:
    """Delete torchvision's and torchaudio's compiled parts if, and only if, they do not load here.

    Both then use their Python code; run_comfy.py declares the operators torchvision insists on. Called only
    for an environment that was just made here.
    """
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['platlib'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    for package, folder in (("torchvision", "torchvision"), ("torchaudio", "torchaudio/lib")):
        if (
            subprocess.run(
                [str(python), "-c", f"import {package}"], check=False, capture_output=True
            ).returncode
            == 0
        ):
            continue
        gone = [
            f for f in sorted(Path(site, folder).glob("*")) if f.suffix in (".so", ".pyd", ".dll", ".dylib")
        ]
        for file in gone:
            file.unlink()
        say(f"      {package}'s compiled part does not load beside this torch; its Python code does")
