"""RealismScoreWeights in the real ComfyUI: what images weigh, and what the trainer makes of it."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
from safetensors.torch import load_file

from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, Node, done, failure, shown
from tests.comfy.searches import Checkpoints, loaded
from tests.comfy.test_gate_node import SIZES, judged
from tests.core.toy_denoisers import same_tensors

VALUES = "0.1,0.9,nan,0.7,0.7"


def weighed(graph: Graph, values: str = VALUES, sizes: str = SIZES["batch"], **inputs) -> Node:
    counts = inputs.pop("counts", "")
    return graph.add("RealismScoreWeights", scores=judged(graph, values, sizes, counts)[1], **inputs)


@pytest.mark.parametrize("counts", ["", "2,1,2"])
@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        # ranks 1, 4, 2.5, 2.5 of 4 images, and 5 images in all
        ({"kind": "rank"}, [0.5, 2.0, 0.0, 1.25, 1.25]),
        ({"kind": "rank", "on_unknown": "average"}, [0.4, 1.6, 1.0, 1.0, 1.0]),
        ({"kind": "rank", "better": "lower"}, [2.0, 0.5, 0.0, 1.25, 1.25]),
        ({"kind": "threshold", "value": 0.7}, [0.0, 5 / 3, 0.0, 5 / 3, 5 / 3]),
        # 0.05 to 0.95: all four are inside
        ({"kind": "threshold", "value": 0.0, "better": "real_band"}, [1.25, 1.25, 0.0, 1.25, 1.25]),
        ({"kind": "softmax", "value": 1e6}, [1.25, 1.25, 0.0, 1.25, 1.25]),
    ],
    ids=str,
)
def test_weights(server: ComfyServer, inputs: dict, expected: list[float], counts: str) -> None:
    graph = Graph()
    node = weighed(graph, counts=counts, **inputs)
    weights, told, plot = (graph.show(node[name]) for name in ("weights", "report", "plot"))
    run = done(server.run(graph))
    assert shown(run, weights) == pytest.approx(expected, abs=2e-5)
    report = json.loads(shown(run, told)[0])
    assert report["images"] == 5 and report["unknown"] == 1
    assert report["with_weight_0"] == sum(weight == 0 for weight in expected)
    worth = sum(expected) ** 2 / sum(weight**2 for weight in expected)
    assert report["worth_images"] == pytest.approx(worth, abs=1e-3)
    assert shown(run, plot)[0]["shape"] == [1, 220, 512, 3]
    assert "1 without a value" in run.entry["outputs"][node.id]["text"][0]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"kind": "threshold", "value": 0.95}, ("value is 0.95", "the highest score is 0.9", "Lower value")),
        ({"on_unknown": "error"}, ("image 3 has no value", "on_unknown")),
        ({"metric": "beauty"}, ("metric", "beauty", "typicality")),
        ({"metric": "irs"}, ("irs is a plain fact", "set better")),
        ({"metric": "lattice", "better": "real_band"}, ("no band of real photographs for lattice",)),
        ({"kind": "rank", "value": 0.0}, ("value is 0", "use more than 0")),
    ],
    ids=str,
)
def test_bad_input_is_refused(server: ComfyServer, inputs: dict, words: tuple[str, ...]) -> None:
    graph = Graph()
    graph.show(weighed(graph, **inputs))
    message = failure(server.run(graph))
    assert message and all(word in message for word in words), message


def test_the_columns_own_end_is_the_better_one(server: ComfyServer) -> None:
    """Of another node's numbers, and of a radius, whose better scores are those within the real band."""
    graph = Graph()
    values = graph.add("TestFloats", values="1,2,3")
    scores = graph.add("RealismScoreColumn", name="cost", values=values, direction="lower")
    cost = graph.show(graph.add("RealismScoreWeights", scores=scores, metric="cost"))
    radius = "radius_glcm_contrast"
    pictures = graph.add("RealismScore", images=graph.add("TestImages", batch=3))
    wild = graph.add("TestSetColumn", scores=pictures["scores"], column=radius, values="1,500,90")
    node = graph.add("RealismScoreWeights", scores=wild, metric=radius)
    far, told = graph.show(node), graph.show(node["report"])
    run = done(server.run(graph))
    assert shown(run, cost) == pytest.approx([1.5, 1.0, 0.5])
    assert shown(run, far) == pytest.approx([1.5, 0.5, 1.0])
    low, high = json.loads(shown(run, told)[0])["real_band"]
    assert 0 < low < 1 < high < 90


