"""Face attributes and semantic masks in the real ComfyUI."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from devtools.client import Run
from devtools.server import ComfyServer
from realism_core.conditioning import mask_edits
from realism_core.conditioning.mask_pictures import to_colours
from realism_core.conditioning.masks import SemanticMask
from realism_core.conditioning.regions import find_regions, titles
from realism_core.conditioning.vocabulary import CLASS_NAMES
from realism_core.plots.mask import mask_preview
from tests.comfy.graphs import Graph, Node, done, failure, shown, status
from tests.core.faces import face

FACE = SemanticMask.from_labels(face(96, 64)[None])
PRESENT = titles(FACE.labels.unique().tolist())


def given_picture(server: ComfyServer, name: str, values: np.ndarray) -> str:
    """Write a picture of 0..255 values into ComfyUI's input folder; returns its name there."""
    Image.fromarray(values.astype(np.uint8)).save(server.base / "input" / f"{name}.png")
    return f"{name}.png"


def label_map(graph: Graph, server: ComfyServer, values: np.ndarray, name: str = "labels") -> Node:
    return graph.add("LoadImage", image=given_picture(server, name, values))


def face_mask(graph: Graph, server: ComfyServer, **inputs) -> Node:
    return graph.add("RealismFaceMask", label_map=label_map(graph, server, face(96, 64).numpy()), **inputs)


def given_mask(graph: Graph, server: ComfyServer, name: str, mask: Tensor) -> Node:
    file = given_picture(server, name, mask.numpy() * 255)
    return graph.add("LoadImageMask", image=file, channel="red")


def is_mask(item: dict, mask: Tensor) -> bool:
    """Whether what TestShow tells of a mask is this one, byte by byte."""
    return item["digests"] == [hashlib.sha256(row.numpy().tobytes()).hexdigest() for row in mask]


def check(server: ComfyServer, graph: Graph, mask: Node, expected: SemanticMask) -> Run:
    """Compare every class of what a node gives, and its preview, with the core's."""
    parts = graph.add("RealismFaceMaskParts", mask=mask["mask"], parts="everything")
    id = graph.show(parts["masks"])
    preview = graph.show(mask["preview"])
    run = done(server.run(graph))
    masks = shown(run, id)
    assert len(masks) == 19
    for label, item in enumerate(masks):
        assert is_mask(item, expected.region([label])), CLASS_NAMES[label]
    (item,) = shown(run, preview)
    assert item["shape"] == list(mask_preview(expected).shape)
    (picture,) = run.entry["outputs"][mask.id]["images"][:1]
    drawn = Image.open(server.base / "temp" / picture["subfolder"] / picture["filename"])
    assert np.abs(np.asarray(drawn) - mask_preview(expected)[0].numpy() * 255).max() <= 1
    return run


def told(run: Run, node: Node) -> str:
    return run.entry["outputs"][node.id].get("text", [""])[0]


def refused(server: ComfyServer, graph: Graph, node: Node) -> str:
    """Return the message of a prompt that fails; ComfyUI's cache gets no chance."""
    graph.show(node[0])
    run = server.run(graph)
    assert status(run) == "execution_error"
    return failure(run)


@pytest.mark.parametrize(("text", "canonical", "words"), [
    ("Smiling, Eyeglasses:0.8, -Bald", "-Bald, Eyeglasses:0.8, Smiling", "-Bald, Eyeglasses:0.8, Smiling"),
    ("笑顔、メガネ：０．８、－はげ", "-Bald, Eyeglasses:0.8, Smiling", "Smiling"),
    ("woman\nno hat", "-Male, -Wearing_Hat", "-Male"),
    ("black hair, 金发", "Black_Hair, Blond_Hair", "Black_Hair and Blond_Hair contradict each other"),
    (" \n ", "", "No attributes: the face may be as it likes."),
])  # fmt: skip
def test_attributes(server: ComfyServer, text: str, canonical: str, words: str) -> None:
    graph = Graph()
    node = graph.add("RealismFaceAttributes", attributes=text)
    id = graph.show(node["text"])
    run = done(server.run(graph))
    assert shown(run, id) == [canonical]
    assert words in told(run, node)


