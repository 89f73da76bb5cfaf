"""LoRAs in the key layouts of ComfyUI, kohya and diffusers: names, splitting, fusing, refusals."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from realism_core.training.layouts import LAYOUTS, from_layout, layout_of, to_layout
from tests.core.lora_models import CLIP, CONTEXT, MODELS, WIDTH, one
from tests.lora_states import Shapes, deltas, layers, random_state


def stems(tensors: dict[str, Tensor]) -> set[str]:
    return {re.sub(r"[._]lora[._](down|up|A|B)\.weight$|\.alpha$", "", key) for key in tensors}


def equal(made: dict[str, Tensor], wanted: dict[str, Tensor], bound: float = 1e-6) -> None:
    """The updates of two states are the same, relative to the largest value of each."""
    made, wanted = deltas(made), deltas(wanted)
    assert made.keys() == wanted.keys()
    for path, delta in wanted.items():
        assert made[path].shape == delta.shape
        assert (made[path] - delta).abs().max() <= bound * delta.abs().max(), path


# * stands for transformer_blocks
PUBLISHED = [
    ("sd15", "input_blocks.1.1.*.0.attn1.to_q", "down_blocks.0.attentions.0.*.0.attn1.to_q"),
    ("sd15", "input_blocks.8.1.*.0.attn2.to_out.0", "down_blocks.2.attentions.1.*.0.attn2.to_out.0"),
    ("sd15", "middle_block.1.proj_in", "mid_block.attentions.0.proj_in"),
    ("sd15", "middle_block.2.out_layers.3", "mid_block.resnets.1.conv2"),
    ("sd15", "output_blocks.3.1.*.0.attn2.to_k", "up_blocks.1.attentions.0.*.0.attn2.to_k"),
    ("sd15", "output_blocks.11.1.*.0.ff.net.0.proj", "up_blocks.3.attentions.2.*.0.ff.net.0.proj"),
    ("sd15", "input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
    ("sd15", "output_blocks.2.1.conv", "up_blocks.0.upsamplers.0.conv"),
    ("sd15", "output_blocks.8.2.conv", "up_blocks.2.upsamplers.0.conv"),
    ("sd15", "input_blocks.10.0.in_layers.2", "down_blocks.3.resnets.0.conv1"),
    ("sd15", "output_blocks.4.0.skip_connection", "up_blocks.1.resnets.1.conv_shortcut"),
    ("sd15", "input_blocks.0.0", "conv_in"),
    ("sd15", "time_embed.2", "time_embedding.linear_2"),
    ("sdxl", "input_blocks.7.1.*.2.ff.net.2", "down_blocks.2.attentions.0.*.2.ff.net.2"),
    ("sdxl", "output_blocks.5.1.*.1.attn1.to_v", "up_blocks.1.attentions.2.*.1.attn1.to_v"),
    ("sdxl", "output_blocks.2.2.conv", "up_blocks.0.upsamplers.0.conv"),
    ("sdxl", "output_blocks.6.0.emb_layers.1", "up_blocks.2.resnets.0.time_emb_proj"),
    ("sdxl", "label_emb.0.2", "add_embedding.linear_2"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path", "name"), PUBLISHED)
def test_the_names_are_those_of_published_files(kind: str, path: str, name: str) -> None:
    path, name = path.replace("*", "transformer_blocks"), name.replace("*", "transformer_blocks")
    model = MODELS[kind]()
    state = one(model, path)
    (stem,) = stems(to_layout(state, "diffusers", model))
    assert stem.replace(".processor.", ".").removesuffix(".0") == f"unet.{name}".removesuffix(".0")
    assert stems(to_layout(state, "comfyui", model)) == {f"diffusion_model.{path}"}
    kohya = "lora_unet_" + (name if kind == "sd15" else path).replace(".", "_")
    assert stems(to_layout(state, "kohya", model)) == {kohya}


@pytest.mark.parametrize(
    ("kind", "encoder", "kohya", "diffusers"),
    [
        ("sd15", "clip_l", "lora_te", "text_encoder"),
        ("sdxl", "clip_l", "lora_te1", "text_encoder"),
        ("sdxl", "clip_g", "lora_te2", "text_encoder_2"),
        ("flux", "clip_l", "lora_te1", "text_encoder"),
    ],
)
def test_the_names_of_text_encoders(kind: str, encoder: str, kohya: str, diffusers: str) -> None:
    model = MODELS[kind]()
    state = one(model, f"{encoder}.{CLIP}.1.self_attn.q_proj")
    rest = "text_model.encoder.layers.1.self_attn.q_proj"
    assert set(to_layout(state, "kohya", model)) == {
        f"{kohya}_{rest.replace('.', '_')}{end}" for end in (".lora_down.weight", ".lora_up.weight", ".alpha")
    }
    assert stems(to_layout(state, "diffusers", model)) == {f"{diffusers}.{rest}"}
    assert stems(to_layout(state, "comfyui", model)) == {f"text_encoders.{encoder}.transformer.{rest}"}


def test_t5_is_the_third_encoder_of_kohya_and_none_of_diffusers() -> None:
    path = "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"
    model = MODELS["flux"]() | {path: (WIDTH, WIDTH)}
    state = one(model, path)
    assert stems(to_layout(state, "kohya", model)) == {"lora_te3_encoder_block_0_layer_0_SelfAttention_q"}
    assert from_layout(to_layout(state, "kohya", model), model).keys() == state.keys()
    with pytest.raises(ValueError, match=f"diffusers has no name for {re.escape(path)}"):
        to_layout(state, "diffusers", model)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", MODELS)
def test_every_layer_has_a_name_of_its_own_and_comes_back_bit_for_bit(kind: str, layout: str) -> None:
    model = MODELS[kind]()
    state = random_state(model, layers(model), rank=2, alpha=2, seed=1)
    tensors = to_layout(state, layout, model)
    assert layout_of(tensors) == layout
    back = from_layout(tensors, model)
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(back[key], tensor), key


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(MODELS)), st.sampled_from(LAYOUTS), st.integers(1, 9),
    st.floats(0.01, 100), st.integers(0, 2**31), st.integers(1, 7),
)  # fmt: skip
def test_round_trips_keep_the_update(
    kind: str, layout: str, rank: int, alpha: float, seed: int, every: int
) -> None:
    model = MODELS[kind]()
    state = random_state(model, layers(model)[::every], rank, alpha, seed)
    back = from_layout(to_layout(state, layout, model), model)
    equal(back, state)
    for key, tensor in state.items():
        if layout != "diffusers" or "lora_A" in key:  # diffusers has no alpha: it goes into B
            assert torch.equal(back[key], tensor), key


def product(tensors: dict[str, Tensor], stem: str) -> Tensor:
    return (tensors[f"{stem}.lora_B.weight"].double() @ tensors[f"{stem}.lora_A.weight"].double())


def test_joint_layers_are_cut_where_diffusers_cuts_them() -> None:
    for kind, path, block, parts in (
        ("sd3", "joint_blocks.1.x_block.attn.qkv", "transformer_blocks.1.attn", ("to_q", "to_k", "to_v")),
        ("sd3", "joint_blocks.0.x_block.attn2.qkv", "transformer_blocks.0.attn2", ("to_q", "to_k", "to_v")),
        (
            "sd3", "joint_blocks.1.context_block.attn.qkv", "transformer_blocks.1.attn",
            ("add_q_proj", "add_k_proj", "add_v_proj"),
        ),
        ("flux", "double_blocks.0.img_attn.qkv", "transformer_blocks.0.attn", ("to_q", "to_k", "to_v")),
        (
            "flux", "double_blocks.0.txt_attn.qkv", "transformer_blocks.0.attn",
            ("add_q_proj", "add_k_proj", "add_v_proj"),
        ),
        (
            "flux", "single_blocks.0.linear1", "single_transformer_blocks.0",
            ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        ),
    ):  # fmt: skip
        model = MODELS[kind]()
        state = one(model, path, rank=3, alpha=5)
        tensors = to_layout(state, "diffusers", model)
        assert len(tensors) == 2 * len(parts)
        made = [product(tensors, f"transformer.{block}.{part}") for part in parts]
        assert [len(part) for part in made[:3]] == [WIDTH] * 3
        assert torch.allclose(torch.cat(made), deltas(state)[path], rtol=0, atol=1e-5)
        assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)


@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        ("sd3", "final_layer.adaLN_modulation.1", "norm_out.linear"),
        (
            "sd3",
            "joint_blocks.1.context_block.adaLN_modulation.1",
            "transformer_blocks.1.norm1_context.linear",
        ),
        ("flux", "final_layer.adaLN_modulation.1", "norm_out.linear"),
    ],
)
def test_shift_and_scale_change_places(kind: str, path: str, name: str) -> None:
    model = MODELS[kind]()
    state = one(model, path)
    shift, scale = deltas(state)[path].chunk(2)
    made = product(to_layout(state, "diffusers", model), f"transformer.{name}")
    assert torch.allclose(made, torch.cat([scale, shift]), rtol=0, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=4, max_size=4).filter(any), st.booleans(),
    st.lists(st.floats(0.1, 30), min_size=4, max_size=4), st.integers(0, 2**31),
)  # fmt: skip
def test_parts_trained_on_their_own_become_one_layer_again(
    ranks: list[int], with_alpha: bool, alphas: list[float], seed: int
) -> None:
    """As diffusers' own trainer writes them: each part has matrices of its own; rank 0 stands for none."""
    model, random = MODELS["flux"](), torch.Generator().manual_seed(seed)
    tensors, wanted = {}, torch.zeros(7 * WIDTH, WIDTH, dtype=torch.float64)
    start = 0
    parts = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    for part, rank, alpha in zip(parts, ranks, alphas, strict=True):
        rows = 4 * WIDTH if part == "proj_mlp" else WIDTH
        if rank:
            stem = f"transformer.single_transformer_blocks.0.{part}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(rank, WIDTH, generator=random)
            tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, rank, generator=random)
            if with_alpha:
                tensors[f"{stem}.alpha"] = torch.tensor(alpha)
            wanted[start : start + rows] = product(tensors, stem) * (alpha / rank if with_alpha else 1)
        start += rows
    state = from_layout(tensors, model)
    assert len(state["single_blocks.0.linear1.lora_A.weight"]) == sum(ranks)
    made = deltas(state)["single_blocks.0.linear1"]
    assert (made - wanted).abs().max() <= 1e-6 * wanted.abs().max()


