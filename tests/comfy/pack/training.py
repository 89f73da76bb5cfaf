"""A test node that looks at a MODEL as the trainer does."""

from __future__ import annotations

import json

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy_api.latest import io

from .vaes import pack_module


class TestNetworkCall(io.ComfyNode):
    """A MODEL of which one call of the network (from 0), in training or not, goes wrong.

    cancel: Cancel is pressed during it. memory: the device has none left. nan: its output is NaN.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestNetworkCall",
            category="test",
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("what", options=["cancel", "memory", "nan"]),
                io.Int.Input("call"),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, what, call) -> io.NodeOutput:
        calls = []

        def wrapper(apply, *arguments, **options):
            calls.append(1)
            here = len(calls) == call + 1
            if here and what == "cancel":
                comfy.model_management.interrupt_current_processing()
            if here and what == "memory":
                raise torch.OutOfMemoryError("out of memory, for a test")
            output = apply(*arguments, **options)
            return output * torch.nan if here and what == "nan" else output

        troubled = model.clone()
        kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
        comfy.patcher_extension.add_wrapper(kind, wrapper, troubled.model_options, is_model_options=True)
        return io.NodeOutput(troubled)


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


class TestTrainedModel(io.ComfyNode):
    """Train, and tell how far what ComfyUI makes of the LoRA is from the trained model itself.

    moved: how far training took the prediction. beside, patched: how far the model with the LoRA beside its
    weights, and in them, is off.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestTrainedModel",
            category="test",
            is_output_node=True,
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Latent.Input("latents"),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, model, positive, latents) -> io.NodeOutput:
        comfy, core = pack_module("nodes.comfy"), "realism_core.training"
        lora, data = pack_module(f"{core}.lora"), pack_module(f"{core}.data")
        trainable = pack_module("nodes.training_model").TrainableModel(model)
        words = pack_module("nodes.training").plain_conditioning(positive)
        images = trainable.latents(latents["samples"])
        wanted = pack_module(f"{core}.settings").TrainSettings(20, len(images), learning_rate=1e-2)
        config = lora.LoraConfig(4, 4.0, targets="all", clamp_rank=True)
        before = cls.predicted(trainable, images, words)
        with comfy.training_mode(), lora.attach(trainable.module, config, 1) as adapters:
            result = pack_module(f"{core}.loop").train(
                trainable, adapters, data.Dataset(data.pair(images, [words])), wanted
            )
            own = cls.predicted(trainable, images, words)
        state = {f"diffusion_model.{name}": value.clone() for name, value in result.state.items()}
        again = {}
        for name, beside in (("beside", True), ("patched", False)):
            made = pack_module("nodes.training_model").TrainableModel(
                comfy.with_lora(model, state, beside=beside)[0]
            )
            again[name] = far(cls.predicted(made, images, words), own)
        return io.NodeOutput(ui={"text": (json.dumps({"moved": far(before, own), **again}),)})

    @staticmethod
    def predicted(trainable, images, words):
        """Return the prediction for each image at two noise levels in turn."""
        x0 = torch.stack(images)
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
        u = torch.tensor([0.3, 0.7] * len(x0), dtype=torch.float64)[: len(x0)]
        with torch.inference_mode(False), torch.no_grad():
            sigma = trainable.sigmas(u).float()
            noisy = trainable.objective.noisy(x0, noise, sigma)
            return trainable.predict(noisy, sigma, [words] * len(x0))


def far(ours, theirs):
    """Return the largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
