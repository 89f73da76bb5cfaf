"""RealismGate in the real ComfyUI with pictures that the metric has no value for."""

from __future__ import annotations

import pytest

from devtools.client import Run
from devtools.server import ComfyServer, Refused
from tests.comfy.graphs import OUTPUTS, Graph, Node, done, failure, shown, status
from tests.comfy.test_gate_node import judged, numbers

# after those that graphs rely on already
OUTPUT = (
    *OUTPUTS["RealismGate"][:10],
    "unknown", "unknown_scores", "unknown_latents", "unknown_masks", "unknown_count",
)  # fmt: skip
VALUES = "nan,0.9,0.5,nan,0.3"
SIZES = ["5x16x16", "1x16x24,3x32x16,1x8x8"]


def show_all(graph: Graph, gate: Node, names: tuple[str, ...] = OUTPUT) -> dict[str, str]:
    return {name: graph.show(gate[OUTPUT.index(name)]) for name in names}


def unknown_gate(graph: Graph, values: str = VALUES, sizes: str = SIZES[0], **inputs: object) -> Node:
    """A gate with everything connected, over pictures that are numbered from 0."""
    images, scores = judged(graph, values, sizes)
    extra = graph.add("TestLatents", counts=str(values.count(",") + 1))
    inputs |= {"latents": extra[0], "masks": extra[1]}
    return graph.add("RealismGate", images=images, scores=scores, **inputs)


def sides(run: Run, ids: dict[str, str]) -> dict[str, list[int]]:
    """Return which pictures left by each side, having checked that all that belongs to them went along."""
    found = {}
    for side in ("passed", "rejected", "unknown"):
        found[side] = numbers(run, ids[side])
        assert numbers(run, ids[f"{side}_masks"]) == found[side]
        ran = [name for name, id in ids.items() if name.startswith(side) and id in run.entry["outputs"]]
        assert len(ran) == (5 if found[side] else 1)  # the count is always there
        if found[side]:
            latents = shown(run, ids[f"{side}_latents"])
            assert [mean for part in latents for mean in part["samples"]["means"]] == found[side]
            rows = [row for table in shown(run, ids[f"{side}_scores"]) for row in table["rows"]]
            assert len(rows) == len(found[side])
    return found


def test_the_new_slots_and_the_new_widgets_come_last(server: ComfyServer) -> None:
    known = server.object_info()["RealismGate"]
    assert tuple(known["output_name"]) == OUTPUT
    assert known["output_is_list"] == [True] * 8 + [False] * 2 + [True] * 4 + [False]
    assert known["input_order"]["optional"][-6:] == [
        "keep", "on_unknown", "keep_by_hand", "reject_by_hand", "audit", "purpose",
    ]  # fmt: skip
    (spec,) = [spec for name, spec in known["input"]["optional"].items() if name == "on_unknown"]
    options = spec[1]["options"] if spec[0] == "COMBO" else spec[0]
    assert (options, spec[1]["default"]) == (["reject", "pass", "block"], "reject")


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    ("rule", "known"),
    [
        ({"rule": "threshold", "value": 0.4}, [1, 2]),
        ({"rule": "band", "low": 0.2, "high": 0.6}, [2, 4]),
        ({"rule": "top_k", "value": 1}, [1]),
        ({"rule": "top_fraction", "value": 0.3, "keep": "low"}, [4]),
    ],
)
@pytest.mark.parametrize("on_unknown", ["pass", "block"])
def test_where_unknown_pictures_go(
    server: ComfyServer, rule: dict, known: list[int], on_unknown: str, sizes: str
) -> None:
    """0.3 of three known pictures is one; of all five it would be two."""
    graph = Graph()
    ids = show_all(graph, unknown_gate(graph, sizes=sizes, on_unknown=on_unknown, **rule))
    run = done(server.run(graph))
    found = sides(run, ids)
    expected = {"passed": known, "rejected": [n for n in (1, 2, 4) if n not in known], "unknown": []}
    expected["passed" if on_unknown == "pass" else "unknown"] = sorted(
        [0, 3] + (known if on_unknown == "pass" else [])
    )
    assert found == expected
    assert shown(run, ids["passed_count"]) == [len(found["passed"])]
    assert shown(run, ids["rejected_count"]) == [len(found["rejected"])]
    assert shown(run, ids["unknown_count"]) == [2]


@pytest.mark.parametrize("choice", [{}, {"on_unknown": "reject"}])
def test_as_before_they_are_rejected_and_counted(server: ComfyServer, choice: dict) -> None:
    graph = Graph()
    ids = show_all(graph, unknown_gate(graph, rule="top_fraction", value=0.4, **choice))
    run = done(server.run(graph))
    assert sides(run, ids) == {"passed": [1, 2], "rejected": [0, 3, 4], "unknown": []}
    counts = [shown(run, ids[f"{side}_count"]) for side in ("passed", "rejected", "unknown")]
    assert counts == [[2], [3], [2]]


