"""A test node that gives latents to train on."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io


class TestNoiseLatents(io.ComfyNode):
    """Latents of normal noise, a list of one image each; `seeds` is "1,2:6x8,nan".

    A seed may have a height and a width of its own; nan is a latent with one NaN; none at all gives one empty
    batch.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestNoiseLatents",
            category="test",
            inputs=[
                io.String.Input("seeds"),
                io.Int.Input("channels", default=16),
                io.Int.Input("side", default=8),
            ],
            outputs=[io.Latent.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, seeds, channels, side) -> io.NodeOutput:
        latents = []
        for part in filter(None, seeds.split(",")):
            seed, _, size = part.partition(":")
            height, width = map(int, size.split("x")) if size else (side, side)
            random = torch.Generator().manual_seed(0 if seed == "nan" else int(seed))
            samples = torch.randn(1, channels, height, width, generator=random)
            if seed == "nan":
                samples[0, 0, 0, 0] = torch.nan
            latents.append({"samples": samples})
        return io.NodeOutput(latents or [{"samples": torch.zeros(0, channels, side, side)}])


class TestLatentsThatCancel(io.ComfyNode):
    """Latents of one image of noise; Cancel is pressed as they are read."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestLatentsThatCancel", category="test", outputs=[io.Latent.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(Cancelling(samples=torch.randn(1, 16, 8, 8)))


class Cancelling(dict):
    def __getitem__(self, name: str):
        comfy.model_management.interrupt_current_processing()
        return super().__getitem__(name)
