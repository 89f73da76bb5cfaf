"""Graphs of Realism Train LoRA, and what they leave."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from devtools.client import Run
from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, Node, done, failure, shown, status
from tests.comfy.searches import Checkpoints, loaded
from tests.tiny_models import LATENT_CHANNELS

# called with what the server tells while it runs
Watcher = Callable[[str, dict], object]


class Trained(NamedTuple):
    """What a training left.

    pictures: the previews, as TestShow tells of them, if there are any. tensors: what the LoRA's file holds
    behind its metadata.
    """

    run: Run
    pictures: dict | None
    tensors: tuple[dict, bytes]
    metadata: dict[str, str]
    report: dict[str, Any]
    losses: list[float]


def training(graph: Graph, parts: dict, **inputs) -> Node:
    """Add a trainer; parts: as `loaded` gives them."""
    given = {"model": parts["model"], "positive": parts["positive"], **inputs}
    if "latents" not in given:
        given["latents"] = learned_from(graph, parts)
    return graph.add("RealismTrainLoRA", **given)


def learned_from(graph: Graph, parts: dict, batch: int = 2) -> Node:
    """Add latents to learn from."""
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=batch)
    return sampled(graph, parts, parts["model"], latent, seed=3)


def sampled(graph: Graph, parts: dict, model: list | Node, latent: Node, seed: int = 11) -> Node:
    return graph.add(
        "KSampler", model=model, positive=parts["positive"], negative=parts["negative"], latent_image=latent,
        seed=seed, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip


def noise_training(
    graph: Graph, server: ComfyServer, checkpoints: Checkpoints, kind: str = "sd3", **inputs
) -> Node:
    """Add a trainer on latents of noise; seeds: which, see TestNoiseLatents."""
    parts = loaded(graph, server, checkpoints, kind)
    latents = graph.add(
        "TestNoiseLatents", seeds=inputs.pop("seeds", "1,2"), channels=LATENT_CHANNELS.get(kind, 4)
    )
    wanted = {name: parts[name] for name in ("vae", "negative") if inputs.get(name) is True}
    return training(graph, parts, **{"latents": latents, **inputs, **wanted})


def trained(
    server: ComfyServer,
    checkpoints: Checkpoints,
    kind: str = "sd3",
    on_event: Watcher | None = None,
    **inputs,
) -> Trained:
    """Train to a good end; vae, negative: True connects the checkpoint's."""
    graph = Graph()
    return outcome(server, graph, noise_training(graph, server, checkpoints, kind, **inputs), on_event)


def outcome(server: ComfyServer, graph: Graph, trainer: Node, on_event: Watcher | None = None) -> Trained:
    """Run a graph with one trainer to a good end."""
    saved = graph.add("RealismSaveLoRA", lora=trainer["lora"], filename_prefix="loras/kept")
    ids = {name: graph.show(trainer[name]) for name in ("loss", "report", "previews")}
    run = done(server.run(graph, on_event=on_event))
    (path,) = run.entry["outputs"][saved.id]["text"]
    tensors, metadata = content(Path(path))
    (report,), (losses,) = shown(run, ids["report"]), shown(run, ids["loss"])
    pictures = shown(run, ids["previews"])[0] if ids["previews"] in run.entry["outputs"] else None
    return Trained(run, pictures, tensors, metadata, json.loads(report), losses["loss"])


def ended(
    server: ComfyServer,
    checkpoints: Checkpoints,
    kind: str = "sd3",
    on_event: Watcher | None = None,
    **inputs,
) -> tuple[str, str]:
    """Start a training that does not end well; returns the last event's name and the message."""
    graph = Graph()
    graph.show(noise_training(graph, server, checkpoints, kind, **inputs)["steps"])
    run = server.run(graph, on_event=on_event)
    return status(run), failure(run)


def refused(server: ComfyServer, checkpoints: Checkpoints, **inputs) -> str:
    """Return the message of a training that is refused before its first step."""
    graph = Graph()
    return refused_graph(server, graph, noise_training(graph, server, checkpoints, **inputs))


def refused_graph(server: ComfyServer, graph: Graph, trainer: Node) -> str:
    """Return the message of a graph's trainer, which is refused before its first step."""
    graph.show(trainer["steps"])
    run = server.run(graph)
    steps = [data for name, data in run.events if name == "progress" and data["node"] == trainer.id]
    assert status(run) == "execution_error" and not steps, (status(run), steps)
    return failure(run)


def at_step(step: int, act: Callable[[], object]) -> Watcher:
    """Return what acts once when a training has come to a step."""
    acted = []

    def watch(name: str, data: dict) -> None:
        if name == "progress" and data["value"] >= step and not acted:
            acted.append(step)
            act()

    return watch


def content(path: Path) -> tuple[tuple[dict, bytes], dict[str, str]]:
    """Return a safetensors file's tensors as they stand in it, and its metadata."""
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    metadata = header.pop("__metadata__")
    return (header, whole[8 + length :]), metadata


def metadata(path: Path) -> dict[str, str]:
    return content(path)[1]


def checkpoint_of(server: ComfyServer, name: str) -> Path:
    return server.base / "output" / "realism_checkpoints" / f"{name}.safetensors"


def interrupted_files(server: ComfyServer) -> list[Path]:
    """Return the LoRAs that trainings left which did not end well, in the order of their making."""
    files = (server.base / "output" / "loras").glob("realism_interrupted_*.safetensors")
    return sorted(files, key=lambda file: file.stat().st_mtime_ns)
