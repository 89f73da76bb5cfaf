"""Realism Conditioner together with ControlNets."""

from __future__ import annotations

import math

import torch
from safetensors.torch import load_file, save_file

from devtools.server import ComfyServer
from tests.comfy.conditioned import FACE, TALL, WIDE, Setting, value
from tests.comfy.searches import Checkpoints
from tests.comfy.test_adapter_bad_input import file_of
from tests.tiny_models import tiny_checkpoint

WORDS = "Blond_Hair, Smiling"


def test_a_control_net_is_given_the_prompts_alone(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """Of phrases and of an adapter's tokens; also where one prompt is longer than the other."""
    here = Setting(server, checkpoints, "sd15_noclip")
    long = here.graph.add(
        "ConditioningConcat", conditioning_to=here.negative, conditioning_from=here.encoded("blurred")
    )
    adapter = here.graph.add("RealismLoadAdapter", name=file_of(server, "controlled", context=768))
    mask, ids = here.mask(FACE), []
    given = ({}, {"negative": long}, {"adapter": adapter})
    for place, inputs in enumerate(given):
        node, name = here.conditioned(f"{WORDS}, -Goatee", mask, **inputs), f"control {place}"
        sides = {side: node[side] for side in ("positive", "negative")}
        control = here.graph.add("TestControl", name=name, **sides)
        one = here.sampled(node["model"], control[0], control[1], cfg=3.0)
        ids.append(here.graph.add("TestProbed", a=one, b=one, first=name, second=name).id)
    run = here.run()
    assert [value(run, id)["calls"][0] for id in ids] == [[77], [154], [77]]


def control_net(server: ComfyServer) -> str:
    """Write a ControlNet for the tiny SD1.5: a copy of its first half, as they begin; returns its name."""
    folder = server.base / "models" / "controlnet"
    folder.mkdir(parents=True, exist_ok=True)
    prefix, dice = "model.diffusion_model.", torch.Generator().manual_seed(6)
    model = load_file(tiny_checkpoint("sd15_noclip"))
    copied = tuple(f"{prefix}{part}" for part in ("time_embed", "input_blocks"))
    weights = {name.removeprefix(prefix): model[name] for name in model if name.startswith(copied)}
    for name in [name for name in weights if name.startswith("input_blocks.1.0.")]:
        weights[name.replace("input_blocks.1.0.", "middle_block.0.")] = weights[name].clone()
    hints = (3, 16, 16, 32, 32, 96, 96, 256, 320)
    layers = {f"input_hint_block.{2 * n}": (hints[n + 1], hints[n], 3, 3) for n in range(8)}
    layers |= dict.fromkeys(("zero_convs.0.0", "zero_convs.1.0", "middle_block_out.0"), (320, 320, 1, 1))
    for name, shape in layers.items():
        weights[f"{name}.weight"] = torch.randn(shape, generator=dice) * math.prod(shape[1:]) ** -0.5
        weights[f"{name}.bias"] = torch.zeros(shape[0])
    save_file({name: weight.half() for name, weight in weights.items()}, folder / "tiny.safetensors")
    return "tiny.safetensors"


def test_a_control_net_before_and_behind(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """ComfyUI's own loader and node: it steers as it does the prompts alone, and phrases stay in regions."""
    here = Setting(server, checkpoints, "sd15_noclip")
    loader = here.graph.add("ControlNetLoader", control_net_name=control_net(server))
    hint = {
        "image": here.graph.add("TestImages", height=TALL, width=WIDE), "control_net": loader,
        "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0,
    }  # fmt: skip

    def steered(sides: dict) -> dict:
        control = here.graph.add("ControlNetApplyAdvanced", **sides, **hint)
        return {"positive": control[0], "negative": control[1]}

    def behind(words: str):
        node = here.conditioned(words, mask)
        sides = steered({side: node[side] for side in ("positive", "negative")})
        return here.sampled(node["model"], *sides.values(), cfg=3.0)

    mask = here.mask(FACE)
    hair = here.graph.add("RealismFaceMaskParts", mask=mask["mask"], parts="hair")
    before = here.conditioned(WORDS, mask, **steered({"positive": here.positive, "negative": here.negative}))
    one = behind(WORDS)
    same = here.difference(here.of(before, cfg=3.0), one)
    without = here.difference(here.of(here.conditioned(WORDS, mask), cfg=3.0), one)
    black = here.difference(behind("Black_Hair, Smiling"), one, mask=hair["mask"])
    run = here.run()
    assert value(run, same)["relative"] < 1e-5 < 1e-2 < value(run, without)["relative"]
    apart = value(run, black)
    assert apart["inside"] > 1.5 * apart["outside"]
