"""The layers of a diffusers model by their paths in ComfyUI's model, which LoRA files go by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from .layout_transformers import Piece, Shapes, flux_pieces, sd3_pieces
from .layout_unet import unet_names
from .layouts import from_layout

_UNET_OUTSIDE = (
    "input_blocks.0.0", "out.2", "time_embed.0", "time_embed.2", "label_emb.0.0", "label_emb.0.2",
)  # fmt: skip
_RESNET = ("in_layers.2", "emb_layers.1", "out_layers.3", "skip_connection")
# layers, with the shapes by which layout_transformers tells their kinds apart
_SD3_BLOCK = {
    "attn.qkv": (3, 1), "attn.proj": (1, 1), "attn2.qkv": (3, 1), "attn2.proj": (1, 1), "mlp.fc1": (4, 1),
    "mlp.fc2": (1, 4), "adaLN_modulation.1": (6, 1),
}  # fmt: skip
_SD3_OUTSIDE = (
    "x_embedder.proj", "context_embedder", "t_embedder.mlp.0", "t_embedder.mlp.2", "y_embedder.mlp.0",
    "y_embedder.mlp.2", "final_layer.linear", "final_layer.adaLN_modulation.1",
)  # fmt: skip
_FLUX_DOUBLE = {
    "attn.qkv": (3, 1),
    "attn.proj": (1, 1),
    "mod.lin": (6, 1),
    "mlp.0": (4, 1),
    "mlp.2": (1, 4),
}
_FLUX_SINGLE = {"linear1": (7, 1), "linear2": (1, 5), "modulation.lin": (3, 1)}
_FLUX_OUTSIDE = (
    "img_in", "txt_in", "time_in.in_layer", "time_in.out_layer", "vector_in.in_layer", "vector_in.out_layer",
    "guidance_in.in_layer", "guidance_in.out_layer", "final_layer.linear", "final_layer.adaLN_modulation.1",
)  # fmt: skip


def comfyui_shapes(kind: str, theirs: Shapes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a diffusers model's layers by their paths in ComfyUI's model.

    kind: sd, sdxl, sd3 or flux. theirs: the weights [out,in,...] of all its layers by diffusers' paths.
    Layers that ComfyUI has as one are put together. Left out are layers without a name in ComfyUI's model.
    """
    if kind in ("sd", "sdxl"):
        names = unet_names(dict.fromkeys(_unet_paths(theirs)))
        named = {path: (Piece(name),) for path, name in names.items()}
    elif kind == "sd3":
        blocks = _blocks("joint_blocks.{}.{}_block.{}", ("x", "context"), theirs, _SD3_BLOCK)
        last = f"{_count(theirs, 'transformer_blocks') - 1}"
        rows, width = theirs[f"transformer_blocks.{last}.norm1_context.linear"]
        if rows == 2 * width:
            blocks[f"joint_blocks.{last}.context_block.adaLN_modulation.1"] = (2, 1)
        named = sd3_pieces(blocks | _outside(_SD3_OUTSIDE))
    else:
        blocks = _blocks("double_blocks.{}.{}_{}", ("img", "txt"), theirs, _FLUX_DOUBLE)
        for block in range(_count(theirs, "single_transformer_blocks")):
            blocks |= {f"single_blocks.{block}.{inner}": shape for inner, shape in _FLUX_SINGLE.items()}
        named = flux_pieces(blocks | _outside(_FLUX_OUTSIDE))
    return {
        path: (sum(theirs[piece.name][0] for piece in pieces), *theirs[pieces[0].name][1:])
        for path, pieces in named.items()
        if all(piece.name in theirs for piece in pieces)
    }


def comfyui_state(kind: str, state: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
    """Return a LoRA's state, named by the paths of diffusers' model, in the form of layouts.py.

    shapes: from `comfyui_shapes`. Raises ValueError as `from_layout` does.
    """
    start = "unet" if kind in ("sd", "sdxl") else "transformer"
    return from_layout({f"{start}.{name}": tensor for name, tensor in state.items()}, shapes)


def _unet_paths(theirs: Shapes) -> Iterator[str]:
    """Yield the paths in ComfyUI's UNet of what there is, and of some layers that there are not."""
    yield from _UNET_OUTSIDE
    for side, start, place in (("down_blocks", "input_blocks", 1), ("up_blocks", "output_blocks", 0)):
        for level in range(_count(theirs, side)):
            here = f"{side}.{level}"
            blocks = _count(theirs, f"{here}.resnets")
            for block in range(blocks):
                yield from _resnet(f"{start}.{place}.0")
                attention = list(_within(theirs, f"{here}.attentions.{block}"))
                yield from (f"{start}.{place}.1.{inner}" for inner in attention)
                if block == blocks - 1 and f"{here}.upsamplers.0.conv" in theirs:
                    yield f"{start}.{place}.{2 if attention else 1}.conv"
                place += 1
            if f"{here}.downsamplers.0.conv" in theirs:
                yield f"{start}.{place}.0.op"
                place += 1
    resnets, attentions = (_count(theirs, f"mid_block.{what}") for what in ("resnets", "attentions"))
    for block in range(resnets):
        yield from _resnet(f"middle_block.{2 * block}")
    for block in range(attentions):
        for inner in _within(theirs, f"mid_block.attentions.{block}"):
            yield f"middle_block.{2 * block + 1}.{inner}"


def _resnet(start: str) -> Iterator[str]:
    return (f"{start}.{inner}" for inner in _RESNET)


def _blocks(
    form: str, streams: tuple[str, str], theirs: Shapes, inner: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the paths that blocks of two streams may have, with shapes of their kinds."""
    return {
        form.format(block, stream, name): shape
        for block in range(_count(theirs, "transformer_blocks"))
        for stream in streams
        for name, shape in inner.items()
    }


def _outside(paths: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(paths, (2, 1))


def _count(theirs: Shapes, start: str) -> int:
    """Return how many numbered parts there are below a path."""
    found = (re.match(rf"{re.escape(start)}\.(\d+)\.", path) for path in theirs)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _within(theirs: Shapes, start: str) -> Iterator[str]:
    return (path[len(start) + 1 :] for path in theirs if path.startswith(f"{start}."))
