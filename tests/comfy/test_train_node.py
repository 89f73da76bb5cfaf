"""RealismTrainLoRA in the real ComfyUI: it learns, leaves the model as it was, and its files load."""

from __future__ import annotations

import json

import pytest

from devtools.client import Run
from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, done, failure, shown, status
from tests.comfy.searches import Checkpoints, loaded
from tests.comfy.trainings import interrupted_files, learned_from, metadata, sampled, training

TRAINED = {"sd15_noclip": "eps", "koala_vpred": "v", "sd3": "flow", "flux": "flow"}


def values(run: Run, id: str) -> list[float]:
    (latents,) = shown(run, id)
    return latents["samples"]["first"]


def far(ours: list[float], theirs: list[float]) -> float:
    """Return the largest difference, relative to the largest value."""
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / max(map(abs, theirs))


@pytest.mark.parametrize("kind", TRAINED)
def test_the_prediction_is_the_networks_own(server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, kind)
    told = graph.add(
        "TestPrediction", model=parts["model"], positive=parts["positive"], latents=learned_from(graph, parts)
    )
    run = done(server.run(graph))
    found = json.loads(run.entry["outputs"][told.id]["text"][0])
    assert found["objective"] == TRAINED[kind]
    assert max(found["off"]) < 1e-4


@pytest.mark.parametrize("kind", TRAINED)
def test_it_learns_and_its_files_load(server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    """Every layout gives the pictures of the trained model; the model that came in gives its own."""
    graph = Graph()
    parts = loaded(graph, server, checkpoints, kind)
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    before = graph.show(sampled(graph, parts, parts["model"], latent))
    # Flux needs recompute, and the others may have it
    trained = training(graph, parts, learning_rate=1e-2, recompute=kind in ("flux", "sd3"))
    after = graph.show(sampled(graph, parts, trained["model"], latent))
    again = graph.add(
        "LoraModelLoader", model=parts["model"], lora=trained["lora"], strength_model=1.0, bypass=False
    )
    loaded_again = graph.show(sampled(graph, parts, again, latent))
    names = {layout: f"{kind}-{layout}" for layout in ("comfyui", "kohya", "diffusers")}
    for layout, name in names.items():
        graph.add("RealismSaveLoRA", lora=trained["lora"], layout=layout, filename_prefix=f"loras/{name}")
    graph.add("SaveLoRA", lora=trained["lora"], prefix=f"loras/{kind}-theirs")
    loss, steps = graph.show(trained["loss"]), graph.show(trained["steps"])
    untouched = graph.show(sampled(graph, parts, parts["model"], latent, seed=12))
    run = done(server.run(graph))
    assert shown(run, steps) == [4] and len(shown(run, loss)[0]["loss"]) == 4
    assert far(values(run, after), values(run, before)) > 1e-3
    assert far(values(run, loaded_again), values(run, after)) < 1e-5
    for name in (*names.values(), f"{kind}-theirs"):
        (file,) = (server.base / "output" / "loras").glob(f"{name}*.safetensors")
        graph = Graph()
        parts = loaded(graph, server, checkpoints, kind)
        latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
        model = graph.add(
            "LoraLoaderModelOnly", model=parts["model"], lora_name=file.name, strength_model=1.0
        )
        ids = [graph.show(sampled(graph, parts, m, latent)) for m in (model, parts["model"])]
        second = graph.show(sampled(graph, parts, parts["model"], latent, seed=12))
        new = done(server.run(graph))
        assert far(values(new, ids[0]), values(run, after)) < 1e-5, name
        assert values(new, ids[1]) == values(run, before)
        assert values(new, second) == values(run, untouched)


def test_the_loss_falls(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    weight = graph.add("RealismLossWeight", kind="p2", k=1.0, gamma=1.0, mode="exact", normalise=True,
                       timesteps="uniform")  # fmt: skip
    trained = training(graph, parts, steps=60, learning_rate=1e-2, weight=weight, targets="all", rank=2)
    id = graph.show(trained["loss"])
    losses = shown(done(server.run(graph)), id)[0]["loss"]
    assert sum(losses[-15:]) < 0.9 * sum(losses[:15])


def test_cancel_saves_what_was_trained(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    trained = training(graph, parts, steps=5000)
    told, files = graph.show(trained["steps"]), len(interrupted_files(server))

    def press(name: str, data: dict) -> None:
        if name == "progress" and data["node"] == trained.id and data["value"] >= 20:
            server.post("/interrupt", {})

    run = server.run(graph, on_event=press)
    assert status(run) == "execution_interrupted" and told not in run.entry["outputs"]
    (file,) = interrupted_files(server)[files:]
    steps = int(metadata(file)["realism.steps"])
    assert f"_{steps}_steps_" in file.name and 20 <= steps < 5000
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    model = graph.add("LoraLoaderModelOnly", model=parts["model"], lora_name=file.name, strength_model=1.0)
    ids = [graph.show(sampled(graph, parts, m, latent)) for m in (model, parts["model"])]
    run = done(server.run(graph))
    assert far(values(run, ids[0]), values(run, ids[1])) > 1e-6


def test_conditioning_of_another_model_is_refused(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    wrong = graph.add("TestConditioning", width=77, pooled=2048)
    graph.show(training(graph, parts, positive=wrong)["steps"])
    message = failure(server.run(graph))
    assert "positive or latents do not fit the model" in message and "CLIP" in message


def test_flux_trains_the_same_with_and_without_recompute(
    server: ComfyServer, checkpoints: Checkpoints
) -> None:
    """Its blocks add to their inputs in place, which autograd by itself refuses."""
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "flux")
    latents = learned_from(graph, parts)
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    ids = [graph.show(sampled(graph, parts, parts["model"], latent))]
    for recompute in (False, True):
        trained = training(
            graph, parts, latents=latents, recompute=recompute, optimiser="sgd", learning_rate=1e-2,
            targets="all", steps=8,
        )  # fmt: skip
        ids.append(graph.show(sampled(graph, parts, trained["model"], latent)))
    run = done(server.run(graph))
    before, plain, recomputed = (values(run, id) for id in ids)
    assert far(plain, before) > 1e-4 and far(plain, recomputed) < 1e-5


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"batch_size": 3}, ("batch_size is 3", "2 images")),
        ({"rank": 1000}, ("rank",)),
        ({"targets": "cross_attention"}, ("no cross-attention", "feed_forward")),
        ({"condition_dropout": 0.5}, ("condition_dropout", "empty conditioning")),
        ({"warmup": 4}, ("warmup is 4",)),
    ],
    ids=str,
)
def test_bad_input_is_refused(
    server: ComfyServer, checkpoints: Checkpoints, inputs: dict, words: tuple[str, ...]
) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    graph.show(training(graph, parts, **inputs)["steps"])
    message = failure(server.run(graph))
    assert message and all(word in message for word in words), message


