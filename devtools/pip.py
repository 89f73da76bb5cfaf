"""Run pip with progress a person can follow and failures a person can act on."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

LARGE_MB = 20
RETRY = "python dev.py env"


class SetupError(RuntimeError):
    """Something the developer must do or retry; its text is the whole message."""


def say(text: str) -> None:
    print(text, flush=True)


def blamed_package(output: str) -> str | None:
    """Name the requirement pip failed on, read from its output; None if pip does not say."""
    for pattern in (
        r"No matching distribution found for (\S+)",
        r"Could not find a version that satisfies the requirement (\S+)",
        r"Failed (?:building wheel for|to build) (\S+)",
        r"Could not install requirement (\S+)",
        r"/([A-Za-z0-9_.]+)-[^/\s]+\.(?:whl|tar\.gz)\b.*(?:[Tt]imed? ?out|[Ee]rror)",
    ):
        found = re.search(pattern, output)
        if found:
            return found.group(1)
    return None


def failure(step: str, command: list[str], output: str) -> SetupError:
    """Describe a failed pip run: the package or step, pip's last lines, and how to retry."""
    lines = [
        line for line in output.splitlines() if line.strip() and not line.startswith("WARNING: Location")
    ]
    package = blamed_package(output)
    what = f"{package} could not be installed ({step})" if package else f"{step} failed"
    return SetupError(
        f"{what}. pip's last lines:\n"
        + "\n".join("    " + line for line in lines[-8:])
        + f"\nThe command was:\n    {subprocess.list2cmdline(command)}"
        + f"\nRetry with:\n    {RETRY}\nFinished downloads stay in pip's own cache."
    )


def large_download(line: str) -> str | None:
    """Return 'name (123 MB)' if a line of pip's output announces a large download, else None."""
    found = re.match(r"\s*Downloading (\S+) \(([\d.]+) ([MG])B\)", line)
    if not found or (found.group(3) == "M" and float(found.group(2)) < LARGE_MB):
        return None
    return f"{found.group(1).rsplit('/', 1)[-1]} ({found.group(2)} {found.group(3)}B)"


def run(python: Path | str, arguments: list[str], step: str) -> None:
    """Run `python -m pip ARGUMENTS`, telling large downloads as they start and the time at the end.

    pip's own configuration (index, find-links, proxies) is left to pip. Raises SetupError.
    """
    command = [
        str(python),
        "-m",
        "pip",
        *arguments,
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
    ]
    began = time.monotonic()
    output: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                output.append(line)
                large = large_download(line)
                if large:
                    say(f"      downloading {large}")
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise failure(step, command, "".join(output))
    say(f"      done in {time.monotonic() - began:.0f} s")


def make_venv(folder: Path) -> None:
    """Create a virtual environment with pip in it; raises SetupError with what is missing."""
    done = subprocess.run(
        [sys.executable, "-m", "venv", str(folder)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SetupError(
            f"{sys.executable} could not make a virtual environment in {folder}:\n"
            f"{(done.stdout + done.stderr).strip()}\n"
            "On Debian and Ubuntu install the package python3-venv first. Then retry with:\n    " + RETRY
        )
