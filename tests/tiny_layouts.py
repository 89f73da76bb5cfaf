"""The smallest networks that ComfyUI takes for Stable Diffusion 1.5, SDXL, SD3 and Flux, with random weights.

ComfyUI tells architectures by the names and shapes of a file's tensors (comfy/model_detection.py), and reads
levels, depths and most widths off them. Each function adds one network's tensors to `Weights`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

UNET = "model.diffusion_model."
UNET_WIDTH = 320
CLIP_SD15 = "cond_stage_model.transformer.text_model."
CLIP_SD3 = "text_encoders.clip_l.transformer.text_model."
CLIP_WIDTH, CLIP_LAYERS, CLIP_WORDS, CLIP_TOKENS = 768, 12, 49408, 77
HEAD_WIDTH = {"sd3": 64, "flux": 128}
TIME_WIDTH = 256
SD3_PATCH, FLUX_PATCH, LATENT_16 = 2, 2, 16
SD3_SIDE = 64  # patches of 16 pixels a side that have a position


class Weights:
    """Named tensors that grow layer by layer, in half precision.

    Weights are normal with variance 1 / fan-in, so that values neither die out nor overflow on their way;
    biases are 0 and the gains of norms 1. The same seed and the same calls give the same tensors.
    """

    def __init__(self, seed: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._random = torch.Generator().manual_seed(seed)

    def normal(self, name: str, shape: Sequence[int], scale: float) -> None:
        self.tensors[name] = (torch.randn(*shape, generator=self._random) * scale).half()

    def linear(self, name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        self._layer(name, (outputs, inputs), bias)

    def conv(self, name: str, inputs: int, outputs: int, size: int = 3) -> None:
        self._layer(name, (outputs, inputs, size, size), True)

    def norm(self, name: str, width: int) -> None:
        self.gain(f"{name}.weight", width)
        self.tensors[f"{name}.bias"] = torch.zeros(width, dtype=torch.float16)

    def gain(self, name: str, width: int) -> None:
        self.tensors[name] = torch.ones(width, dtype=torch.float16)

    def _layer(self, name: str, shape: tuple[int, ...], bias: bool) -> None:
        self.normal(f"{name}.weight", shape, math.prod(shape[1:]) ** -0.5)
        if bias:
            self.tensors[f"{name}.bias"] = torch.zeros(shape[0], dtype=torch.float16)


def unet(
    weights: Weights, depths: Sequence[int], context: int, vector: int | None = None, linear: bool = False
) -> None:
    """Add a UNet without a middle block; one residual block a level, all of one width.

    depths: transformer blocks of each level. context: width of the conditioning. vector: width of the pooled
    conditioning with the sizes, None without. linear: attention projects by linear layers, not convolutions.
    """
    width, embedding = UNET_WIDTH, 4 * UNET_WIDTH
    weights.linear(f"{UNET}time_embed.0", width, embedding)
    weights.linear(f"{UNET}time_embed.2", embedding, embedding)
    if vector is not None:
        weights.linear(f"{UNET}label_emb.0.0", vector, embedding)
        weights.linear(f"{UNET}label_emb.0.2", embedding, embedding)
    weights.conv(f"{UNET}input_blocks.0.0", 4, width)
    place = 1
    for level, depth in enumerate(depths):
        _residual(weights, f"{UNET}input_blocks.{place}.0", width, width)
        _transformer(weights, f"{UNET}input_blocks.{place}.1", width, context, depth, linear)
        place += 1
        if level < len(depths) - 1:
            weights.conv(f"{UNET}input_blocks.{place}.0.op", width, width)
            place += 1
    # going up, each level has one block more, and every block takes in what its partner passed across
    place = 0
    for level, depth in reversed(list(enumerate(depths))):
        for block in range(2):
            _residual(weights, f"{UNET}output_blocks.{place}.0", 2 * width, width)
            _transformer(weights, f"{UNET}output_blocks.{place}.1", width, context, depth, linear)
            if level and block:
                after = 2 if depth else 1
                weights.conv(f"{UNET}output_blocks.{place}.{after}.conv", width, width)
            place += 1
    weights.norm(f"{UNET}out.0", width)
    weights.conv(f"{UNET}out.2", width, 4)


def _residual(weights: Weights, name: str, inputs: int, outputs: int) -> None:
    weights.norm(f"{name}.in_layers.0", inputs)
    weights.conv(f"{name}.in_layers.2", inputs, outputs)
    weights.linear(f"{name}.emb_layers.1", 4 * UNET_WIDTH, outputs)
    weights.norm(f"{name}.out_layers.0", outputs)
    weights.conv(f"{name}.out_layers.3", outputs, outputs)
    if inputs != outputs:
        weights.conv(f"{name}.skip_connection", inputs, outputs, 1)


def _transformer(weights: Weights, name: str, width: int, context: int, depth: int, linear: bool) -> None:
    if not depth:
        return

    def project(part: str) -> None:
        if linear:
            weights.linear(f"{name}.{part}", width, width)
        else:
            weights.conv(f"{name}.{part}", width, width, 1)

    weights.norm(f"{name}.norm", width)
    project("proj_in")
    for block in range(depth):
        here = f"{name}.transformer_blocks.{block}"
        for attention, source in (("attn1", width), ("attn2", context)):
            weights.linear(f"{here}.{attention}.to_q", width, width, bias=False)
            weights.linear(f"{here}.{attention}.to_k", source, width, bias=False)
            weights.linear(f"{here}.{attention}.to_v", source, width, bias=False)
            weights.linear(f"{here}.{attention}.to_out.0", width, width)
        weights.linear(f"{here}.ff.net.0.proj", width, 8 * width)
        weights.linear(f"{here}.ff.net.2", 4 * width, width)
        for norm in ("norm1", "norm2", "norm3"):
            weights.norm(f"{here}.{norm}", width)
    project("proj_out")


def clip_l(weights: Weights, prefix: str) -> None:
    """Add CLIP-L, whose sizes ComfyUI fixes (comfy/sd1_clip_config.json), where a family's files have it."""
    width = CLIP_WIDTH
    weights.normal(f"{prefix}embeddings.token_embedding.weight", (CLIP_WORDS, width), 0.02)
    weights.normal(f"{prefix}embeddings.position_embedding.weight", (CLIP_TOKENS, width), 0.01)
    for layer in range(CLIP_LAYERS):
        name = f"{prefix}encoder.layers.{layer}"
        weights.norm(f"{name}.layer_norm1", width)
        weights.norm(f"{name}.layer_norm2", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            weights.linear(f"{name}.self_attn.{part}", width, width)
        weights.linear(f"{name}.mlp.fc1", width, 4 * width)
        weights.linear(f"{name}.mlp.fc2", 4 * width, width)
    weights.norm(f"{prefix}final_layer_norm", width)


def sd3(weights: Weights, context: int, vector: int) -> None:
    """Add SD3's transformer with one block: its width is 64 for each block, so this is the smallest.

    Takes pictures of up to 1024 x 1024 pixels.
    """
    width = HEAD_WIDTH["sd3"]
    weights.conv(f"{UNET}x_embedder.proj", LATENT_16, width, SD3_PATCH)
    weights.linear(f"{UNET}context_embedder", context, width)
    for name, inputs in (("t_embedder", TIME_WIDTH), ("y_embedder", vector)):
        weights.linear(f"{UNET}{name}.mlp.0", inputs, width)
        weights.linear(f"{UNET}{name}.mlp.2", width, width)
    weights.normal(f"{UNET}pos_embed", (1, SD3_SIDE**2, width), 0.02)
    for stream in ("context_block", "x_block"):
        name = f"{UNET}joint_blocks.0.{stream}"
        weights.linear(f"{name}.attn.qkv", width, 3 * width)
        if stream == "context_block":  # the last block hands the text on to nobody
            weights.linear(f"{name}.adaLN_modulation.1", width, 2 * width)
            continue
        weights.linear(f"{name}.adaLN_modulation.1", width, 6 * width)
        weights.linear(f"{name}.attn.proj", width, width)
        weights.linear(f"{name}.mlp.fc1", width, 4 * width)
        weights.linear(f"{name}.mlp.fc2", 4 * width, width)
    weights.linear(f"{UNET}final_layer.linear", width, LATENT_16 * SD3_PATCH**2)
    weights.linear(f"{UNET}final_layer.adaLN_modulation.1", width, 2 * width)


def flux(weights: Weights, context: int, vector: int) -> None:
    """Add Flux Dev's transformer with one head, a double and a single block (ComfyUI 0.30.0 or newer)."""
    width = HEAD_WIDTH["flux"]
    patch = LATENT_16 * FLUX_PATCH**2
    weights.linear(f"{UNET}img_in", patch, width)
    weights.linear(f"{UNET}txt_in", context, width)
    for name, inputs in (("time_in", TIME_WIDTH), ("guidance_in", TIME_WIDTH), ("vector_in", vector)):
        weights.linear(f"{UNET}{name}.in_layer", inputs, width)
        weights.linear(f"{UNET}{name}.out_layer", width, width)
    for stream in ("img", "txt"):
        name = f"{UNET}double_blocks.0.{stream}"
        weights.linear(f"{name}_mod.lin", width, 6 * width)
        weights.linear(f"{name}_attn.qkv", width, 3 * width)
        weights.linear(f"{name}_attn.proj", width, width)
        _gains(weights, f"{name}_attn.norm", width)
        weights.linear(f"{name}_mlp.0", width, 4 * width)
        weights.linear(f"{name}_mlp.2", 4 * width, width)
    name = f"{UNET}single_blocks.0"
    weights.linear(f"{name}.modulation.lin", width, 3 * width)
    weights.linear(f"{name}.linear1", width, 7 * width)
    weights.linear(f"{name}.linear2", 5 * width, width)
    _gains(weights, f"{name}.norm", width)
    weights.linear(f"{UNET}final_layer.linear", width, patch)
    weights.linear(f"{UNET}final_layer.adaLN_modulation.1", width, 2 * width)


def _gains(weights: Weights, name: str, width: int) -> None:
    for part in ("query_norm", "key_norm"):
        weights.gain(f"{name}.{part}.scale", width)
