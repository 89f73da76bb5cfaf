"""Realism Train LoRA with wrong input says what and how to mend it; Cancel is safe at every moment."""

from __future__ import annotations

import json
import re
import struct

import pytest
import torch
from safetensors.torch import load_file

from devtools.server import ComfyServer, Refused
from tests.comfy.graphs import Graph, Node, done, failure, shown, status
from tests.comfy.searches import Checkpoints, loaded
from tests.comfy.trainings import (
    at_step,
    checkpoint_of,
    content,
    ended,
    interrupted_files,
    metadata,
    noise_training,
    refused,
    refused_graph,
    trained,
    training,
)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": ""}, ("latents: there are no images", "connect at least one")),
        ({"seeds": "1,2:6x10"}, ("image 2 (16, 6, 10)", "`buckets`", "one size")),
        ({"seeds": "1,2", "batch_size": 3}, ("batch_size is 3", "only 2 images", "lower it")),
        ({"seeds": "1,nan"}, ("latents: image 2 holds NaN", "encode it again")),
        ({"seeds": "1,2,3,nan", "held_out": 2}, ("latents: image 4 holds NaN",)),
        ({"seeds": "nan,2,3,nan", "held_out": 2}, ("latents: image 1 holds NaN",)),
        ({"rank": 100}, ("rank 100 is more than layer 'joint_blocks.0", "Lower the rank", "clamp_rank")),
        ({"targets": "pattern"}, ("pattern",)),
        ({"targets": "pattern", "pattern": "nothing*"}, ("pattern", "nothing*")),
    ],
    ids=str,
)
def test_it_is_refused(
    server: ComfyServer, checkpoints: Checkpoints, options: dict, words: tuple[str, ...]
) -> None:
    message = refused(server, checkpoints, **options)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("learning_rate", 0.0, ("learning_rate is 0.0: nothing would be learned", "such as 1e-4")),
        ("learning_rate", -1e-4, ("learning_rate is -0.0001", "above 0")),
        ("steps", 0, ("steps is 0: it must be 1 or more",)),
        ("batch_size", 0, ("batch_size is 0: it must be 1 or more",)),
        ("rank", 0, ("rank is 0", "from 1 up")),
    ],
)
def test_numbers_out_of_range(
    server: ComfyServer, checkpoints: Checkpoints, name: str, value: float, words: tuple[str, ...]
) -> None:
    """Typed in, ComfyUI refuses them by name; from another node they reach ours."""
    graph = Graph()
    graph.show(noise_training(graph, server, checkpoints, **{name: value})["steps"])
    with pytest.raises(Refused) as caught:
        server.run(graph)
    assert name in json.dumps(caught.value.body["node_errors"])
    graph = Graph()
    number = graph.add("PrimitiveInt" if isinstance(value, int) else "PrimitiveFloat", value=value)
    message = refused_graph(server, graph, noise_training(graph, server, checkpoints, **{name: number}))
    assert all(word in message for word in words), message


def test_what_is_unusual_but_right_is_trained_on(server: ComfyServer, checkpoints: Checkpoints) -> None:
    one = trained(server, checkpoints, seeds="1", batch_size=1)
    assert one.report["training"]["images"] == 1 and len(one.losses) == 4
    mixed = trained(server, checkpoints, seeds="1,2:6x10,3:6x10,4", buckets=True, held_out=1, steps=6)
    assert mixed.report["training"]["images"] == 3 and len(mixed.report["held_out"]) == 2
    large = trained(server, checkpoints, rank=100, clamp_rank=True)
    (file,) = (server.base / "output" / "loras").glob(f"kept_4_steps_{latest(server):05}_.safetensors")
    ranks = {len(tensor) for name, tensor in load_file(file).items() if "lora_A" in name or "down" in name}
    assert max(ranks) == 64 and large.report["training"]["rank"] is None


def latest(server: ComfyServer) -> int:
    files = (server.base / "output" / "loras").glob("kept_4_steps_*.safetensors")
    return max(int(re.search(r"_(\d+)_\.", file.name)[1]) for file in files)


def several(graph: Graph, first: Node, second: Node) -> Node:
    return graph.add("TestListOfTwo", first=first, second=second)


@pytest.mark.parametrize("seeds", ["1,2,3", "1"])
def test_another_number_of_prompts(server: ComfyServer, checkpoints: Checkpoints, seeds: str) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    both = several(graph, parts["positive"], parts["negative"])
    latents = graph.add("TestNoiseLatents", seeds=seeds)
    message = refused_graph(server, graph, training(graph, parts, positive=both, latents=latents))
    count = len(seeds.split(","))
    assert f"positive: there are 2 for {count} images: connect one an image, or one for all" in message


