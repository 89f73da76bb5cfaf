"""Text encoders trained with the model in the real ComfyUI: both are left as they were, files load."""

from __future__ import annotations

import json

import pytest

from devtools.client import Run
from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, Node, done, failure, shown
from tests.comfy.searches import Checkpoints
from tests.comfy.test_train_node import far, values

CAPTIONS = ("a red (apple:1.3) on a table", "a dog")
# model, whose text encoders, how many layers of these learn with the default targets
FAMILIES = {
    "sd15": ("sd15", None, 12 * 4),
    "sd3_clip": ("sd3_clip", None, 12 * 4),
    "sdxl": ("koala_vpred", "sdxl", 6 * 4),
    "sd3_t5": ("sd3_clip", "sd3_t5", 3 * 4 + 2 * 4),
}


def parts_of(graph: Graph, server: ComfyServer, checkpoints: Checkpoints, family: str) -> dict:
    """Add a model with its text encoders, and prompts that they encode."""
    kind, small, _ = FAMILIES[family]
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=checkpoints(server, kind))
    clip = graph.add("TestSmallClip", family=small) if small else loader[1]
    texts = {name: graph.add("CLIPTextEncode", clip=clip, text=text) for name, text in
             (("positive", "a dog"), ("negative", ""))}  # fmt: skip
    return {"model": loader[0], "clip": clip, **texts}


def sampled(graph: Graph, model: Node | list, clip: Node | list, seed: int = 11) -> str:
    """Add a run with a prompt; returns the id that shows its latents."""
    texts = [graph.add("CLIPTextEncode", clip=clip, text=text) for text in ("a dog", "")]
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    sampler = graph.add(
        "KSampler", model=model, positive=texts[0], negative=texts[1], latent_image=latent, seed=seed,
        steps=2, cfg=3.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    return graph.show(sampler)


def trained(graph: Graph, parts: dict, settings: dict | None = None, **inputs) -> Node:
    """Add a training of model and text encoders on two images; inputs: other inputs, or options."""
    images = inputs.pop("images", 2)
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=images)
    latents = graph.add(
        "KSampler", model=parts["model"], positive=parts["positive"], negative=parts["negative"],
        latent_image=latent, seed=3, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple",
        denoise=1.0,
    )  # fmt: skip
    captions = inputs.pop("captions", CAPTIONS)
    sockets = {"clip": parts["clip"], "positive": parts["positive"], **inputs.pop("sockets", {})}
    if captions is not None:
        sockets["captions"] = (
            captions[0]
            if len(captions) == 1
            else graph.add("TestListOfTwo", **dict(zip(("first", "second"), captions, strict=True)))
        )
    settings = {"steps": 3, "batch_size": 2, "learning_rate": 1e-2, "seed": 1, **(settings or {})}
    options = json.dumps({"rank": 4, "alpha": 4.0, "settings": settings, **inputs})
    sockets = {name: value for name, value in sockets.items() if value is not None}
    return graph.add("TestTextTraining", model=parts["model"], latents=latents, options=options, **sockets)


