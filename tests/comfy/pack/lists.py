"""Test nodes for lists and for the latents of videos."""

from __future__ import annotations

import comfy.nested_tensor
import torch
from comfy_api.latest import io


class TestListOfTwo(io.ComfyNode):
    """Two values of any kind as a list."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestListOfTwo",
            category="test",
            inputs=[io.AnyType.Input("first"), io.AnyType.Input("second")],
            outputs=[io.AnyType.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, first, second) -> io.NodeOutput:
        return io.NodeOutput([first, second])


class TestText(io.ComfyNode):
    """Hands on `more`; `text` is only there."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestText",
            category="test",
            inputs=[io.String.Input("text"), io.String.Input("more", default="")],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, text, more) -> io.NodeOutput:
        return io.NodeOutput(more)


class TestVideoLatents(io.ComfyNode):
    """Latents of videos [videos,16,frames,2,2], frames filled with their number; `sound` adds a part."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestVideoLatents",
            category="test",
            inputs=[
                io.Int.Input("videos", default=1),
                io.Int.Input("frames", default=6),
                io.Boolean.Input("sound", default=False),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, videos, frames, sound) -> io.NodeOutput:
        filled = torch.arange(float(videos * frames)).reshape(videos, 1, frames, 1, 1)
        samples = filled.expand(-1, 16, -1, 2, 2).clone()
        if sound:
            parts = [samples, torch.zeros(videos, 8, frames, 4)]
            return io.NodeOutput({"samples": comfy.nested_tensor.NestedTensor(parts)})
        return io.NodeOutput({"samples": samples, "noise_mask": samples[:, :1].clone()})
