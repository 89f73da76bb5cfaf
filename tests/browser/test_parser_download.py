"""The button Download model on Parse Face, with a hub on the loopback interface."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, TimeoutError

from devtools.server import ComfyServer
from tests.browser.test_frontend import SHOTS
from tests.browser.test_stop_and_keep import PLACE, TOAST
from tests.comfy.graphs import Graph
from tests.hub_server import REPOSITORY, REVISION, Hub

NAME = "Download model"
MODEL = "someone--tiny-parser/model.safetensors"
FILES = {
    "config.json": b"{}", "preprocessor_config.json": b"{}", "model.safetensors": bytes(60_000_000),
}  # fmt: skip
BUILD = """() => {
  window.app.graph.clear();
  const node = LiteGraph.createNode('RealismParseFace');
  node.pos = [0, 0];
  window.app.graph.add(node);
  return node.id;
}"""
BUTTON = """id => window.app.graph.getNodeById(id).widgets.find(one => one.name === 'Download model')"""


def said(page: Page, text: str) -> None:
    page.locator(TOAST, has_text=text).wait_for(timeout=10_000)


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(500)
        page.screenshot(path=str(Path(SHOTS) / f"download-model-{name}.png"))


@pytest.fixture
def node(page: Page, server: ComfyServer, hub: Hub) -> Iterator[int]:
    """A node to press the button of; the server's pin is the hub's model. Nothing told stays behind."""
    hub.files, hub.slow = dict(FILES), 0.0
    hub.requests.clear()
    graph = Graph()
    digest = hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    graph.add("TestParserPin", repository=REPOSITORY, revision=REVISION, digest=digest)
    queued = server.post("/prompt", {"prompt": graph})["prompt_id"]
    deadline = time.monotonic() + 10
    while queued not in (ended := server.get(f"/history/{queued}")) and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    assert ended[queued]["status"]["status_str"] == "success"
    id = page.evaluate(BUILD)
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(600)
    yield id
    page.evaluate("() => window.app.extensionManager.toast.removeAll()")
    page.wait_for_function("toast => !document.querySelector(toast)", arg=TOAST)


def press(page: Page, node: int, answer: str = "") -> None:
    click(page, node)
    if answer:
        dialog = page.get_by_role("dialog")
        try:
            dialog.wait_for(timeout=5_000)
        except TimeoutError:  # the page had not drawn the node there yet: press again, as one would
            click(page, node)
        assert "(339 MB) from the Hugging Face hub" in dialog.inner_text(timeout=10_000)
        shoot(page, "question")
        dialog.get_by_role("button", name=answer).click()
        dialog.wait_for(state="detached")


def click(page: Page, node: int) -> None:
    place = None
    while (now := page.evaluate(PLACE, [node, NAME])) != place:  # the view moves to the node for a while
        place = now
        page.wait_for_timeout(300)
    page.mouse.click(*place)


def test_nothing_is_fetched_without_a_yes_and_what_goes_wrong_is_told(
    page: Page, server: ComfyServer, hub: Hub, node: int
) -> None:
    made = page.evaluate("async () => await window.app.graphToPrompt()")
    assert NAME not in made["output"][str(node)]["inputs"], "it is neither sent"
    (saved,) = made["workflow"]["nodes"]
    widgets = page.evaluate("id => window.app.graph.getNodeById(id).widgets.map(one => one.name)", node)
    assert widgets[-1] == NAME and len(saved["widgets_values"]) == len(widgets) - 1, "nor saved"
    press(page, node, "Cancel")
    assert server.post("/realism/face_parser/state", {}) == {"state": "idle"} and not hub.requests
    del hub.files["model.safetensors"]
    press(page, node, "Confirm")
    said(page, "answered with an error (404). The model has moved")
    assert page.evaluate(f"id => ({BUTTON})(id).label", node) == NAME


def test_pressed_stopped_and_pressed_again(page: Page, server: ComfyServer, hub: Hub, node: int) -> None:
    """The share is on the button; at the end the model is chosen."""
    hub.slow = 0.001  # for every 16 KiB; huggingface_hub hands on 10 MB at a time
    press(page, node, "Confirm")
    page.wait_for_function(f"id => / \\d+ %: press to stop/.test(({BUTTON})(id).label)", arg=node)
    shoot(page, "during")
    press(page, node)
    said(page, "The download was stopped; press again to go on with it.")
    assert not list((server.base / "models" / "face_parsing").glob("*/model.safetensors"))
    hub.slow = 0.0
    press(page, node, "Confirm")
    said(page, f"The model is in models/face_parsing/{MODEL}.")
    shoot(page, "after")
    model = page.evaluate(
        "id => { const one = window.app.graph.getNodeById(id).widgets.find(one => one.name === 'model');"
        " return [one.value, one.options.values, one.type] }", node,
    )  # fmt: skip
    assert model[0] == MODEL and MODEL in model[1]
    assert page.evaluate(f"id => ({BUTTON})(id).label", node) == NAME
    asked = [start for verb, path, start in hub.requests if verb == "GET" and path.endswith("safetensors")]
    assert len(asked) == 2 and not asked[0] and asked[1].startswith("bytes="), "it was gone on with"
