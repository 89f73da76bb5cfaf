"""Conditioning for checkpoints that come without a text encoder."""

from __future__ import annotations

import torch
from comfy_api.latest import io


class TestConditioning(io.ComfyNode):
    """Normal random conditioning [1,tokens,width], with a pooled vector [1,pooled], unless those are 0."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestConditioning",
            category="test",
            inputs=[
                io.Int.Input("width", default=768, min=0, max=8192),
                io.Int.Input("pooled", default=0, min=0, max=8192),
                io.Int.Input("tokens", default=8, min=1, max=512),
                io.Int.Input("seed", default=0),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, width, pooled, tokens, seed) -> io.NodeOutput:
        random = torch.Generator().manual_seed(seed)
        words = torch.randn(1, tokens, width, generator=random) if width else None
        extras = {"pooled_output": torch.randn(1, pooled, generator=random)} if pooled else {}
        return io.NodeOutput([[words, extras]])
