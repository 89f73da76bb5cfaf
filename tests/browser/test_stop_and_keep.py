"""The button Stop and keep on Realism Train LoRA, in classic nodes and in Nodes 2.0."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from devtools.server import ComfyServer
from tests.browser.test_frontend import SHOTS
from tests.tiny_models import SHIPPED

NAME = "Stop and keep"
BUILD = """([checkpoint, seed]) => {
  const graph = window.app.graph;
  graph.clear();
  const add = (type, x, y, values = {}) => {
    const node = LiteGraph.createNode(type);
    node.pos = [x, y];
    graph.add(node);
    for (const [name, value] of Object.entries(values))
      node.widgets.find(widget => widget.name === name).value = value;
    return node;
  };
  const link = (from, output, to, input) => from.connect(
    from.outputs.findIndex(one => one.name === output), to, to.inputs.findIndex(one => one.name === input));
  const model = add('CheckpointLoaderSimple', 0, 0, { ckpt_name: checkpoint });
  const positive = add('CLIPTextEncode', 0, 200, { text: 'a' });
  const negative = add('CLIPTextEncode', 0, 450);
  const latents = add('EmptySD3LatentImage', 0, 700, { width: 64, height: 64, batch_size: 3 });
  const trainer = add('RealismTrainLoRA', 500, 0, {
    steps: 100000, rank: 4, alpha: 4, held_out: 1, preview_steps: 2, seed, control_after_generate: 'fixed' });
  const plot = add('PreviewImage', 1100, 0), pictures = add('PreviewImage', 1100, 400);
  link(model, 'MODEL', trainer, 'model');
  link(model, 'VAE', trainer, 'vae');
  link(model, 'CLIP', positive, 'clip');
  link(model, 'CLIP', negative, 'clip');
  link(positive, 'CONDITIONING', trainer, 'positive');
  link(negative, 'CONDITIONING', trainer, 'negative');
  link(latents, 'LATENT', trainer, 'latents');
  link(trainer, 'plot', plot, 'images');
  link(trainer, 'previews', pictures, 'images');
  return trainer.id;
}"""
FIND = "id => window.app.graph.getNodeById(id)"
TOAST = ".p-toast-detail"
# where the middle of the button is on the page
PLACE = """([id, name]) => {
  const node = window.app.graph.getNodeById(id), widget = node.widgets.find(one => one.name === name);
  const { scale, offset } = window.app.canvas.ds, box = window.app.canvas.canvas.getBoundingClientRect();
  const x = node.pos[0] + node.size[0] / 2, y = node.pos[1] + (widget.last_y ?? widget.y) + 10;
  return [box.left + (x + offset[0]) * scale, box.top + (y + offset[1]) * scale];
}"""


@pytest.fixture(params=["classic", "nodes-2"])
def look(request: pytest.FixtureRequest, page: Page) -> Iterator[str]:
    setting = "window.app.extensionManager.setting"
    change = f"async (on) => {{ await {setting}.set('Comfy.VueNodes.Enabled', on) }}"
    page.evaluate(change, request.param == "nodes-2")
    yield request.param
    page.evaluate(change, False)


@pytest.fixture(autouse=True)
def nothing_told_yet(page: Page) -> None:
    """What the test before was told stays for five seconds, and a quick machine is here sooner."""
    page.evaluate("() => window.app.extensionManager.toast.removeAll()")
    page.locator(TOAST).wait_for(state="detached", timeout=10_000)


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"stop-and-keep-{name}.png"))


def test_a_press_ends_the_training_with_success(page: Page, server: ComfyServer, look: str) -> None:
    node = page.evaluate(BUILD, [SHIPPED, 1 if look == "classic" else 2])
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1000)
    before = set(server.get("/history"))
    page.evaluate("async () => { await window.app.queuePrompt(0, 1) }")
    text = f"""id => ({FIND})(id).widgets.map(widget => String(widget.value))
        .find(value => /^step \\d+ of 100000, loss/.test(value))"""
    page.wait_for_function(text, arg=node, timeout=60_000)
    page.wait_for_timeout(1500)
    shoot(page, f"{look}-during")
    assert not set(server.get("/history")) - before
    if look == "classic":
        page.mouse.click(*page.evaluate(PLACE, [node, NAME]))
    else:
        page.get_by_role("button", name=NAME).click()
    page.locator(TOAST, has_text="The training stops after this step").wait_for(timeout=10_000)
    deadline = time.monotonic() + 60
    while not (new := set(server.get("/history")) - before) and time.monotonic() < deadline:
        page.wait_for_timeout(200)
    ended = server.get("/history")[new.pop()]
    assert ended["status"]["status_str"] == "success"
    shown = [len(output["images"]) for output in ended["outputs"].values() if "images" in output]
    assert sorted(shown) == [1, 1], "plot and preview go on"
    told = f"""id => ({FIND})(id).widgets.map(widget => String(widget.value))
        .find(value => /^\\d+ steps \\(Stop and keep\\), last loss/.test(value))"""
    page.wait_for_function(told, arg=node, timeout=10_000)
    page.wait_for_timeout(1000)
    shoot(page, f"{look}-after")


def test_with_no_training_it_says_so(page: Page) -> None:
    node = page.evaluate(BUILD, [SHIPPED, 3])
    press = f"([id, name]) => ({FIND})(id).widgets.find(one => one.name === name).callback()"
    page.evaluate(press, [node, NAME])
    said = page.locator(TOAST, has_text="No training runs.")
    said.wait_for(timeout=10_000)
    assert said.count() == 1


def test_it_is_neither_sent_nor_saved(page: Page) -> None:
    """Values of widgets are saved by their order: the button must not have a place among them."""
    node = page.evaluate(BUILD, [SHIPPED, 4])
    made = page.evaluate("async () => await window.app.graphToPrompt()")
    sent = made["output"][str(node)]["inputs"]
    assert NAME not in sent and sent["seed"] == 4 and sent["preview_steps"] == 2

    def values(workflow: dict) -> list:
        return next(one["widgets_values"] for one in workflow["nodes"] if one["type"] == "RealismTrainLoRA")

    saved = made["workflow"]
    names = f"id => ({FIND})(id).widgets.map(widget => widget.name).filter(name => !name.startsWith('$$'))"
    widgets = page.evaluate(names, node)
    assert widgets[-1] == NAME and len(values(saved)) == len(widgets) - 1
    page.evaluate("async (graph) => { await window.app.loadGraphData(graph) }", saved)
    again = page.evaluate("async () => await window.app.graphToPrompt()")
    assert values(again["workflow"]) == values(saved) and again["output"] == made["output"]
    assert page.evaluate(names, node) == widgets, "one button, at the end"
