"""The layers of the models that LoRAs are for: complete in structure, a few numbers wide."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tests.lora_states import Shapes, random_state

WIDTH, CONTEXT = 8, 12
CLIP = "transformer.text_model.encoder.layers"


def unet(depths: tuple[int, ...], vector: bool = False, convolution: bool = True, blocks: int = 2) -> Shapes:
    """Return the layers of a UNet with a middle block; depths: of the transformers of each level."""
    shapes: Shapes = {"time_embed.0": (32, WIDTH), "time_embed.2": (32, 32)}
    if vector:
        shapes |= {"label_emb.0.0": (32, 20), "label_emb.0.2": (32, 32)}
    conv = (WIDTH, WIDTH, 3, 3)
    ones = (1, 1) if convolution else ()

    def resnet(name: str, inputs: int) -> None:
        shapes[f"{name}.in_layers.0"] = (inputs,)
        shapes[f"{name}.in_layers.2"] = (WIDTH, inputs, 3, 3)
        shapes[f"{name}.emb_layers.1"] = (WIDTH, 32)
        shapes[f"{name}.out_layers.3"] = conv
        if inputs != WIDTH:
            shapes[f"{name}.skip_connection"] = (WIDTH, inputs, 1, 1)

    def transformer(name: str, depth: int) -> None:
        shapes[f"{name}.norm"] = (WIDTH,)
        shapes[f"{name}.proj_in"] = shapes[f"{name}.proj_out"] = (WIDTH, WIDTH, *ones)
        for block in range(depth):
            here = f"{name}.transformer_blocks.{block}"
            for attention, inputs in (("attn1", WIDTH), ("attn2", CONTEXT)):
                shapes[f"{here}.{attention}.to_q"] = shapes[f"{here}.{attention}.to_out.0"] = (WIDTH, WIDTH)
                shapes[f"{here}.{attention}.to_k"] = shapes[f"{here}.{attention}.to_v"] = (WIDTH, inputs)
            shapes[f"{here}.ff.net.0.proj"], shapes[f"{here}.ff.net.2"] = (64, WIDTH), (WIDTH, 32)

    shapes["input_blocks.0.0"], shapes["out.2"] = (WIDTH, 4, 3, 3), (4, WIDTH, 3, 3)
    place = 1
    for level, depth in enumerate(depths):
        for _ in range(blocks):
            resnet(f"input_blocks.{place}.0", WIDTH)
            if depth:
                transformer(f"input_blocks.{place}.1", depth)
            place += 1
        if level < len(depths) - 1:
            shapes[f"input_blocks.{place}.0.op"] = conv
            place += 1
    resnet("middle_block.0", WIDTH)
    transformer("middle_block.1", max(depths))
    resnet("middle_block.2", WIDTH)
    place = 0
    for level in reversed(range(len(depths))):
        for block in range(blocks + 1):
            resnet(f"output_blocks.{place}.0", 2 * WIDTH)
            if depths[level]:
                transformer(f"output_blocks.{place}.1", depths[level])
            if level and block == blocks:
                shapes[f"output_blocks.{place}.{2 if depths[level] else 1}.conv"] = conv
            place += 1
    return shapes


def sd3(depth: int = 2) -> Shapes:
    """Return the layers of an SD3.5 transformer: its first block has a second attention."""
    shapes: Shapes = {"x_embedder.proj": (WIDTH, 16, 2, 2), "context_embedder": (WIDTH, CONTEXT)}
    for name, inputs in (("t_embedder", 256), ("y_embedder", 16)):
        shapes[f"{name}.mlp.0"], shapes[f"{name}.mlp.2"] = (WIDTH, inputs), (WIDTH, WIDTH)
    for block in range(depth):
        for stream in ("x", "context"):
            name, last = f"joint_blocks.{block}.{stream}_block", block == depth - 1 and stream == "context"
            shapes[f"{name}.attn.qkv"] = (3 * WIDTH, WIDTH)
            shapes[f"{name}.adaLN_modulation.1"] = ((2 if last else 6) * WIDTH, WIDTH)
            if not last:
                shapes[f"{name}.attn.proj"] = (WIDTH, WIDTH)
                shapes[f"{name}.mlp.fc1"], shapes[f"{name}.mlp.fc2"] = (32, WIDTH), (WIDTH, 32)
    shapes["joint_blocks.0.x_block.adaLN_modulation.1"] = (9 * WIDTH, WIDTH)
    shapes["joint_blocks.0.x_block.attn2.qkv"] = (3 * WIDTH, WIDTH)
    shapes["joint_blocks.0.x_block.attn2.proj"] = (WIDTH, WIDTH)
    shapes["final_layer.linear"] = (64, WIDTH)
    shapes["final_layer.adaLN_modulation.1"] = (2 * WIDTH, WIDTH)
    return shapes


def flux() -> Shapes:
    shapes: Shapes = {"img_in": (WIDTH, 64), "txt_in": (WIDTH, CONTEXT)}
    for name, inputs in (("time_in", 256), ("guidance_in", 256), ("vector_in", 16)):
        shapes[f"{name}.in_layer"], shapes[f"{name}.out_layer"] = (WIDTH, inputs), (WIDTH, WIDTH)
    for stream in ("img", "txt"):
        name = f"double_blocks.0.{stream}"
        shapes[f"{name}_mod.lin"], shapes[f"{name}_attn.qkv"] = (6 * WIDTH, WIDTH), (3 * WIDTH, WIDTH)
        shapes[f"{name}_attn.proj"], shapes[f"{name}_mlp.0"] = (WIDTH, WIDTH), (32, WIDTH)
        shapes[f"{name}_mlp.2"] = (WIDTH, 32)
    shapes["single_blocks.0.modulation.lin"] = (3 * WIDTH, WIDTH)
    shapes["single_blocks.0.linear1"] = (7 * WIDTH, WIDTH)
    shapes["single_blocks.0.linear2"] = (WIDTH, 5 * WIDTH)
    shapes["final_layer.linear"] = (64, WIDTH)
    shapes["final_layer.adaLN_modulation.1"] = (2 * WIDTH, WIDTH)
    return shapes


def text(*encoders: str) -> Shapes:
    shapes: Shapes = {}
    for encoder in encoders:
        for layer in range(2):
            name = f"{encoder}.{CLIP}.{layer}"
            shapes |= {f"{name}.self_attn.{part}_proj": (WIDTH, WIDTH) for part in ("q", "k", "v", "out")}
            shapes[f"{name}.mlp.fc1"], shapes[f"{name}.mlp.fc2"] = (32, WIDTH), (WIDTH, 32)
    return shapes


MODELS: dict[str, Callable[[], Shapes]] = {
    "sd15": lambda: unet((1, 1, 1, 0)) | text("clip_l"),
    "sdxl": lambda: unet((0, 2, 3), vector=True, convolution=False) | text("clip_l", "clip_g"),
    "sd3": lambda: sd3() | text("clip_l", "clip_g"),
    "flux": lambda: flux() | text("clip_l"),
}


def one(model: Shapes, path: str, **options: int) -> dict[str, Tensor]:
    """Return a random LoRA on one layer."""
    return random_state(model, [path], **{"rank": 2, "alpha": 2, "seed": 3, **options})