@pytest.mark.parametrize("ending", ["_lora.{}.weight", ".lora.{}.weight", ".lora_{}.weight"])
@pytest.mark.parametrize("processor", ["", "processor."])
def test_attention_is_read_under_the_names_of_every_age_of_diffusers(ending: str, processor: str) -> None:
    model = MODELS["sd15"]()
    base = "middle_block.1.transformer_blocks.0.attn1"
    state = random_state(model, [f"{base}.to_q", f"{base}.to_out.0"], 3, 3, 1)
    halves = ("A", "B") if ending == ".lora_{}.weight" else ("down", "up")
    tensors = {}
    for part in ("to_q", "to_out.0"):
        name = part.removesuffix(".0") if ending.startswith("_") else part
        stem = f"unet.mid_block.attentions.0.transformer_blocks.0.attn1.{processor}{name}"
        for half, ours in zip(halves, "AB", strict=True):
            tensors[stem + ending.format(half)] = state[f"{base}.{part}.lora_{ours}.weight"]
    equal(from_layout(tensors, model), state)


def test_kohya_is_read_under_both_names_of_a_unets_layer() -> None:
    for kind in ("sd15", "sdxl"):
        model = MODELS[kind]()
        path = "middle_block.1.transformer_blocks.0.attn2.to_k"
        state = one(model, path)
        for name in (path, "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"):
            stem = "lora_unet_" + name.replace(".", "_")
            tensors = {
                f"{stem}.lora_down.weight": state[f"{path}.lora_A.weight"],
                f"{stem}.lora_up.weight": state[f"{path}.lora_B.weight"],
            }
            equal(from_layout(tensors, model), state)