@pytest.mark.parametrize(
    "inputs",
    [
        {"condition_dropout": 0.9}, {"masks": True}, {"dora": True}, {"optimiser": "adafactor"},
        {"optimiser": "sgd"}, {"ema_decay": 0.9}, {"lora_dropout": 0.5}, {"accumulation": 2},
        {"clip_norm": 1e-3}, {"schedule": "cosine"}, {"warmup": 2}, {"targets": "pattern", "pattern": "*qkv"},
        {"precision": "bf16"}, {"seed": 2}, {"alpha": 8.0}, {"targets": "feed_forward"},
        {"rank_stabilised": True}, {"rank": 100, "clamp_rank": True}, {"weight_decay": 0.5},
        {"image_weights": "1,3"},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_makes_another_lora(
    server: ComfyServer, checkpoints: Checkpoints, inputs: dict
) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    if "condition_dropout" in inputs:
        inputs = {**inputs, "negative": parts["negative"]}
    if "masks" in inputs:
        inputs = {"masks": graph.add("TestMask", batch=2, height=64, width=64)}
    if "image_weights" in inputs:
        inputs = {"image_weights": graph.add("TestFloats", values=inputs["image_weights"])}
    latents = learned_from(graph, parts)
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    ids = []
    for options in ({}, inputs):
        trained = training(graph, parts, latents=latents, learning_rate=1e-2, **options)
        ids.append(graph.show(sampled(graph, parts, trained["model"], latent)))
    run = done(server.run(graph))
    assert far(values(run, ids[0]), values(run, ids[1])) > 1e-6
