"""Realism Train LoRA with clip and captions: the node itself, whose parts test_text_training looks at."""

from __future__ import annotations

import json

from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, Node, done, failure, shown
from tests.comfy.searches import Checkpoints
from tests.comfy.test_text_training import CAPTIONS, parts_of, sampled
from tests.comfy.test_train_node import far, values


def training(graph: Graph, parts: dict, **inputs) -> Node:
    """Add a training of two images with their captions."""
    latents = graph.add("TestNoiseLatents", seeds="1,2", channels=16)
    captions = graph.add("TestListOfTwo", first=CAPTIONS[0], second=CAPTIONS[1])
    sockets = {"clip": parts["clip"], "captions": captions, "positive": parts["positive"]}
    return graph.add(
        "RealismTrainLoRA",
        **{"model": parts["model"], "latents": latents, "learning_rate": 1e-2, **sockets, **inputs},
    )


def test_both_come_out_trained_and_the_file_loads(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3_clip")
    before = sampled(graph, parts["model"], parts["clip"])
    drawn = {"vae": [parts["model"][0], 2], "negative": parts["negative"], "preview_steps": 2}
    node = training(graph, parts, **drawn)
    graph.add("RealismSaveLoRA", lora=node["lora"], filename_prefix="loras/text-node")
    trained, half = sampled(graph, node["model"], node["clip"]), sampled(graph, node["model"], parts["clip"])
    previews, report = graph.show(node["previews"]), graph.show(node["report"])
    run = done(server.run(graph))
    assert far(values(run, trained), values(run, before)) > 1e-3
    assert far(values(run, trained), values(run, half)) > 1e-5, "the encoders learnt nothing"
    assert shown(run, previews)[0]["shape"][0] == 2
    told = json.loads(shown(run, report)[0])
    assert told["training"]["extra"]["text_rate"] == 1.0 and not told["unused_layers"]
    (file,) = (server.base / "output" / "loras").glob("text-node*.safetensors")
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3_clip")
    both = graph.add(
        "LoraLoader", model=parts["model"], clip=parts["clip"], lora_name=file.name, strength_model=1.0,
        strength_clip=1.0,
    )  # fmt: skip
    ids = [sampled(graph, both[0], both[1]), sampled(graph, parts["model"], parts["clip"])]
    new = done(server.run(graph))
    assert far(values(new, ids[0]), values(run, trained)) < 1e-5
    assert values(new, ids[1]) == values(run, before)


def test_it_goes_on_from_a_checkpoint_bit_for_bit(server: ComfyServer, checkpoints: Checkpoints) -> None:
    def lora(name: str, **inputs) -> bytes:
        graph = Graph()
        node = training(graph, parts_of(graph, server, checkpoints, "sd3_clip"), text_rate=0.5, **inputs)
        graph.add("RealismSaveLoRA", lora=node["lora"], filename_prefix=f"loras/{name}")
        done(server.run(graph))
        (file,) = (server.base / "output" / "loras").glob(f"{name}_*.safetensors")
        content = file.read_bytes()
        return content[8 + int.from_bytes(content[:8], "little") :]

    first = lora("text-first", steps=2, checkpoint="text-resumed")
    resumed = lora("text-second", steps=4, checkpoint="text-resumed", resume=True)
    assert resumed == lora("text-whole", steps=4) != first


def test_a_text_rate_without_clip_is_refused(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3_clip")
    latents = graph.add("TestNoiseLatents", seeds="1,2", channels=16)
    node = graph.add(
        "RealismTrainLoRA", model=parts["model"], latents=latents, positive=parts["positive"], text_rate=0.5
    )
    graph.show(node["steps"])
    message = failure(server.run(graph))
    assert "text_rate is 0.5" in message and "connect clip and captions" in message