def told(run: Run, id: str) -> dict:
    return json.loads(shown(run, id)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_both_learn_and_the_files_load(server: ComfyServer, checkpoints: Checkpoints, family: str) -> None:
    """Every layout gives the pictures of the trained pair; the pair that came in gives its own."""
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, family)
    before = sampled(graph, parts["model"], parts["clip"])
    training = trained(graph, parts)
    pair, text_only = sampled(graph, training[0], training[1]), sampled(graph, parts["model"], training[1])
    layouts = ("comfyui", "kohya") if family == "sd3_t5" else ("comfyui", "kohya", "diffusers")
    for layout in layouts:
        name = f"loras/text-{family}-{layout}"
        graph.add("RealismSaveLoRA", lora=training[2], layout=layout, filename_prefix=name)
    report = graph.show(training[3])
    after = sampled(graph, parts["model"], parts["clip"], seed=12)
    run = done(server.run(graph))
    what = told(run, report)
    assert what["untouched"] and len(what["losses"]) == 3 and not what["idle"]
    text = {path: size for path, size in what["sizes"].items() if ".transformer." in path}
    assert len(text) == FAMILIES[family][2] and len(what["sizes"]) > len(text)
    # what ComfyUI takes of SDXL's and SD3's encoders comes from before the last layer but for pooled words
    learned = [path for path, size in text.items() if size]
    assert len(learned) >= len(text) - 2 * 4
    if family != "sd15":
        assert {path.split(".")[0] for path in learned} == {path.split(".")[0] for path in text}
    assert far(values(run, pair), values(run, before)) > 1e-3
    assert far(values(run, text_only), values(run, before)) > 1e-4
    for layout in layouts:
        (file,) = (server.base / "output" / "loras").glob(f"text-{family}-{layout}*.safetensors")
        graph = Graph()
        parts = parts_of(graph, server, checkpoints, family)
        loaded = graph.add(
            "LoraLoader", model=parts["model"], clip=parts["clip"], lora_name=file.name, strength_model=1.0,
            strength_clip=1.0,
        )  # fmt: skip
        ids = [sampled(graph, loaded[0], loaded[1]), sampled(graph, parts["model"], parts["clip"])]
        last = sampled(graph, parts["model"], parts["clip"], seed=12)
        new = done(server.run(graph))
        assert far(values(new, ids[0]), values(run, pair)) < 1e-5, layout
        assert values(new, ids[1]) == values(run, before)
        assert values(new, last) == values(run, after)


def sizes(server: ComfyServer, checkpoints: Checkpoints, runs: list[dict], family: str = "sd3_clip") -> list:
    """Return what trainings told, each with its own options, from one run of the server."""
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, family)
    ids = [graph.show(trained(graph, parts, **options)[3]) for options in runs]
    run = done(server.run(graph))
    return [told(run, id) for id in ids]


def text_of(what: dict) -> dict[str, float]:
    return {path: size for path, size in what["sizes"].items() if ".transformer." in path}


