"""The token adapter in the real ComfyUI: it learns, its files load, and models stay as they were."""

from __future__ import annotations

import json

import pytest

from devtools.client import Run
from devtools.server import ComfyServer
from tests.comfy.adapter_graphs import adapter_training, attributes, conditioned, faces, parts_of, sampled
from tests.comfy.graphs import Graph, Node, done, shown
from tests.comfy.searches import Checkpoints
from tests.comfy.test_train_node import far, values
from tests.tiny_models import CONDITIONING

MODELS = ("sd15_noclip", "koala_vpred", "sd3", "flux")
TOKENS = 40 + 19 + 64


def adapters_in(server: ComfyServer, pattern: str) -> list:
    return sorted((server.base / "models" / "realism_adapters").glob(pattern))


def text_of(run: Run, node: Node) -> object:
    """Return what a node told as JSON."""
    return json.loads(run.entry["outputs"][node.id]["text"][0])


@pytest.mark.parametrize("kind", MODELS)
def test_it_learns_and_its_file_gives_the_same(
    server: ComfyServer, checkpoints: Checkpoints, kind: str
) -> None:
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, kind)
    before = graph.show(sampled(graph, parts["model"], parts))
    trainer = adapter_training(graph, kind, parts, condition_dropout=0.2, recompute=kind == "flux")
    prompts = conditioned(graph, parts, trainer["adapter"])
    with_it = graph.show(sampled(graph, trainer["model"], prompts))
    sides = {name: graph.add("TestPrompt", prompt=prompts[name]) for name in ("positive", "negative")}
    watched = graph.add("TestPasses", model=parts["model"])
    again = sampled(graph, watched, prompts)
    passes, told_passes = graph.show(again), graph.add("TestPassesTold", latents=again)
    said = {
        "mask": conditioned(graph, parts, trainer["adapter"], mask=faces(graph, server, "hair", "cloth")),
        "attributes": conditioned(graph, parts, trainer["adapter"], attributes=attributes(graph, "Bald")),
    }
    others = {name: graph.show(sampled(graph, parts["model"], one)) for name, one in said.items()}
    saved = graph.add("RealismSaveAdapter", adapter=trainer["adapter"], name=f"kept {kind}", overwrite=True)
    told = {name: graph.show(trainer[name]) for name in ("loss", "steps", "report")}
    after = graph.show(sampled(graph, parts["model"], parts, seed=12))
    run = done(server.run(graph))
    assert shown(run, told["steps"]) == [4] and len(shown(run, told["loss"])[0]["loss"]) == 4
    report = json.loads(shown(run, told["report"])[0])
    assert report["training"]["adapter"] == "tokens" and report["training"]["rank"] is None
    width = CONDITIONING[kind].width
    for name, node in sides.items():
        (part,) = text_of(run, node)
        pictures = 2 if name == "positive" else 1
        assert part["words"] == [pictures, 8 + TOKENS, width], name
        if CONDITIONING[kind].pooled:
            assert part["pooled_output"] == [pictures, CONDITIONING[kind].pooled]
    # both sides of the guidance in one pass a step
    assert [pictures for pictures, _ in text_of(run, told_passes)] == [4, 4]
    assert far(values(run, with_it), values(run, before)) > 1e-3
    assert values(run, passes) == values(run, with_it)
    for name, id in others.items():
        assert far(values(run, id), values(run, with_it)) > 1e-5, name
    (path,) = run.entry["outputs"][saved.id]["text"]
    assert path.endswith(f"kept {kind}.safetensors")

    graph = Graph()
    parts = parts_of(graph, server, checkpoints, kind)
    loader = graph.add("RealismLoadAdapter", name=f"kept {kind}.safetensors")
    again = graph.show(sampled(graph, parts["model"], conditioned(graph, parts, loader)))
    plain = [graph.show(sampled(graph, parts["model"], parts, seed=seed)) for seed in (11, 12)]
    new = done(server.run(graph))
    assert values(new, again) == values(run, with_it)
    assert values(new, plain[0]) == values(run, before) and values(new, plain[1]) == values(run, after)


def test_every_part_of_a_prompt_gets_the_tokens(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """Batches, combined prompts, and what says which words count; without prompts the empty one."""
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    adapter = adapter_training(graph, "sd3", parts)["adapter"]
    batch = graph.add("TestPromptBatch", prompt=parts["positive"], count=2)
    two = graph.add("ConditioningCombine", conditioning_1=batch, conditioning_2=parts["negative"])
    prompts = conditioned(graph, parts, adapter, positive=two, negative=batch)
    told = {name: graph.add("TestPrompt", prompt=prompts[name]) for name in ("positive", "negative")}
    drawn = graph.show(sampled(graph, parts["model"], prompts))
    run = done(server.run(graph))
    long = 8 + TOKENS
    first, second = text_of(run, told["positive"])
    assert first["words"] == second["words"] == [2, long, 64] and first["attention_mask"] == [2, long]
    (negative,) = text_of(run, told["negative"])
    assert negative["words"] == [2, long, 64] and negative["attention_mask"] == [2, long]
    assert all(map(abs, values(run, drawn)))


def test_without_prompts_the_clip_says_nothing(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=checkpoints(server, "sd3_clip"))
    empty = graph.add("CLIPTextEncode", clip=loader[1], text="")
    parts = {
        "model": loader[0], "positive": empty, "negative": empty, "attributes": attributes(graph),
        "mask": faces(graph, server, "skin", "nose"),
    }  # fmt: skip
    adapter = adapter_training(graph, "sd3", parts, grid=2)["adapter"]
    open_ended = conditioned(graph, parts, adapter, positive=None, negative=None, clip=loader[1])
    ids = [
        graph.show(sampled(graph, parts["model"], prompts))
        for prompts in (open_ended, conditioned(graph, parts, adapter))
    ]
    run = done(server.run(graph))
    assert values(run, ids[0]) == values(run, ids[1])
