"""LoRA files of every layout do in ComfyUI what the same updates added to the model's weights do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from devtools.server import ComfyServer
from realism_core.training.layouts import LAYOUTS, to_layout
from realism_core.training.lora_file import load_lora, save_lora, write_tensors
from realism_core.training.metadata import TrainingRecord
from tests.comfy.graphs import Graph, Node, done
from tests.lora_states import ATTENTION, Shapes, deltas, layers, random_state, tiny_shapes
from tests.tiny_layouts import UNET
from tests.tiny_models import CLIP, CONDITIONING, tiny_checkpoint

Checkpoints = Callable[[ComfyServer, str], str]
KINDS = ("sd15_noclip", "koala_vpred", "sd3", "flux")
EVERYTHING = re.compile(".*")
TEXT = re.compile(r"clip_l\..*\.layers\..*(_proj|fc[12])|.*\.to_q|joint.*qkv")
SIZE = 0.003  # of the updates' values: about a tenth of the weights'


def latents(server: ComfyServer, graph: Graph, samples: dict[str, Node]) -> dict[str, Tensor]:
    """Run; returns the latents [B,C,H,W] of samplers by name, in float32 and not a bit rounded."""
    savers = {
        name: graph.add("SaveLatent", samples=node, filename_prefix=f"layouts/{name}")
        for name, node in samples.items()
    }
    run = done(server.run(graph))
    made = {}
    for name, saver in savers.items():
        entry = run.entry["outputs"][saver.id]["latents"][0]
        file = server.base / "output" / entry["subfolder"] / entry["filename"]
        made[name] = load_file(file)["latent_tensor"]
        assert made[name].dtype == torch.float32
    return made


def sampler(graph: Graph, model: Node | list, texts: list) -> Node:
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)
    return graph.add(
        "KSampler", model=model, positive=texts[0], negative=texts[1], latent_image=latent, seed=5,
        steps=2, cfg=3.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip


def written(
    server: ComfyServer, kind: str, shapes: Shapes, pattern: re.Pattern
) -> tuple[dict[str, str], Path, Shapes]:
    """Write a random LoRA in every layout; returns the files' names, the finished updates, the layers."""
    paths = [path for path in layers(shapes, pattern) if path != "pos_embed"]
    state = random_state(shapes, paths, rank=4, alpha=3, seed=8, size=SIZE)
    folder = server.base / "models" / "loras"
    names = {}
    for layout in LAYOUTS:
        names[layout] = f"{kind}-{len(paths)}-{layout}.safetensors"
        metadata = TrainingRecord(base_model=kind, rank=4, alpha=3.0).to_metadata()
        save_lora(folder / names[layout], state, layout, shapes, metadata, overwrite=True)
        read = load_lora(folder / names[layout], shapes).state
        assert {key.removesuffix(".lora_A.weight") for key in read if ".lora_A." in key} == set(paths)
    merged = {
        f"{path if path.startswith('clip_l.') else f'diffusion_model.{path}'}.weight": delta.float()
        for path, delta in deltas(state).items()
    }
    file = folder / f"{kind}-{len(paths)}-deltas"  # ComfyUI does not notice that a file has changed
    save_file({key: delta.contiguous() for key, delta in merged.items()}, file)
    return names, file, {path: shapes[path] for path in paths}


def check(made: dict[str, Tensor], said: str) -> None:
    plain, merged = made.pop("plain"), made.pop("merged")
    changed = (merged - plain).abs().max()
    assert torch.isfinite(plain).all() and changed > 0.01 * plain.abs().max()
    for layout in made:
        difference = float((made[layout] - merged).abs().max() / merged.abs().max())
        assert difference <= 1e-5, f"{layout}: {difference:.2g} of the largest value"
    assert "lora key not loaded" not in said and "ERROR lora" not in said
    assert "SHAPE MISMATCH" not in said


def log(server: ComfyServer) -> str:
    return server.log.read_text(encoding="utf-8", errors="replace")


def run_without_text(server: ComfyServer, name: str, kind: str, pattern: re.Pattern) -> None:
    files, updates, _ = written(server, kind, tiny_shapes(kind), pattern)
    graph = Graph()
    model = graph.add("CheckpointLoaderSimple", ckpt_name=name)[0]
    width, pooled = CONDITIONING[kind]
    texts = [graph.add("TestConditioning", width=width, pooled=pooled, seed=seed) for seed in (1, 2)]
    models = {"plain": model, "merged": graph.add("TestAddDeltas", model=model, path=str(updates))}
    for layout, file in files.items():
        models[layout] = graph.add("LoraLoaderModelOnly", model=model, lora_name=file, strength_model=1.0)
    before = len(log(server))
    made = latents(server, graph, {key: sampler(graph, value, texts) for key, value in models.items()})
    check(made, log(server)[before:])