def test_another_number_of_masks(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    trainer = noise_training(graph, server, checkpoints, masks=graph.add("TestMask", batch=3))
    assert "masks: there are 3 for 2 images: connect one an image." in refused_graph(server, graph, trainer)


@pytest.mark.parametrize("name", ["positive", "negative"])
def test_a_prompt_of_several_parts(server: ComfyServer, checkpoints: Checkpoints, name: str) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    combined = graph.add(
        "ConditioningCombine", conditioning_1=parts["positive"], conditioning_2=parts["negative"]
    )
    latents = graph.add("TestNoiseLatents")
    message = refused_graph(server, graph, training(graph, parts, latents=latents, **{name: combined}))
    assert f"{name} has a conditioning of 2 parts: give one plain prompt" in message


@pytest.mark.parametrize(
    ("pooled", "width", "channels"), [(2048, 32, 16), (64, 64, 16), (2048, 64, 4), (0, 64, 16)]
)
def test_latents_and_prompts_of_another_model(
    server: ComfyServer, checkpoints: Checkpoints, pooled: int, width: int, channels: int
) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    prompt = graph.add("TestConditioning", width=width, pooled=pooled)
    latents = graph.add("TestNoiseLatents", channels=channels)
    trainer = training(graph, parts, latents=latents, positive=prompt)
    message = refused_graph(server, graph, trainer)
    assert "positive or latents do not fit the model" in message and "CLIP and the VAE" in message


@pytest.mark.parametrize(("values", "words"), [("0,0", "every image has weight 0"), ("1,nan", "image 2 has")])
def test_odd_weights(server: ComfyServer, checkpoints: Checkpoints, values: str, words: str) -> None:
    graph = Graph()
    weights = graph.add("TestFloats", values=values)
    message = refused_graph(server, graph, noise_training(graph, server, checkpoints, image_weights=weights))
    assert message.startswith("image_weights: ") and words in message


@pytest.mark.parametrize(("kind", "words"), [("empty", "VAE is invalid"), ("video", "channels")])
def test_a_vae_that_does_not_fit(
    server: ComfyServer, checkpoints: Checkpoints, kind: str, words: str
) -> None:
    graph = Graph()
    channels = {"empty": "sd3", "video": "sd15_noclip"}
    vae = graph.add("TestVae", kind=kind)
    trainer = noise_training(
        graph, server, checkpoints, channels[kind], vae=vae, preview_cfg=1.0, preview_steps=1
    )
    message = refused_graph(server, graph, trainer)
    assert message.startswith("vae does not decode") and words in message and "disconnect vae" in message


def test_a_loss_of_nan_stops_with_the_last_good_weights(
    server: ComfyServer, checkpoints: Checkpoints
) -> None:
    wild = {
        "learning_rate": 1.0, "optimiser": "sgd", "clip_norm": 0.0, "targets": "all", "alpha": 4096.0,
        "steps": 300, "checkpoint": "wild", "checkpoint_every": 1,
    }  # fmt: skip
    files = len(interrupted_files(server))
    how, message = ended(server, checkpoints, **wild)
    assert how == "execution_error"
    told = re.match(
        r"The (?:loss|gradient) became (?:NaN|infinite) at step (\d+) of 300; the weights of step (\d+) are "
        r"kept\. To go on: lower learning_rate \(now 1\), or raise warmup, or set clip_norm to 1", message
    )  # fmt: skip
    assert told, message
    step, kept = map(int, told.groups())
    assert step == kept + 1 > 1
    (file,) = interrupted_files(server)[files:]
    assert all(torch.isfinite(tensor).all() for tensor in load_file(file).values())
    assert metadata(file)["realism.steps"] == str(kept)
    tame = trained(server, checkpoints, **{**wild, "steps": kept, "checkpoint": "", "checkpoint_every": 0})
    assert content(file)[0] == tame.tensors
    head = checkpoint_of(server, "wild").read_bytes()
    (length,) = struct.unpack("<Q", head[:8])
    state = json.loads(json.loads(head[8 : 8 + length])["__metadata__"]["state"])
    assert state["step"] == kept


def interrupted(
    server: ComfyServer, checkpoints: Checkpoints, what: str, call: int, **options
) -> tuple[str, str, list[str]]:
    """Return how a training ends of which one call of the network goes wrong, and the steps of what it saved.

    Call 0 looks whether all fits; with an image held out, 1 to 4 validate and 5 is the first step's.
    """
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    model = graph.add("TestNetworkCall", model=parts["model"], what=what, call=call)
    latents = graph.add("TestNoiseLatents", seeds="1,2,3")
    given = {"latents": latents, "held_out": 1, "validate_every": 2, **options}
    graph.show(training(graph, {**parts, "model": model}, **given)["steps"])
    files = len(interrupted_files(server))
    run = server.run(graph)
    return (
        status(run), failure(run),
        [metadata(file)["realism.steps"] for file in interrupted_files(server)[files:]],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "options", "steps"),
    [
        (0, {}, []),  # while it is checked
        (2, {}, []),  # in the first validation
        (5, {}, []),  # in the first step
        (6, {"accumulation": 2}, []),  # in its second pass
        (6, {}, ["1"]),  # in the second step
        (8, {}, ["2"]),  # in a validation between steps
        (12, {}, ["3"]),  # in the last step
        (14, {}, ["4"]),  # in the last validation
    ],
)
def test_cancel_at_every_moment(
    server: ComfyServer, checkpoints: Checkpoints, call: int, options: dict, steps: list[str]
) -> None:
    name = f"cancel-{call}-{len(options)}"
    how, message, saved = interrupted(server, checkpoints, "cancel", call, checkpoint=name, **options)
    assert (how, saved) == ("execution_interrupted", steps), message
    usual = {"seeds": "1,2,3", "held_out": 1, "validate_every": 2, **options}
    resumed = trained(server, checkpoints, checkpoint=name, resume=True, **usual)
    whole = trained(server, checkpoints, **usual)
    assert resumed.tensors == whole.tensors and resumed.losses == whole.losses
    assert resumed.report["held_out"] == whole.report["held_out"]


