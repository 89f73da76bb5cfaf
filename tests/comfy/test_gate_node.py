"""RealismGate in the real ComfyUI: what passes, what goes with it, and what does not run."""

from __future__ import annotations

import pytest

from devtools.client import Run
from devtools.server import ComfyServer, Refused
from tests.comfy.graphs import Graph, Node, done, failure, means, shown, status

VALUES = "0.1,0.9,0.5,0.7,0.3"
SIZES = {"batch": "5x16x16", "list": "2x16x24,1x32x16,2x8x8"}


def judged(
    graph: Graph, values: str = VALUES, sizes: str = SIZES["batch"], counts: str = ""
) -> tuple[Node, list]:
    """Add pictures numbered by their colour and scores with these values in the column `typicality`."""
    images = graph.add("TestImageList", sizes=sizes)
    scored = graph.add("RealismScore", images=images)
    scores = graph.add(
        "TestSetColumn", scores=scored["scores"], column="typicality", values=values, counts=counts
    )
    return images, scores[0]


def numbers(run: Run, id: str) -> list[int]:
    """Return which pictures reached a node that shows them, over all batches; [] if it did not run."""
    if id not in run.entry["outputs"]:
        return []
    return [round(100 * mean) for batch in means(run, id) for mean in batch]


def sorted_by(
    server: ComfyServer, values: str = VALUES, sizes: str = SIZES["batch"], **inputs: object
) -> tuple[list[int], list[int]]:
    """Run the gate; returns the numbers of the passed and of the rejected pictures."""
    graph = Graph()
    images, scores = judged(graph, values, sizes)
    gate = graph.add("RealismGate", images=images, scores=scores, **inputs)
    ids = [graph.show(gate[name]) for name in ("passed", "rejected", "passed_count", "rejected_count")]
    run = done(server.run(graph))
    passed, rejected = numbers(run, ids[0]), numbers(run, ids[1])
    assert shown(run, ids[2]) == [len(passed)] and shown(run, ids[3]) == [len(rejected)]
    assert sorted(passed + rejected) == list(range(len(values.split(","))))
    return passed, rejected


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        ({"rule": "threshold", "value": 0.5}, [1, 2, 3]),
        ({"rule": "threshold", "value": 0.3, "keep": "low"}, [0, 4]),
        ({"rule": "band", "low": 0.3, "high": 0.6}, [2, 4]),
        ({"rule": "top_k", "value": 2}, [1, 3]),
        ({"rule": "top_k", "value": 99}, [0, 1, 2, 3, 4]),
        ({"rule": "top_k", "value": 2, "keep": "low"}, [0, 4]),
        ({"rule": "top_fraction", "value": 0.5}, [1, 2, 3]),
    ],
)
def test_rules(server: ComfyServer, rule: dict, passed: list[int], sizes: str) -> None:
    """The same pictures pass whether they come as one batch or as a list; top_k counts over all of it."""
    rejected = [number for number in range(5) if number not in passed]
    assert sorted_by(server, sizes=SIZES[sizes], **rule) == (passed, rejected)


def test_ties_go_to_the_earlier_picture(server: ComfyServer) -> None:
    tied = sorted_by(server, values="0.5,0.5,0.5,0.5", sizes="4x8x8", rule="top_k", value=2)
    assert tied == ([0, 1], [2, 3])


def test_scores_that_do_not_apply_never_pass(server: ComfyServer) -> None:
    for rule in (
        {"rule": "threshold", "value": -1e9},
        {"rule": "threshold", "value": 1e9, "keep": "low"},
        {"rule": "band", "low": -1e9, "high": 1e9},
        {"rule": "top_k", "value": 3},
        {"rule": "top_fraction", "value": 1.0},
    ):
        assert sorted_by(server, values="0.5,nan,0.1", sizes="3x8x8", **rule) == ([0, 2], [1])


def test_a_colourless_picture_does_not_pass_by_reference(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="grey")
    scored = graph.add("RealismScore", images=images)
    gate = graph.add("RealismGate", images=images, scores=scored["scores"], metric="irs", value=-1e9)
    passed, rejected = graph.show(gate["passed"]), graph.show(gate["rejected"])
    run = done(server.run(graph))
    assert passed not in run.entry["outputs"] and rejected in run.entry["outputs"]


