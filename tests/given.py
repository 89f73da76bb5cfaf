"""What `python dev.py test` hands to the tests through the environment."""

from __future__ import annotations

import os

import pytest


def given(name: str, part: str) -> str:
    """Return a variable that dev.py sets for a part of the tests; skips where they run without dev.py."""
    if not os.environ.get(name):
        pytest.skip(f"{name} is not set: run these tests with `python dev.py test {part}`")
    return os.environ[name]