def test_every_option_reaches_the_text_encoders(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """On encoders of a few layers, CLIP-L and T5: eleven trainings."""
    options = [
        {"text_rate": 0.25}, {"dora": True}, {"dropout": 0.5}, {"settings": {"optimiser": "adafactor"}},
        {"settings": {"condition_dropout": 0.9}}, {"settings": {"precision": "bf16"}},
        {"captions": ("a dog",)}, {"captions": ("", "a dog")}, {"targets": "feed_forward"}, {"alpha": 8.0},
    ]  # fmt: skip
    plain, *others = sizes(server, checkpoints, [{}, *options], "sd3_t5")
    first = text_of(plain)
    for option, other in zip(options, others, strict=True):
        assert other["untouched"], option
        now = text_of(other)
        assert sum(now.values()) > 0
        far_off = (path for path in first if abs(now.get(path, 0) - first[path]) > 1e-4 * first[path])
        assert set(now) != set(first) or any(far_off), option
    slow = text_of(others[0])
    assert sum(slow.values()) < 0.5 * sum(first.values())
    network = {path: size for path, size in plain["sizes"].items() if path not in first}
    for path, size in network.items():
        # Adam's steps hardly depend on how large the gradients are
        assert others[0]["sizes"][path] == pytest.approx(size, rel=0.2)


def test_the_first_loss_is_that_of_prompts_encoded_beforehand(
    server: ComfyServer, checkpoints: Checkpoints
) -> None:
    """An adapter starts at 0, so the captions are encoded as ComfyUI encodes them."""
    fixed, trained_too = sizes(
        server,
        checkpoints,
        [{"captions": None, "sockets": {"clip": None}}, {"captions": ("a dog",)}],
        "sdxl",
    )
    assert trained_too["losses"][0] == pytest.approx(fixed["losses"][0], rel=1e-6)
    assert trained_too["losses"][1] != fixed["losses"][1]
    assert text_of(trained_too) and not text_of(fixed)


def test_recompute_changes_memory_only(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """The encoders add in place to what the gradient needs; both ways work on copies of it."""
    plain, again = sizes(server, checkpoints, [{}, {"settings": {"recompute": True}}], "sd3_t5")
    assert again["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    for path, size in plain["sizes"].items():
        assert again["sizes"][path] == pytest.approx(size, rel=1e-3, abs=1e-6), path


def test_a_pattern_counts_for_both_and_may_name_the_text_alone(
    server: ComfyServer, checkpoints: Checkpoints
) -> None:
    alone, both = sizes(
        server,
        checkpoints,
        [
            {"targets": "pattern", "pattern": "clip_l.*.layers.3.*.q_proj"},
            {"targets": "pattern", "pattern": "*qkv\n*.fc1"},
        ],
    )
    assert list(alone["sizes"]) == [
        "clip_l.transformer.text_model.encoder.layers.3.self_attn.q_proj.lora_B.weight"
    ]
    assert sum(alone["sizes"].values()) > 0 and alone["untouched"]
    assert len(text_of(both)) == 12 and {path.rsplit(".", 3)[1] for path in both["sizes"]} == {"qkv", "fc1"}
    assert both["memory"]["model"] == alone["memory"]["model"] > 2 * 123e6


def test_clip_skip_is_kept(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """With clip skip the last layers are not read, so they learn nothing."""
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd15")
    skipped = graph.add("CLIPSetLastLayer", clip=parts["clip"], stop_at_clip_layer=-3)
    training = trained(graph, {**parts, "clip": skipped}, settings={"steps": 2})
    id, after = graph.show(training[3]), sampled(graph, training[0], training[1])
    run = done(server.run(graph))
    text = text_of(told(run, id))
    learned = {path.split(".layers.")[1].split(".")[0] for path, size in text.items() if size}
    assert learned == {str(layer) for layer in range(10)}
    assert all(map(abs, values(run, after)))


def test_the_oldest_comfyui_trains_them_too(old_server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = parts_of(graph, old_server, checkpoints, "sd3_clip")
    before = sampled(graph, parts["model"], parts["clip"])
    training = trained(graph, parts)
    id, after = graph.show(training[3]), sampled(graph, training[0], training[1])
    run = done(old_server.run(graph))
    what = told(run, id)
    assert what["untouched"] and sum(text_of(what).values()) > 0
    assert far(values(run, after), values(run, before)) > 1e-3


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"images": 3}, ("captions: there are 2 for 3 images", "one for all")),
        ({"captions": None}, ("clip needs captions", "disconnect clip")),
        ({"sockets": {"clip": None}}, ("captions need clip", "disconnect captions")),
        ({"sockets": {"clip": "sd15_noclip"}}, ("clip is empty", "Load CLIP")),
        ({"sockets": {"clip": "sdxl"}}, ("clip gives 2048 numbers a word, positive has 4096",)),
        ({"text_rate": 0.0}, ("text_rate is 0.0", "disconnect clip")),
        ({"targets": "pattern", "pattern": "*qkv"}, ("no layer of the text encoder", "clip_l.transformer")),
        ({"targets": "pattern", "pattern": "*qkv\nnothing"}, ("'nothing' matches no layer",)),
        ({"rank": 2000}, ("rank 2000",)),
    ],
    ids=str,
)
def test_bad_input_is_refused(
    server: ComfyServer, checkpoints: Checkpoints, inputs: dict, words: tuple[str, ...]
) -> None:
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3_clip")
    other = inputs.get("sockets", {}).get("clip")
    if other == "sdxl":
        inputs = {"sockets": {"clip": graph.add("TestSmallClip", family="sdxl")}}
    elif other:
        loader = graph.add("CheckpointLoaderSimple", ckpt_name=checkpoints(server, other))
        inputs = {"sockets": {"clip": loader[1]}}
    graph.show(trained(graph, parts, **inputs)[3])
    message = failure(server.run(graph))
    assert message and all(word in message for word in words), message
