"""Attention coupling on a MODEL: phrases in the conditioning are seen by the pixels of their regions only.

What is bound to what travels in the conditioning, so that combining, masks, areas, hooks and batches of
several prompts work as ever; the MODEL carries wrappers that look there at every call of the network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..realism_core.conditioning.coupling import Part, Placed, cross_bias, joint_bias, place
from .comfy import torch_attention

KEY = "realism_coupling"
# networks by where the context is: beside the pixels (cross-attention) or before them in one sequence
_NETWORKS = {"UNetModel": "cross", "OpenAISignatureMMDITWrapper": "joint", "Flux": "joint"}
_ELSE = "set mode to mask conditioning, which works with any model and costs a pass for each region."
_PROBE = 64  # tokens of the attention that shows whether a kernel looks at masks


def network_kind(model: Any) -> str:
    """Return where a MODEL's network has its context: cross or joint.

    Raises ValueError for networks whose attention is not known.
    """
    network = type(model.model.diffusion_model)
    for ancestor in network.__mro__:
        if ancestor.__name__ in _NETWORKS:
            return _NETWORKS[ancestor.__name__]
    raise ValueError(
        f"model is {type(model.model).__name__} ({network.__name__}), whose attention cannot be bound to "
        f"regions: it has no cross-attention, or one that is not known here. Connect a model of the SD 1.5, "
        f"SDXL, SD3 or Flux family, or {_ELSE}"
    )


def coupled(model: Any) -> Any:
    """Return a clone of a MODEL that binds what the conditioning says; the given one stays as it is."""
    kind = network_kind(model)
    patched = model.clone()
    if not patched.get_wrappers("apply_model", KEY):
        coupler = _Coupler(kind)
        patched.add_wrapper_with_key("outer_sample", KEY, coupler.sample)
        patched.add_wrapper_with_key("calc_cond_batch", KEY, coupler.find)
        patched.add_wrapper_with_key("apply_model", KEY, coupler.apply)
    return patched


class _Found(NamedTuple):
    """The conditioning of one call of the sampler: parts by (uuid, cond or uncond), and the latent's size."""

    parts: dict[tuple[Any, int], Part]
    size: tuple[int, int]


