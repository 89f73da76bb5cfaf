"""Nodes for tests only: seeded pictures of every kind, and a node that tells what reached it."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import torch
from comfy_api.latest import ComfyExtension, io
from torch import Tensor

from .adapters import TestPasses, TestPassesTold, TestPrompt, TestPromptBatch, TestWordless
from .attention import TestBlindAttention
from .conditioning import TestConditioning
from .coupling import (
    TestCalls,
    TestCallsTold,
    TestControl,
    TestDifference,
    TestOtherNetwork,
    TestProbe,
    TestProbed,
    TestTakenOver,
    TestTokens,
    TestWords,
)
from .faces import TestFaceTexts
from .floats import TestFloat, TestFloats
from .latents import TestLatentsThatCancel, TestNoiseLatents
from .lists import TestListOfTwo, TestText, TestVideoLatents
from .loras import TestAddDeltas
from .parsers import TestParserPin
from .pictures import KINDS, picture_batch
from .quantised import (
    TestFreeMemory,
    TestPartlyLoaded,
    TestQuantisedModel,
    TestRoom,
    TestWeightDigest,
)
from .sampling import TestTrouble
from .terms import TestDecoder, TestTerm, TestWeights
from .text_training import TestSmallClip, TestTextTraining
from .training import TestNetworkCall, TestPrediction, TestTrainedModel
from .vaes import TestReconstruction, TestVae

Scores = io.Custom("REALISM_SCORES")


def numbers(text: str) -> list[int]:
    """Return the whole numbers of a text such as "2,3"."""
    return [int(part) for part in text.split(",") if part.strip()]


class TestImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestImages",
            category="test",
            inputs=[
                io.Combo.Input("kind", options=KINDS, default="noise"),
                io.Int.Input("batch", default=1, min=0, max=1000),
                io.Int.Input("height", default=64, min=1, max=4096),
                io.Int.Input("width", default=64, min=1, max=4096),
                io.Int.Input("channels", default=3, min=1, max=5),
                io.Int.Input("seed", default=0),
                io.Int.Input("salt", default=0, optional=True),
            ],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def execute(cls, kind, batch, height, width, channels, seed, salt=0) -> io.NodeOutput:
        images = picture_batch(kind, batch, height, width, channels, seed)
        return io.NodeOutput(images, torch.zeros(images.shape[:3]))


class TestImageList(io.ComfyNode):
    """A list of batches; `sizes` is "2x64x48,1x32x32" (pictures, height, width); numbered throughout."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestImageList",
            category="test",
            inputs=[
                io.String.Input("sizes"),
                io.Combo.Input("kind", options=KINDS, default="index"),
                io.Int.Input("salt", default=0, optional=True),
            ],
            outputs=[io.Image.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, sizes, kind, salt=0) -> io.NodeOutput:
        batches, start = [], 0
        for size in sizes.split(","):
            batch, height, width = map(int, size.split("x"))
            batches.append(picture_batch(kind, batch, height, width, 3, start))
            start += batch
        return io.NodeOutput(batches)


