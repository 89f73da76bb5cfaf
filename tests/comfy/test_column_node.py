"""RealismScoreColumn in the real ComfyUI: other nodes' numbers drive the gate, alone or weighted."""

from __future__ import annotations

import csv
import io
import json

import pytest
from PIL import Image

from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, Node, done, failure, shown, status
from tests.comfy.test_gate_node import SIZES, judged, numbers

TYPICALITY = "0.1,0.9,0.5,0.7,0.3"
TASTE = "5,3,nan,4,1"


def column(
    graph: Graph, values: str = "", kind: str = "floats", node: str = "TestFloats", **inputs: object
) -> Node:
    """Add a score column; without values that socket is left open."""
    if values:
        inputs["values"] = graph.add(node, values=values, kind=kind)
    return graph.add("RealismScoreColumn", **inputs)


def gated(
    server: ComfyServer, graph: Graph, images: Node, scores: Node, metric: str, **rule: object
) -> tuple[list[int], list[int]]:
    """Run a gate over these pictures, with what does not pass set aside where it is unknown."""
    gate = graph.add(
        "RealismGate", images=images, scores=scores, metric=metric, on_unknown="block", **rule
    )
    ids = [graph.show(gate[name]) for name in ("passed", "rejected", "unknown_count", "passed_scores")]
    run = done(server.run(graph))
    passed, rejected = numbers(run, ids[0]), numbers(run, ids[1])
    assert shown(run, ids[2]) == [5 - len(passed) - len(rejected)]
    assert sum(len(part["rows"]) for part in shown(run, ids[3])) == len(passed)
    return passed, rejected


def tables(server: ComfyServer, graph: Graph, node: Node) -> list[dict]:
    id = graph.show(node)
    return shown(done(server.run(graph)), id)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize(
    ("rule", "passed", "rejected"),
    [
        ({"rule": "threshold", "value": 3.5}, [0, 3], [1, 4]),
        ({"rule": "top_k", "value": 2, "keep": "low"}, [1, 4], [0, 3]),
    ],
)
def test_other_nodes_numbers_drive_the_gate(
    server: ComfyServer, sizes: str, connected: bool, rule: dict, passed: list[int], rejected: list[int]
) -> None:
    """With scores of ours and without any; the third picture has no number."""
    graph = Graph()
    images = graph.add("TestImageList", sizes=SIZES[sizes])
    scores = {"scores": graph.add("RealismScore", images=images)["scores"]} if connected else {}
    joined = column(graph, TASTE, name=" taste ", **scores)
    assert gated(server, graph, images, joined, "taste", **rule) == (passed, rejected)


@pytest.mark.parametrize("node", ["TestFloats", "TestFloat"])
@pytest.mark.parametrize("kind", ["floats", "nested", "tensor", "array"])
def test_the_ways_in_which_packs_give_numbers(server: ComfyServer, node: str, kind: str) -> None:
    graph = Graph()
    (table,) = tables(server, graph, column(graph, "0.5,-2,nan", kind, node))
    assert [row["aesthetic"] for row in table["rows"]] == [0.5, -2.0, None]
    assert table["about"] == {} and [made["name"] for made in table["columns"]] == ["aesthetic"]


def test_one_number_for_one_picture(server: ComfyServer) -> None:
    graph = Graph()
    (table,) = tables(server, graph, column(graph, "0.5", node="TestFloat", direction="lower", weight=2.0))
    assert table["rows"] == [{"aesthetic": 0.5, "combined": -1.0}]


@pytest.mark.parametrize("counts", ["", "1,3,1"])
def test_a_chain_makes_the_weighted_sum(server: ComfyServer, counts: str) -> None:
    """Two joined columns and a weight on typicality, in either order; batches stay as they came."""
    names = {
        "taste": {"name": "taste", "values": TASTE, "weight": 0.1},
        "noise": {"name": "noise", "values": "1,2,3,4,5", "direction": "lower", "weight": 0.02},
        "typicality": {"name": "typicality", "weight": 1.0},
    }
    expected = [0.1 + 0.5 - 0.02, 0.9 + 0.3 - 0.04, None, 0.7 + 0.4 - 0.08, 0.3 + 0.1 - 0.1]
    sums = []
    for order in (list(names), list(names)[::-1]):
        graph = Graph()
        images, scores = judged(graph, TYPICALITY, counts=counts)
        for name in order:
            scores = column(graph, scores=scores, **names[name])
        id = graph.show(scores)
        passed = gated(server, graph, images, scores, "combined", rule="threshold", value=1.0)
        assert passed == ([1, 3], [0, 4])
        found = shown(done(server.run(graph)), id)
        assert [len(table["rows"]) for table in found] == [int(size) for size in (counts or "5").split(",")]
        weights = {"taste": 0.1, "noise": -0.02, "typicality": 1.0}
        assert all(table["about"]["combined"] == weights for table in found)
        made = found[0]["columns"][-1]
        assert made["name"] == "combined" and made["direction"] == "higher"
        assert made["meaning"] == "-0.02 x noise + 0.1 x taste + 1 x typicality"
        sums.append([row["combined"] for table in found for row in table["rows"]])
    assert sums[0] == sums[1]
    assert sums[0][2] is None and expected[2] is None
    known = [value for value in sums[0] if value is not None]
    assert known == pytest.approx([value for value in expected if value is not None], abs=1e-12)


