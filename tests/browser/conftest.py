"""ComfyUI with this checkout, and its real frontend in a browser; both start once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from devtools.server import ComfyServer
from tests.given import given
from tests.tiny_models import SHIPPED, link_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.0.0",
    "Comfy.Locale": "en",
    "Comfy.Release.Status": "skipped",
}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
READY = "() => window.app?.graph && window.app.extensionManager"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("comfyui")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS))
    link_checkpoint(base, "sd3_clip", SHIPPED)
    directory, python = given("REALISM_COMFYUI_DIR", "browser"), given("REALISM_COMFYUI_PY", "browser")
    with ComfyServer(base, {"realism-kit": ROOT}, directory, python) as running:
        yield running


@pytest.fixture(scope="session")
def page(server: ComfyServer) -> Iterator[Page]:
    """The frontend in a browser that reaches this server and nothing else."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given("REALISM_CHROMIUM", "browser"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        local = (server.url, "data:", "blob:")
        page.route("**/*", lambda r: r.continue_() if r.request.url.startswith(local) else r.abort())
        page.goto(server.url, wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=120_000)
        yield page
        browser.close()
