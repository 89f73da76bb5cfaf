"""RealismLossTerm in the real ComfyUI: its slopes reach the LoRA, and model and VAE stay as they were."""

from __future__ import annotations

import json

import pytest

from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, Node, done, failure, status
from tests.comfy.searches import Checkpoints, loaded
from tests.comfy.test_train_node import TRAINED, far, values
from tests.comfy.trainings import learned_from, metadata, sampled, training

# a gate that lets all but the noisiest through
OPEN = {"snr_low": 1e-3, "snr_high": 2e-3}


def term(graph: Graph, parts: dict, **inputs) -> Node:
    """Add a term against noisy pictures, from which what the tiny VAEs paint lies far."""
    if not {"photographs", "profile"} & set(inputs):
        inputs["photographs"] = graph.add("TestImages", kind="noise", batch=6, height=96, width=96)
    return graph.add("RealismLossTerm", **{"vae": parts["vae"], **inputs})


def told(server: ComfyServer, graph: Graph, parts: dict, term: Node, **inputs) -> dict:
    latents = inputs.pop("latents", None) or learned_from(graph, parts)
    node = graph.add("TestTerm", model=parts["model"], term=term, latents=latents, **inputs)
    return json.loads(done(server.run(graph)).entry["outputs"][node.id]["text"][0])


@pytest.mark.parametrize("kind", TRAINED)
def test_slopes_come_through_the_vae_and_leave_it_as_it_was(
    server: ComfyServer, checkpoints: Checkpoints, kind: str
) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, kind)
    found = told(server, graph, parts, term(graph, parts))
    assert found["untouched"]
    # open, half open and shut by the gate
    assert found["added"][0] > found["added"][1] > 0 == found["added"][2]
    assert found["slopes"][0] > found["slopes"][1] > 0 == found["slopes"][2]


def test_weights_that_ask_for_gradients_get_none(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    found = told(server, graph, parts, term(graph, parts), trained=True)
    assert found["untouched"] and found["slopes"][0] > 0


@pytest.mark.parametrize(("dtype", "close"), [("float16", 0.1), ("bfloat16", 0.2)])
def test_a_vae_in_half_precision_gives_the_same_slopes(
    server: ComfyServer, checkpoints: Checkpoints, dtype: str, close: float
) -> None:
    """The weight is so small that, unless scaled, single pixels' slopes would be 0 in half precision."""
    both = []
    for kind in ("own", dtype):
        graph = Graph()
        parts = loaded(graph, server, checkpoints, "sd3")
        found = told(server, graph, parts, term(graph, parts, weight=1e-10), dtype=kind)
        assert found["untouched"]
        both.append(found["first"])
    off = sum((a - b) ** 2 for a, b in zip(*both, strict=True)) ** 0.5
    assert 0 < off < close * sum(a**2 for a in both[0]) ** 0.5


def test_a_profile_gives_the_term_its_numbers(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    profile = graph.add("RealismLoadProfile", name="shipped: photographs (reference)")
    found = told(server, graph, parts, term(graph, parts, profile=profile, weight=0.25, tolerance=0.5))
    about = found["about"]
    assert (about["weight"], about["crop"], about["tolerance"]) == (0.25, 64, 0.5)
    assert about["reference"]["side"] == 64 and about["reference"]["count"] > 500
    assert "photographs-reference" in about["origin"] and "weight 0.25" in found["words"]


def test_photographs_of_mixed_sizes(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    pictures = graph.add("TestImageList", sizes="3x64x80,2x96x128,4x32x32", kind="noise")
    found = told(server, graph, parts, term(graph, parts, photographs=pictures))
    # the 2 large ones hold 4 crops each (a second row lies flush with the end), the small ones none
    assert found["about"]["reference"]["count"] == 3 * 2 + 2 * 4
    assert found["about"]["origin"] == "9 photographs"


@pytest.mark.parametrize("kind", ["video", "sd15_noclip", "sd3"])
def test_pictures_are_those_that_comfyui_decodes(
    server: ComfyServer, checkpoints: Checkpoints, kind: str
) -> None:
    """The VAE of a video model, which takes a batch for the frames of one video, decodes single pictures."""
    graph = Graph()
    if kind == "video":
        vae = graph.add("TestVae", kind=kind)
    else:
        vae = loaded(graph, server, checkpoints, kind)["vae"]
    node = graph.add("TestDecoder", vae=vae)
    found = json.loads(done(server.run(graph)).entry["outputs"][node.id]["text"][0])
    assert found["shape"] == [2, 3, 64, 64] and min(found["slopes"]) > 0 and found["untouched"]
    assert found["off"] < 1e-5 and found["spread"] > 1e-3


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"photographs": None}, ("photographs and profile are both left open",)),
        ({"profile": "shipped"}, ("photographs and profile are both connected",)),
        ({"crop": 68}, ("crop is 68 pixels", "use 64")),
        ({"crop": 72, "profile": "only"}, ("crop is 72 pixels", "64, 128, 256", "give photographs")),
        ({"crop": 128}, ("photographs with crop 128", "5 usable crops of 128 x 128 pixels, got 0 from 6")),
        ({"snr_low": 60.0}, ("low is 60", "high 50")),
        ({"vae": "empty"}, ("vae is empty", "train without the term")),
        ({"vae": "sound"}, ("vae is no VAE for RGB pictures",)),
    ],
    ids=str,
)
def test_bad_input_is_refused(
    server: ComfyServer, checkpoints: Checkpoints, inputs: dict, words: tuple[str, ...]
) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    inputs = dict(inputs)
    if "vae" in inputs:
        inputs["vae"] = graph.add("TestVae", kind=inputs["vae"])
    if "profile" in inputs:
        if inputs["profile"] != "only":
            inputs["photographs"] = graph.add("TestImages", batch=6)
        inputs["profile"] = graph.add("RealismLoadProfile", name="shipped: photographs (paper)")
    node = term(graph, parts, **inputs)
    if inputs.get("photographs", node) is None:
        del graph[node.id]["inputs"]["photographs"]
    graph.add("TestTerm", model=parts["model"], term=node, latents=learned_from(graph, parts))
    message = failure(server.run(graph))
    assert message and all(word in message for word in words), message