def test_cancel_while_it_loads(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    trainer = training(graph, parts, latents=graph.add("TestLatentsThatCancel"), batch_size=1)
    told, files = graph.show(trainer["steps"]), len(interrupted_files(server))
    run = server.run(graph)
    assert status(run) == "execution_interrupted" and told not in run.entry["outputs"]
    assert not [data for name, data in run.events if name == "progress" and data["node"] == trainer.id]
    assert len(interrupted_files(server)) == files
    assert trained(server, checkpoints, seed=11).losses, "the next training is not interrupted too"


def test_no_memory_is_told_with_what_to_lower(server: ComfyServer, checkpoints: Checkpoints) -> None:
    how, message, saved = interrupted(server, checkpoints, "memory", 8, validate_every=0)
    assert how == "execution_error" and saved == ["3"], message
    assert "The memory ran out at step 4; what was trained before is kept" in message
    assert "batch_size" in message and "recompute" in message


def test_one_nan_of_the_network(server: ComfyServer, checkpoints: Checkpoints) -> None:
    how, message, saved = interrupted(
        server, checkpoints, "nan", 7, checkpoint="nan", checkpoint_every=1, validate_every=0
    )
    assert how == "execution_error" and saved == ["2"], message
    assert "The loss became NaN at step 3 of 4; the weights of step 2 are kept" in message


def test_stop_and_keep_of_nothing_but_nan_is_told(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    model = graph.add("TestNetworkCall", model=parts["model"], what="nan", call=1)
    latents = graph.add("TestNoiseLatents")
    graph.show(training(graph, {**parts, "model": model}, latents=latents, steps=5000)["steps"])
    files = len(interrupted_files(server))
    stop = at_step(1, lambda: server.post("/realism/stop_and_keep", {}))
    message = failure(server.run(graph, on_event=stop))
    assert re.search("loss became NaN", message) and "learning_rate" in message
    assert len(interrupted_files(server)) == files


def test_the_model_is_left_as_it_was_by_what_fails(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    common = {
        "positive": parts["positive"], "negative": parts["negative"], "latent_image": latent, "steps": 2,
        "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
    }  # fmt: skip
    first = graph.show(graph.add("KSampler", model=parts["model"], seed=61, **common))
    before = shown(done(server.run(graph)), first)
    interrupted(server, checkpoints, "memory", 6)
    graph = Graph()
    again = loaded(graph, server, checkpoints, "sd3")
    common |= {"positive": again["positive"], "negative": again["negative"]}
    common["latent_image"] = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    other = graph.show(graph.add("KSampler", model=again["model"], seed=62, **common))
    second = graph.show(graph.add("KSampler", model=again["model"], seed=61, **common))
    run = done(server.run(graph))
    assert shown(run, second) == before != shown(run, other)