def test_real_columns_and_their_order(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="noise", batch=3)
    scored = graph.add("RealismScore", images=images)
    rule = {"metric": " irs ", "rule": "top_k", "value": 1}
    gate = graph.add("RealismGate", images=images, scores=scored["scores"], **rule)
    table, irs = graph.show(gate["passed_scores"]), graph.show(scored["irs"])
    run = done(server.run(graph))
    (kept,) = shown(run, table)[0]["rows"]
    assert kept["irs"] == max(shown(run, irs))


def check_aligned(
    server: ComfyServer, sizes: str, latent_counts: str, score_counts: str, **inputs: object
) -> None:
    graph = Graph()
    images, scores = judged(graph, VALUES, sizes, score_counts)
    extra = graph.add("TestLatents", counts=latent_counts)
    gate = graph.add(
        "RealismGate", images=images, scores=scores, value=0.5, latents=extra[0], masks=extra[1], **inputs
    )
    sides = [
        [graph.show(gate[side + suffix]) for suffix in ("", "_scores", "_latents", "_masks")]
        for side in ("passed", "rejected")
    ]
    run = done(server.run(graph))
    values = [float(value) for value in VALUES.split(",")]
    for (pictures, scored, latents, masks), expected in zip(sides, ([1, 2, 3], [0, 4]), strict=True):
        assert numbers(run, pictures) == numbers(run, masks) == expected
        rows = [row["typicality"] for table in shown(run, scored) for row in table["rows"]]
        assert rows == [values[number] for number in expected]
        parts = shown(run, latents)
        for key in ("samples", "noise_mask"):
            assert [mean for part in parts for mean in part[key]["means"]] == expected
        assert [index for part in parts for index in part["batch_index"]] == [100 + n for n in expected]
        assert all(part["samples"]["shape"][0] == len(part["batch_index"]) for part in parts)


@pytest.mark.parametrize(
    ("sizes", "latents", "scores"),
    [("5x16x16", "5", ""), ("2x16x24,1x32x16,2x8x8", "2,1,2", "2,1,2"), ("2x16x24,3x8x8", "5", "1,4"),
     ("5x16x16", "1,1,1,1,1", "4,1")],
)  # fmt: skip
def test_latents_masks_and_scores_follow_their_pictures(
    server: ComfyServer, sizes: str, latents: str, scores: str
) -> None:
    """Also where the list is cut into batches in another way than the pictures are."""
    check_aligned(server, sizes, latents, scores)


def test_latents_without_extras(server: ComfyServer) -> None:
    graph = Graph()
    images, scores = judged(graph)
    extra = graph.add("TestLatents", counts="5", extras=False)
    gate = graph.add("RealismGate", images=images, scores=scores, value=0.5, latents=extra[0])
    latents = graph.show(gate["passed_latents"])
    (latent,) = shown(done(server.run(graph)), latents)
    assert set(latent) == {"samples"} and latent["samples"]["means"] == [1, 2, 3]


def both_sides(graph: Graph, value: float, **inputs: object) -> dict[str, str]:
    images, scores = judged(graph)
    extra = graph.add("TestLatents", counts="5")
    gate = graph.add(
        "RealismGate", images=images, scores=scores, value=value, latents=extra[0], masks=extra[1], **inputs
    )
    names = ("", "_scores", "_latents", "_masks", "_count")
    return {side + name: graph.show(gate[side + name]) for side in ("passed", "rejected") for name in names}


@pytest.mark.parametrize(("value", "empty"), [(2.0, "passed"), (-1.0, "rejected")])
def test_an_empty_side_does_not_run_and_the_other_does(server: ComfyServer, value: float, empty: str) -> None:
    graph = Graph()
    ids = both_sides(graph, value)
    run = done(server.run(graph))
    assert run.entry["status"]["status_str"] == "success"
    blocked = {name for name in ids if name.startswith(empty) and not name.endswith("_count")}
    ran = {name for name, id in ids.items() if id in run.entry["outputs"]}
    assert ran == set(ids) - blocked
    assert not failure(run)