def test_the_vae_of_another_model_is_refused(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts, other = (loaded(graph, server, checkpoints, kind) for kind in ("sd3", "sd15_noclip"))
    graph.add("TestTerm", model=parts["model"], term=term(graph, other), latents=learned_from(graph, parts))
    message = failure(server.run(graph))
    assert "latents of 4 channels, but the model's have 16" in message


def test_images_smaller_than_the_crop_are_refused(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    graph.add("TestTerm", model=parts["model"], latents=learned_from(graph, parts),
              term=term(graph, parts, crop=80))  # fmt: skip
    message = failure(server.run(graph))
    assert "crop is 80 pixels, but an image to train on is 64 x 64" in message


def test_weight_0_is_no_term_at_all(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """Not even the photographs are looked at: these are too small to fit anything."""
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    small = graph.add("TestImages", batch=1, height=16, width=16)
    found = told(server, graph, parts, term(graph, parts, weight=0.0, photographs=small))
    assert found["none"] and found["untouched"] and found["about"] == {}


# --- in the trainer


@pytest.mark.parametrize("kind", TRAINED)
def test_the_term_changes_the_lora_and_leaves_model_and_vae(
    server: ComfyServer, checkpoints: Checkpoints, kind: str
) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, kind)
    before = graph.add("TestWeights", model=parts["model"], vae=parts["vae"])
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    sampled_before = graph.show(sampled(graph, parts, parts["model"], latent))
    untouched = done(server.run(graph)).entry["outputs"][before.id]["text"]
    latents = learned_from(graph, parts)
    ids = {}
    for name, weight in {"none": None, "zero": 0.0, "some": 1.0}.items():
        options = {"latents": latents, "learning_rate": 1e-2, "recompute": kind == "flux"}
        if weight is not None:
            options["realism_term"] = term(graph, parts, weight=weight, **OPEN)
        trained = training(graph, parts, **options)
        ids[name] = graph.show(sampled(graph, parts, trained["model"], latent))
    after = graph.add("TestWeights", model=parts["model"], vae=parts["vae"], after=trained["steps"])
    run = done(server.run(graph))
    assert values(run, ids["zero"]) == values(run, ids["none"]) != values(run, sampled_before)
    assert far(values(run, ids["some"]), values(run, ids["none"])) > 1e-4
    assert run.entry["outputs"][after.id]["text"] == untouched


def test_weight_0_decodes_nothing(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """A VAE that does not fit the model, and images smaller than the crop, are not even looked at."""
    graph = Graph()
    parts, other = (loaded(graph, server, checkpoints, kind) for kind in ("sd3", "sd15_noclip"))
    latents, ids = learned_from(graph, parts), []
    for options in ({}, {"realism_term": term(graph, other, weight=0.0, crop=512)}):
        trained = training(graph, parts, latents=latents, **options)
        saver = graph.add("RealismSaveLoRA", lora=trained["lora"], filename_prefix=f"loras/zero{len(ids)}")
        ids.append(graph.show(saver))
    done(server.run(graph))
    plain, zero = (
        next((server.base / "output" / "loras").glob(f"zero{number}_*.safetensors")) for number in (0, 1)
    )
    ours, theirs = metadata(zero), metadata(plain)
    assert set(ours) == set(theirs) and ours["realism.extra"] == theirs["realism.extra"]
    assert "realism_term" not in ours["realism.extra"]
    size = len(plain.read_bytes()) - 8 - int.from_bytes(plain.read_bytes()[:8], "little")
    assert zero.read_bytes()[-size:] == plain.read_bytes()[-size:]


def test_the_file_says_what_the_term_was(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    trained = training(graph, parts, realism_term=term(graph, parts, weight=0.125, **OPEN))
    graph.add("RealismSaveLoRA", lora=trained["lora"], filename_prefix="loras/with-term")
    done(server.run(graph))
    (file,) = (server.base / "output" / "loras").glob("with-term*.safetensors")
    about = json.loads(metadata(file)["realism.extra"])["realism_term"]
    assert (about["weight"], about["crop"], about["snr_low"]) == (0.125, 64, 1e-3)
    assert len(about["reference"]["mean"]) == 5 and about["origin"] == "6 photographs"


def test_the_trainer_refuses_the_vae_of_another_model(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts, other = (loaded(graph, server, checkpoints, kind) for kind in ("sd3", "sd15_noclip"))
    graph.show(training(graph, parts, realism_term=term(graph, other))["steps"])
    message = failure(server.run(graph))
    assert "latents of 4 channels, but the model's have 16" in message


def test_cancel_saves_what_was_trained_with_the_term(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    before = graph.add("TestWeights", model=parts["model"], vae=parts["vae"])
    untouched = done(server.run(graph)).entry["outputs"][before.id]["text"]
    trained = training(graph, parts, steps=5000, realism_term=term(graph, parts, **OPEN))
    graph.show(trained["steps"])
    there = set((server.base / "output" / "loras").glob("realism_interrupted_*.safetensors"))

    def press(name: str, data: dict) -> None:
        if name == "progress" and data["node"] == trained.id and data["value"] >= 5:
            server.post("/interrupt", {})

    assert status(server.run(graph, on_event=press)) == "execution_interrupted"
    (file,) = set((server.base / "output" / "loras").glob("realism_interrupted_*.safetensors")) - there
    assert json.loads(metadata(file)["realism.extra"])["realism_term"]["weight"] == 1.0
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    late = graph.add("TestImages", seed=99)  # so that nothing is answered from the cache
    after = graph.add("TestWeights", model=parts["model"], vae=parts["vae"], after=late)
    assert done(server.run(graph)).entry["outputs"][after.id]["text"] == untouched


@pytest.mark.parametrize("kind", ["sd15_noclip", "sd3"])
def test_on_the_oldest_comfyui(old_server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    graph = Graph()
    parts = loaded(graph, old_server, checkpoints, kind)
    found = told(old_server, graph, parts, term(graph, parts))
    assert found["untouched"] and found["slopes"][0] > found["slopes"][1] > 0 == found["slopes"][2]
