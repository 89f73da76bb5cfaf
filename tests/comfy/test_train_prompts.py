"""Prompts of Realism Train LoRA: of several lengths, with what no training can honour; and stopping twice."""

from __future__ import annotations

import pytest

from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, Node, done, shown
from tests.comfy.searches import Checkpoints, loaded
from tests.comfy.trainings import at_step, noise_training, outcome, refused_graph, trained, training


def two_lengths(graph: Graph, server: ComfyServer, checkpoints: Checkpoints, **inputs) -> Node:
    """Add a training of two images whose prompts have 8 and 12 tokens, which SD3 cannot take together."""
    parts = loaded(graph, server, checkpoints, "sd3")
    prompts = [graph.add("TestConditioning", width=64, pooled=2048, tokens=n, seed=n) for n in (8, 12)]
    positive = graph.add("TestListOfTwo", first=prompts[0], second=prompts[1])
    latents = graph.add("TestNoiseLatents", seeds="1,2", channels=16)
    return training(graph, parts, positive=positive, latents=latents, optimiser="sgd", **inputs)


def test_prompts_of_several_lengths_share_a_batch(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """They go through the network one after another, to the losses of batches of one."""
    losses = {}
    for batch, accumulation in ((2, 1), (1, 2)):
        graph = Graph()
        node = two_lengths(graph, server, checkpoints, batch_size=batch, accumulation=accumulation)
        id = graph.show(node["loss"])
        losses[batch] = shown(done(server.run(graph)), id)[0]["loss"]
    assert losses[2] == pytest.approx(losses[1], rel=1e-4) and len(losses[2]) == 4


@pytest.mark.parametrize(
    ("kind", "inputs", "word"),
    [
        ("ConditioningSetTimestepRange", {"start": 0.0, "end": 0.5}, "start_percent, end_percent"),
        ("ConditioningSetArea", {"width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0}, "area"),
        ("ConditioningSetAreaStrength", {"strength": 0.5}, "strength"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_training_cannot_honour_is_refused(
    server: ComfyServer, checkpoints: Checkpoints, kind: str, inputs: dict, word: str
) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    positive = graph.add(kind, conditioning=parts["positive"], **inputs)
    message = refused_graph(server, graph, training(graph, parts, positive=positive))
    assert f"positive carries {word}" in message and "connect the plain prompt" in message


def test_a_stopped_training_goes_on_when_it_is_queued_again(
    server: ComfyServer, checkpoints: Checkpoints
) -> None:
    """ComfyUI would else hand out what it remembers of the same workflow."""
    reached = []
    for step in (10, 30):
        graph = Graph()
        node = noise_training(
            graph, server, checkpoints, steps=5000, checkpoint="again", resume=True, batch_size=1
        )
        press = at_step(step, lambda: server.post("/realism/stop_and_keep", {}))
        reached.append(len(outcome(server, graph, node, press).losses))
    assert 10 <= reached[0] < 30 <= reached[1], reached


def test_another_empty_prompt_is_noticed_on_resume(server: ComfyServer, checkpoints: Checkpoints) -> None:
    options = {"checkpoint": "dropped", "condition_dropout": 0.5, "batch_size": 1}
    trained(server, checkpoints, negative=True, steps=2, **options)
    graph = Graph()
    other = graph.add("TestConditioning", width=64, pooled=2048, tokens=8, seed=99)
    node = noise_training(graph, server, checkpoints, negative=other, steps=4, resume=True, **options)
    message = refused_graph(server, graph, node)
    assert "resume: negative was" in message
