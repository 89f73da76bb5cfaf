"""LoRAs trained on weights that ComfyUI keeps quantised, or partly off the device, in the real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from devtools.client import Run
from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, Node, done, failure, shown
from tests.comfy.searches import Checkpoints, loaded
from tests.comfy.trainings import learned_from, sampled, training
from tests.tiny_models import tiny_checkpoint

# what runs on a processor in ComfyUI 0.30.0, and how far a LoRA is rounded when added to such weights
FORMS = {
    "float8_e4m3fn": 0.1,
    "float8_e5m2": 0.2,
    "mxfp8": 0.1,
    "nvfp4": 0.5,
    "smooth_nvfp4": 0.5,
    "int8_tensorwise": 0.1,
    "scaled_fp8": 0.1,
    "fp8_stored": 0.5,
}
CASES = [
    *((form, "sd3", False) for form in FORMS),
    ("float8_e4m3fn", "flux", False),
    ("float8_e4m3fn", "sd15_noclip", False),
    # as on devices that multiply such numbers: the input is quantised too, and the layer has its own backward
    ("float8_e4m3fn", "flux", True),
    ("float8_e5m2", "sd3", True),
]


def told(run: Run, node: Node) -> dict:
    return json.loads(run.entry["outputs"][node.id]["text"][0])


def quantised(
    graph: Graph, server: ComfyServer, checkpoints: Checkpoints, kind: str, form: str, fast: bool = False
) -> dict:
    """Add a quantised model and conditioning, as `loaded` does."""
    parts = loaded(graph, server, checkpoints, kind)
    model = graph.add("TestQuantisedModel", ckpt_name=checkpoints(server, kind), form=form, fast=fast)
    return {**parts, "model": model[0]}


@pytest.mark.parametrize(("form", "kind", "fast"), CASES)
def test_quantised_weights_are_trained_on_and_left_alone(
    server: ComfyServer, checkpoints: Checkpoints, form: str, kind: str, fast: bool
) -> None:
    graph = Graph()
    parts = quantised(graph, server, checkpoints, kind, form, fast)
    latents = learned_from(graph, parts)
    before = graph.add("TestWeightDigest", model=parts["model"], after=latents)
    targets = "attention" if kind == "sd15_noclip" else "all"
    trained = training(
        graph, {**parts, "model": before}, latents=latents, steps=25, learning_rate=1e-2, targets=targets,
        clamp_rank=True,
    )  # fmt: skip
    after = graph.add("TestWeightDigest", model=parts["model"], after=trained["steps"])
    own = graph.add("TestTrainedModel", model=after, positive=parts["positive"], latents=latents)
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    beside = graph.add(
        "LoraModelLoader", model=parts["model"], lora=trained["lora"], strength_model=1.0, bypass=True
    )
    ids = [graph.show(sampled(graph, parts, model, latent)) for model in (trained["model"], beside)]
    losses = graph.show(trained["loss"])
    run = done(server.run(graph))
    losses = shown(run, losses)[0]["loss"]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert told(run, before) == told(run, after) and not told(run, after)["changed"]
    wanted = "float8_e4m3fn" if form == "fp8_stored" else "QuantizedTensor"
    assert any(wanted in kind for kind in told(run, after)["kinds"])
    found = told(run, own)
    assert found["moved"] > 0.1 and found["beside"] < 1e-5 and found["patched"] < FORMS[form]
    # what the node gives out is what ComfyUI's own loader for such models gives
    ours, theirs = (shown(run, id)[0]["samples"]["first"] for id in ids)
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5 * max(map(abs, theirs)))


def test_load_diffusion_model_in_fp8(server: ComfyServer, checkpoints: Checkpoints) -> None:
    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(exist_ok=True)
    (folder / "tiny-flux.safetensors").symlink_to(tiny_checkpoint("flux"))
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "flux")
    model = graph.add("UNETLoader", unet_name="tiny-flux.safetensors", weight_dtype="fp8_e4m3fn")
    parts["model"] = model[0]
    latents = learned_from(graph, parts)
    before = graph.add("TestWeightDigest", model=model, after=latents)
    trained = training(graph, {**parts, "model": before}, latents=latents, steps=20, learning_rate=1e-2)
    after = graph.add("TestWeightDigest", model=model, after=trained["steps"])
    losses = graph.show(trained["loss"])
    run = done(server.run(graph))
    losses = shown(run, losses)[0]["loss"]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    assert told(run, before) == told(run, after)
    assert any("float8_e4m3fn" in kind for kind in told(run, after)["kinds"])


def test_weights_without_a_gradient_are_refused(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """ComfyUI 0.30.0 computes with rotated 4-bit weights, but has no way back through them."""
    graph = Graph()
    parts = quantised(graph, server, checkpoints, "sd3", "convrot_w4a4")
    graph.show(training(graph, parts)["steps"])
    message = failure(server.run(graph))
    assert "convrot_w4a4 weight of layer 'joint_blocks.0" in message and "another format" in message


@pytest.mark.parametrize("form", ["scaled_fp8", "fp8_stored"])
def test_quantised_weights_in_the_oldest_comfyui(
    old_server: ComfyServer, checkpoints: Checkpoints, form: str
) -> None:
    graph = Graph()
    parts = quantised(graph, old_server, checkpoints, "sd3", form)
    latents = learned_from(graph, parts)
    before = graph.add("TestWeightDigest", model=parts["model"], after=latents)
    trained = training(
        graph, {**parts, "model": before}, latents=latents, steps=25, learning_rate=1e-2, targets="all"
    )
    after = graph.add("TestWeightDigest", model=parts["model"], after=trained["steps"])
    losses = graph.show(trained["loss"])
    run = done(old_server.run(graph))
    losses = shown(run, losses)[0]["loss"]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert told(run, before) == told(run, after)
    assert any("float8_e4m3fn" in kind for kind in told(run, after)["kinds"])


@pytest.mark.parametrize(
    ("form", "why"),
    [("float8_e4m3fn", "QuantizedTensor"), ("nvfp4", "QuantizedTensor"), ("fp8_stored", None)],
)
def test_dora_on_quantised_weights(
    server: ComfyServer, checkpoints: Checkpoints, form: str, why: str | None
) -> None:
    graph = Graph()
    parts = quantised(graph, server, checkpoints, "sd3", form)
    trained = training(graph, parts, dora=True, learning_rate=1e-2, steps=20)
    id = graph.show(trained["loss"])
    run = server.run(graph)
    if why:
        message = failure(run)
        assert why in message and "joint_blocks.0" in message and "Switch DoRA off" in message
    else:
        losses = shown(done(run), id)[0]["loss"]
        assert sum(losses[-5:]) < sum(losses[:5])


def lora_file(run: Run, saved: Node) -> dict[str, torch.Tensor]:
    return load_file(Path(run.entry["outputs"][saved.id]["text"][0]))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["sd3", "flux", "sd15_noclip"])
def test_another_lora_counts_wherever_it_is(
    server: ComfyServer, checkpoints: Checkpoints, kind: str, recompute: bool
) -> None:
    """A LoRA on the MODEL that comes in: in loaded weights, put in at each call, or beside the weights."""

    def run_on(how: str) -> tuple[dict, dict, list]:
        graph = Graph()
        parts = loaded(graph, server, checkpoints, kind)
        latents = learned_from(graph, parts)
        model = parts["model"]
        if how != "without":
            lora = training(graph, parts, latents=latents, steps=8, learning_rate=1e-2, seed=5)["lora"]
            model = graph.add(
                "LoraModelLoader", model=model, lora=lora, strength_model=1.0, bypass=how == "beside"
            )
        if how == "at each call":
            model = graph.add("TestPartlyLoaded", model=model, budget=1.0)
        trained = training(
            graph, {**parts, "model": model}, latents=latents, learning_rate=1e-2, steps=3, optimiser="sgd",
            recompute=recompute,
        )  # fmt: skip
        after = graph.add("TestWeightDigest", model=model, after=trained["steps"])
        prefix = f"loras/{kind}-{recompute}-{how}"
        saved = graph.add("RealismSaveLoRA", lora=trained["lora"], filename_prefix=prefix)
        run = done(server.run(graph))
        graph = Graph()
        parts = loaded(graph, server, checkpoints, kind)
        latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
        id = graph.show(sampled(graph, parts, parts["model"], latent))
        base = shown(done(server.run(graph)), id)[0]["samples"]["first"]
        return lora_file(run, saved), told(run, after), base

    without, _, base = run_on("without")
    whole, held, base_again = run_on("in loaded weights")
    assert held["patched_at_call"] == 0 and base_again == base
    assert furthest(without, whole) > 1e-2
    part, held, base_again = run_on("at each call")
    assert held["patched_at_call"] > 2 and not held["changed"] and base_again == base
    assert furthest(part, whole) < 1e-5
    beside, held, base_again = run_on("beside")
    assert held["patched_at_call"] == 0 and base_again == base
    assert furthest(beside, whole) < 1e-4


def furthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of any tensor, relative to its largest value."""
    assert ours.keys() == theirs.keys()
    ups = [name for name in ours if ours[name].any() or theirs[name].any()]
    return max(float((ours[n] - theirs[n]).abs().max() / theirs[n].abs().max()) for n in ups)


