"""Realism Conditioner together with what else people put on models and prompts."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from devtools.server import ComfyServer
from realism_core.conditioning.vocabulary import LABELS
from tests.comfy.conditioned import FACE, TALL, WIDE, Setting, value
from tests.comfy.graphs import failure, status
from tests.comfy.searches import Checkpoints
from tests.comfy.test_face_nodes import told
from tests.tiny_models import tiny_checkpoint

WORDS = "Blond_Hair, Smiling"
LAYERS = {
    "sd15_noclip": "input_blocks.1.1.transformer_blocks.0.attn2.to_v",
    "sd3": "joint_blocks.0.x_block.attn.qkv",
}


@pytest.fixture(params=LAYERS)
def here(request: pytest.FixtureRequest, server: ComfyServer, checkpoints: Checkpoints) -> Setting:
    setting = Setting(server, checkpoints, request.param)
    setting.kind = request.param
    return setting


def lora(server: ComfyServer, kind: str) -> str:
    """Write a LoRA of one layer of a network; returns its name."""
    layer = LAYERS[kind]
    weight = load_file(tiny_checkpoint(kind))[f"model.diffusion_model.{layer}.weight"]
    random = torch.Generator().manual_seed(8)
    parts = {
        "lora_up": torch.randn(weight.shape[0], 2, generator=random) * 0.1,
        "lora_down": torch.randn(2, weight.shape[1], generator=random) * 0.1,
    }
    folder = server.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"conditioner-{kind}.safetensors"
    save_file({f"diffusion_model.{layer}.{part}.weight": values for part, values in parts.items()},
              folder / name)  # fmt: skip
    return name


def test_a_lora_before_or_behind_and_as_a_hook(here: Setting) -> None:
    name, mask = lora(here.server, here.kind), here.mask(FACE)
    with_lora = {"lora_name": name, "strength_model": 1.0}
    plain = here.conditioned(WORDS, mask)
    before = here.conditioned(
        WORDS, mask, model=here.graph.add("LoraLoaderModelOnly", model=here.model, **with_lora)
    )
    behind = here.graph.add("LoraLoaderModelOnly", model=plain["model"], **with_lora)
    hook = here.graph.add("CreateHookLora", **with_lora, strength_clip=0.0)
    hooked = [
        here.graph.add(
            "ConditioningSetProperties", cond_NEW=plain[side], strength=1.0, set_cond_area="default",
            hooks=hook,
        )
        for side in ("positive", "negative")
    ]  # fmt: skip
    first = here.of(before, cfg=3.0)
    same = [
        here.difference(first, here.of(plain, model=behind, cfg=3.0)),
        here.difference(first, here.sampled(plain["model"], *hooked, cfg=3.0)),
    ]
    apart = here.difference(first, here.of(plain, cfg=3.0))
    run = here.run()
    assert [value(run, id)["relative"] < 1e-4 for id in same] == [True, True]
    assert value(run, apart)["relative"] > 1e-3


def test_masks_of_comfyui_mix_what_each_prompt_gives(here: Setting) -> None:
    """After one step without guidance, a prompt with a mask is its own picture within the mask."""
    coupled, other = here.conditioned(WORDS, here.mask(FACE)), here.encoded("landscape")
    none, half = (
        here.graph.add("SolidMask", value=value, width=width, height=TALL)
        for value, width in ((0.0, WIDE), (1.0, WIDE // 2))
    )
    left = here.graph.add("MaskComposite", destination=none, source=half, x=0, y=0, operation="add")
    masks = (left, here.graph.add("InvertMask", mask=left))
    pair = [
        here.graph.add(
            "ConditioningSetMask", conditioning=side, mask=mask, strength=1.0, set_cond_area="default"
        )
        for side, mask in zip((coupled["positive"], other), masks, strict=True)
    ]
    both = here.graph.add("ConditioningCombine", conditioning_1=pair[0], conditioning_2=pair[1])
    mixed = here.sampled(coupled["model"], both)
    alone = (here.of(coupled), here.sampled(coupled["model"], other))
    ids = [here.difference(mixed, one, mask=mask) for one, mask in zip(alone, masks, strict=True)]
    run = here.run()
    for id in ids:
        found = value(run, id)
        assert found["inside"] < 1e-5 < 1e-3 < found["outside"]


def test_areas_see_their_part_of_the_mask(here: Setting) -> None:
    """Beside the hair its colour has no effect, and on it it has."""
    labels = torch.zeros_like(FACE)
    labels[:, 64:] = LABELS["hair"]
    mask, ids = here.mask(labels), []
    for x in (0, 32):
        pair = []
        for words in ("Blond_Hair", "Black_Hair"):
            node = here.conditioned(words, mask)
            area = here.graph.add(
                "ConditioningSetArea", conditioning=node["positive"], width=64, height=TALL, x=x, y=0,
                strength=1.0,
            )  # fmt: skip
            pair.append(here.sampled(node["model"], area, node["negative"], cfg=3.0))
        ids.append(here.difference(*pair))
    run = here.run()
    beside, over = (value(run, id)["relative"] for id in ids)
    assert beside == 0 < 1e-3 < over


def test_one_conditioner_after_another(here: Setting) -> None:
    mask = here.mask(FACE)
    first = here.conditioned("Blond_Hair, -Goatee", mask)
    second = here.conditioned(
        "Smiling:1.5", mask, model=first["model"], positive=first["positive"], negative=first["negative"]
    )
    at_once = here.conditioned("Blond_Hair, Smiling:1.5, -Goatee", mask)
    same = here.difference(here.of(second, cfg=3.0), here.of(at_once, cfg=3.0))
    apart = here.difference(here.of(first, cfg=3.0), here.of(at_once, cfg=3.0))
    run = here.run()
    assert value(run, same)["relative"] < 1e-5 < value(run, apart)["relative"]


def test_what_is_appended_behind_all_see(here: Setting) -> None:
    """Words concatenated behind the node act as they would before it."""
    mask, more = here.mask(FACE), here.encoded("red light")
    node = here.conditioned(WORDS, mask)
    behind = here.graph.add("ConditioningConcat", conditioning_to=node["positive"], conditioning_from=more)
    before = here.graph.add("ConditioningConcat", conditioning_to=here.positive, conditioning_from=more)
    other = here.conditioned(WORDS, mask, positive=before)
    pairs = [
        (here.sampled(node["model"], behind, node["negative"], cfg=cfg), here.of(other, cfg=cfg))
        for cfg in (1.0, 3.0)
    ]
    ids = [here.difference(*pair) for pair in pairs]
    run = here.run()
    assert all(value(run, id)["relative"] < 1e-4 for id in ids)


@pytest.mark.parametrize("override", ["see", "blind"])
def test_an_attention_override_is_called_unless_it_ignores_masks(here: Setting, override: str) -> None:
    mask, name = here.mask(FACE), f"{here.kind}-{override}"
    probed = here.graph.add("TestProbe", model=here.model, name=name, kind=override)
    one = here.of(here.conditioned(WORDS, mask, model=probed), cfg=3.0)
    other = here.of(here.conditioned(WORDS, mask), cfg=3.0)
    same = here.difference(one, other)
    seen = here.graph.add("TestProbed", a=one, b=other, first=name, second=name).id
    run = here.run()
    assert value(run, same)["relative"] < 1e-4
    assert (value(run, seen)["masked"][0] > 0) == (override == "see")


def test_mask_conditioning(here: Setting) -> None:
    """ComfyUI's own: nothing changes outside the masks and those set before, and no model is needed."""
    mask, pair = here.mask(FACE), []
    half = here.graph.add("SolidMask", value=1.0, width=WIDE // 2, height=TALL)
    none = here.graph.add("SolidMask", value=0.0, width=WIDE, height=TALL)
    left = here.graph.add("MaskComposite", destination=none, source=half, x=0, y=0, operation="add")
    hair = here.graph.add("RealismFaceMaskParts", mask=mask["mask"], parts="hair")
    within = here.graph.add(
        "MaskComposite", destination=hair["mask"], source=left, x=0, y=0, operation="multiply"
    )
    prompts = [
        here.graph.add(
            "ConditioningSetMask", conditioning=here.positive, mask=part, strength=1.0,
            set_cond_area="default",
        )
        for part in (left, here.graph.add("InvertMask", mask=left))
    ]  # fmt: skip
    for words in ("Blond_Hair, -Goatee", "Black_Hair, -Goatee"):
        node = here.conditioned(words, mask, mode="mask conditioning", positive=prompts[0])
        here.graph[node.id]["inputs"].pop("model")
        both = here.graph.add(
            "ConditioningCombine", conditioning_1=node["positive"], conditioning_2=prompts[1]
        )
        pair.append(here.sampled(here.model, both, node["negative"], cfg=3.0))
    id, blocked = here.difference(*pair, mask=within), here.graph.show(node["model"])
    run = here.run()
    found = value(run, id)
    assert found["inside"] > 1e-3
    assert found["outside"] < 1e-3 * found["inside"]
    assert blocked not in run.entry["outputs"], "no model came in"


def test_strengths(here: Setting) -> None:
    """Strength 0 says nothing; a mask strength of 0 says it to the whole picture."""
    mask = here.mask(FACE)
    ids = {
        name: here.difference(here.of(here.conditioned(WORDS, mask, **one)), to)
        for name, one, to in (
            ("silent", {"attribute_strength": 0.0}, here.sampled(here.model, here.positive)),
            ("global", {"mask_strength": 0.0}, here.of(here.conditioned(WORDS))),
            ("weaker", {"attribute_strength": 0.5}, here.of(here.conditioned(WORDS, mask))),
            ("looser", {"mask_strength": 0.5}, here.of(here.conditioned(WORDS, mask))),
        )
    }
    run = here.run()
    apart = {name: value(run, id)["relative"] for name, id in ids.items()}
    assert apart["silent"] < 1e-6 and apart["global"] < 1e-5
    assert apart["weaker"] > 1e-4 and apart["looser"] > 1e-4


@pytest.mark.parametrize(("kind", "tokens"), [("sd15", 77), ("sd3_clip", 77)])
def test_only_the_words_of_phrases_are_added(
    server: ComfyServer, checkpoints: Checkpoints, kind: str, tokens: int
) -> None:
    """"blond hair" is two words and the end token; unwanted attributes lengthen the negative prompt."""
    here = Setting(server, checkpoints, kind)
    here.clip = here.graph.add("CheckpointLoaderSimple", ckpt_name=checkpoints(server, kind))[1]
    here.positive, here.negative = here.encoded("a person"), here.encoded("drawing")
    node = here.conditioned("Blond_Hair, Wearing_Hat:0.5, -Double_Chin, -Rosy_Cheeks", here.mask(FACE))
    ids = [here.graph.add("TestTokens", conditioning=node[side]).id for side in ("positive", "negative")]
    apart = here.difference(here.of(node), here.sampled(here.model, here.positive))
    run = here.run()
    (positive,), (negative,) = (value(run, id) for id in ids)
    assert positive == negative and tokens + 9 <= positive <= tokens + 16
    assert value(run, apart)["relative"] > 1e-4


def test_what_is_said_is_told(here: Setting) -> None:
    skin = torch.full_like(FACE, LABELS["skin"])
    mask = here.mask(FACE, skin)
    node = here.conditioned("Blond_Hair:0.8, -Goatee, Wearing_Necktie", mask)
    spread = here.conditioned("Blond_Hair", here.mask(skin), on_empty="whole picture")
    left = here.conditioned("Blond_Hair", here.mask(skin))
    for one in (node, spread, left):
        here.graph.add("TestTokens", conditioning=one["positive"])
    run = here.run()
    text = told(run, node).splitlines()
    assert "blond hair (0.8): hair" in text and "not goatee (1): skin, lower lip" in text
    assert "Blond_Hair: its regions are not in picture 2, which does not see it" in text
    assert "said to the whole picture, for want of a region: Blond_Hair (hair)" in told(run, spread)
    assert "left out, as the mask has no such region: Blond_Hair (hair)" in told(run, left)
    assert "No attributes: the prompts are as they were." in told(run, left)


def test_a_model_without_attention_that_is_known(server: ComfyServer, checkpoints: Checkpoints) -> None:
    here = Setting(server, checkpoints, "sd3")
    node = here.conditioned("Blond_Hair", here.mask(FACE), model=here.graph.add("TestOtherNetwork"))
    here.graph.show(node["positive"])
    run = server.run(here.graph)
    assert status(run) == "execution_error"
    assert "(Linear), whose attention cannot be bound to regions" in failure(run)


@pytest.mark.parametrize(("what", "words"), [
    ("attention", "another node replaces the model's cross-attention"),
    ("tiles", "another node computes the picture in pieces of (18, 6), whose places in the latent of (18"),
])  # fmt: skip
def test_nodes_it_cannot_work_with(
    server: ComfyServer, checkpoints: Checkpoints, what: str, words: str
) -> None:
    """They are told of, before and behind it, and mask conditioning works with them."""
    here = Setting(server, checkpoints, "sd15_noclip")
    mask = here.mask(FACE)
    node = here.conditioned(WORDS, mask)
    behind = here.graph.add("TestTakenOver", model=node["model"], what=what)
    here.graph.show(here.of(node, model=behind))
    assert words in failure(server.run(here.graph))
    here = Setting(server, checkpoints, "sd15_noclip")
    taken = here.graph.add("TestTakenOver", model=here.model, what=what)
    node = here.conditioned(WORDS, here.mask(FACE), model=taken, mode="mask conditioning")
    id = here.difference(here.of(node), here.sampled(taken, here.positive))
    assert value(here.run(), id)["relative"] > (0 if what == "attention" else 1e-3)


@pytest.mark.parametrize("kind", ["sd15_noclip", "koala_vpred", "sd3"])
def test_on_the_oldest_comfyui(old_server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    """It has the same override and wrappers: one pass, and effects in the region only."""
    here = Setting(old_server, checkpoints, kind)
    mask, results, names = here.mask(FACE), [], (f"old {kind} 1", f"old {kind} 2")
    for name, words in zip(names, (WORDS, "Black_Hair, Smiling"), strict=True):
        probed = here.graph.add("TestProbe", model=here.model, name=name, kind="see")
        results.append(here.of(here.conditioned(words, mask, model=probed), cfg=3.0))
    hair = here.graph.add("RealismFaceMaskParts", mask=mask["mask"], parts="hair")
    whole = here.difference(*results, mask=hair["mask"])
    seen = here.graph.add("TestProbed", a=results[0], b=results[1], first=names[0], second=names[1]).id
    run = here.run()
    assert value(run, seen)["calls"] == [[2], [2]] and value(run, seen)["masked"][0] > 0
    assert value(run, whole)["inside"] > 1.5 * value(run, whole)["outside"]
