"""Test nodes around VAEs: odd VAE objects, and the pack's reconstruction distance by itself."""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

import comfy.sd
import torch
from comfy_api.latest import io


def pack_module(name: str) -> types.ModuleType:
    """Return a module of the pack under test, as this ComfyUI has loaded it."""
    for package, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).name == "__init__.py" and (Path(file).parent / "realism_core").is_dir():
            return importlib.import_module(f"{package}.{name}")
    raise ImportError("the pack under test is not loaded")


class TestVae(io.ComfyNode):
    """empty: what a checkpoint without a VAE gives; video: a random one; sound: one with other shapes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestVae",
            category="test",
            inputs=[io.Combo.Input("kind", options=["empty", "video", "sound"])],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls, kind) -> io.NodeOutput:
        if kind == "empty":
            return io.NodeOutput(comfy.sd.VAE(sd={}))
        if kind == "sound":
            sound = types.SimpleNamespace(first_stage_model=1, latent_dim=1, output_channels=2)
            return io.NodeOutput(sound)
        tensors = {"decoder.1.weight": torch.zeros(256, 16, 3, 3), "decoder.22.bias": torch.zeros(3)}
        vae = comfy.sd.VAE(sd=tensors)
        random = torch.Generator().manual_seed(0)
        for weight in vae.first_stage_model.parameters():
            fan = max(1, weight[0].numel()) if weight.ndim > 1 else 1
            scale = fan**-0.5 if weight.ndim > 1 else 0.1
            weight.data = torch.randn(weight.shape, generator=random).to(weight.dtype) * scale
        return io.NodeOutput(vae)


class TestReconstruction(io.ComfyNode):
    """Tell, as JSON, the reconstruction columns of each picture and how often a VAE was called."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestReconstruction",
            category="test",
            is_output_node=True,
            inputs=[
                io.Image.Input("images"),
                io.Int.Input("tile", default=1024),
                *(io.Vae.Input(name, optional=True) for name in ("vae", "vae_2", "vae_3")),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, images, tile, **vaes) -> io.NodeOutput:
        calls = []
        wrap = pack_module("nodes.vae").reconstructor
        wrapped = [wrap(vae, name, lambda: calls.append(1)) for name, vae in sorted(vaes.items())]
        evidence = pack_module("realism_core.evidence.reconstruction")
        planes = pack_module("realism_core.images").to_planes(images)
        values = evidence.measure_reconstruction(planes, wrapped, tile=tile)
        told = {"calls": len(calls), "rows": values.tolist()}
        return io.NodeOutput(ui={"text": (json.dumps(told),)})
