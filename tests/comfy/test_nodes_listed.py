"""What ComfyUI knows of the pack once it has started."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devtools.server import ComfyServer
from tests.comfy.graphs import OUTPUTS

ROOT = Path(__file__).resolve().parents[2]
IMPORT_TIME = re.compile(r"([\d.]+) seconds( \(IMPORT FAILED\))?: (.*)")


@pytest.fixture(scope="module")
def known(server: ComfyServer) -> dict:
    return server.object_info()


@pytest.mark.parametrize("node", OUTPUTS)
def test_outputs_are_those_of_the_contract(known: dict, node: str) -> None:
    """Names and order are what saved graphs rely on; more may follow."""
    assert tuple(known[node]["output_name"][: len(OUTPUTS[node])]) == OUTPUTS[node]


def ours(known: dict) -> dict:
    return {name: info for name, info in known.items() if info["python_module"] == "custom_nodes.realism-kit"}


def test_every_node_is_explained(known: dict) -> None:
    assert set(OUTPUTS) <= set(ours(known))
    for name, info in ours(known).items():
        assert name.startswith("Realism")
        assert info["category"].startswith("realism/"), name
        assert info["display_name"] and info["display_name"] != name
        assert len(info["description"]) > 40, name


def test_every_input_and_output_has_a_tooltip(known: dict) -> None:
    for name, info in ours(known).items():
        for group in ("required", "optional"):
            for input, spec in info["input"].get(group, {}).items():
                assert len(spec) > 1 and spec[1].get("tooltip"), f"input {input} of {name}"
        assert len(info["output_tooltips"]) == len(info["output_name"])
        assert all(info["output_tooltips"]), f"an output of {name}"


def test_every_node_has_its_page(server: ComfyServer, known: dict) -> None:
    for name in ours(known):
        page = server.get(f"/extensions/realism-kit/docs/{name}/en.md", raw=True).decode()
        assert known[name]["display_name"] in page


def test_the_pack_imports_in_a_third_of_a_second(server: ComfyServer) -> None:
    times = IMPORT_TIME.findall(server.log.read_text())
    seconds, failed = {Path(path).name: (float(time), failed) for time, failed, path in times}["realism-kit"]
    assert not failed
    assert seconds < 0.3


def test_nothing_of_ours_complains_at_start(server: ComfyServer) -> None:
    lines = server.log.read_text().splitlines()
    about_us = [line for line in lines if "custom_nodes/realism-kit" in line]
    assert about_us
    complaints = re.compile("FAILED|Cannot import|Error while calling|Skip ")
    assert not [line for line in about_us if complaints.search(line)]


def test_comfyuis_own_nodes_module_stays_in_place(known: dict) -> None:
    """Our folder is called nodes too: were it imported in its place, these would be gone."""
    assert known["LoadImage"]["python_module"] == "nodes"
    assert known["KSampler"]["python_module"] == "nodes"


def test_the_workflows_are_offered_as_templates(server: ComfyServer) -> None:
    offered = server.get("/workflow_templates")["realism-kit"]
    assert set(offered) == {file.stem for file in (ROOT / "workflows").glob("*.json")}
