"""The reconstruction distance by VAEs that the real ComfyUI has loaded from files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from devtools.server import ComfyServer
from realism_core.evidence.reconstruction import reconstruction_distance
from tests.comfy.graphs import Graph, Node, done, failure, shown, status
from tests.comfy.pack.pictures import picture_batch
from tests.tiny_vae import KINDS, TinyVae, save_vae

INPUTS = Path(__file__).resolve().parents[2] / "workflows" / "inputs"
NAMES = ("vae", "vae_2", "vae_3")
KNOWN = ("pool", "shifted", "smooth")
# the part of each photograph that is looked at: left, top
CROPS = {"astronaut.png": (150, 60), "coffee.png": (210, 100), "chelsea.png": (120, 60)}
SIDE = 128


@pytest.fixture(scope="module")
def vaes(server: ComfyServer) -> None:
    """The tiny VAEs, in the server's models/vae."""
    for kind in KINDS:
        save_vae(kind, server.base / "models" / "vae" / f"{kind}.safetensors")


def loaded(graph: Graph, kinds: tuple[str, ...]) -> dict[str, Node]:
    """Add loaders of these VAEs; returns them by input."""
    nodes = (graph.add("VAELoader", vae_name=f"{kind}.safetensors") for kind in kinds)
    return dict(zip(NAMES, nodes, strict=False))


def photograph(graph: Graph, name: str) -> Node:
    left, top = CROPS[name]
    picture = graph.add("LoadImage", image=f"realism-kit/{name}")
    return graph.add("ImageCrop", image=picture, width=SIDE, height=SIDE, x=left, y=top)


def expected(name: str, kind: str) -> float:
    """The core's number for the photograph and the same VAE in torch."""
    left, top = CROPS[name]
    picture = np.array(Image.open(INPUTS / name).convert("RGB"))[top : top + SIDE, left : left + SIDE]
    return reconstruction_distance(torch.from_numpy(picture)[None], TinyVae(kind)).detail.item()


def measured(graph: Graph, images: Node, vaes: dict[str, Node], tile: int = 1024) -> str:
    return graph.add("TestReconstruction", images=images, tile=tile, **vaes).id


@pytest.mark.parametrize("name", list(CROPS))
def test_a_decoded_picture_is_nearer_than_the_photograph_and_its_vae_is_found(
    server: ComfyServer, vaes: None, name: str
) -> None:
    graph = Graph()
    nodes = loaded(graph, KNOWN)
    picture = photograph(graph, name)
    own = measured(graph, picture, nodes)
    alone = [measured(graph, picture, {"vae": node}) for node in nodes.values()]
    made = []
    for node in nodes.values():
        latent = graph.add("VAEEncode", pixels=picture, vae=node)
        made.append(measured(graph, graph.add("VAEDecode", samples=latent, vae=node), nodes))
    run = done(server.run(graph))
    ((real, _, _),) = shown(run, own)["rows"]
    singles = [shown(run, id)["rows"][0][0] for id in alone]
    assert real == min(singles) > 0.9
    assert singles == pytest.approx([expected(name, kind) for kind in KNOWN], rel=1e-3)
    for index, id in enumerate(made):
        ((detail, levels, winner),) = shown(run, id)["rows"]
        assert winner == index
        assert detail < 0.9 * real and levels > 0
    assert shown(run, made[0])["rows"][0][0] < 0.02


def test_batches_odd_sizes_and_tiles(server: ComfyServer, vaes: None) -> None:
    """Sizes that ComfyUI's VAE would crop at the centre, and tiles, give the core's numbers."""
    graph = Graph()
    nodes = loaded(graph, ("pool",))
    odd = measured(graph, graph.add("TestImages", kind="noise", batch=2, height=67, width=93), nodes)
    wide = graph.add("TestImages", kind="noise", height=72, width=420)
    whole, tiled = measured(graph, wide, nodes), measured(graph, wide, nodes, 256)
    run = done(server.run(graph))
    truth = reconstruction_distance(picture_batch("noise", 2, 67, 93, 3, 0), TinyVae("pool"))
    assert [row[0] for row in shown(run, odd)["rows"]] == pytest.approx(truth.detail.tolist(), rel=1e-4)
    assert shown(run, odd)["calls"] == 2
    assert shown(run, tiled)["calls"] == 4 and shown(run, whole)["calls"] == 1
    assert shown(run, tiled)["rows"][0] == pytest.approx(shown(run, whole)["rows"][0], rel=1e-6)


@pytest.mark.parametrize("kind", ["noise", "index"])
def test_too_small_and_flat_pictures_get_no_number(server: ComfyServer, vaes: None, kind: str) -> None:
    graph = Graph()
    height = 15 if kind == "noise" else 64
    images = graph.add("TestImages", kind=kind, height=height, width=64, seed=50)
    id = measured(graph, images, loaded(graph, ("pool", "smooth")))
    assert all(math.isnan(value) for value in shown(done(server.run(graph)), id)["rows"][0])


def test_random_image_and_video_vaes_give_finite_numbers(server: ComfyServer, vaes: None) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="noise", batch=3, height=64, width=80)
    image = measured(graph, images, loaded(graph, ("random",)))
    video = measured(graph, images, {"vae": graph.add("TestVae", kind="video")})
    run = done(server.run(graph))
    for id in (image, video):
        rows = shown(run, id)["rows"]
        assert len(rows) == 3 and all(math.isfinite(value) for row in rows for value in row)
        assert all(0.3 < row[0] < 10 for row in rows)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("empty", "holds no VAE"), ("sound", "no VAE for RGB pictures"), ("pixel_space", "pixel space")],
)
def test_vaes_that_cannot_serve_are_named_with_the_fix(
    server: ComfyServer, vaes: None, kind: str, words: str
) -> None:
    graph = Graph()
    nodes = loaded(graph, ("pool",))
    if kind == "pixel_space":
        nodes["vae_2"] = graph.add("VAELoader", vae_name="pixel_space")
    else:
        nodes["vae_2"] = graph.add("TestVae", kind=kind)
    measured(graph, graph.add("TestImages"), nodes)
    run = server.run(graph)
    assert status(run) == "execution_error"
    assert "vae_2" in failure(run) and words in failure(run) and "onnect" in failure(run)
