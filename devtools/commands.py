"""What each command of dev.py does."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from . import comfyui, environment
from .environment import ROOT
from .lanes import run_lanes
from .pip import SetupError, say
from .server import ComfyServer

PACK = "realism-kit"
PARTS = ("core", "comfy", "browser")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NOTHING_COLLECTED = 5  # pytest's exit code


def run(chosen: argparse.Namespace) -> int:
    """Carry out a parsed command line; returns the exit code."""
    if chosen.command == "demo":
        return demo()
    if chosen.command == "test":
        return test(chosen.part, chosen.pytest_arguments)
    if chosen.command == "serve":
        return serve(chosen.port)
    if chosen.command == "bench":
        return bench(chosen.name, chosen.benchmark_arguments)
    return env()


def env() -> int:
    """Make or repair everything and print where it is."""
    python = environment.ensure()
    say(f"environment       {python}")
    for source in (comfyui.CURRENT, comfyui.OLD):
        tree = comfyui.tree_of(source, python)
        say(f"ComfyUI {source.version:<9} {tree}")
    install = comfyui.from_environment_variables()
    if install:
        say(f"the server uses   {install.folder} with {install.python} (COMFYUI_DIR, COMFYUI_PY)")
    return 0


def demo() -> int:
    """Run the demo in an interpreter that has aiohttp, as every one that runs ComfyUI does."""
    install = comfyui.ensure_install()
    if importlib.util.find_spec("aiohttp") is None:
        return subprocess.call([str(install.python), str(ROOT / "dev.py"), "demo"])
    from . import demo as demonstration

    return demonstration.main(install)


def serve(port: int) -> int:
    """Run ComfyUI with this pack until it ends or Ctrl-C, its log on the terminal."""
    install = comfyui.ensure_install()
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise SetupError(f"something already listens on port {port}; choose another with --port.")
    base = environment.cache_folder() / "serve"
    server = ComfyServer(base, {PACK: ROOT}, install.folder, install.python, port=port)
    try:
        server.wait()
        say(f"ComfyUI with {PACK} is at {server.url}\nIts files are in {base}; Ctrl-C stops it.")
        with open(server.log, encoding="utf-8", errors="replace") as log:
            while server.process.poll() is None:
                sys.stdout.write(log.read())
                sys.stdout.flush()
                time.sleep(0.3)
        return server.process.returncode
    finally:
        server.stop()


def test(part: str, pytest_arguments: list[str]) -> int:
    """Run one part of the tests, or all; returns the first non-zero exit code of pytest.

    Where there are two processors, the server's tests run on one, the others' on the other; whoever is done
    first helps with what is left of the server's.
    """
    python = environment.ensure()
    environ = dict(os.environ)
    parts = list(PARTS) if part == "all" else [part]
    if part == "all" and not (ROOT / "tests" / "browser").is_dir():
        parts.remove("browser")
    if "browser" in parts:
        browser = find_browser()
        if browser:
            environ["REALISM_CHROMIUM"] = browser
        else:
            parts.remove("browser")
            say(no_browser(required=part == "browser" or bool(os.environ.get("CI"))))
    if set(parts) & {"comfy", "browser"}:
        install = comfyui.ensure_install()
        environ["REALISM_COMFYUI_DIR"], environ["REALISM_COMFYUI_PY"] = map(str, install)
        environ["REALISM_COMFYUI_OLD_DIR"] = str(comfyui.tree_of(comfyui.OLD, python))

    def pytest(*targets: str) -> list[str]:
        return [str(python), "-m", "pytest", *targets, *pytest_arguments]

    if {"core", "comfy"} <= set(parts) and (os.cpu_count() or 1) > 1:
        environ.setdefault("OMP_NUM_THREADS", str((os.cpu_count() or 2) // 2))
        with tempfile.TemporaryDirectory() as claims:
            environ["REALISM_CLAIMS"] = claims
            files = sorted(map(str, (ROOT / "tests" / "comfy").glob("test_*.py")), reverse=True)
            sharing = ["-p", "devtools.claims"]
            others = [pytest(f"tests/{name}") for name in parts if name != "comfy"]
            lanes = [[pytest("tests/comfy", *sharing)], [*others, pytest(*files, *sharing)]]
            codes = run_lanes(lanes, ROOT, environ)
    else:
        codes = [subprocess.call(pytest(f"tests/{name}"), cwd=ROOT, env=environ) for name in parts]
    if pytest_arguments and any(code != NOTHING_COLLECTED for code in codes):
        codes = [
            0 if code == NOTHING_COLLECTED else code for code in codes
        ]  # -k may select in one part only
    return next((code for code in codes if code), 0)


def find_browser() -> str | None:
    """The browser for the browser tests, or None. Raises SetupError if REALISM_CHROMIUM is no file."""
    named = os.environ.get("REALISM_CHROMIUM")
    if named:
        found = shutil.which(named)
        if not found:
            raise SetupError(f"REALISM_CHROMIUM is {named}, which is no program.")
        return found
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def no_browser(required: bool) -> str:
    """The notice that browser tests are left out; raised as SetupError where they are required."""
    text = (
        "Chromium is not installed. Install it (Debian, Ubuntu: apt-get install chromium fonts-dejavu-core) "
        "or set REALISM_CHROMIUM to a Chromium or Chrome."
    )
    if required:
        raise SetupError("the browser tests cannot run: " + text)
    return "The browser tests are left out: " + text


def bench(name: str | None, arguments: list[str]) -> int:
    """Run a benchmark of benchmarks/ in the environment, or list them."""
    known = sorted(f.stem for f in (ROOT / "benchmarks").glob("*.py") if not f.stem.startswith("_"))
    if name not in known:
        if name:
            raise SetupError(f"there is no benchmark {name}; there are: {', '.join(known) or 'none yet'}.")
        say(
            "\n".join(f"python dev.py bench {benchmark}" for benchmark in known)
            or "There are no benchmarks yet."
        )
        return 0
    command = [str(environment.ensure()), str(ROOT / "benchmarks" / f"{name}.py"), *arguments]
    return subprocess.call(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
