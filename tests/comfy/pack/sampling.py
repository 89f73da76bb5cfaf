"""Test nodes around sampling: models and VAEs that press Cancel or fail at a chosen call."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io

WHATS = ("cancel", "nan", "always_nan", "first_nan", "alpha", "frames")


class TestTrouble(io.ComfyNode):
    """A model and a VAE that do as their originals, but for one call (from 0) of one of them.

    cancel: Cancel is pressed during that call. nan: the decoded pictures are NaN; always_nan: from then on;
    first_nan: the first of each call is. alpha: all have alpha. frames: all are videos of three frames.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestTrouble",
            category="test",
            inputs=[
                io.Model.Input("model"),
                io.Vae.Input("vae"),
                io.Combo.Input("where", options=["model", "vae"]),
                io.Combo.Input("what", options=list(WHATS)),
                io.Int.Input("call", default=0),
            ],
            outputs=[io.Model.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, model, vae, where, what, call) -> io.NodeOutput:
        troubled = model.clone()
        if where == "model":
            calls = []

            def wrapper(apply, arguments):
                calls.append(1)
                if len(calls) == call + 1:
                    comfy.model_management.interrupt_current_processing()
                return apply(arguments["input"], arguments["timestep"], **arguments["c"])

            troubled.set_model_unet_function_wrapper(wrapper)
            return io.NodeOutput(troubled, vae)
        return io.NodeOutput(troubled, TroubledVae(vae, what, call))


class TroubledVae:
    """A VAE of which one decode fails as TestTrouble says."""

    def __init__(self, vae, what: str, call: int) -> None:
        self._vae, self._what, self._call, self._calls = vae, what, call, 0

    def __getattr__(self, name: str):
        return getattr(self._vae, name)

    def decode(self, samples, **options):
        images = self._vae.decode(samples, **options)
        here, self._calls = self._calls, self._calls + 1
        if self._what == "cancel":
            if here == self._call:
                comfy.model_management.interrupt_current_processing()
            return images
        if self._what == "alpha":
            return torch.cat([images, images[..., :1]], -1)
        if self._what == "frames":
            # as the video VAEs give them: [B,T,H,W,C], each darker than the one before
            return torch.stack([images, images * 0.9, images * 0.8], 1)
        if self._what == "first_nan":
            images = images.clone()
            images[0] = torch.nan
            return images
        broken = here == self._call or (self._what == "always_nan" and here > self._call)
        return torch.full_like(images, torch.nan) if broken else images
