"""What does not fit an adapter is refused before anything is trained or drawn, with the input and the fix."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from devtools.server import ComfyServer
from realism_core.conditioning.adapter import AdapterConfig, TokenAdapter
from realism_core.conditioning.adapter_file import VOCABULARY, save_adapter
from realism_core.tensor_files import read_tensors, write_tensors
from tests.comfy.adapter_graphs import adapter_training, attributes, conditioned, faces, parts_of, sampled
from tests.comfy.graphs import Graph, done, failure, shown
from tests.comfy.searches import Checkpoints
from tests.comfy.trainings import refused_graph


def refused(server: ComfyServer, checkpoints: Checkpoints, kind: str = "sd3", **inputs) -> str:
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, kind)
    given = {name: make(graph, server, parts) if callable(make) else make for name, make in inputs.items()}
    return refused_graph(server, graph, adapter_training(graph, kind, parts, **given))


def two_faces(graph: Graph, *_):
    return graph.add("TestListOfTwo", first=attributes(graph), second=attributes(graph, "Bald"))


def tokens_behind(graph: Graph, server: ComfyServer, parts: dict):
    adapter = graph.add("RealismLoadAdapter", name=file_of(server, "behind"))
    return conditioned(graph, parts, adapter, mask=None)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"attributes": None, "mask": None}, ("neither is connected", "Connect at least one")),
        ({"attribute_form": "none", "mask_form": "none"}, ("neither is connected",)),
        (
            {"mask": lambda graph, server, _: faces(graph, server, "skin", "nose", "hair")},
            ("mask: there are 3 for 2 images", "or one for all"),
        ),
        (
            {
                "attributes": two_faces,
                "latents": lambda graph, *_: graph.add("TestNoiseLatents", seeds="1,2,3", channels=16),
                "mask": None,
            },
            ("attributes: there are 2 for 3 images",),
        ),
        (
            {"mask": lambda graph, server, _: faces(graph, server, "skin", "nose", size=(64, 96))},
            ("mask: that of image 1 is 96 x 64", "another aspect"),
        ),
        (
            {"model": lambda graph, _, parts: graph.add("TestWordless", model=parts["model"])},
            ("model: SD3 has no cross-attention that reads a prompt's words",),
        ),
        ({"mask_form": "channels"}, ("model: SD3 takes no channels beside the latent", "mask_form 'tokens'")),
        (
            {"positive": lambda graph, *_: graph.add("TestConditioning", width=77, pooled=2048)},
            ("positive or latents do not fit the model",),
        ),
        (
            {"positive": lambda graph, server, parts: tokens_behind(graph, server, parts)["positive"]},
            ("positive has the tokens of an adapter already", "from before Realism Conditioner"),
        ),
        (
            {"negative": lambda graph, server, parts: tokens_behind(graph, server, parts)["negative"]},
            ("negative has the tokens of an adapter already",),
        ),
        (
            {"negative": lambda graph, *_: graph.add("TestConditioning", width=77, pooled=2048)},
            ("negative: its words have 77 numbers, those of positive 64", "model's own CLIP"),
        ),
        (
            {"negative": lambda graph, *_: graph.add("TestConditioning", width=0)},
            ("negative: its words have 0 numbers",),
        ),
        ({"targets": "all"}, ("targets and pattern choose a LoRA's layers", "lora_rank above 0")),
        ({"lora_rate": 1.0}, ("lora_rate is that of a LoRA", "lora_rank above 0")),
        (
            {"lora_rank": 2, "lora_rate": lambda graph, *_: graph.add("PrimitiveFloat", value=0.0)},
            ("lora_rate is 0.0", "set lora_rank to 0"),
        ),
        ({"lora_rank": 500}, ("rank 500 is more than layer",)),
        ({"condition_dropout": 0.5, "negative": None}, ("condition_dropout needs an empty conditioning",)),
        ({"preview_every": 2}, ("preview_every needs vae",)),
        ({"warmup": 9}, ("warmup is 9 of 4 steps",)),
        ({"batch_size": 3}, ("batch_size is 3, but there are only 2 images",)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_trainings_that_cannot_be(
    server: ComfyServer, checkpoints: Checkpoints, inputs: dict, words: tuple[str, ...]
) -> None:
    message = refused(server, checkpoints, **inputs)
    assert all(word in message for word in words), message


def file_of(server: ComfyServer, name: str, **config) -> str:
    """Write an adapter for the tiny SD3, or another, among those that the server lists."""
    path = server.base / "models" / "realism_adapters" / f"{name}.safetensors"
    made = TokenAdapter(AdapterConfig(**{"context": 64, "width": 8, "grid": 2, "patch": 2, **config}))
    save_adapter(path, made, overwrite=True)
    return path.name


@pytest.mark.parametrize(
    ("config", "inputs", "words"),
    [
        ({"context": 77}, {}, ("its tokens have 77 numbers, the words of positive have 64",)),
        ({}, {"attributes": None, "mask": None}, ("attributes and mask are both missing",)),
        ({"mask": "none"}, {}, ("it was trained without a mask",)),
        ({"attributes": "none"}, {}, ("it was trained without attributes",)),
        ({}, {"positive": None}, ("clip is missing",)),
        ({}, {"mode": "mask conditioning"}, ("mode is for attributes without an adapter",)),
        ({}, {"on_empty": "error"}, ("on_empty is for attributes without an adapter", "set it to leave out")),
        ({}, {"fit": "pad"}, ("fit is pad, but an adapter always stretches masks: set fit to stretch",)),
        ({}, {"positive": "wordless"}, ("positive holds no words: this model has no cross-attention",)),
        ({}, {"positive": "adapted"}, ("positive has the tokens of an adapter already",)),
        ({}, {"positive": "three"}, ("mask has 3 pictures, positive has 2 prompts",)),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_prompts_that_do_not_fit(
    server: ComfyServer, checkpoints: Checkpoints, config: dict, inputs: dict, words: tuple[str, ...]
) -> None:
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    loader = graph.add("RealismLoadAdapter", name=file_of(server, "misfit", **config))
    if inputs.get("positive") == "adapted":
        inputs = {"positive": conditioned(graph, parts, loader)["positive"], "mask": None}
    if inputs.get("positive") == "wordless":
        inputs = {"positive": graph.add("TestConditioning", width=0)}
    if inputs.get("positive") == "three":
        inputs = {
            "positive": graph.add("TestPromptBatch", prompt=parts["positive"], count=2),
            "mask": faces(graph, server, "skin", "nose", "hair"),
        }
    graph.add("TestPrompt", prompt=conditioned(graph, parts, loader, **inputs)["positive"])
    message = failure(server.run(graph))
    assert message and all(word in message for word in words), message


def other_classes(path: Path) -> None:
    tensors, texts = read_tensors(path)
    names = {kind: list(known) for kind, known in VOCABULARY.items()}
    names["classes"][3] = "monocle"
    write_tensors(path, tensors, {**texts, "realism.vocabulary": json.dumps(names)}, overwrite=True)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"attributes.null": 1}, protocol=2))


def a_lora(path: Path) -> None:
    write_tensors(path, {"a.lora_A.weight": torch.ones(2, 2)}, {}, overwrite=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_classes, "was trained on other classes: number 3 is 'monocle' there and 'eye_g' here"),
        (damaged, "is truncated"),
        (pickled, "is a pickle"),
        (a_lora, "is no adapter of this pack"),
    ],
)
def test_files_that_are_refused(server: ComfyServer, change, words: str) -> None:
    name = file_of(server, f"bad {change.__name__}")
    change(server.base / "models" / "realism_adapters" / name)
    graph = Graph()
    graph.add("RealismSaveAdapter", adapter=graph.add("RealismLoadAdapter", name=name), name="never")
    message = failure(server.run(graph))
    assert words in message and name in message
    assert not (server.base / "models" / "realism_adapters" / "never.safetensors").exists()


def test_names_that_are_taken_or_no_names(server: ComfyServer) -> None:
    loader = {"name": file_of(server, "taken")}
    wrong = (("taken", "is there already"), ("../up", "cannot be a file name"), (" ", "cannot be a"))
    for name, words in wrong:
        graph = Graph()
        graph.add("RealismSaveAdapter", adapter=graph.add("RealismLoadAdapter", **loader), name=name)
        assert words in failure(server.run(graph)), name


def test_a_mask_of_one_class_and_no_attributes_draw_all_the_same(
    server: ComfyServer, checkpoints: Checkpoints
) -> None:
    """18 empty regions are a mask like others; attributes that name nothing are none."""
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    Image.new("L", (64, 64), 13).save(server.base / "input" / "all hair.png")
    blank = graph.add("LoadImage", image="all hair.png")
    inputs = {
        "attributes": attributes(graph, ""),
        "mask": graph.add("RealismFaceMask", label_map=blank, palette="labels"),
    }
    loader = graph.add("RealismLoadAdapter", name=file_of(server, "blank"))
    id = graph.show(sampled(graph, parts["model"], conditioned(graph, parts, loader, **inputs)))
    drawn = shown(done(server.run(graph)), id)[0]["samples"]
    assert drawn["shape"] == [2, 16, 8, 8] and abs(drawn["max"]) < 1e3
