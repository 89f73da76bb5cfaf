"""The real ComfyUI servers that these tests talk to; each starts once, and only if a test asks for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from compileall import compile_dir
from pathlib import Path

import pytest

from devtools.archive import build_archive, unpack
from devtools.server import ComfyServer
from tests.given import given
from tests.tiny_models import link_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TEST_PACK = Path(__file__).resolve().parent / "pack"
OTHER_NAME = "another-folder"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """ComfyUI with this checkout and the test nodes; compiled, as every start but the first finds it."""
    for part in ("nodes", "realism_core"):
        assert compile_dir(ROOT / part, quiet=1)
    packs = {"realism-kit": ROOT, "realism-test-nodes": TEST_PACK}
    base = tmp_path_factory.mktemp("comfyui")
    with ComfyServer(
        base, packs, given("REALISM_COMFYUI_DIR", "comfy"), given("REALISM_COMFYUI_PY", "comfy")
    ) as running:
        yield running


@pytest.fixture(scope="session")
def packed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A fresh ComfyUI with nothing but the packed archive, unpacked under another folder name."""
    base = tmp_path_factory.mktemp("fresh")
    pack = base / "custom_nodes" / OTHER_NAME
    unpack(build_archive(ROOT, base / "pack.zip"), pack)
    packs = {OTHER_NAME: pack}
    with ComfyServer(
        base, packs, given("REALISM_COMFYUI_DIR", "comfy"), given("REALISM_COMFYUI_PY", "comfy")
    ) as running:
        yield running


@pytest.fixture(scope="session")
def old_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """The oldest ComfyUI that is supported, started with --disable-metadata."""
    base = tmp_path_factory.mktemp("old")
    packs = {"realism-kit": ROOT, "realism-test-nodes": TEST_PACK}
    extra = ("--disable-metadata",)
    with ComfyServer(
        base, packs, given("REALISM_COMFYUI_OLD_DIR", "comfy"), sys.executable, extra
    ) as running:
        yield running


@pytest.fixture(scope="session")
def checkpoints() -> Callable[[ComfyServer, str], str]:
    """A function (server, kind) that gives a server a tiny checkpoint, and returns what its loader calls it.

    Made and linked only when asked for, so that tests without models do not wait for them.
    """
    return lambda running, kind: link_checkpoint(running.base, kind)
