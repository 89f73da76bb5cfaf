"""A test node that looks at a MODEL as the trainer does."""

from __future__ import annotations

import json

import torch
from comfy_api.latest import io

from .vaes import pack_module


class TestPrediction(io.ComfyNode):
    """Tell how far the picture by the trainer's prediction is from the one that ComfyUI computes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestPrediction",
            category="test",
            is_output_node=True,
            inputs=[io.Model.Input("model"), io.Conditioning.Input("positive"), io.Latent.Input("latents")],
            outputs=[],
        )

    @classmethod
    def execute(cls, model, positive, latents) -> io.NodeOutput:
        comfy = pack_module("nodes.comfy")
        trainable = pack_module("nodes.training_model").TrainableModel(model)
        conditioning = [pack_module("nodes.training").plain_conditioning(positive)] * len(latents["samples"])
        x0 = torch.stack(trainable.latents(latents["samples"]))
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
        told = {"objective": trainable.objective.kind, "off": []}
        for u in (0.1, 0.5, 0.9):
            sigma = trainable.sigmas(torch.full((len(x0),), u, dtype=torch.float64)).float()
            noisy = trainable.objective.noisy(x0, noise, sigma)
            own = trainable.predict(noisy, sigma, conditioning)
            theirs = cls.denoised(comfy, trainable, noisy, sigma, conditioning)
            s = sigma.reshape(-1, *[1] * (x0.ndim - 1))
            if trainable.objective.kind == "v":
                ours = noisy / (1 + s**2) - own * s / (1 + s**2) ** 0.5
            else:
                ours = noisy - s * own
            told["off"].append(float((ours - theirs).abs().max() / theirs.abs().max()))
        return io.NodeOutput(ui={"text": (json.dumps(told),)})

    @staticmethod
    def denoised(comfy, trainable, noisy, sigma, conditioning):
        """Return the picture by ComfyUI's own apply_model, untouched."""
        parts = [trainable._conditions(one, noisy[:1]) for one in conditioning]
        conditions = comfy.comfy.samplers.cond_cat(parts)
        return trainable._inner.apply_model(noisy, sigma, transformer_options={}, **conditions)
