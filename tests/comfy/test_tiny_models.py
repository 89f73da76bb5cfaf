"""The tiny checkpoints are models to ComfyUI: its own nodes load, sample and decode them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, Node, done
from tests.tiny_models import CLIP, CONDITIONING, KINDS, link_checkpoint, tiny_checkpoint

Checkpoints = Callable[[ComfyServer, str], str]
SEEDS = (1, 2)
# what ComfyUI says in its log of how a model predicts
PREDICTIONS = {
    "sd15": "EPS",
    "sd15_noclip": "EPS",
    "koala_vpred": "V_PREDICTION",
    "sd3": "FLOW",
    "sd3_clip": "FLOW",
    "flux": "FLUX",
}


def sampled(graph: Graph, name: str, kind: str, prompts: bool = False) -> list[Node]:
    """Add four steps of a checkpoint for each seed; returns the decoders."""
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=name)
    if prompts:
        texts = [graph.add("CLIPTextEncode", clip=loader[1], text=text) for text in ("a tree", "")]
    else:
        width, pooled = CONDITIONING[kind]
        texts = [graph.add("TestConditioning", width=width, pooled=pooled, seed=seed) for seed in (1, 2)]
    latent = graph.add("EmptyLatentImage", width=64, height=96, batch_size=2)
    decoders = []
    for seed in SEEDS:
        latents = graph.add(
            "KSampler", model=loader[0], positive=texts[0], negative=texts[1], latent_image=latent, seed=seed,
            steps=4, cfg=3.0, sampler_name="euler", scheduler="simple", denoise=1.0,
        )  # fmt: skip
        decoders.append(graph.add("VAEDecode", samples=latents, vae=loader[2]))
    return decoders


def pictures(server: ComfyServer, graph: Graph, decoders: list[Node]) -> np.ndarray:
    """Run; returns pictures [seed, batch, height, width, 3] in 0..255."""
    savers = [graph.add("SaveImage", images=node, filename_prefix="tiny/picture") for node in decoders]
    run = done(server.run(graph))
    made = []
    for saver in savers:
        files = [entry["filename"] for entry in run.entry["outputs"][saver.id]["images"]]
        made.append([np.asarray(Image.open(server.base / "output" / "tiny" / file)) for file in files])
    return np.array(made, dtype=np.float64)


def log(server: ComfyServer) -> str:
    return server.log.read_text(encoding="utf-8", errors="replace")


def check(made: np.ndarray) -> None:
    """The pictures have the size asked for, are neither flat nor clipped away, and each is another."""
    assert made.shape == (len(SEEDS), 2, 96, 64, 3)
    singles = made.reshape(-1, 96, 64, 3)
    assert singles.std(axis=(1, 2)).min() > 3
    assert np.mean((singles > 0) & (singles < 255)) > 0.5
    for one in range(len(singles)):
        for other in range(one):
            assert np.abs(singles[one] - singles[other]).mean() > 1


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_loaded_sampled_and_decoded(server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    name = checkpoints(server, kind)
    assert name == f"tiny-{kind}.safetensors"
    graph = Graph()
    decoders = sampled(graph, name, kind, prompts=kind in CLIP)
    before = len(log(server))
    check(pictures(server, graph, decoders))
    said = log(server)[before:]
    assert f"model_type {PREDICTIONS[kind]}\n" in said
    assert "missing" not in said and "left over keys" not in said and "Traceback" not in said


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "flux"])
def test_the_oldest_comfyui_runs_all_but_flux(
    old_server: ComfyServer, checkpoints: Checkpoints, kind: str
) -> None:
    graph = Graph()
    decoders = sampled(graph, checkpoints(old_server, kind), kind)
    check(pictures(old_server, graph, decoders))


def test_a_file_is_written_once_and_linked(tmp_path: Path) -> None:
    first = tiny_checkpoint("sd3")
    written = first.stat().st_mtime_ns
    assert tiny_checkpoint("sd3") == first and first.stat().st_mtime_ns == written
    for _ in range(2):
        assert link_checkpoint(tmp_path, "sd3", "other.safetensors") == "other.safetensors"
    assert (tmp_path / "models" / "checkpoints" / "other.safetensors").samefile(first)
    with pytest.raises(ValueError, match=r"no tiny model 'sd4'; there are: sd15,.*flux"):
        tiny_checkpoint("sd4")