@pytest.mark.parametrize("recompute", [False, True])
def test_comfyui_is_asked_to_leave_room(
    server: ComfyServer, checkpoints: Checkpoints, recompute: bool
) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "flux")
    latents = learned_from(graph, parts)
    room = graph.add(
        "TestRoom", model=parts["model"], positive=parts["positive"], latents=latents, recompute=recompute
    )
    found = told(done(server.run(graph)), room)
    # two blocks
    times = 3 if recompute else 4
    assert found["asked"] == [pytest.approx(found["beside"] + times * found["forward"])]
    assert found["beside"] > 0 and f"Roughly {times * found['forward'] / 2**20:.1f} MiB" in found["text"]


def test_what_cannot_fit_is_refused_before_training(server: ComfyServer, checkpoints: Checkpoints) -> None:
    def message(free: float) -> str:
        graph = Graph()
        parts = loaded(graph, server, checkpoints, "sd3")
        fake = graph.add("TestFreeMemory", model=parts["model"], free=free)
        graph.show(training(graph, {**parts, "model": fake})["steps"])
        return failure(server.run(graph))

    try:
        refused = message(1000.0)
        assert "The LoRA and its optimiser take" in refused and "lower the LoRA's rank" in refused
        assert "0.0 MiB are free" in refused
        assert not message(1e12)
    finally:
        assert not message(-1.0)


def test_layers_that_nothing_calls_are_told(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = quantised(graph, server, checkpoints, "sd3", "spare")
    ids = [graph.show(training(graph, parts, targets=targets)["report"]) for targets in ("all", "attention")]
    run = done(server.run(graph))
    unused = [json.loads(shown(run, id)[0])["unused_layers"] for id in ids]
    assert unused == [["spare"], []]