class _Coupler:
    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._placed: dict[tuple, tuple[list[Part], Placed | None]] = {}
        self.biases: dict[tuple, Tensor] = {}
        self.taken: dict[tuple, bool] = {}

    def sample(self, execute: Callable, *args: Any, **kwargs: Any) -> Any:
        """Sample, and forget the biases afterwards."""
        try:
            return execute(*args, **kwargs)
        finally:
            self._placed.clear()
            self.biases.clear()

    def find(
        self, execute: Callable, model: Any, conds: list, x_in: Tensor, timestep: Tensor, model_options: dict
    ) -> Any:
        """Note what belongs to which conditioning, and how large the whole latent is."""
        every = [(index, cond) for index, group in enumerate(conds) for cond in group or ()]
        given = {id(cond["cross_attn"]): cond.get(KEY) for _, cond in every if "cross_attn" in cond}
        if not any(given.values()) or KEY in model_options.get("transformer_options", {}):
            return execute(model, conds, x_in, timestep, model_options)
        size = tuple(x_in.shape[2:])
        parts = {}
        for index, cond in every:
            context = cond["model_conds"].get("c_crossattn")
            if context is None:
                continue
            # ComfyUI copies a positive one with an area for the negative side: only its context is other
            coupling = given.get(id(context.cond), cond.get(KEY))
            parts[cond["uuid"], index] = Part(coupling, context.cond.shape[1], 0, _area(cond, size))
        options = {**model_options.get("transformer_options", {}), KEY: _Found(parts, size)}
        return execute(model, conds, x_in, timestep, {**model_options, "transformer_options": options})

    def apply(
        self, execute: Callable, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None,
        control: Any = None, transformer_options: dict | None = None, **kwargs: Any,
    ) -> Tensor:
        """Call the network with each phrase bound to its regions."""
        options = transformer_options or {}
        found = options.get(KEY)
        placed = None
        if isinstance(found, _Found) and c_crossattn is not None:
            placed = self._place(found, x, c_crossattn.shape[1], options)
        if placed is None:
            return execute(x, t, c_concat, c_crossattn, control, options, **kwargs)
        grid = None
        if self._kind == "joint":
            patch = execute.class_obj.diffusion_model.patch_size
            grid = tuple(-(-side // patch) for side in x.shape[-2:])
        call = _Call(self, placed, grid, options.get("optimized_attention_override"))
        options = {**options, KEY: call, "optimized_attention_override": call.attend}
        if self._kind == "cross":
            patches = dict(options.get("patches", {}))
            patches["attn2_patch"] = [*patches.get("attn2_patch", ()), call.before]
            patches["attn2_output_patch"] = [call.after, *patches.get("attn2_output_patch", ())]
            options["patches"] = patches
        output = execute(x, t, c_concat, c_crossattn, control, options, **kwargs)
        if not call.bound:
            raise ValueError(f"model computed no attention that phrases could be bound in: {_ELSE}")
        return output

    def _place(self, found: _Found, x: Tensor, tokens: int, options: dict) -> Placed | None:
        chunks = list(zip(options["uuids"], options["cond_or_uncond"], strict=True))
        parts = []
        for chunk in chunks:
            part = found.parts.get(chunk)
            size = part.area[:2] if part and part.area else found.size
            if part is None or tuple(x.shape[2:]) != tuple(size) or len(x) % len(chunks):
                raise ValueError(
                    f"another node computes the picture in pieces of {tuple(x.shape[2:])}, whose places in "
                    f"the latent of {found.size} are not known: disconnect it, or {_ELSE}"
                )
            parts.append(part._replace(rows=len(x) // len(chunks)))
        if all(part.coupling is None for part in parts):
            return None
        key = (tuple((id(part.coupling), *part[1:]) for part in parts), tokens, found.size, x.device)
        if key not in self._placed:
            # the parts beside it, so that no other coupling comes to have the same id
            self._placed[key] = parts, place(parts, tokens, found.size, x.device)
        return self._placed[key][1]


class _Call:
    """One call of the network."""

    def __init__(
        self, coupler: _Coupler, placed: Placed, grid: tuple[int, int] | None, given: Callable | None
    ) -> None:
        self._coupler, self._placed, self._grid, self._given = coupler, placed, grid, given
        self._next = False
        self.bound = 0

    def before(self, n: Tensor, context: Tensor, value: Tensor, _: dict) -> tuple[Tensor, Tensor, Tensor]:
        """Note that the attention after this is over the context."""
        self._next = True
        return n, context, value

    def after(self, n: Tensor, _: dict) -> Tensor:
        """Raise ValueError if that attention was none that phrases can be bound in."""
        if self._next:
            raise ValueError(
                "another node replaces the model's cross-attention (as IPAdapter does), in which phrases "
                f"cannot be bound to regions: disconnect it, or {_ELSE}"
            )
        return n

    def attend(
        self, chosen: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None,
        *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """Compute attention, with a bias where it is over the context."""
        bias = self._bias(q, k, kwargs.get("transformer_options") or {})
        if bias is None:
            function = chosen if self._given is None else _given(self._given, chosen)
            return function(q, k, v, heads, mask, *args, **kwargs)
        self.bound += 1
        function = self._that_masks(chosen, q, heads, kwargs)
        return function(q, k, v, heads, with_mask(bias, mask), *args, **kwargs)

    def _bias(self, q: Tensor, k: Tensor, options: dict) -> Tensor | None:
        pixels, keys, tokens = q.shape[-2], k.shape[-2], self._placed.groups.shape[1]
        if self._grid is None:
            if not self._next:
                return None
            self._next = False
            grid = tuple(options.get("activations_shape", (0, 0))[-2:])
            if grid[0] * grid[1] != pixels or keys < tokens:
                raise ValueError(
                    f"the model's cross-attention is of {pixels} pixels and {keys} tokens where {grid} and "
                    f"{tokens} were expected: disconnect what changes it, or {_ELSE}"
                )
            rest = keys - tokens
        else:
            grid, rest = self._grid, keys - tokens - self._grid[0] * self._grid[1]
            if pixels != keys or rest < 0:
                return None
        key = (id(self._placed), grid, rest, q.dtype)
        biases = self._coupler.biases
        if key not in biases:
            if self._grid is None:
                bias = cross_bias(self._placed, grid, q.dtype)
                biases[key] = torch.nn.functional.pad(bias, (0, rest))  # what others append, all see
            else:
                biases[key] = joint_bias(self._placed, grid, rest, q.dtype)
        return biases[key]

    def _that_masks(self, chosen: Callable, q: Tensor, heads: int, kwargs: dict) -> Callable:
        """Return the attention to use, or torch's where a kernel does not look at masks."""
        function = chosen if self._given is None else _given(self._given, chosen)
        key = (chosen, self._given, q.dtype, q.shape[-1])
        taken = self._coupler.taken
        if key not in taken:
            taken[key] = _looks_at_masks(function, q, heads, kwargs)
            if not taken[key]:
                logging.warning(
                    "Realism Conditioner: this attention does not look at masks; torch's own is used where "
                    "phrases are bound to regions."
                )
        return function if taken[key] else torch_attention


def with_mask(bias: Tensor, mask: Tensor | None) -> Tensor:
    """Return a bias [R,1,Q,K] together with an attention mask of any of ComfyUI's shapes."""
    if mask is None:
        return bias
    if mask.ndim == 2:
        keys = mask.shape[0] == bias.shape[0] != bias.shape[2]
        mask = mask[:, None, None] if keys else mask[None, None]
    elif mask.ndim == 3:
        mask = mask[:, None]
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=bias.dtype).masked_fill(~mask, -torch.inf)
    return (bias + mask.to(bias)).clamp(min=torch.finfo(bias.dtype).min / 2)


def _given(given: Callable, chosen: Callable) -> Callable:
    def attention(*args: Any, **kwargs: Any) -> Tensor:
        return given(chosen, *args, **kwargs)

    return attention


def _looks_at_masks(function: Callable, q: Tensor, heads: int, kwargs: dict) -> bool:
    """Whether keys that a mask hides, half of them with other values, stay without effect."""
    one = torch.zeros_like(q[:1, ..., :1, :])
    zeros = one.repeat_interleave(_PROBE, -2)
    values = zeros.clone()
    values[..., _PROBE // 2 :, :] = 1
    hidden = zeros.new_zeros(1, 1, _PROBE, _PROBE)
    hidden[..., _PROBE // 2 :] = torch.finfo(q.dtype).min / 2
    try:
        seen = function(zeros, zeros, values, heads, hidden, **kwargs)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError):
        return False
    return bool(seen.abs().max() < 1e-3)


def _area(cond: dict, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    if "area" not in cond:
        return None
    tall, wide, top, left = cond["area"]
    return min(size[0] - top, tall), min(size[1] - left, wide), top, left
