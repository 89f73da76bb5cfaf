"""The layers that targets stand for, on the networks of ComfyUI and diffusers; plans and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from realism_core.training.lora import LoraConfig, attach
from realism_core.training.lora_plan import LoraMemory, estimate_memory, plan_layers
from realism_core.training.targets import adaptable_layers, choose_layers
from tests.tiny_layouts import UNET, Weights, clip_l, flux, sd3, unet

BLOCK = "input_blocks.1.1.transformer_blocks.0."
JOINT = "joint_blocks.0."


class Shapes(Weights):
    """The layouts' tensors without numbers."""

    def normal(self, name: str, shape: Sequence[int], scale: float) -> None:
        self.tensors[name] = torch.empty(*shape, device="meta")


def grown(paths: dict[str, nn.Module]) -> nn.Module:
    """Return a network that has these layers at these paths."""
    root = nn.Module()
    for path, layer in paths.items():
        *folders, name = path.split(".")
        place = root
        for folder in folders:
            if folder not in dict(place.named_children()):
                place.add_module(folder, nn.Module())
            place = place.get_submodule(folder)
        place.add_module(name, layer)
    return root


def network(kind: str) -> nn.Module:
    """Return a family's network, or its text encoder, as empty layers."""
    shapes, prefix = Shapes(0), UNET
    if kind == "sd15":
        unet(shapes, [1], 768)
    elif kind == "sdxl":
        unet(shapes, [0, 1, 2], 2048, 2816, linear=True)
    elif kind == "sd3":
        sd3(shapes, 64, 2048)
    elif kind == "flux":
        flux(shapes, 64, 64)
    else:
        prefix = "text_model."
        clip_l(shapes, prefix)
    layers: dict[str, nn.Module] = {}
    with torch.device("meta"):
        for name, tensor in shapes.tensors.items():
            path, _, part = name.removeprefix(prefix).rpartition(".")
            if part != "weight" or not path:
                continue
            if tensor.dim() == 4:
                layers[path] = nn.Conv2d(tensor.shape[1], tensor.shape[0], tensor.shape[2:])
            elif tensor.dim() == 2 and "embedding" not in path:
                layers[path] = nn.Linear(tensor.shape[1], tensor.shape[0])
            else:
                layers[path] = nn.LayerNorm(tensor.shape[0])
    return grown(layers)


def linears(*paths: str) -> nn.Module:
    return grown({path: nn.Linear(4, 4) for path in paths})


def below(chosen: dict[str, nn.Module], prefix: str) -> set[str]:
    return {path.removeprefix(prefix) for path in chosen if path.startswith(prefix)}


PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_a_unet_has_attention_cross_attention_and_feed_forward(kind: str) -> None:
    model = network(kind)
    first = next(path for path in adaptable_layers(model) if path.endswith(".attn1.to_q"))
    block = first.removesuffix("attn1.to_q")
    own = {f"attn1.{name}" for name in PROJECTIONS}
    cross = {f"attn2.{name}" for name in PROJECTIONS}
    attention = choose_layers(model, "attention")
    assert below(attention, block) == own | cross
    assert below(choose_layers(model, "cross_attention"), block) == cross
    assert below(choose_layers(model, "feed_forward"), block) == {"ff.net.0.proj", "ff.net.2"}
    assert all(".attn" in path for path in attention)
    blocks = {path.split(".attn1.")[0] for path in attention if ".attn1." in path}
    assert len(attention) == 8 * len(blocks)
    assert len(choose_layers(model, "feed_forward")) == 2 * len(blocks)


def test_sd3_joins_picture_and_text_and_its_time_embedder_is_no_block() -> None:
    model = network("sd3")
    assert set(choose_layers(model, "attention")) == {
        f"{JOINT}context_block.attn.qkv", f"{JOINT}x_block.attn.qkv", f"{JOINT}x_block.attn.proj"
    }  # fmt: skip
    mlp = {f"{JOINT}x_block.mlp.{name}" for name in ("fc1", "fc2")}
    assert set(choose_layers(model, "feed_forward")) == mlp
    with pytest.raises(ValueError, match=r"no cross-attention.*attn\.qkv.*targets attention \(3 layers\)"):
        choose_layers(model, "cross_attention")


