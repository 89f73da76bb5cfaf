"""Graphs that train an adapter and sample with it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from devtools.server import ComfyServer
from realism_core.conditioning.vocabulary import LABELS
from tests.comfy.graphs import Graph, Node
from tests.comfy.searches import Checkpoints, loaded
from tests.core.faces import face
from tests.tiny_models import LATENT_CHANNELS

ATTRIBUTES = "Smiling, Eyeglasses:0.8, -Bald"


def faces(graph: Graph, server: ComfyServer, *skins: str, size: tuple[int, int] = (64, 64)) -> Node:
    """Add a batch of masks of the drawn face, one for each class that its skin is to be."""
    pictures = []
    for skin in skins or ("skin",):
        labels = face(*size).numpy().copy()
        labels[labels == LABELS["skin"]] = LABELS[skin]
        name = f"adapter-{skin}-{size[0]}x{size[1]}.png"
        Image.fromarray(labels.astype(np.uint8)).save(server.base / "input" / name)
        pictures.append(graph.add("LoadImage", image=name))
    joined = pictures[0]
    for picture in pictures[1:]:
        joined = graph.add("ImageBatch", image1=joined, image2=picture)
    return graph.add("RealismFaceMask", label_map=joined, palette="labels")


def attributes(graph: Graph, text: str = ATTRIBUTES) -> Node:
    return graph.add("RealismFaceAttributes", attributes=text)


def parts_of(graph: Graph, server: ComfyServer, checkpoints: Checkpoints, kind: str) -> dict:
    """Add a model with prompts, attributes and a mask for two pictures."""
    return {
        **loaded(graph, server, checkpoints, kind),
        "attributes": attributes(graph),
        "mask": faces(graph, server, "skin", "nose"),
    }


def adapter_training(graph: Graph, kind: str, parts: dict, **inputs) -> Node:
    """Add a trainer on two latents of noise; an input of None is left open."""
    latents = graph.add("TestNoiseLatents", seeds="1,2", channels=LATENT_CHANNELS.get(kind, 4))
    wanted = ("model", "positive", "negative", "attributes", "mask")
    given = {"latents": latents, **{name: parts[name] for name in wanted}, **inputs}
    return graph.add(
        "RealismTrainAdapter", **{name: value for name, value in given.items() if value is not None}
    )


def conditioned(graph: Graph, parts: dict, adapter: Node | list, **inputs) -> Node:
    """Add the conditioner with an adapter; an input of None is left open."""
    wanted = ("positive", "negative", "attributes", "mask")
    given = {"adapter": adapter, **{name: parts[name] for name in wanted}, **inputs}
    return graph.add(
        "RealismConditioner", **{name: value for name, value in given.items() if value is not None}
    )


def sampled(graph: Graph, model: list | Node, prompts: Node | dict, batch: int = 2, **options) -> Node:
    """Add a run with prompts, from a node's outputs or by name."""
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=batch)
    settings = {"seed": 11, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple",
                "denoise": 1.0, **options}  # fmt: skip
    return graph.add(
        "KSampler", model=model, positive=prompts["positive"], negative=prompts["negative"],
        latent_image=latent, **settings,
    )  # fmt: skip