class TestLatents(io.ComfyNode):
    """A list of latents whose samples, noise masks and batch indices number the pictures from 0."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestLatents",
            category="test",
            inputs=[io.String.Input("counts"), io.Boolean.Input("extras", default=True)],
            outputs=[io.Latent.Output(is_output_list=True), io.Mask.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, counts, extras) -> io.NodeOutput:
        latents, masks, start = [], [], 0
        for count in numbers(counts):
            index = torch.arange(start, start + count, dtype=torch.float32)
            latent = {"samples": index[:, None, None, None].expand(-1, 4, 8, 8).clone()}
            if extras:
                latent["noise_mask"] = index[:, None, None, None].expand(-1, 1, 8, 8).clone()
                latent["batch_index"] = [100 + int(number) for number in index]
            latents.append(latent)
            masks.append((index / 100)[:, None, None].expand(-1, 8, 8).clone())
            start += count
        return io.NodeOutput(latents, masks)


class TestMask(io.ComfyNode):
    """Masks [B,H,W], white on the left half; with `fill`, that value everywhere."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestMask",
            category="test",
            inputs=[
                io.Int.Input("batch", default=1),
                io.Int.Input("height", default=64),
                io.Int.Input("width", default=64),
                io.Float.Input("fill", default=-1.0, min=-1.0),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, batch, height, width, fill) -> io.NodeOutput:
        mask = torch.zeros(batch, height, width)
        mask[:, :, : width // 2] = 1.0
        return io.NodeOutput(mask if fill < 0 else torch.full_like(mask, fill))


class TestSetColumn(io.ComfyNode):
    """Write numbers over one column of scores; `counts` splits the table into a list, "" keeps one table."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestSetColumn",
            category="test",
            is_input_list=True,
            inputs=[
                Scores.Input("scores"),
                io.String.Input("column"),
                io.String.Input("values"),
                io.String.Input("counts", default="", optional=True),
            ],
            outputs=[Scores.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, scores, column, values, counts=None) -> io.NodeOutput:
        table = type(scores[0]).concat(scores)
        changed = table.values.clone()
        given = torch.tensor([float(value) for value in values[0].split(",")], dtype=changed.dtype)
        changed[:, table.names.index(column[0])] = given
        table = dataclasses.replace(table, values=changed)
        tables, start = [], 0
        for count in numbers(counts[0] if counts else "") or [len(table)]:
            tables.append(table[start : start + count])
            start += count
        return io.NodeOutput(tables)


class TestShow(io.ComfyNode):
    """Tell, as JSON, what reached this node: one item for each item of the list."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestShow",
            category="test",
            is_input_list=True,
            is_output_node=True,
            inputs=[io.AnyType.Input("value")],
            outputs=[],
        )

    @classmethod
    def execute(cls, value) -> io.NodeOutput:
        return io.NodeOutput(ui={"text": (json.dumps([describe(item) for item in value]),)})


def describe(item: object) -> object:
    """Return a JSON-ready description: tensors by shape, range and the mean of each picture."""
    if isinstance(item, Tensor):
        whole = item.double()
        return {
            "shape": list(item.shape),
            "dtype": str(item.dtype),
            "min": float(whole.min()),
            "max": float(whole.max()),
            "means": whole.flatten(1).mean(1).tolist(),
            "first": whole.flatten().tolist()[:64],
            "digests": [hashlib.sha256(row.cpu().numpy().tobytes()).hexdigest() for row in item],
        }
    if isinstance(item, dict):
        return {key: describe(value) for key, value in item.items()}
    if dataclasses.is_dataclass(item) and hasattr(item, "to_json"):
        return json.loads(item.to_json())
    if dataclasses.is_dataclass(item):
        return {"name": item.name, "definition": item.definition, "count": item.count}
    return item


class RealismTestNodes(ComfyExtension):
    async def get_node_list(self) -> list:
        return [
            TestImages, TestImageList, TestLatents, TestMask, TestSetColumn, TestShow, TestReconstruction,
            TestVae, TestConditioning, TestFloat, TestFloats,
            TestTrouble, TestListOfTwo, TestVideoLatents, TestText, TestAddDeltas, TestNoiseLatents,
            TestQuantisedModel, TestWeightDigest, TestPartlyLoaded, TestRoom, TestFreeMemory,
            TestNetworkCall, TestLatentsThatCancel, TestTrainedModel, TestPrediction, TestDecoder, TestTerm,
            TestPasses, TestPassesTold, TestPrompt, TestPromptBatch, TestWordless,
            TestBlindAttention, TestWeights, TestSmallClip, TestTextTraining, TestFaceTexts,
            TestWords, TestProbe, TestProbed, TestDifference, TestTokens,
            TestOtherNetwork, TestControl, TestCalls, TestCallsTold, TestTakenOver,
            TestParserPin,
        ]  # fmt: skip