@pytest.mark.parametrize(
    ("on_unknown", "ran", "counts"),
    [
        ("reject", {"rejected"}, [0, 2, 2]),
        ("pass", {"passed"}, [2, 0, 2]),
        ("block", {"unknown"}, [0, 0, 2]),
    ],
)
def test_grey_pictures_have_no_irs(server: ComfyServer, on_unknown: str, ran: set, counts: list) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="grey", batch=2)
    scored = graph.add("RealismScore", images=images)
    rule = {"metric": "irs", "value": -1e9, "on_unknown": on_unknown}
    gate = graph.add("RealismGate", images=images, scores=scored["scores"], **rule)
    names = ("passed", "rejected", "unknown")
    ids = show_all(graph, gate, (*names, *(f"{name}_count" for name in names)))
    run = done(server.run(graph))
    assert {name for name in names if ids[name] in run.entry["outputs"]} == ran
    assert [shown(run, ids[f"{name}_count"])[0] for name in names] == counts


def test_without_unknown_pictures_block_changes_nothing(server: ComfyServer) -> None:
    graph = Graph()
    gate = unknown_gate(graph, "0.1,0.9", "2x8x8", value=0.5, on_unknown="block")
    ids = show_all(graph, gate)
    run = done(server.run(graph))
    assert sides(run, ids) == {"passed": [1], "rejected": [0], "unknown": []}
    assert shown(run, ids["unknown_count"]) == [0]


def test_best_is_a_known_picture(server: ComfyServer) -> None:
    for on_unknown, unknown in (("reject", []), ("block", [0, 3])):
        graph = Graph()
        ids = show_all(graph, unknown_gate(graph, value=2.0, on_empty="best", on_unknown=on_unknown))
        found = sides(done(server.run(graph)), ids)
        rejected = [n for n in (0, 2, 3, 4) if n not in unknown]
        assert found == {"passed": [1], "rejected": rejected, "unknown": unknown}


@pytest.mark.parametrize("on_empty", ["best", "error"])
def test_unknown_pictures_that_pass_are_not_nothing(server: ComfyServer, on_empty: str) -> None:
    graph = Graph()
    ids = show_all(graph, unknown_gate(graph, value=2.0, on_empty=on_empty, on_unknown="pass"))
    found = sides(done(server.run(graph)), ids)
    assert found == {"passed": [0, 3], "rejected": [1, 2, 4], "unknown": []}


@pytest.mark.parametrize(
    ("values", "on_empty", "words"),
    [
        (VALUES, "error", "none of 5 pictures passed typicality by rule threshold (2 have no value)"),
        ("nan,nan", "error", "none of 2 pictures passed"),
        ("nan,nan", "best", "none of the pictures has a value"),
    ],
)
def test_nothing_passes_and_unknown_pictures_are_blocked(
    server: ComfyServer, values: str, on_empty: str, words: str
) -> None:
    graph = Graph()
    sizes = f"{values.count(',') + 1}x8x8"
    gate = unknown_gate(graph, values, sizes, value=2.0, on_empty=on_empty, on_unknown="block")
    graph.show(gate[OUTPUT.index("unknown")])
    run = server.run(graph)
    assert status(run) == "execution_error" and words in failure(run)


@pytest.mark.parametrize("on_unknown", ["reject", "block"])
def test_unknown_latents_that_never_came_in_are_an_error(server: ComfyServer, on_unknown: str) -> None:
    graph = Graph()
    images, scores = judged(graph, VALUES)
    gate = graph.add("RealismGate", images=images, scores=scores, on_unknown=on_unknown)
    graph.show(gate[OUTPUT.index("unknown_latents")])
    assert "latents are not connected to Realism Gate" in failure(server.run(graph))


def test_the_node_shows_how_many_are_unknown(server: ComfyServer) -> None:
    graph = Graph()
    gate = unknown_gate(graph, value=0.4, on_unknown="block")
    graph.show(gate[0])
    (text,) = done(server.run(graph)).entry["outputs"][gate.id]["text"]
    assert text == "2 of 5 passed, 2 unknown (blocked)\ntypicality: 0.3 to 0.9, median 0.5"


def test_another_word_is_refused_before_the_run(server: ComfyServer) -> None:
    graph = Graph()
    graph.show(unknown_gate(graph, on_unknown="keep")[0])
    with pytest.raises(Refused) as refusal:
        server.run(graph)
    (errors,) = refusal.value.body["node_errors"].values()
    assert errors["errors"][0]["extra_info"]["input_name"] == "on_unknown"
