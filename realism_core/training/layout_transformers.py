"""What diffusers calls the layers of SD3's and Flux's transformers, some of which it splits into several."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]
Rows = tuple[tuple[int, int], ...]


class Piece(NamedTuple):
    """A layer, or some of its output rows, under another name.

    rows: ranges (first, behind the last) of the layer's rows, in the piece's order; None: all as they are.
    """

    name: str
    rows: Rows | None = None


_MLP = {"mlp.fc1": "net.0.proj", "mlp.fc2": "net.2"}
_SD3_BLOCK = r"joint_blocks\.(\d+)\.(x|context)_block\.(.+)"
_SD3_OUTSIDE = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
_FLUX_DOUBLE = r"double_blocks\.(\d+)\.(img|txt)_(.+)"
_FLUX_SINGLE = r"single_blocks\.(\d+)\.(.+)"
_FLUX_OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
    **{
        f"{ours}.{layer}_layer": f"time_text_embed.{theirs}_embedder.linear_{number}"
        for ours, theirs in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance"))
        for layer, number in (("in", 1), ("out", 2))
    },
}
_LAST_MODULATION = "final_layer.adaLN_modulation.1"


def sd3_pieces(shapes: Shapes) -> dict[str, tuple[Piece, ...]]:
    """Return the pieces in diffusers of every layer of an SD3 transformer that diffusers has a name for.

    shapes: weights [out,in,...] by the layers' paths in ComfyUI's model.
    """
    pieces = {}
    for path, shape in shapes.items():
        block = re.fullmatch(_SD3_BLOCK, path)
        if block:
            made = _sd3_block(block[2] == "context", block[3], shape)
            pieces[path] = _under(f"transformer_blocks.{block[1]}", made)
        elif path in _SD3_OUTSIDE:
            pieces[path] = (Piece(_SD3_OUTSIDE[path]),)
        elif path == _LAST_MODULATION:
            pieces[path] = (_swapped("norm_out.linear", shape),)
    return {path: made for path, made in pieces.items() if made}


def flux_pieces(shapes: Shapes) -> dict[str, tuple[Piece, ...]]:
    """Return the pieces in diffusers of every layer of a Flux 1 transformer that diffusers has a name for.

    shapes: weights [out,in] by the layers' paths in ComfyUI's model.
    """
    pieces = {}
    for path, shape in shapes.items():
        double, single = re.fullmatch(_FLUX_DOUBLE, path), re.fullmatch(_FLUX_SINGLE, path)
        if double:
            made = _flux_double(double[2] == "txt", double[3], shape)
            pieces[path] = _under(f"transformer_blocks.{double[1]}", made)
        elif single:
            made = _flux_single(single[2], shape)
            pieces[path] = _under(f"single_transformer_blocks.{single[1]}", made)
        elif path in _FLUX_OUTSIDE:
            pieces[path] = (Piece(_FLUX_OUTSIDE[path]),)
        elif path == _LAST_MODULATION:
            pieces[path] = (_swapped("norm_out.linear", shape),)
    return {path: made for path, made in pieces.items() if made}


def _under(block: str, pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    return tuple(piece._replace(name=f"{block}.{piece.name}") for piece in pieces)


def _sd3_block(context: bool, inner: str, shape: tuple[int, ...]) -> tuple[Piece, ...]:
    if inner in ("attn.qkv", "attn2.qkv"):
        return _qkv(inner.split(".")[0], context, shape)
    if inner in ("attn.proj", "attn2.proj"):
        return (_attention_out(inner.split(".")[0], context),)
    if inner in _MLP:
        return (Piece(f"{'ff_context' if context else 'ff'}.{_MLP[inner]}"),)
    if inner == "adaLN_modulation.1":
        name = "norm1_context.linear" if context else "norm1.linear"
        # the last block's text has shift and scale only, which diffusers holds the other way round
        return (_swapped(name, shape),) if shape[0] == 2 * shape[1] else (Piece(name),)
    return ()


def _flux_double(context: bool, inner: str, shape: tuple[int, ...]) -> tuple[Piece, ...]:
    if inner == "attn.qkv":
        return _qkv("attn", context, shape)
    if inner == "attn.proj":
        return (_attention_out("attn", context),)
    if inner == "mod.lin":
        return (Piece("norm1_context.linear" if context else "norm1.linear"),)
    if inner in ("mlp.0", "mlp.2"):
        part = "net.0.proj" if inner == "mlp.0" else "net.2"
        return (Piece(f"{'ff_context' if context else 'ff'}.{part}"),)
    return ()


def _flux_single(inner: str, shape: tuple[int, ...]) -> tuple[Piece, ...]:
    if inner == "linear1" and shape[0] == 7 * shape[1]:  # Flux 2's is wider, and one piece in diffusers
        width = shape[1]
        return (*_qkv("attn", False, (3 * width, width)), Piece("proj_mlp", ((3 * width, 7 * width),)))
    if inner == "linear2" and shape[1] == 5 * shape[0]:
        return (Piece("proj_out"),)
    if inner == "modulation.lin":
        return (Piece("norm.linear"),)
    return ()


def _qkv(attention: str, context: bool, shape: tuple[int, ...]) -> tuple[Piece, ...]:
    width = shape[0] // 3
    name = "add_{}_proj" if context else "to_{}"
    return tuple(
        Piece(f"{attention}.{name.format(part)}", ((first * width, (first + 1) * width),))
        for first, part in enumerate("qkv")
    )


def _attention_out(attention: str, context: bool) -> Piece:
    return Piece(f"{attention}.to_add_out" if context else f"{attention}.to_out.0")


def _swapped(name: str, shape: tuple[int, ...]) -> Piece:
    """Return a piece whose halves, shift and scale, change places."""
    half = shape[0] // 2
    return Piece(name, ((half, 2 * half), (0, half)))