@pytest.mark.parametrize("pattern", [ATTENTION, EVERYTHING], ids=["attention", "everything"])
@pytest.mark.parametrize("kind", KINDS)
def test_comfyui_loads_every_layout_to_the_merged_model(
    server: ComfyServer, checkpoints: Checkpoints, kind: str, pattern: re.Pattern
) -> None:
    run_without_text(server, checkpoints(server, kind), kind, pattern)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "flux"])
def test_the_oldest_comfyui_loads_them_too(
    old_server: ComfyServer, checkpoints: Checkpoints, kind: str
) -> None:
    run_without_text(old_server, checkpoints(old_server, kind), kind, EVERYTHING)


def test_comfyui_tells_of_keys_that_it_does_not_load(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """The names of newer diffusers' attention layers in a UNet, which we read, but for this do not write."""
    shapes = tiny_shapes("sd15_noclip")
    tensors = to_layout(random_state(shapes, layers(shapes, ATTENTION), 4, 3, 8), "diffusers", shapes)
    newer = {
        key.replace(".processor.", ".").replace("_lora.", ".lora."): value for key, value in tensors.items()
    }
    write_tensors(server.base / "models" / "loras" / "newer.safetensors", newer, {})
    graph = Graph()
    model = graph.add("CheckpointLoaderSimple", ckpt_name=checkpoints(server, "sd15_noclip"))[0]
    lora = graph.add("LoraLoaderModelOnly", model=model, lora_name="newer.safetensors", strength_model=1.0)
    texts = [graph.add("TestConditioning", width=768, pooled=0, seed=seed) for seed in (1, 2)]
    before = len(log(server))
    latents(server, graph, {"newer": sampler(graph, lora, texts)})
    assert log(server)[before:].count("lora key not loaded: unet.") == len(newer)


@pytest.mark.parametrize("kind", sorted(CLIP))
def test_text_encoders_are_loaded_too(server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    shapes = tiny_shapes(kind)
    files, updates, chosen = written(server, kind, shapes, TEXT)
    assert sum(path.startswith("clip_l.") for path in chosen) == 12 * 6
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=checkpoints(server, kind))
    both = {"model": loader[0], "clip": loader[1]}
    pairs = {"plain": loader, "merged": graph.add("TestAddDeltas", path=str(updates), **both)}
    for layout, file in files.items():
        pairs[layout] = graph.add(
            "LoraLoader", lora_name=file, strength_model=1.0, strength_clip=1.0, **both
        )
    samples = {}
    for name, pair in pairs.items():
        texts = [graph.add("CLIPTextEncode", clip=pair[1], text=words) for words in ("a tree", "")]
        samples[name] = sampler(graph, pair[0], texts)
    before = len(log(server))
    made = latents(server, graph, samples)
    check(made, log(server)[before:])


@pytest.mark.parametrize("layout", ["comfyui", "kohya"])
def test_dora_arrives_at_the_trained_weight(
    server: ComfyServer, checkpoints: Checkpoints, layout: str
) -> None:
    """ComfyUI divides by the rows of the base weight; the file's magnitudes allow for that."""
    kind = "sd15_noclip"
    shapes = tiny_shapes(kind)
    state = random_state(shapes, layers(shapes, ATTENTION), rank=4, alpha=3, seed=8, size=SIZE)
    weights = load_file(tiny_checkpoint(kind))
    merged = {}
    for path, delta in deltas(state).items():
        base = weights[f"{UNET}{path}.weight"].double()
        lengths, magnitudes = (base + delta).norm(dim=1, keepdim=True), 1.1 * base.norm(dim=1, keepdim=True)
        merged[f"diffusion_model.{path}.weight"] = (magnitudes * (base + delta) / lengths - base).float()
        state[f"{path}.dora_scale"] = (magnitudes * base.norm(dim=1, keepdim=True) / lengths).float()
    folder = server.base / "models" / "loras"
    save_lora(folder / f"dora-{layout}.safetensors", state, layout, shapes, {})
    save_file(merged, folder / "dora-deltas")
    graph = Graph()
    model = graph.add("CheckpointLoaderSimple", ckpt_name=checkpoints(server, kind))[0]
    texts = [graph.add("TestConditioning", width=768, pooled=0, seed=seed) for seed in (1, 2)]
    models = {
        "plain": model,
        "merged": graph.add("TestAddDeltas", model=model, path=str(folder / "dora-deltas")),
        layout: graph.add(
            "LoraLoaderModelOnly", model=model, lora_name=f"dora-{layout}.safetensors", strength_model=1.0
        ),
    }
    before = len(log(server))
    made = latents(server, graph, {key: sampler(graph, value, texts) for key, value in models.items()})
    check(made, log(server)[before:])
