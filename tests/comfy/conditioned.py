"""Graphs around Realism Conditioner."""

from __future__ import annotations

import json
from zlib import crc32

import torch

from devtools.client import Run
from devtools.server import ComfyServer
from realism_core.conditioning.vocabulary import LABELS
from tests.comfy.graphs import Graph, Node, done
from tests.comfy.searches import Checkpoints
from tests.comfy.test_face_nodes import label_map
from tests.core.faces import face
from tests.tiny_models import CONDITIONING

TALL, WIDE = 144, 96
FACE = face(TALL, WIDE)
HAIR_EVERYWHERE = torch.full((TALL, WIDE), LABELS["hair"], dtype=torch.uint8)


class Setting:
    """A graph with a checkpoint, a CLIP of its width, prompts and a latent."""

    def __init__(self, server: ComfyServer, checkpoints: Checkpoints, kind: str, batch: int = 1) -> None:
        self.graph, self.server = Graph(), server
        width, pooled = CONDITIONING[kind]
        self.model = self.graph.add("CheckpointLoaderSimple", ckpt_name=checkpoints(server, kind))[0]
        self.clip = self.graph.add("TestWords", width=width, pooled=pooled)
        self.positive = self.encoded("a photo of a person")
        self.negative = self.encoded("drawing")
        self.latent = self.graph.add("EmptyLatentImage", width=WIDE, height=TALL, batch_size=batch)

    def encoded(self, text: str) -> Node:
        return self.graph.add("CLIPTextEncode", clip=self.clip, text=text)

    def mask(self, *labels: torch.Tensor) -> Node:
        maps = []
        for place, one in enumerate(labels):
            name = f"conditioner-{crc32(one.numpy().tobytes())}-{place}"
            maps.append(label_map(self.graph, self.server, one.numpy(), name))
        while len(maps) > 1:
            maps[:2] = [self.graph.add("ImageBatch", image1=maps[0], image2=maps[1])]
        return self.graph.add("RealismFaceMask", label_map=maps[0])

    def conditioned(self, attributes: str, mask: Node | None = None, **inputs) -> Node:
        said = self.graph.add("RealismFaceAttributes", attributes=attributes)
        given = {
            "attributes": said["attributes"], "clip": self.clip, "positive": self.positive,
            "negative": self.negative, "model": self.model,
        }  # fmt: skip
        if mask is not None:
            given["mask"] = mask["mask"]
        return self.graph.add("RealismConditioner", **{**given, **inputs})

    def sampled(self, model, positive, negative=None, cfg: float = 1.0, steps: int = 1, latent=None) -> Node:
        return self.graph.add(
            "KSampler", model=model, positive=positive,
            negative=self.negative if negative is None else negative,
            latent_image=self.latent if latent is None else latent, seed=3, steps=steps, cfg=cfg,
            sampler_name="euler", scheduler="simple", denoise=1.0,
        )  # fmt: skip

    def of(self, node: Node, model=None, **settings) -> Node:
        """Sample with what a conditioner gave."""
        return self.sampled(
            node["model"] if model is None else model, node["positive"], node["negative"], **settings
        )

    def difference(self, a: Node, b: Node, **inputs) -> str:
        return self.graph.add("TestDifference", a=a, b=b, **inputs).id

    def run(self) -> Run:
        return done(self.server.run(self.graph))


def value(run: Run, id: str) -> dict:
    return json.loads(run.entry["outputs"][id]["text"][0])
