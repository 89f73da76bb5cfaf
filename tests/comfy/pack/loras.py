"""A test node that merges a LoRA into a model by adding finished updates to its weights."""

from __future__ import annotations

import safetensors.torch
from comfy_api.latest import io


class TestAddDeltas(io.ComfyNode):
    """Add the tensors of a safetensors file, named by ComfyUI's keys of weights, to a model and its CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestAddDeltas",
            category="test",
            inputs=[io.Model.Input("model"), io.Clip.Input("clip", optional=True), io.String.Input("path")],
            outputs=[io.Model.Output(), io.Clip.Output()],
        )

    @classmethod
    def execute(cls, model, path, clip=None) -> io.NodeOutput:
        deltas = {key: ("diff", (delta,)) for key, delta in safetensors.torch.load_file(path).items()}
        merged = model.clone()
        done = set(merged.add_patches(deltas))
        if clip is not None:
            clip = clip.clone()
            done |= set(clip.add_patches(deltas))
        if done != set(deltas):
            raise ValueError(f"there are no weights {sorted(set(deltas) - done)}")
        return io.NodeOutput(merged, clip)