def test_a_weight_of_zero_takes_a_part_out_again(server: ComfyServer) -> None:
    graph = Graph()
    joined = column(graph, "1,2", name="taste", weight=3.0)
    other = column(graph, "5,7", name="noise", scores=joined, weight=1.0)
    (table,) = tables(server, graph, column(graph, name="taste", scores=other, weight=0.0))
    assert [row["combined"] for row in table["rows"]] == [5.0, 7.0]
    assert [row["taste"] for row in table["rows"]] == [1.0, 2.0]
    assert table["about"]["combined"] == {"noise": 1}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"name": "typicality", "values": TASTE}, "the scores have that column already: choose another"),
        ({"name": "combined", "values": TASTE}, "which is the weighted sum itself"),
        ({"name": "a,b", "values": TASTE}, "leave out commas"),
        ({"name": "", "values": TASTE}, "name is empty"),
        ({"values": "1,2,3,4"}, "values holds 4 numbers but scores holds 5 pictures"),
        ({"values": "1,2,3,4,5,6", "node": "TestFloat"}, "values holds 6 numbers but scores holds 5"),
        ({"values": TASTE, "kind": "text"}, "values holds the text '5' where number 1 should be"),
        ({"values": TASTE, "kind": "none"}, "values holds None where number 5 should be"),
        ({"values": TASTE, "kind": "image"}, "values holds an array of shape (1, 8, 8, 3)"),
        ({"name": "beauty", "weight": 1.0}, "name is 'beauty', but these scores have no such column"),
        ({"name": "typicality"}, "weight is 0 and values is not connected"),
        ({"values": TASTE, "direction": "none", "weight": 1.0}, "weight is 1 but direction is 'none'"),
    ],
)
def test_wrong_input_is_an_error_with_its_fix(server: ComfyServer, inputs: dict, words: str) -> None:
    graph = Graph()
    _, scores = judged(graph, TYPICALITY, counts="2,3")
    graph.show(column(graph, scores=scores, **inputs))
    run = server.run(graph)
    assert status(run) == "execution_error" and words in failure(run)


def test_nothing_connected_is_an_error(server: ComfyServer) -> None:
    graph = Graph()
    graph.show(column(graph))
    assert "neither scores nor values is connected" in failure(server.run(graph))


def test_a_name_the_scores_lack_is_an_error_at_the_gate(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImages", batch=2)
    joined = column(graph, "1,2", name="taste", weight=1.0)
    graph.show(graph.add("RealismGate", images=images, scores=joined, metric="beauty")["passed"])
    assert "they have: taste, combined" in failure(server.run(graph))


def test_saved_pictures_and_their_manifest_hold_the_columns(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImageList", sizes="2x16x24,1x32x16")
    joined = column(graph, "0.5,nan,inf", name="Geschmack é 好", weight=2.0)
    save_node = graph.add(
        "RealismSaveImages", images=images, scores=joined, filename_prefix="joined/p", manifest="both"
    )
    run = done(server.run(graph))
    files = [image["filename"] for image in run.entry["outputs"][save_node.id]["images"]]
    at = server.base / "output" / "joined"
    text = (at / "p_00001_manifest.json").read_text(encoding="utf-8")
    manifest = json.loads(text)
    assert "NaN" not in text and "Infinity" not in text
    assert manifest["about"] == {"combined": {"Geschmack é 好": 2.0}}
    assert [row["file"] for row in manifest["images"]] == files
    assert [row["Geschmack é 好"] for row in manifest["images"]] == [0.5, None, None]
    assert [row["combined"] for row in manifest["images"]] == [1.0, None, None]
    lines = csv.DictReader(io.StringIO((at / "p_00001_manifest.csv").read_text(encoding="utf-8")))
    assert [line["Geschmack é 好"] for line in lines] == ["0.5", "", ""]
    with Image.open(at / files[0]) as picture:
        inside = json.loads(picture.text["realism"])
    scores = {"Geschmack é 好": 0.5, "combined": 1.0}
    assert inside == {"combined": {"Geschmack é 好": 2.0}, "scores": scores}


def test_the_inputs_are_those_of_the_contract(server: ComfyServer) -> None:
    known = server.object_info()["RealismScoreColumn"]
    order = {"required": ["name", "direction", "weight"], "optional": ["scores", "values"]}
    assert known["input_order"] == order
    assert known["is_input_list"] and known["output_is_list"] == [True]
    values = known["input"]["optional"]["values"]
    assert values[0] == "FLOAT" and values[1]["forceInput"]
