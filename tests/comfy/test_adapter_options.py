"""Options of the adapter's trainer change what is trained; ends, checkpoints and LoRAs as in the trainer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from devtools.client import Run
from devtools.server import ComfyServer
from realism_core.conditioning.adapter_file import load_adapter
from tests.comfy.adapter_graphs import adapter_training, conditioned, faces, parts_of, sampled
from tests.comfy.graphs import Graph, Node, done, failure, shown, status
from tests.comfy.searches import Checkpoints
from tests.comfy.test_adapter_nodes import text_of
from tests.comfy.test_train_node import far, values
from tests.comfy.trainings import at_step, checkpoint_of, interrupted_files, metadata
from tests.tiny_models import tiny_checkpoint


def folder(server: ComfyServer) -> Path:
    return server.base / "models" / "realism_adapters"


def saved(graph: Graph, trainer: Node, name: str) -> Node:
    return graph.add("RealismSaveAdapter", adapter=trainer["adapter"], name=name, overwrite=True)


def trained(server: ComfyServer, checkpoints: Checkpoints, runs: list[dict], kind: str = "sd3") -> list:
    """Return the files of trainings, each with its own options, from one run of the server."""
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, kind)
    for place, options in enumerate(runs):
        given = {name: make(graph, server) if callable(make) else make for name, make in options.items()}
        saved(graph, adapter_training(graph, kind, parts, **given), f"option {place}")
    done(server.run(graph))
    return [load_adapter(folder(server) / f"option {place}.safetensors") for place in range(len(runs))]


def same(one, other) -> bool:
    ours, theirs = one.adapter.state_dict(), other.adapter.state_dict()
    return set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_every_option_changes_the_adapter(server: ComfyServer, checkpoints: Checkpoints) -> None:
    options = [
        {"attribute_form": "pooled"}, {"attribute_form": "none"}, {"mask_form": "pooled"},
        {"mask_form": "none"}, {"grid": 4}, {"patch": 2}, {"width": 32}, {"group_dropout": 0.8},
        {"unknown": 1.0}, {"lora_rank": 2}, {"condition_dropout": 0.9}, {"learning_rate": 1e-3}, {"seed": 2},
        {"batch_size": 1}, {"optimiser": "sgd"}, {"precision": "bf16"}, {"ema_decay": 0.9},
        {"weight": lambda graph, _: graph.add("RealismLossWeight", kind="p2", gamma=2.0)},
        {"mask": lambda graph, server: faces(graph, server, "hair")},
        {"lora_rank": 2, "targets": "all"},
    ]  # fmt: skip
    plain, *others = trained(server, checkpoints, [{}, *options, {"width": 256}])
    repeated = others.pop()
    assert same(plain, repeated)
    for option, other in zip(options, others, strict=True):
        assert not same(plain, other), option
    with_lora = others[options.index({"lora_rank": 2})]
    assert not same(with_lora, others[-1])  # of other layers
    counts = [one.adapter.config.counts for one in others[:4]]
    assert counts == [(1, 83), (0, 83), (40, 19), (40, 0)]
    told = plain.about["training"]
    assert told["steps"] == 4 and told["images"] == 2 and told["objective"] == "flow"
    assert told["extra"]["adapter"] == vars(plain.adapter.config) and told["extra"]["group_dropout"] == 0.1
    assert others[9].about["training"]["adapter"] == "lora" and others[9].about["training"]["rank"] == 2


def test_an_input_left_open_is_an_ablation_of_its_own(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """The same as the form none, to the bit."""
    runs = [{"mask": None}, {"mask_form": "none"}, {"attributes": None}, {"attribute_form": "none"}]
    no_mask, mask_off, no_attributes, attributes_off = trained(server, checkpoints, runs)
    assert same(no_mask, mask_off) and same(no_attributes, attributes_off)
    assert no_mask.adapter.mask is None and no_attributes.adapter.attributes is None


def test_recompute_changes_memory_only(server: ComfyServer, checkpoints: Checkpoints) -> None:
    for kind in ("sd3", "sd15_noclip", "flux"):
        plain, again = trained(server, checkpoints, [{}, {"recompute": True}], kind)
        for name, weight in plain.adapter.state_dict().items():
            assert torch.allclose(weight, again.adapter.state_dict()[name], rtol=1e-3, atol=1e-4), name


def test_with_a_lora_both_are_needed(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """The trained model and the LoRA's file give the same; without either the picture is another."""
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    trainer = adapter_training(graph, "sd3", parts, lora_rank=4, steps=6)
    prompts = conditioned(graph, parts, trainer["adapter"])
    both = graph.show(sampled(graph, trainer["model"], prompts))
    alone = graph.show(sampled(graph, parts["model"], prompts))
    words = graph.show(sampled(graph, trainer["model"], parts))
    plain = graph.show(sampled(graph, parts["model"], parts))
    again = graph.add(
        "LoraModelLoader", model=parts["model"], lora=trainer["lora"], strength_model=1.0, bypass=False
    )
    loaded = graph.show(sampled(graph, again, prompts))
    file = graph.add("RealismSaveLoRA", lora=trainer["lora"], filename_prefix="loras/with-adapter")
    run = done(server.run(graph))
    for other in (alone, words, plain):
        assert far(values(run, other), values(run, both)) > 1e-5
    assert far(values(run, loaded), values(run, both)) < 1e-5
    (path,) = run.entry["outputs"][file.id]["text"]
    assert json.loads(metadata(Path(path))["realism.rank"]) == 4


