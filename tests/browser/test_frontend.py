"""The workflows in ComfyUI's real frontend: they load, mean what the tests run, and run from the page."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page

from devtools.server import ComfyServer
from devtools.workflow import to_prompt

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
SCORE_AND_GATE = ROOT / "workflows" / "score-and-gate.json"
# where a run leaves pictures of the page, for a look by eye
SHOTS = os.environ.get("REALISM_SHOTS")

# what the page knows of a node that shows no picture
STATE = """id => { const node = window.app.graph.getNodeById(id); return JSON.stringify({
  type: node.type, mode: node.mode, collapsed: node.flags.collapsed, images: node.images,
  told: window.app.nodeOutputs[id], place: [...node.pos, ...node.size],
  view: [...window.app.canvas.visible_area] }); }"""


def load(page: Page, workflow: Path, **gate: object) -> dict:
    """Load a workflow file into the page; returns the prompt that the frontend makes of it.

    gate: values to set in the widgets of its gate.
    """
    page.evaluate(
        "async ([graph, name]) => { await window.app.loadGraphData(graph, true, true, name) }",
        [json.loads(workflow.read_text(encoding="utf-8")), workflow.stem],
    )
    set_widget = """([name, value]) => window.app.graph._nodes.find(n => n.type === 'RealismGate')
        .widgets.find(widget => widget.name === name).value = value"""
    for change in gate.items():
        page.evaluate(set_widget, change)
    return page.evaluate("async () => (await window.app.graphToPrompt()).output")


def run(page: Page, server: ComfyServer) -> dict:
    """Press Run on what is loaded; returns the history entry of the run, which ended well."""
    before = set(server.get("/history"))
    page.evaluate("async () => { await window.app.queuePrompt(0, 1) }")
    deadline = time.monotonic() + 300
    while not (new := set(server.get("/history")) - before) and time.monotonic() < deadline:
        page.wait_for_timeout(200)  # a plain sleep would hold up the page's requests, which pass through here
    assert new, f"the run did not end in time; the log ends: {server.log_tail()}"
    ended = server.get("/history")[new.pop()]
    assert ended["status"]["status_str"] == "success"
    return ended


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_the_frontend_reads_a_workflow_as_the_tests_do(
    workflow: Path, page: Page, server: ComfyServer
) -> None:
    """So that the server tests, which convert workflows themselves, run what an artist runs."""
    ours = to_prompt(json.loads(workflow.read_text(encoding="utf-8")), server.object_info())
    theirs = load(page, workflow)
    assert {key: node["class_type"] for key, node in theirs.items()} == {
        key: node["class_type"] for key, node in ours.items()
    }
    for key, node in ours.items():
        # the frontend also sends what its own widgets hold (previews); ours must all be there, and alike
        assert {name: theirs[key]["inputs"].get(name) for name in node["inputs"]} == node["inputs"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_from_the_page(workflow: Path, page: Page, server: ComfyServer) -> None:
    load(page, workflow)
    ended = run(page, server)
    # what hangs on an empty side of a gate does not run, and has nothing to show
    showing = [int(id) for id, output in ended["outputs"].items() if output.get("images")]
    assert showing
    # a node loads its pictures once it is drawn, and what grew while it ran may have left the view
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    without = "ids => ids.filter(id => !window.app.graph.getNodeById(id).imgs?.length)"
    deadline = time.monotonic() + 60
    while (missing := page.evaluate(without, showing)) and time.monotonic() < deadline:
        page.wait_for_timeout(200)
    assert not missing, [page.evaluate(STATE, id) for id in missing]
    if SHOTS:
        page.wait_for_timeout(2500)
        page.screenshot(path=str(Path(SHOTS) / f"{workflow.stem}.png"))


def test_a_node_has_its_help_page(page: Page) -> None:
    """The frontend looks for docs/<node id>/<language>.md under the pack's folder."""
    text = page.evaluate("async () => (await fetch('/extensions/realism-kit/docs/RealismGate/en.md')).text()")
    assert text.startswith("# Realism Gate")


def test_what_a_node_did_stands_on_its_face(page: Page, server: ComfyServer) -> None:
    """After its run the gate tells in a text widget how many pictures passed."""
    load(page, SCORE_AND_GATE, value=0.16)  # another value, as what is cached does not run again
    run(page, server)
    said = """() => window.app.graph._nodes.find(n => n.type === 'RealismGate').widgets
        .map(widget => String(widget.value)).find(text => text.includes(' of 3 passed'))"""
    assert page.wait_for_function(said, timeout=10_000).json_value().startswith("2 of 3 passed")


def test_the_settings_dialog_switches_the_audit_log(page: Page, server: ComfyServer) -> None:
    """The page knows both settings, and what is set there is what the gate reads."""
    settings = "window.app.extensionManager.setting"
    assert page.evaluate(f"() => {settings}.get('RealismKit.Audit')") is False
    assert page.evaluate(f"() => {settings}.get('RealismKit.AuditPurpose')") == ""
    log = server.base / "user" / "realism" / "audit.sqlite"
    assert not log.exists()
    page.evaluate(f"async () => {{ await {settings}.set('RealismKit.Audit', true) }}")
    page.evaluate(f"async () => {{ await {settings}.set('RealismKit.AuditPurpose', 'a fair') }}")
    file = server.base / "user" / "default" / "comfy.settings.json"
    deadline = time.monotonic() + 10
    while "a fair" not in file.read_text(encoding="utf-8") and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    load(page, SCORE_AND_GATE)
    run(page, server)
    with contextlib.closing(sqlite3.connect(log)) as database:
        bodies = [json.loads(body) for (body,) in database.execute("SELECT body FROM entries")]
    assert {body["purpose"] for body in bodies} == {"a fair"}
    assert sum(body["kind"] == "decision" for body in bodies) == 3