@pytest.mark.parametrize(("text", "words"), [
    ("Smilling", "'Smilling' is none of the 40 attributes. Did you mean Smiling?"),
    ("😀, שלום", "'😀' is none of the 40 attributes"),
    ("Smiling:3", "'Smiling:3' has a strength out of range: use a number above 0 and up to 2"),
    ("Smiling, -Smiling", "Smiling is asked for twice, as 1 and as -1: keep one"),
])  # fmt: skip
def test_wrong_attributes(server: ComfyServer, text: str, words: str) -> None:
    graph = Graph()
    assert words in refused(server, graph, graph.add("RealismFaceAttributes", attributes=text))


def test_a_label_map(server: ComfyServer) -> None:
    graph = Graph()
    run = check(server, graph, face_mask(graph, server), FACE)
    assert status(run) == "execution_success"


def test_colours(server: ComfyServer) -> None:
    graph = Graph()
    loaded = label_map(graph, server, to_colours(FACE)[0].numpy() * 255 + 0.5, "colours")
    node = graph.add("RealismFaceMask", label_map=loaded)
    assert status(check(server, graph, node, FACE)) == "execution_success"


def test_labels_in_the_order_of_bisenet(server: ComfyServer) -> None:
    graph = Graph()
    labels = np.zeros((32, 32))
    labels[8:20, 8:24] = 17
    loaded = label_map(graph, server, labels, "bisenet")
    node = graph.add("RealismFaceMask", label_map=loaded, palette="bisenet labels")
    expected = SemanticMask.from_labels(torch.from_numpy(np.where(labels == 17, 13, 0))[None])
    assert status(check(server, graph, node, expected)) == "execution_success"


def test_another_size(server: ComfyServer) -> None:
    graph = Graph()
    expected = FACE.fitted(64, 64, "crop")
    node = face_mask(graph, server, width=64, height=64, fit="crop")
    assert status(check(server, graph, node, expected)) == "execution_success"
    graph = Graph()
    expected = FACE.resized(48, 32)
    assert status(check(server, graph, face_mask(graph, server, width=32), expected)) == "execution_success"


def test_masks_of_parts(server: ComfyServer) -> None:
    """Two masks in a batch, the second of which covers nothing; then one laid over the first mask."""
    graph = Graph()
    skin, empty = FACE.region(["skin"]), torch.zeros(1, 96, 64)
    pictures = [
        label_map(graph, server, mask[0].numpy() * 255, name)
        for name, mask in (("skin", skin), ("empty", empty))
    ]
    both = graph.add("ImageBatch", image1=pictures[0], image2=pictures[1])
    masks = graph.add("ImageToMask", image=both, channel="red")
    node = graph.add("RealismFaceMask", parts=masks, part_names="skin, hat")
    half = torch.zeros(96, 64)
    half[:20] = 1
    over = graph.add(
        "RealismFaceMask", parts=given_mask(graph, server, "half", half), part_names="Hat", mask=node["mask"]
    )
    labels = skin.byte()
    labels[0, :20] = CLASS_NAMES.index("hat")
    run = check(server, graph, over, SemanticMask.from_labels(labels))
    assert told(run, node) == "hat covers nothing"


EDITS = {
    "move": (
        {"part": "hair, ears", "dx": 0.125, "dy": -0.0625},
        lambda p: mask_edits.move(FACE, p, 0.125, -0.0625),
    ),
    "grow": ({"part": "lips", "pixels": 3}, lambda p: mask_edits.grow(FACE, p, 3)),
    "shrink": ({"part": "hair", "pixels": 2}, lambda p: mask_edits.shrink(FACE, p, 2)),
    "drop": ({"part": "hair, hat"}, lambda p: mask_edits.drop(FACE, p)),
    "merge": ({"part": "lips", "into": "mouth"}, lambda p: mask_edits.merge(FACE, p, 10)),
    "mirror": ({"part": "earring, left ear"}, lambda p: mask_edits.mirror(FACE, p)),
}


