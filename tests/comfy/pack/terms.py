"""Test nodes that look at a realism term as the trainer does, and at what it leaves of a VAE."""

from __future__ import annotations

import copy
import hashlib
import json

import torch
from comfy_api.latest import io

from .vaes import pack_module

Term = io.Custom("REALISM_TERM")


class TestTerm(io.ComfyNode):
    """Tell, as JSON, what a term adds to the loss of latents at three noise levels, and its slopes there.

    dtype: what the VAE computes in, itself copied. trained: the VAE's own weights ask for gradients.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestTerm",
            category="test",
            is_output_node=True,
            inputs=[
                io.Model.Input("model"),
                Term.Input("term"),
                io.Latent.Input("latents"),
                io.Combo.Input("dtype", options=["own", "float16", "bfloat16"], default="own", optional=True),
                io.Boolean.Input("trained", default=False, optional=True),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, model, term, latents, dtype="own", trained=False) -> io.NodeOutput:
        vae = term.decoder.vae
        if dtype != "own" or trained:
            with torch.inference_mode(False):
                vae = copy.copy(vae)
                vae.first_stage_model = copy.deepcopy(vae.first_stage_model)
                for parameter in vae.first_stage_model.parameters():
                    parameter.data = parameter.data.clone()
                if dtype != "own":
                    vae.vae_dtype = getattr(torch, dtype)
                    vae.first_stage_model.to(vae.vae_dtype)
                vae.first_stage_model.requires_grad_(trained)
            term = type(term)(
                type(term.decoder)(vae), term.reference, term.origin, term.crop, term.weight, term.low,
                term.high, term.tolerance,
            )  # fmt: skip
        before = state_of(vae)
        trainable = pack_module("nodes.training_model").TrainableModel(model)
        images = trainable.latents(latents["samples"])
        loss = term.for_model(trainable, images)
        told = {"about": term.to_dict(), "words": term.describe(), "none": loss is None}
        if loss is not None:
            with torch.inference_mode(False), torch.enable_grad():
                x0 = torch.stack(images)[[0, 0, 0]].clone().requires_grad_()
                added = loss(x0, torch.tensor([1000.0, 15.0, 1.0]), torch.Generator().manual_seed(4))
                (slopes,) = torch.autograd.grad(added.sum(), x0)
            told["added"] = added.tolist()
            told["slopes"] = slopes.flatten(1).norm(dim=1).tolist()
            told["first"] = slopes[0].flatten().tolist()
        told["untouched"] = before == state_of(vae)
        return io.NodeOutput(ui={"text": (json.dumps(told),)})


class TestDecoder(io.ComfyNode):
    """Tell, as JSON, how a VAE decodes for a training, and how far that is from ComfyUI's own pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestDecoder",
            category="test",
            is_output_node=True,
            inputs=[io.Vae.Input("vae")],
            outputs=[],
        )

    @classmethod
    def execute(cls, vae) -> io.NodeOutput:
        before = state_of(vae)
        decoder = pack_module("nodes.vae").LatentDecoder(vae)
        decoder.check(8 * decoder.downscale)
        with torch.inference_mode(False), torch.enable_grad():
            latents = torch.randn(2, decoder.channels, 8, 8, generator=torch.Generator().manual_seed(6))
            images = decoder(latents.requires_grad_())
            (slopes,) = torch.autograd.grad(images.sum(), latents)
        video = vae.latent_dim == 3
        own = [vae.decode(one[None, :, None] if video else one[None]) for one in latents.detach()]
        theirs = torch.cat(own).flatten(0, -4).movedim(-1, 1)
        told = {
            "shape": list(images.shape),
            "slopes": [float(one.norm()) for one in slopes],
            "off": float((images - theirs).abs().max()),
            "spread": float(theirs.std()),
            "untouched": before == state_of(vae),
        }
        return io.NodeOutput(ui={"text": (json.dumps(told),)})


class TestWeights(io.ComfyNode):
    """Tell a digest of all weights of a model and a VAE, once `after` has come."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestWeights",
            category="test",
            is_output_node=True,
            inputs=[io.Model.Input("model"), io.Vae.Input("vae"), io.AnyType.Input("after", optional=True)],
            outputs=[],
        )

    @classmethod
    def execute(cls, model, vae, after=None) -> io.NodeOutput:
        state = hashlib.sha256()
        for network in (model.model, vae.first_stage_model):
            for name, value in [*network.named_parameters(), *network.named_buffers()]:
                about = (name, value.dtype, value.is_inference(), value.requires_grad, value.grad is None)
                state.update(repr(about).encode())
                content = value.detach().cpu().contiguous().flatten().view(torch.uint8)
                state.update(content.numpy().data)
        return io.NodeOutput(ui={"text": (state.hexdigest(),)})


def state_of(vae) -> list:
    """Return all of a VAE's weights: which objects, their bytes, and whether a gradient hangs on them."""
    network = vae.first_stage_model
    return [
        (
            name, id(value), value.requires_grad, value.grad is None, value.is_inference(),
            hashlib.sha256(value.detach().float().numpy().tobytes()).hexdigest(),
        )
        for name, value in [*network.named_parameters(), *network.named_buffers()]
    ]  # fmt: skip