def pictures(graph: Graph, last: int) -> Node:
    """Three pictures, the last one of its own seed."""
    two = graph.add("TestImages", batch=2, seed=5)
    return graph.add("ImageBatch", image1=two, image2=graph.add("TestImages", seed=last))


def trained(
    graph: Graph, parts: dict, values: str | None, last: int = 6, kind: str = "threshold", **inputs
) -> Node:
    """Score pictures, weight them, train on them; without values no weights are connected."""
    images = pictures(graph, last)
    if values is not None:
        scored = graph.add("RealismScore", images=images)
        scores = graph.add("TestSetColumn", scores=scored["scores"], column="typicality", values=values)
        inputs["image_weights"] = graph.add("RealismScoreWeights", scores=scores, kind=kind, value=0.5)
    latents = graph.add("VAEEncode", pixels=images, vae=parts["vae"])
    return graph.add(
        "RealismTrainLoRA", model=parts["model"], positive=parts["positive"], latents=latents, steps=4,
        batch_size=3, learning_rate=1e-2, **inputs,
    )  # fmt: skip


@pytest.mark.parametrize("which", ["server", "old_server"])
def test_from_scores_to_a_lora(
    request: pytest.FixtureRequest, checkpoints: Checkpoints, which: str
) -> None:
    """Alike weights are none, and of an image of weight 0 not a bit reaches the LoRA."""
    server: ComfyServer = request.getfixturevalue(which)
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    cases = {
        "plain": trained(graph, parts, None),
        "alike": trained(graph, parts, "0.6,0.7,0.8"),
        "without-the-last": trained(graph, parts, "0.6,0.7,0.1"),
        "without-another-last": trained(graph, parts, "0.6,0.7,0.1", last=9),
        "without-an-unknown-last": trained(graph, parts, "0.6,0.7,nan", last=10),
        "another-last": trained(graph, parts, "0.6,0.7,0.8", last=9),
        "by-rank": trained(graph, parts, "0.6,0.7,0.8", kind="rank"),
    }
    for name, node in cases.items():
        graph.add("RealismSaveLoRA", lora=node["lora"], filename_prefix=f"loras/weighted/{name}")
    done(server.run(graph))
    folder = server.base / "output" / "loras" / "weighted"
    made = {name: load_file(next(folder.glob(f"{name}_*.safetensors"))) for name in cases}
    assert len(made["plain"]) > 4
    assert same_tensors(made["alike"], made["plain"])
    for name in ("without-another-last", "without-an-unknown-last"):
        assert same_tensors(made[name], made["without-the-last"])
    others = [made[name] for name in ("plain", "without-the-last", "another-last", "by-rank")]
    assert not any(same_tensors(one, other) for one, other in combinations(others, 2))


@pytest.mark.parametrize("count", [2, 4])
def test_weights_of_other_images_are_refused(
    server: ComfyServer, checkpoints: Checkpoints, count: int
) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    scored = graph.add("RealismScore", images=graph.add("TestImages", batch=count))
    weights = graph.add("RealismScoreWeights", scores=scored["scores"], on_unknown="average")
    latents = graph.add("VAEEncode", pixels=pictures(graph, 6), vae=parts["vae"])
    node = graph.add(
        "RealismTrainLoRA", model=parts["model"], positive=parts["positive"], latents=latents,
        image_weights=weights,
    )  # fmt: skip
    graph.show(node["steps"])
    message = failure(server.run(graph))
    assert "image_weights" in message and f"{count} for 3 images" in message, message