def test_a_second_self_attention_is_no_cross_attention() -> None:
    model = linears("joint_blocks.0.x_block.attn.qkv", "joint_blocks.0.x_block.attn2.qkv")
    assert len(choose_layers(model, "attention")) == 2
    with pytest.raises(ValueError, match="no cross-attention"):
        choose_layers(model, "cross_attention")


def test_flux_has_two_streams_and_matrices_that_serve_both_ends() -> None:
    model = network("flux")
    single = {"single_blocks.0.linear1", "single_blocks.0.linear2"}
    streams = [f"double_blocks.0.{stream}" for stream in ("img", "txt")]
    double = {f"{stream}_attn.{name}" for stream in streams for name in ("qkv", "proj")}
    mlp = {f"{stream}_mlp.{place}" for stream in streams for place in (0, 2)}
    assert set(choose_layers(model, "attention")) == double | single
    assert set(choose_layers(model, "feed_forward")) == mlp | single
    with pytest.raises(ValueError, match="no cross-attention"):
        choose_layers(model, "cross_attention")


def test_clip_has_attention_and_mlps() -> None:
    model = network("clip")
    first = "encoder.layers.0."
    names = {f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")}
    assert below(choose_layers(model, "attention"), first) == names
    assert below(choose_layers(model, "feed_forward"), first) == {"mlp.fc1", "mlp.fc2"}
    assert len(choose_layers(model, "attention")) == 48


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", {"attention"}),
        ("down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2", {"feed_forward"}),
        ("down_blocks.0.attentions.0.proj_in", set()),
        ("transformer_blocks.0.attn.add_q_proj", {"attention"}),
        ("transformer_blocks.0.ff_context.net.2", {"feed_forward"}),
        ("single_transformer_blocks.0.proj_mlp", {"feed_forward"}),
        ("time_text_embed.timestep_embedder.linear_1", set()),
        ("t_embedder.mlp.0", set()),
        ("blocks.0.cross_attn.k", {"attention", "cross_attention"}),
        ("blocks.0.ffn.0", {"feed_forward"}),
        ("encoder.block.0.layer.0.SelfAttention.q", {"attention"}),
        ("encoder.block.0.layer.1.DenseReluDense.wi_0", {"feed_forward"}),
        ("layers.0.attention.qkv", {"attention"}),
        ("layers.0.feed_forward.w1", {"feed_forward"}),
        ("model.layers.0.self_attn.o_proj", {"attention"}),
        ("double_blocks.0.img_mod.lin", set()),
        ("joint_blocks.0.x_block.adaLN_modulation.1", set()),
        ("input_blocks.1.0.emb_layers.1", set()),
    ],
)
def test_where_a_layer_belongs(path: str, kinds: set[str]) -> None:
    others = ["a.attn", "a.attn1.to_q", "a.attn2.to_q", "a.mlp"]
    model = linears(path, *others)
    for kind in ("attention", "cross_attention", "feed_forward"):
        assert (path in choose_layers(model, kind)) == (kind in kinds), kind


def test_all_means_every_linear_and_convolution_in_order() -> None:
    model = network("sd15")
    wanted = [path for path, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    assert list(choose_layers(model, "all")) == wanted
    assert "out.2" in wanted
    assert "time_embed.0" in wanted


def test_patterns_are_globs_or_expressions_one_a_line_in_the_networks_order() -> None:
    model = network("sd15")
    assert set(choose_layers(model, "pattern", f"{BLOCK}attn2.to_?")) == {
        f"{BLOCK}attn2.to_{name}" for name in "qkv"
    }
    expression = choose_layers(model, "pattern", r"re:attn[12]\.to_(k|v)$")
    assert expression
    assert all(path.endswith((".to_k", ".to_v")) for path in expression)
    both = choose_layers(model, "pattern", "out.2\n\n  *.attn1.to_q  ")
    assert list(both)[-1] == "out.2"
    assert len(both) == 1 + sum(path.endswith("attn1.to_q") for path in adaptable_layers(model))


def test_what_matches_nothing_is_refused_with_paths_that_would() -> None:
    model = network("sd15")
    with pytest.raises(ValueError, match=r"'\*\.attn3\.\*' matches no layer") as caught:
        choose_layers(model, "pattern", "*.attn1.to_q\n*.attn3.*")
    shown = str(caught.value).split("look like ")[1].rstrip(".").split(", ")
    assert len(shown) == 6
    assert all(choose_layers(model, "pattern", form) for form in shown)
    with pytest.raises(ValueError, match="the pattern is empty"):
        choose_layers(model, "pattern", " \n")
    with pytest.raises(ValueError, match=r"'re:\(' is not a regular expression"):
        choose_layers(model, "pattern", "re:(")
    with pytest.raises(ValueError, match="choose one of attention, cross_attention"):
        choose_layers(model, "attn")
    with pytest.raises(ValueError, match=r"no feed_forward layers.*targets attention \(1 layers\)"):
        choose_layers(linears("block.attn.q"), "feed_forward")
    with pytest.raises(ValueError, match="has no Linear or Conv2d"):
        choose_layers(nn.Linear(2, 2), "all")


def test_layers_that_are_never_called_are_left_out() -> None:
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2), "after": nn.Linear(4, 4)})
    assert list(adaptable_layers(model)) == ["after"]


