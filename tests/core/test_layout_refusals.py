"""LoRA files and states that are damaged, foreign, or beyond a layout, and what is said of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from realism_core.training.layouts import from_layout, to_layout
from tests.core.lora_models import MODELS, WIDTH, one


def renamed(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {key.replace(old, new): tensor for key, tensor in tensors.items()}


def test_what_is_no_lora_of_this_model_is_refused_by_name() -> None:
    model = MODELS["sd15"]()
    path = "input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    state = one(model, path)
    good = to_layout(state, "kohya", model)
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    down, up = good[f"{stem}.lora_down.weight"], good[f"{stem}.lora_up.weight"]
    for tensors, message in (
        ({}, "holds no weights at all"),
        ({"model.diffusion_model.out.2.weight": up}, r"model\.diffusion_model\.out\.2\.weight is no key"),
        (good | {"unet.conv_in.lora.up.weight": up}, r"mixes layouts: lora_unet.*and unet\.conv_in"),
        (renamed(good, "down_blocks_0", "down_blocks_7"), r"no layer lora_unet_down_blocks_7_.*another"),
        (good | {f"{stem}.lora_down.weight": down[:, :-1]}, rf"{stem}: .* 11 inputs.*has 12 and 8"),
        (good | {f"{stem}.lora_up.weight": up[:-1]}, rf"{stem}: .* 7 outputs.*has 12 and 8"),
        (good | {f"{stem}.lora_up.weight": up[:, :1]}, rf"{stem}: its two matrices \[2, 12\] and \[8, 1\]"),
        (good | {f"{stem}.lora_down.weight": down[:0]}, rf"{stem}: its two matrices \[0, 12\]"),
        (good | {f"{stem}.lora_down.weight": torch.tensor(1.0)}, rf"{stem}: its two matrices \[\]"),
        (good | {f"{stem}.alpha": torch.ones(2)}, rf"{stem}: its alpha has 2 values"),
        ({f"{stem}.lora_up.weight": up}, rf"{stem} lacks its matrix 'down'"),
        ({f"{stem}.alpha": up}, rf"{stem} lacks its matrix 'down'"),
        (good | {f"{stem}.hada_w1_a": up}, rf"{stem}\.hada_w1_a belongs to another kind of adapter"),
        (good | renamed(good, stem, "lora_unet_" + path.replace(".", "_")), rf"{path} is there twice"),
    ):
        with pytest.raises(ValueError, match=message):
            from_layout(tensors, model)


def test_states_that_cannot_be_saved_are_refused_by_name() -> None:
    model = MODELS["sd15"]()
    state = one(model, "middle_block.1.proj_in")
    with pytest.raises(ValueError, match=r"layout is 'a1111'; use one of comfyui, kohya, diffusers"):
        to_layout(state, "a1111", model)
    with pytest.raises(ValueError, match="has no layers"):
        to_layout({}, "comfyui", model)
    with pytest.raises(ValueError, match=r"no layer middle_block\.9\.proj_in"):
        to_layout(renamed(state, "block.1", "block.9"), "comfyui", model)
    with pytest.raises(ValueError, match=r"middle_block\.1\.proj_out lacks its matrix 'up'"):
        to_layout(state | {"middle_block.1.proj_out.lora_A.weight": torch.ones(2, WIDTH)}, "kohya", model)


def test_dora_of_a_part_of_a_layer_is_refused() -> None:
    model = MODELS["flux"]()
    tensors = to_layout(one(model, "double_blocks.0.img_attn.qkv"), "diffusers", model)
    tensors["transformer.transformer_blocks.0.attn.to_q.dora_scale"] = torch.ones(WIDTH, 1)
    with pytest.raises(ValueError, match=r"to_q\.dora_scale is for a part of the layer double_blocks"):
        from_layout(tensors, model)
