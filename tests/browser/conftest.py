"""ComfyUI with this checkout, and its real frontend in a browser; both start once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from devtools.server import ComfyServer
from realism_core.conditioning.adapter import AdapterConfig, TokenAdapter
from realism_core.conditioning.adapter_file import save_adapter
from tests.given import given
from tests.hub_server import Hub
from tests.tiny_models import CONDITIONING, SHIPPED, link_checkpoint

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
def hub() -> Iterator[Hub]:
    """The model hub that the server knows; it holds nothing until a test fills it."""
    with Hub({}) as running:
        yield running


@pytest.fixture(scope="session")
def server(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("comfyui")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS))
    link_checkpoint(base, "sd3_clip", SHIPPED)
    # attribute-mask-adapter loads what train-adapter made; an untrained one will do here
    untrained = TokenAdapter(AdapterConfig(CONDITIONING["sd3_clip"].width))
    save_adapter(base / "models" / "realism_adapters" / "example faces.safetensors", untrained)
    directory, python = given("REALISM_COMFYUI_DIR", "browser"), given("REALISM_COMFYUI_PY", "browser")
    packs = {"realism-kit": ROOT, "realism-test-nodes": ROOT / "tests" / "comfy" / "pack"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HUB_OFFLINE", "0")
        made = ComfyServer(base, packs, directory, python)
    with made as running:
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