def test_a_quantised_layer_is_known_by_its_name_and_sizes() -> None:
    class QuantLinear(nn.Module):
        in_features, out_features = 6, 4

    class Sizes(nn.Module):
        in_features, out_features = 6, 4

    model = grown({"attn.q": QuantLinear(), "attn.k": Sizes()})
    plans = plan_layers(model, LoraConfig(rank=2))
    assert list(plans) == ["attn.q"]
    assert (plans["attn.q"].down, plans["attn.q"].up) == ((2, 6), (4, 2))


def test_a_rank_that_a_layer_cannot_hold_is_refused_by_name_or_clamped_by_choice() -> None:
    model = grown({"mid": nn.Linear(64, 64), "first": nn.Conv2d(4, 64, 1)})
    model.add_module("last", nn.Conv2d(64, 3, 3))
    with pytest.raises(ValueError, match=r"rank 16 is more than layer 'last' and 1 more .*'last' is 3"):
        plan_layers(model, LoraConfig(rank=16, targets="all"))
    plan_layers(model, LoraConfig(rank=3, targets="all"))
    plans = plan_layers(model, LoraConfig(rank=16, targets="all", clamp_rank=True))
    assert {path: plan.rank for path, plan in plans.items()} == {"mid": 16, "first": 4, "last": 3}
    with attach(model, LoraConfig(rank=16, alpha=8, targets="all", clamp_rank=True), 0) as adapters:
        assert {adapter.scale for adapter in adapters.layers.values()} == {0.5}
        assert float(adapters.state_dict()["last.alpha"]) == 1.5


def test_grouped_convolutions_are_refused_by_name() -> None:
    model = grown({"deep.conv": nn.Conv2d(8, 8, 3, groups=4), "deep.mix": nn.Conv2d(8, 8, 1)})
    with pytest.raises(ValueError, match="'deep.conv' is a convolution of 4 groups"):
        plan_layers(model, LoraConfig(rank=2, targets="all"))
    assert list(plan_layers(model, LoraConfig(rank=2, targets="pattern", pattern="*.mix"))) == ["deep.mix"]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 2.0}, "rank is 2.0"),
        ({"rank": True}, "rank is True"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": math.nan}, "dropout is nan"),
        ({"targets": "attn"}, "targets is 'attn'"),
        ({"pattern": "*"}, "no effect with targets 'attention'"),
    ],
)
def test_a_configuration_out_of_range_is_refused(numbers: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraConfig(**numbers)


@pytest.mark.parametrize("dora", [False, True])
def test_the_estimate_is_what_a_step_of_adamw_leaves_in_memory(dora: bool) -> None:
    model = grown({"a.attn.q": nn.Linear(24, 40), "a.attn.k": nn.Conv2d(8, 24, 3)})
    config = LoraConfig(rank=4, dora=dora)
    memory = estimate_memory(model, config)
    adapters = attach(model, config, 0)
    weights = adapters.parameters()
    optimiser = torch.optim.AdamW(weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimiser.step()
    states = optimiser.state.values()
    kept = [value for state in states for name, value in state.items() if name != "step"]
    sizes = [sum(t.nbytes for t in group) for group in (weights, [w.grad for w in weights], kept)]
    assert memory == LoraMemory(sum(w.numel() for w in weights), *sizes)
    assert memory.total == sum(sizes)
    assert estimate_memory(model, config, lambda shape: 0).optimiser == 0


def test_an_estimate_allocates_nothing() -> None:
    with torch.device("meta"):
        model = grown({"attn.q": nn.Linear(1 << 20, 1 << 20)})
    assert estimate_memory(model, LoraConfig(rank=16)).parameters == 16 << 21