def test_convolutions_as_matrices_get_their_shape() -> None:
    model = MODELS["sd15"]()
    path = "input_blocks.3.0.op"
    state = one(model, path, rank=5, alpha=1)
    tensors = to_layout(state, "comfyui", model)
    flat = {key: tensor.flatten(1) if tensor.dim() else tensor for key, tensor in tensors.items()}
    back = from_layout(flat, model)
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_dora_is_kept_or_refused() -> None:
    model = MODELS["sd3"]()
    path = "joint_blocks.0.x_block.attn.qkv"
    state = one(model, path) | {f"{path}.dora_scale": torch.rand(3 * WIDTH, 1)}
    for layout in ("comfyui", "kohya"):
        back = from_layout(to_layout(state, layout, model), model)
        assert torch.equal(back[f"{path}.dora_scale"], state[f"{path}.dora_scale"])
    with pytest.raises(ValueError, match=rf"{re.escape(path)} is trained with DoRA.*comfyui or kohya"):
        to_layout(state, "diffusers", model)


def test_models_of_other_families_are_saved_as_comfyui_names_them() -> None:
    model: Shapes = {"blocks.0.self_attn.q": (WIDTH, WIDTH), "text_embedding.0": (WIDTH, CONTEXT)}
    state = random_state(model, model, 2, 2, 1)
    for layout in ("comfyui", "kohya"):
        assert from_layout(to_layout(state, layout, model), model).keys() == state.keys()
    with pytest.raises(ValueError, match=r"not for the model with the layers blocks\.0\.self_attn\.q"):
        to_layout(state, "diffusers", model)
