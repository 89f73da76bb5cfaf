"""A pytest plugin by which processes share test files: each file runs in the one that comes to it first.

`-p devtools.claims` in every process, with REALISM_CLAIMS naming one folder, empty at first, for all of them.
"""

from __future__ import annotations

import os
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

FOLDER = "REALISM_CLAIMS"
_left: list[pytest.Item] = []


@cache
def claimed(path: Path) -> bool:
    """Return whether a test file is this process's to run, which no other process can be told as well."""
    place = Path(os.environ[FOLDER]) / sha256(str(path).encode()).hexdigest()
    try:
        os.close(os.open(place, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Pass over the tests of a file that another process has claimed."""
    if claimed(item.path):
        return None
    _left.append(item)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests another process ran, so that the counts add up."""
    files = len({item.path for item in _left})
    terminalreporter.write_line(f"{len(_left)} tests in {files} files are another process's to run")