@pytest.mark.parametrize("share", [None, 0.5])
def test_a_lora_takes_its_share_of_the_steps_of_new_tokens(
    server: ComfyServer, checkpoints: Checkpoints, share: float | None
) -> None:
    """Adam's first step is the rate in every number: from 0 on, what the weights are."""
    known = server.object_info()
    ours, loras = (
        known[node]["input"]["required"]["learning_rate"][1]["default"]
        for node in ("RealismTrainAdapter", "RealismTrainLoRA")
    )
    assert (ours, loras) == (1e-3, 1e-4)
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    told = {} if share is None else {"lora_rate": share}
    trainer = adapter_training(graph, "sd3", parts, lora_rank=4, steps=1, learning_rate=ours, **told)
    saved(graph, trainer, "a step")
    file = graph.add("RealismSaveLoRA", lora=trainer["lora"], filename_prefix="loras/a-step")
    run = done(server.run(graph))
    (path,) = run.entry["outputs"][file.id]["text"]
    ups = [weight.abs().max() for name, weight in load_file(path).items() if "lora_up" in name]
    assert max(ups) == pytest.approx(loras if share is None else share * ours, rel=0.05)
    bias = load_adapter(folder(server) / "a step.safetensors").adapter.outer.bias
    assert bias.abs().max() == pytest.approx(ours, rel=0.05)