@pytest.mark.parametrize("action", EDITS)
def test_edits(server: ComfyServer, action: str) -> None:
    inputs, core = EDITS[action]
    graph = Graph()
    node = graph.add("RealismEditFaceMask", mask=face_mask(graph, server), action=action, **inputs)
    run = check(server, graph, node, core(find_regions(inputs["part"])))
    assert told(run, node) == ("not in this mask: hat" if "hat" in inputs["part"] else "")


def test_more_edits(server: ComfyServer) -> None:
    graph = Graph()
    mask = face_mask(graph, server)
    node = graph.add("RealismEditFaceMask", mask=mask, action="mirror", part="everything")
    assert status(check(server, graph, node, mask_edits.mirror(FACE))) == "execution_success"
    graph = Graph()
    mask = face_mask(graph, server)
    node = graph.add("RealismEditFaceMask", mask=mask, action="drop", part="hair", into="hat")
    assert status(check(server, graph, node, mask_edits.merge(FACE, [13], 14))) == "execution_success"
    graph = Graph()
    mask = face_mask(graph, server)
    node = graph.add("RealismEditFaceMask", mask=mask, action="shrink", part="mouth, nose", pixels=40)
    run = check(server, graph, node, mask_edits.shrink(FACE, find_regions("mouth, nose"), 40))
    assert told(run, node) == "nothing is left of: nose, mouth"


@pytest.mark.parametrize(("inputs", "words"), [
    ({"part": "hare"}, "part: 'hare' is no region of the mask. Did you mean hair"),
    ({"part": ""}, "part: no region is named"),
    ({"part": "hat"}, f"part: hat: nothing of it is in this mask, which has {PRESENT}. Name"),
    ({"part": "background"}, "the background cannot be moved"),
    ({"part": "hair", "action": "merge"}, "into: no class is named"),
    ({"part": "hair", "action": "merge", "into": "eyes"}, "into: 'eyes' is 2 classes"),
    ({"part": "hair", "action": "merge", "into": "hat, skin"}, "into: hat, skin are 2 classes: name one"),
    ({"part": "hair, hat", "action": "drop", "into": "hair"}, "into: hair is dropped itself"),
    ({"part": "everything", "action": "drop"}, "so that nothing is left to fill it with"),
])  # fmt: skip
def test_wrong_edits(server: ComfyServer, inputs: dict, words: str) -> None:
    graph = Graph()
    node = graph.add("RealismEditFaceMask", mask=face_mask(graph, server), **inputs)
    assert words in refused(server, graph, node)


def test_wrong_pictures(server: ComfyServer) -> None:
    labels = face(96, 64).numpy().copy()
    labels[0, :9] = 77
    colours = np.zeros((32, 32, 3))
    colours[:2] = (200, 0, 0)
    for values, name, words in (
        (labels, "unknown", "label_map: 9 pixels are unknown, from picture 1 on: 9 with the label 77"),
        (colours, "near", "64 pixels of (200, 0, 0), nearest skin (204, 0, 0)"),
        (np.zeros((32, 32)), "black", "The mask is background everywhere"),
        (np.eye(32) * 255, "one", "connect it to parts and name the part in part_names"),
    ):
        graph = Graph()
        node = graph.add("RealismFaceMask", label_map=label_map(graph, server, values, name))
        assert words in refused(server, graph, node)


def test_wrong_inputs(server: ComfyServer) -> None:
    def graph_of(**inputs) -> tuple[Graph, Node]:
        graph = Graph()
        made = {}
        for name, value in inputs.items():
            if name == "parts":
                made[name] = graph.add("TestMask", batch=value[0], height=value[1], width=64, fill=value[2])
            elif name == "label_map":
                made[name] = label_map(graph, server, face(96, 64).numpy())
            elif name == "mask":
                made[name] = face_mask(graph, server)
            else:
                made[name] = value
        return graph, graph.add("RealismFaceMask", **made)

    for inputs, words in (
        ({}, "There is nothing to make a mask of: connect label_map, or parts"),
        ({"label_map": True, "mask": True}, "label_map and mask are both connected"),
        ({"label_map": True, "part_names": "hair"}, "part_names names parts, but no masks are connected"),
        ({"parts": (1, 96, 1.0)}, "part_names: no class is named"),
        ({"parts": (1, 96, 1.0), "part_names": "hare"}, "part_names: 'hare' is no region"),
        ({"parts": (1, 96, 1.0), "part_names": "eyes"}, "part_names: 'eyes' is 2 classes"),
        ({"parts": (3, 96, 1.0), "part_names": "hair, hat"}, "names 2 parts, but parts holds 3 masks"),
        ({"parts": (1, 96, 0.0), "part_names": "hair"}, "parts: hair cover nothing"),
        ({"parts": (1, 64, 1.0), "part_names": "hair", "label_map": True}, "hair has 64 x 64 pixels and"),
        ({"label_map": True, "width": 64, "height": 64}, "64 x 96, which is another aspect than 64 x 64"),
    ):  # fmt: skip
        assert words in refused(server, *graph_of(**inputs)), inputs


