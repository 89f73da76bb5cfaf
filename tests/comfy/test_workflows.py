"""Every shipped workflow runs as shipped on a fresh ComfyUI with the packed pack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from devtools.server import ComfyServer
from devtools.workflow import to_prompt
from tests.comfy.graphs import done

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))
VIRTUAL = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}


def test_there_are_workflows() -> None:
    assert WORKFLOWS


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_it_runs_as_shipped(packed_server: ComfyServer, file: Path) -> None:
    workflow, known = json.loads(file.read_text()), packed_server.object_info()
    assert {node["type"] for node in workflow["nodes"]} - VIRTUAL <= set(known)
    run = done(packed_server.run(to_prompt(workflow, known)))
    assert any(output.get("images") or output.get("text") for output in run.entry["outputs"].values())


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_saved_slots_are_those_of_the_nodes(packed_server: ComfyServer, file: Path) -> None:
    """A renamed output would leave links at the wrong place when the page opens the workflow."""
    known = packed_server.object_info()
    for node in json.loads(file.read_text())["nodes"]:
        if node["type"] not in VIRTUAL:
            saved = [output["name"] for output in node.get("outputs") or []]
            assert saved == known[node["type"]]["output_name"][: len(saved)], node["type"]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_it_has_a_thumbnail(file: Path) -> None:
    with Image.open(file.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 128
        picture.load()