def test_without_a_lora_nothing_behind_it_runs(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    trainer = adapter_training(graph, "sd3", parts, vae=parts["vae"], preview_every=2, preview_steps=1)
    lora, pictures = graph.show(trainer["lora"]), graph.show(trainer["previews"])
    run = done(server.run(graph))
    assert lora not in run.entry["outputs"]
    (previews,) = shown(run, pictures)
    assert previews["shape"][0] == 3 and len(set(previews["digests"])) == 3


@pytest.mark.parametrize("rank", [0, 4])
def test_cancel_saves_what_was_trained(server: ComfyServer, checkpoints: Checkpoints, rank: int) -> None:
    before, loras = set(folder(server).glob("interrupted_*")), len(interrupted_files(server))
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    trainer = adapter_training(graph, "sd3", parts, steps=5000, lora_rank=rank)
    graph.show(trainer["steps"])
    run = server.run(graph, on_event=at_step(10, lambda: server.post("/interrupt", {})))
    assert status(run) == "execution_interrupted"
    (path,) = set(folder(server).glob("interrupted_*")) - before
    steps = load_adapter(path).about["training"]["steps"]
    assert f"_{steps}_steps_" in path.name and 10 <= steps < 5000
    assert len(interrupted_files(server)) - loras == bool(rank)
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    loader = graph.add("RealismLoadAdapter", name=path.name)
    id = graph.show(sampled(graph, parts["model"], conditioned(graph, parts, loader)))
    assert all(map(abs, values(done(server.run(graph)), id)))


def test_a_lora_that_cannot_be_saved_does_not_take_the_adapter_with_it(
    server: ComfyServer, checkpoints: Checkpoints
) -> None:
    before, loras = set(folder(server).glob("interrupted_*")), server.base / "output" / "loras"
    kept = loras.with_name("loras kept")
    if loras.exists():
        loras.rename(kept)
    loras.write_text("in the way")
    try:
        press = at_step(10, lambda: server.post("/interrupt", {}))
        said = failure(ended(server, checkpoints, "never", press, steps=5000, lora_rank=2))
    finally:
        loras.unlink()
        if kept.exists():
            kept.rename(loras)
    (path,) = set(folder(server).glob("interrupted_*")) - before
    steps = load_adapter(path).about["training"]["steps"]
    assert f"The LoRA of {steps} steps is lost" in said and f"The adapter is saved as {path.name}." in said


def ended(server: ComfyServer, checkpoints: Checkpoints, name: str, on_event=None, **options) -> Run:
    """Train, and save what a good end leaves under a name."""
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    saved(graph, adapter_training(graph, "sd3", parts, **options), name)
    return server.run(graph, on_event=on_event)


def test_queued_again_after_cancel_or_stop_it_is_the_same_bit_for_bit(
    server: ComfyServer, checkpoints: Checkpoints
) -> None:
    """One workflow, queued three times as it is; ComfyUI would else hand out what it remembers of it."""
    done(ended(server, checkpoints, "whole", steps=100, lora_rank=2))
    options = {"steps": 100, "lora_rank": 2, "checkpoint": "adapter-run", "resume": True}
    press = at_step(10, lambda: server.post("/interrupt", {}))
    run = ended(server, checkpoints, "part", press, **options)
    assert status(run) == "execution_interrupted" and checkpoint_of(server, "adapter-run").is_file()
    press = at_step(40, lambda: server.post("/realism/stop_and_keep", {}))
    stopped = done(ended(server, checkpoints, "part", press, **options))
    whole, half = (load_adapter(folder(server) / f"{name}.safetensors") for name in ("whole", "part"))
    assert 40 <= half.about["training"]["steps"] < 100 and not same(half, whole)
    resumed = done(ended(server, checkpoints, "part", **options))
    first, second = (
        next(data["value"] for name, data in run.events if name == "progress") for run in (stopped, resumed)
    )
    assert 10 < first <= 40 < second == half.about["training"]["steps"] + 1
    assert same(load_adapter(folder(server) / "part.safetensors"), whole)
    for changed, words in (({"unknown": 0.0}, "unknown was 0.5"), ({"grid": 4}, "adapter.grid was 8")):
        run = ended(server, checkpoints, "other", **{**options, **changed})
        assert words in failure(run), changed


def test_another_network_does_not_take_over(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """Neither does the adapter alone go on with one of the same shapes."""
    options = {"checkpoint": "adapter-network", "resume": True}
    done(ended(server, checkpoints, "first", steps=2, **options))
    path = server.base / "models" / "checkpoints" / "tiny-sd3-other.safetensors"
    tensors = load_file(tiny_checkpoint("sd3"))
    name = next(name for name in tensors if name.endswith("x_block.attn.qkv.weight"))
    save_file({**tensors, name: tensors[name] * 2}, path)
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    other = graph.add("CheckpointLoaderSimple", ckpt_name=path.name)[0]
    saved(graph, adapter_training(graph, "sd3", parts, model=other, steps=4, **options), "second")
    message = failure(server.run(graph))
    assert "another model or other layers" in message and "x_block.attn.qkv" in message


def instruct_checkpoint(server: ComfyServer) -> str:
    """Write the tiny SD1.5 with four more channels, as instruct models have them, at random."""
    path = server.base / "models" / "checkpoints" / "tiny-instruct.safetensors"
    if not path.exists():
        tensors = load_file(tiny_checkpoint("sd15_noclip"))
        first = "model.diffusion_model.input_blocks.0.0.weight"
        dice = torch.Generator().manual_seed(3)
        more = torch.randn(tensors[first].shape, generator=dice).to(tensors[first]) * tensors[first].std()
        tensors[first] = torch.cat([tensors[first], more], 1)
        part = path.with_suffix(".part")
        save_file(tensors, part)
        os.replace(part, path)
    return path.name


def test_channels_reach_models_that_take_them(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd15_noclip")
    parts["model"] = graph.add("CheckpointLoaderSimple", ckpt_name=instruct_checkpoint(server))[0]
    trainer = adapter_training(graph, "sd15_noclip", parts, mask_form="channels", group_dropout=0.0)
    prompts = conditioned(graph, parts, trainer["adapter"])
    told = graph.add("TestPrompt", prompt=prompts["positive"])
    one = graph.show(sampled(graph, parts["model"], prompts))
    other = conditioned(graph, parts, trainer["adapter"], mask=faces(graph, server, "hair", "cloth"))
    two = graph.show(sampled(graph, parts["model"], other))
    weak = conditioned(graph, parts, trainer["adapter"], mask_strength=0.0)
    none = graph.show(sampled(graph, parts["model"], weak))
    saved(graph, trainer, "channels")
    run = done(server.run(graph))
    (part,) = text_of(run, told)
    assert part["words"] == [2, 8 + 40, 768] and part["concat_latent_image"] == [2, 4, 64, 64]
    assert far(values(run, two), values(run, one)) > 1e-6 and far(values(run, none), values(run, one)) > 1e-6
    made = load_adapter(folder(server) / "channels.safetensors").adapter
    assert bool(made.mask.mix.any()) and bool(made.mask.null.any())


def test_the_oldest_comfyui_trains_and_draws(old_server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = parts_of(graph, old_server, checkpoints, "sd3")
    trainer = adapter_training(graph, "sd3", parts, lora_rank=2)
    prompts = conditioned(graph, parts, trainer["adapter"])
    plain = graph.show(sampled(graph, parts["model"], prompts))
    guided = graph.add("RealismAdapterGuidance", model=parts["model"], attribute_cfg=1.0, mask_cfg=8.0)
    apart = graph.show(sampled(graph, guided, prompts))
    before = graph.show(sampled(graph, parts["model"], parts))
    run = done(old_server.run(graph))
    assert far(values(run, plain), values(run, before)) > 1e-3
    assert far(values(run, apart), values(run, plain)) > 1e-4
