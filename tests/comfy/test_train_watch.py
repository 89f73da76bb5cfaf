"""What Realism Train LoRA shows while it trains, and Stop and keep."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, done, failure, shown, status
from tests.comfy.searches import Checkpoints, loaded
from tests.comfy.trainings import (
    Trained,
    at_step,
    checkpoint_of,
    interrupted_files,
    metadata,
    noise_training,
    outcome,
    refused,
    sampled,
    trained,
    training,
)

STOP = "/realism/stop_and_keep"
SIX = {"seeds": "1,2,3,4,5,6", "held_out": 2}  # of which 2 and 5 are held out
PREVIEWS = {"vae": True, "negative": True, "preview_steps": 2}


def steps_of(result: Trained) -> list[int]:
    return [validation["step"] for validation in result.report["held_out"]]


def before(result: Trained) -> list[float]:
    return [band["loss"] for band in result.report["held_out"][0]["bands"]]


def test_held_out_images_are_the_same_for_every_seed(server: ComfyServer, checkpoints: Checkpoints) -> None:
    one, other = (trained(server, checkpoints, **SIX, seed=seed) for seed in (1, 2))
    assert one.tensors != other.tensors and before(one) == before(other)
    assert steps_of(one) == [0, 4] and len(before(one)) == 8 and min(before(one)) > 0
    assert one.report["training"]["images"] == 4 and one.metadata["realism.images"] == "4"
    first, last = one.report["held_out"]
    assert first["bands"] != last["bands"]
    assert [band["low"] for band in first["bands"]] == [band / 8 for band in range(8)]


def test_held_out_images_are_not_trained_on(server: ComfyServer, checkpoints: Checkpoints) -> None:
    usual = trained(server, checkpoints, **SIX)
    others_held_out = trained(server, checkpoints, **{**SIX, "seeds": "1,12,3,4,15,6"})
    assert others_held_out.tensors == usual.tensors and before(others_held_out) != before(usual)
    another_trained_on = trained(server, checkpoints, **{**SIX, "seeds": "1,2,3,14,5,6"})
    assert another_trained_on.tensors != usual.tensors and before(another_trained_on) == before(usual)
    without = trained(server, checkpoints, seeds="1,3,4,6")
    assert without.tensors == usual.tensors and not without.report["held_out"]


def test_images_of_weight_0_are_never_held_out(server: ComfyServer, checkpoints: Checkpoints) -> None:
    def weighted(seeds: str, **options) -> Trained:
        graph = Graph()
        weights = graph.add("TestFloats", values="0,1,2,0,1,1")
        trainer = noise_training(graph, server, checkpoints, seeds=seeds, image_weights=weights, **options)
        return outcome(server, graph, trainer)

    usual, changed = weighted("1,2,3,4,5,6", held_out=2), weighted("11,2,3,14,5,6", held_out=2)
    assert before(usual) == before(changed)
    assert usual.report["training"]["images"] == 4
    all_alike = trained(server, checkpoints, **SIX)
    assert weighted("1,2,3,4,5,6").tensors != trained(server, checkpoints, seeds="1,2,3,4,5,6").tensors
    assert before(all_alike) != before(usual)


def test_validation_every_few_steps_changes_nothing(server: ComfyServer, checkpoints: Checkpoints) -> None:
    often = trained(server, checkpoints, **SIX, steps=5, validate_every=2)
    assert steps_of(often) == [0, 2, 4, 5]
    seldom = trained(server, checkpoints, **SIX, steps=5)
    assert often.tensors == seldom.tensors and often.report["held_out"][::3] == seldom.report["held_out"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"held_out": 2}, ("held_out is 2 of 2 images", "Lower it, or add images")),
        ({"validate_every": 2}, ("validate_every needs held-out images", "set it to 0")),
        ({"preview_every": 2}, ("preview_every needs vae", "set it to 0")),
        ({"vae": True, "preview_cfg": 2.0}, ("preview_cfg is 2", "negative", "set preview_cfg to 1")),
        ({"vae": True}, ("preview_cfg is 4", "negative", "set preview_cfg to 1")),
    ],
    ids=str,
)
def test_what_cannot_be_shown_is_refused(
    server: ComfyServer, checkpoints: Checkpoints, options: dict, words: tuple[str, ...]
) -> None:
    message = refused(server, checkpoints, **options)
    assert all(word in message for word in words), message


def drawn(graph: Graph, parts: dict, model: object) -> str:
    """Add what a preview is to look like; returns the id that shows it."""
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    sampler = graph.add(
        "KSampler", model=model, positive=parts["positive"], negative=parts["negative"], latent_image=latent,
        seed=1, steps=2, cfg=4.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    return graph.show(graph.add("VAEDecode", samples=sampler, vae=parts["vae"]))


@pytest.mark.parametrize("kind", ["sd3", "sd15_noclip"])
def test_previews_are_what_the_model_draws(server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    """The first is the untouched model's to the bit, the last the trained one's; the LoRA is the same."""
    options = {"steps": 5, "learning_rate": 1e-2}
    graph = Graph()
    parts = loaded(graph, server, checkpoints, kind)
    trainer = noise_training(
        graph, server, checkpoints, kind, **options, **PREVIEWS, preview_every=2, ema_decay=0.8
    )
    ids = [drawn(graph, parts, model) for model in (parts["model"], trainer["model"])]
    averaged = outcome(server, graph, trainer)
    plain, after = (shown(averaged.run, id)[0] for id in ids)
    made = averaged.pictures
    assert made["shape"] == [4, 64, 64, 3] and len(set(made["digests"])) == 4
    assert made["digests"][0] == plain["digests"][0]
    assert abs(made["means"][3] - after["means"][0]) < 1e-4 < abs(made["means"][3] - plain["means"][0])
    assert averaged.tensors == trained(server, checkpoints, kind, **options, ema_decay=0.8).tensors
    latest = trained(server, checkpoints, kind, **options, **PREVIEWS)
    assert latest.pictures["shape"] == [2, 64, 64, 3]
    assert latest.pictures["digests"][0] == made["digests"][0]
    assert latest.pictures["digests"][1] != made["digests"][3], "the average is drawn, not the latest step"


def test_without_a_vae_nothing_is_drawn(server: ComfyServer, checkpoints: Checkpoints) -> None:
    assert trained(server, checkpoints).pictures is None


@pytest.mark.parametrize(("call", "steps"), [(0, 0), (1, 0), (2, 2), (5, 4)])
def test_cancel_in_a_preview(server: ComfyServer, checkpoints: Checkpoints, call: int, steps: int) -> None:
    """call: of the network, two a preview; steps: made before it."""
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    trouble = graph.add(
        "TestTrouble", model=parts["model"], vae=parts["vae"], where="model", what="cancel", call=call
    )
    trainer = training(
        graph, {**parts, "model": trouble[0]}, latents=graph.add("TestNoiseLatents"), vae=trouble[1],
        preview_every=2, preview_steps=2, preview_cfg=1.0,
    )  # fmt: skip
    graph.show(trainer["steps"])
    files = len(interrupted_files(server))
    run = server.run(graph)
    assert status(run) == "execution_interrupted", failure(run)
    new = interrupted_files(server)[files:]
    assert [metadata(file)["realism.steps"] for file in new] == ([str(steps)] if steps else [])
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    ids = [graph.show(sampled(graph, parts, parts["model"], latent, seed=seed)) for seed in (call + 50, 49)]
    assert all(shown(done(server.run(graph)), id) for id in ids), "the model is not left as it was"


def test_stop_and_keep_hands_on_what_there_is(server: ComfyServer, checkpoints: Checkpoints) -> None:
    said = []
    press = at_step(20, lambda: said.append(server.post(STOP, {})))
    options = {"steps": 5000, "seeds": "1,2,3", "held_out": 1, "checkpoint": "stopped"}
    files = len(interrupted_files(server))
    kept = trained(server, checkpoints, on_event=press, **options)
    steps = len(kept.losses)
    assert said == [{"stopping": True}] and kept.report["stopped"] and 20 <= steps < 5000
    record = kept.report["training"]
    assert (record["steps"], record["planned_steps"]) == (steps, 5000)
    assert kept.metadata["realism.steps"] == str(steps) and len(interrupted_files(server)) == files
    options.pop("checkpoint")
    usual = trained(server, checkpoints, **{**options, "steps": steps})
    assert kept.tensors == usual.tensors and not usual.report["stopped"]
    options |= {"steps": steps + 2, "seeds": "1,2,3"}
    assert (
        trained(server, checkpoints, **options, checkpoint="stopped", resume=True).tensors
        == trained(server, checkpoints, **options).tensors
    )
    assert checkpoint_of(server, "stopped").is_file()


def test_with_nothing_to_stop_it_says_so(server: ComfyServer, checkpoints: Checkpoints) -> None:
    assert server.post(STOP, {}) == {"stopping": False}
    assert not trained(server, checkpoints, seed=77).report["stopped"], "a press too early lingers"


def pictures_of(result: Trained) -> list[Image.Image]:
    """Return the pictures that the server sent while it ran; it sends texts the same way."""
    starts = [(blob, blob.find(b"\xff\xd8\xff")) for blob in result.run.blobs]
    return [Image.open(io.BytesIO(blob[start:])) for blob, start in starts if start >= 0]


def orange(picture: Image.Image) -> int:
    """Return how many pixels have the colour of the running median."""
    red, green, blue = np.asarray(picture, dtype=int).transpose(2, 0, 1)
    return int(((red > 200) & (green > 130) & (green < 210) & (blue < 130)).sum())


def test_the_curve_is_live(server: ComfyServer, checkpoints: Checkpoints) -> None:
    result = trained(server, checkpoints, steps=400, seed=3)
    curves = pictures_of(result)
    assert curves and all(curve.size[0] > 1.9 * curve.size[1] for curve in curves)
    assert orange(curves[0]) > 10, "there is no curve on it"
    texts = [blob.decode(errors="ignore") for blob in result.run.blobs]
    assert any(re.search(r"step \d+ of 400, loss \d", text) for text in texts)
    assert any(text.endswith(f"400 steps, last loss {result.losses[-1]:.4g}") for text in texts)
    result = trained(server, checkpoints, steps=20, seed=3, **PREVIEWS, **SIX)
    (curve,) = pictures_of(result)[:1]
    plot, preview = 640 / 500, 1
    assert abs(curve.size[0] / curve.size[1] - plot - preview) < 0.02


def test_the_plot_output(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    trainer = noise_training(graph, server, checkpoints, **SIX, steps=60, validate_every=20)
    plain = noise_training(graph, server, checkpoints, steps=60)
    saved = graph.add("SaveImage", images=trainer["plot"], filename_prefix="plot")
    ids = [graph.show(one["plot"]) for one in (trainer, plain)]
    run = done(server.run(graph))
    assert [shown(run, id)[0]["shape"] for id in ids] == [[1, 500, 640, 3], [1, 300, 640, 3]]
    (image,) = run.entry["outputs"][saved.id]["images"]
    assert orange(Image.open(server.base / "output" / image["filename"]).convert("RGB")) > 100
    assert json.loads(Image.open(server.base / "output" / image["filename"]).text["prompt"])


@pytest.mark.parametrize("values", ["1,1,1", "1"])
def test_another_number_of_image_weights(server: ComfyServer, checkpoints: Checkpoints, values: str) -> None:
    graph = Graph()
    weights = graph.add("TestFloats", values=values)
    graph.show(noise_training(graph, server, checkpoints, image_weights=weights)["steps"])
    message = failure(server.run(graph))
    assert f"image_weights: there are {len(values.split(','))} for 2 images" in message
    assert "connect one an image" in message
