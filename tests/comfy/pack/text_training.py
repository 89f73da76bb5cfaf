"""Test nodes that train text encoders as the trainer does, and small text encoders to train."""

from __future__ import annotations

import json

import comfy.sd
import comfy.sdxl_clip
import comfy.text_encoders.sd3_clip as sd3_clip
import torch
from comfy_api.latest import io

from .vaes import pack_module


class TestSmallClip(io.ComfyNode):
    """A CLIP of a family with random weights, as wide as its models take it and only some layers deep."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestSmallClip",
            category="test",
            inputs=[io.Combo.Input("family", options=["sdxl", "sd3_t5"])],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, family) -> io.NodeOutput:
        class Target:
            params = {}
            clip, tokenizer = comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer

        if family == "sd3_t5":
            Target.clip = sd3_clip.sd3_clip(clip_l=True, clip_g=False, t5=True, dtype_t5=torch.float16)
            Target.tokenizer = sd3_clip.SD3Tokenizer
        flat = {"num_hidden_layers": 3, "intermediate_size": 64}
        options = {
            "dtype": torch.float16, "clip_l_model_config": flat, "clip_g_model_config": flat,
            "t5xxl_model_config": {"num_layers": 2, "d_ff": 64, "num_heads": 2},
        }  # fmt: skip
        clip = comfy.sd.CLIP(Target, model_options=options)
        random = torch.Generator().manual_seed(4)
        for name, weight in clip.cond_stage_model.named_parameters():
            if weight.dim() > 1:
                size = 0.02 if "embedding" in name or "shared" in name else weight.shape[1] ** -0.5
                weight.data = (torch.randn(weight.shape, generator=random) * size).half()
            else:
                weight.data = torch.full_like(weight, float(name.endswith("weight")))
        return io.NodeOutput(clip)


class TestTextTraining(io.ComfyNode):
    """Train a LoRA on model and CLIP by the functions that the trainer uses; tells what came of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestTextTraining",
            category="test",
            is_input_list=True,
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip", optional=True),
                io.String.Input("captions", optional=True),
                io.Conditioning.Input("positive"),
                io.Latent.Input("latents"),
                io.String.Input("options"),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.LoraModel.Output(), io.String.Output()],
        )

    @classmethod
    def execute(cls, model, positive, latents, options, clip=None, captions=None) -> io.NodeOutput:
        text, data = pack_module("nodes.text_training"), pack_module("realism_core.training.data")
        lora, comfy_calls = pack_module("nodes.lora"), pack_module("nodes.comfy")
        chosen = json.loads(options[0])
        rate = chosen.pop("text_rate", 1.0)
        settings = pack_module("realism_core.training.settings").TrainSettings(**chosen.pop("settings"))
        config = pack_module("realism_core.training.lora").LoraConfig(**chosen)
        denoiser = pack_module("nodes.training_model").TrainableModel(model[0])
        before = [cls.digests(part) for part in (model, clip) if part and part[0] is not None]
        examples = pack_module("nodes.training").examples(denoiser, latents, positive, None, None)
        denoiser, examples, empty = text.text_training(denoiser, clip, captions, examples)
        dataset = data.Dataset(examples)
        denoiser.check(dataset.examples[0].latent, dataset.examples[0].conditioning)
        memory = text.estimate_all(denoiser, config, dataset, settings)
        with (
            comfy_calls.training_mode(),
            text.attach_all(denoiser, config, settings.seed, rate) as adapters,
        ):
            result = pack_module("realism_core.training.loop").train(
                denoiser, adapters, dataset, settings, empty_conditioning=empty
            )
            shapes = pack_module("realism_core.training.fingerprints").layer_shapes(text.weights_of(denoiser))
            state = lora.joined(result.state, adapters.comfyui_dora_scales())
            idle = adapters.idle
        record = pack_module("realism_core.training.metadata").TrainingRecord(steps=result.steps)
        trained = lora.TrainedLora(state, shapes, record)
        after = [cls.digests(part) for part in (model, clip) if part and part[0] is not None]
        told = {
            "losses": result.losses, "untouched": before == after, "idle": idle, "memory": memory._asdict(),
            "sizes": {path: float(value.norm()) for path, value in state.items() if "lora_B" in path},
        }  # fmt: skip
        both = comfy_calls.with_lora(model[0], trained, clip[0] if clip else None)
        return io.NodeOutput(*both, trained, json.dumps(told))

    @staticmethod
    def digests(part) -> dict:
        """Return a digest of each weight, with its flags, and the hooks, of a MODEL or a CLIP."""
        module = getattr(part[0], "cond_stage_model", None) or part[0].model
        told = {
            name: (digest(weight), weight.requires_grad, weight.is_inference(), id(weight))
            for name, weight in [*module.named_parameters(), *module.named_buffers()]
        }
        for path, child in module.named_modules():
            hooks = len(child._forward_hooks) + len(child._forward_pre_hooks)
            told[f"{path} as a module"] = (hooks, child.training, "forward" in child.__dict__)
        return told


def digest(weight: torch.Tensor) -> int:
    """Return 64 bits that change with any byte, for this process alone: SHA-256 takes three times as long."""
    return hash(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
