"""Graphs of Sample Until Real and of the plain runs it is compared with."""

from __future__ import annotations

from collections.abc import Callable

from devtools.client import Run
from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, Node, done, shown
from tests.tiny_models import CONDITIONING

Checkpoints = Callable[[ComfyServer, str], str]
SEED, ATTEMPTS, STEPS = 7, 3, 2


def loaded(graph: Graph, server: ComfyServer, checkpoints: Checkpoints, kind: str) -> dict:
    """Add a checkpoint and conditioning; returns them as RealismRetry names them."""
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=checkpoints(server, kind))
    width, pooled = CONDITIONING[kind]
    positive, negative = (
        graph.add("TestConditioning", width=width, pooled=pooled, seed=seed) for seed in (1, 2)
    )
    return {"model": loader[0], "vae": loader[2], "positive": positive, "negative": negative}


def empty(graph: Graph, batch: int = 2) -> Node:
    return graph.add("EmptyLatentImage", width=64, height=96, batch_size=batch)


def plain(graph: Graph, parts: dict, latent: Node, seed: int, **options) -> dict:
    """Add a plain run of a seed; returns the ids that show its pictures, latents and scores."""
    settings = {
        "steps": STEPS, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, **options
    }  # fmt: skip
    sampler = graph.add(
        "KSampler", model=parts["model"], positive=parts["positive"], negative=parts["negative"],
        latent_image=latent, seed=seed, **settings,
    )  # fmt: skip
    pictures = graph.add("VAEDecode", samples=sampler, vae=parts["vae"])
    scored = graph.add("RealismScore", images=pictures)
    return {
        "images": graph.show(pictures),
        "latents": graph.show(sampler),
        "scores": graph.show(scored["scores"]),
    }


def show_all(graph: Graph, retry: Node) -> dict:
    return {
        name: graph.show(retry[name]) for name in ("images", "latents", "scores", "attempts_used", "seeds")
    }


def digests(run: Run, ids: dict) -> list[tuple[str, str]]:
    """Return (picture, latent) of each place of a batch, as digests of their bytes."""
    (pictures,), (latents,) = shown(run, ids["images"]), shown(run, ids["latents"])
    return list(zip(pictures["digests"], latents["samples"]["digests"], strict=True))


def column(run: Run, ids: dict, name: str) -> list[float]:
    return [row[name] for row in shown(run, ids["scores"])[0]["rows"]]


def both_ways(server: ComfyServer, checkpoints: Checkpoints, kind: str, **options) -> tuple[dict, dict]:
    """Return what the node gives, and what the best of plain runs of the same seeds gives."""
    graph = Graph()
    parts, latent = loaded(graph, server, checkpoints, kind), empty(graph)
    retry = show_all(graph, graph.add("RealismRetry", latent=latent, **parts, **options))
    plains = [plain(graph, parts, latent, SEED + number, **options) for number in range(ATTEMPTS)]
    run = done(server.run(graph))
    made = [digests(run, ids) for ids in plains]
    assert len({picture for attempt in made for picture, _ in attempt}) == 2 * ATTEMPTS
    scores = [column(run, ids, "irs") for ids in plains]
    best = [max(range(ATTEMPTS), key=lambda number: scores[number][slot]) for slot in range(2)]
    ours = {
        "seeds": shown(run, retry["seeds"]),
        "made": digests(run, retry),
        "irs": column(run, retry, "irs"),
        "attempt": column(run, retry, "attempt"),
        "used": shown(run, retry["attempts_used"]),
    }
    theirs = {
        "seeds": [", ".join(str(SEED + number) for number in best)],
        "made": [made[best[slot]][slot] for slot in range(2)],
        "irs": [scores[best[slot]][slot] for slot in range(2)],
        "attempt": best,
        "used": [ATTEMPTS],
    }
    return ours, theirs


def troubled(
    graph: Graph, server: ComfyServer, checkpoints: Checkpoints, what: str, batch: int = 2, **options
) -> Node:
    """Add a search whose VAE does as TestTrouble says."""
    parts = loaded(graph, server, checkpoints, "sd3")
    model, vae = parts.pop("model"), parts.pop("vae")
    trouble = graph.add("TestTrouble", model=model, vae=vae, where="vae", what=what, call=0)
    latent = empty(graph, batch)
    return graph.add("RealismRetry", latent=latent, model=trouble[0], vae=trouble[1], **parts, **options)


def something_else() -> Graph:
    """Return a prompt of something else, so that the next one starts from models set aside."""
    graph = Graph()
    graph.show(graph.add("TestImages", seed=5))
    return graph