def test_what_hangs_behind_a_blocked_side_does_not_run_either(server: ComfyServer) -> None:
    graph = Graph()
    images, scores = judged(graph)
    gate = graph.add("RealismGate", images=images, scores=scores, value=2.0)
    again = graph.add("RealismScore", images=gate["passed"])
    saved = graph.add("RealismSaveImages", images=again["images"], scores=again["scores"])
    done(server.run(graph))
    run = done(server.run(graph))
    assert again.id not in run.entry["outputs"] and saved.id not in run.entry["outputs"]


def test_on_empty_best(server: ComfyServer) -> None:
    everything = {"rule": "threshold", "value": 2.0, "on_empty": "best"}
    assert sorted_by(server, **everything) == ([1], [0, 2, 3, 4])
    assert sorted_by(server, keep="low", **{**everything, "value": -1.0}) == ([0], [1, 2, 3, 4])
    band = {"rule": "band", "low": 0.52, "high": 0.56, "on_empty": "best"}
    assert sorted_by(server, **band) == ([2], [0, 1, 3, 4])


def check_refused(server: ComfyServer, words: list[str], values: str = VALUES, **inputs: object) -> None:
    graph = Graph()
    images, scores = judged(graph, values, f"{values.count(',') + 1}x8x8")
    gate = graph.add("RealismGate", images=images, scores=scores, **inputs)
    graph.show(gate["passed"])
    run = server.run(graph)
    assert status(run) == "execution_error"
    assert all(word in failure(run) for word in words), failure(run)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"value": 2.0, "on_empty": "error"}, ["none of 5 pictures passed", "on_empty"]),
        ({"values": "nan,nan", "on_empty": "best"}, ["none of the pictures has a value", "metric"]),
        ({"metric": "realism"}, ["metric", "'realism'", "typicality", "irs", "radius_glcm_energy"]),
        ({"rule": "band", "low": 0.6, "high": 0.4}, ["low is 0.6 and high 0.4", "exchange"]),
        ({"rule": "top_k", "value": 1.5}, ["value is 1.5", "top_k"]),
        ({"rule": "top_k", "value": 0}, ["value is 0", "top_k"]),
        ({"rule": "top_fraction", "value": 1.5}, ["value is 1.5", "top_fraction"]),
    ],
)
def test_what_cannot_be_done_is_said(server: ComfyServer, inputs: dict, words: list[str]) -> None:
    check_refused(server, words, **inputs)


def test_a_band_without_its_ends_is_refused_or_takes_the_shown_defaults(server: ComfyServer) -> None:
    check_refused(server, ["band", "low", "high"], rule="band")


@pytest.mark.parametrize("name", ["scores", "latents", "masks"])
def test_counts_that_do_not_match_are_refused(server: ComfyServer, name: str) -> None:
    graph = Graph()
    images, scores = judged(graph)
    extra = graph.add("TestLatents", counts="2,2")
    other = {"latents": extra[0], "masks": extra[1], "scores": judged(graph, "0.1,0.2", "2x8x8")[1]}
    gate = graph.add("RealismGate", images=images, **{"scores": scores, name: other[name]})
    graph.show(gate["passed"])
    run = server.run(graph)
    assert status(run) == "execution_error"
    held = 2 if name == "scores" else 4
    assert f"{name} holds {held} but images holds 5" in failure(run) and "connect" in failure(run)


@pytest.mark.parametrize("name", ["latents", "masks"])
def test_taking_what_never_came_in_says_so(server: ComfyServer, name: str) -> None:
    graph = Graph()
    images, scores = judged(graph)
    gate = graph.add("RealismGate", images=images, scores=scores, value=0.5)
    graph.show(gate[f"passed_{name}"])
    assert f"{name} are not connected to Realism Gate" in failure(server.run(graph))


@pytest.mark.parametrize(("name", "value"), [("rule", "best"), ("on_empty", "stop"), ("keep", "middle")])
def test_unknown_choices_are_refused_before_the_run(server: ComfyServer, name: str, value: str) -> None:
    graph = Graph()
    images, scores = judged(graph)
    graph.show(graph.add("RealismGate", images=images, scores=scores, **{name: value})["passed"])
    with pytest.raises(Refused) as refusal:
        server.run(graph)
    assert refusal.value.code == 400
    (errors,) = refusal.value.body["node_errors"].values()
    assert errors["errors"][0]["extra_info"]["input_name"] == name