def test_batches(server: ComfyServer) -> None:
    """One name and a mask for each picture; where a picture has none, the node says so."""
    graph = Graph()
    full, none = (graph.add("TestMask", height=8, width=8, fill=fill) for fill in (1.0, 0.0))
    pictures = [graph.add("MaskToImage", mask=mask) for mask in (full, none)]
    batch = graph.add("ImageBatch", image1=pictures[0], image2=pictures[1])
    masks = graph.add("ImageToMask", image=batch, channel="red")
    node = graph.add("RealismFaceMask", parts=masks, part_names="hair")
    parts = graph.add("RealismFaceMaskParts", mask=node["mask"], parts="hair")
    id = graph.show(parts["mask"])
    run = done(server.run(graph))
    assert shown(run, id)[0]["means"] == [1.0, 0.0]
    assert "hair covers nothing in picture 2" in told(run, node)
    assert "picture 2 is background everywhere" in told(run, node)
    assert told(run, parts) == "hair: 100 %, none"


@pytest.mark.parametrize("on_empty", ["error", "empty", "block"])
def test_parts_that_are_not_there(server: ComfyServer, on_empty: str) -> None:
    graph = Graph()
    parts = graph.add(
        "RealismFaceMaskParts", mask=face_mask(graph, server), parts="hat, necklace", on_empty=on_empty
    )
    whole, each = graph.show(parts["mask"]), graph.show(parts["masks"])
    run = server.run(graph)
    if on_empty == "error":
        assert "parts: hat, necklace: nothing of it is in this mask, which has background" in failure(run)
        return
    done(run)
    assert (whole in run.entry["outputs"]) == (each in run.entry["outputs"]) == (on_empty == "empty")
    if on_empty == "empty":
        assert shown(run, whole)[0]["max"] == 0 and len(shown(run, each)) == 2


def test_the_inputs_are_those_of_the_contract(server: ComfyServer) -> None:
    known = server.object_info()
    inputs = known["RealismFaceMask"]["input_order"]
    assert inputs["optional"][:2] == ["label_map", "parts"] and inputs["required"] == ["palette"]
    assert known["RealismFaceAttributes"]["input_order"]["required"] == ["attributes"]
    assert known["RealismFaceAttributes"]["output"] == ["FACE_ATTRIBUTES", "STRING"]
    assert known["RealismFaceMask"]["output"] == ["SEMANTIC_MASK", "IMAGE"]


def test_on_the_oldest_comfyui(old_server: ComfyServer) -> None:
    graph = Graph()
    attributes = graph.add("RealismFaceAttributes", attributes="メガネ, no smile, blond, black hair")
    text = graph.show(attributes["text"])
    mask = face_mask(graph, old_server)
    edited = graph.add("RealismEditFaceMask", mask=mask, action="drop", part="hair, hat")
    run = check(old_server, graph, edited, mask_edits.drop(FACE, find_regions("hair, hat")))
    assert shown(run, text) == ["Black_Hair, Blond_Hair, Eyeglasses, -Smiling"]
    assert "contradict each other" in told(run, attributes)
    assert told(run, edited) == "not in this mask: hat"
    graph = Graph()
    parts = graph.add(
        "RealismFaceMaskParts", mask=face_mask(graph, old_server), parts="hat", on_empty="block"
    )
    id = graph.show(parts["masks"])
    assert id not in done(old_server.run(graph)).entry["outputs"]
