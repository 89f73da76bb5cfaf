"""Sets of pinned packages in the user's cache, without fetching any."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import _faces_packages, _p2_packages, _peers
from devtools import pinned
from devtools.pip import SetupError
from tests import diffusers_peer

SETS = {
    "p2-packages": (_p2_packages.folder, _p2_packages.PINS),
    "faces-packages": (_faces_packages.folder, _faces_packages.PINS),
    "peers": (_peers.folder, _peers.PINS),
    "diffusers": (diffusers_peer.folder, diffusers_peer.PINS),
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REALISM_CACHE", str(tmp_path))
    return tmp_path


def folders(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.is_dir()]


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_installed_once(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, pins = SETS[name]
    calls: list[list[str]] = []

    def install(python: str, arguments: list[str], step: str) -> None:
        calls.append(arguments)
        Path(arguments[arguments.index("--target") + 1]).mkdir()

    monkeypatch.setattr(pinned.pip, "run", install)
    assert folder() == folder()
    assert len(calls) == 1 and "--no-deps" in calls[0] and set(pins) <= set(calls[0])
    assert folders(cache) == [folder().name] and folder().name.startswith(f"{name}-")


def test_a_failed_installation_leaves_no_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(python: str, arguments: list[str], step: str) -> None:
        Path(arguments[arguments.index("--target") + 1]).mkdir()
        raise SetupError("no network")

    monkeypatch.setattr(pinned.pip, "run", fail)
    with pytest.raises(SetupError, match="no network"):
        pinned.installed("some", ("package==1.0",), "Something")
    assert folders(cache) == []


def test_other_pins_lie_elsewhere(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pinned.place("some", ("a==1",)) != pinned.place("some", ("a==2",))
    plain, compiled = pinned.place("some", ("a==1",)), pinned.place("some", ("a==1",), compiled=True)
    monkeypatch.setattr(sys, "version_info", (3, 99))
    assert pinned.place("some", ("a==1",)) == plain
    assert pinned.place("some", ("a==1",), compiled=True) != compiled
