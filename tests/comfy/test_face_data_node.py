"""Face Data in the real ComfyUI: lists that belong together, latents kept on disk, problems and Cancel."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from devtools.client import Run
from devtools.server import ComfyServer
from realism_core.training.faces_attributes import to_attributes
from tests.comfy.graphs import Graph, Node, done, failure, shown, status
from tests.core import face_trees as trees

CHECKPOINT = "sd15_noclip"


@pytest.fixture
def root(server: ComfyServer) -> Path:
    """A fresh miniature CelebAMask-HQ with pictures of 64 pixels, and no latents of it."""
    root = server.base / "input" / "faces"
    shutil.rmtree(root, ignore_errors=True)
    shutil.rmtree(server.base / "output" / "realism_faces", ignore_errors=True)
    trees.celebamask(root, range(5))
    for number in range(5):
        Image.fromarray(trees.pixels(number, 64)).save(root / trees.IMAGES / f"{number}.jpg", quality=95)
    return root


@pytest.fixture
def vae(server: ComfyServer, checkpoints: Callable[[ComfyServer, str], str]) -> str:
    return checkpoints(server, CHECKPOINT)


def faces(graph: Graph, vae: str, **inputs) -> Node:
    loaded = graph.add("CheckpointLoaderSimple", ckpt_name=vae)
    return graph.add("RealismFaceData", **{"folder": "faces", "vae": [loaded.id, 2], **inputs})


def told(run: Run, node: Node) -> str:
    return run.entry["outputs"][node.id]["text"][0]


def read(server: ComfyServer, vae: str, **inputs) -> str:
    """Return the report of a run."""
    graph = Graph()
    node = faces(graph, vae, **inputs)
    graph.show(node["report"])
    return told(done(server.run(graph)), node)


def refused(server: ComfyServer, vae: str, **inputs) -> str:
    graph = Graph()
    graph.show(faces(graph, vae, **inputs)["report"])
    run = server.run(graph)
    assert status(run) == "execution_error"
    return failure(run)


def test_lists_belong_together(server: ComfyServer, root: Path, vae: str) -> None:
    (root / trees.PARTS / "0" / "00003_skin.png").unlink()
    graph = Graph()
    node = faces(graph, vae, workers=1)
    latents = graph.show(node["latents"])
    parts = graph.add("RealismFaceMaskParts", mask=node["masks"], parts="hair")
    hair = graph.show(parts["mask"])
    run = done(server.run(graph))
    samples = [item["samples"] for item in shown(run, latents)]
    assert [item["shape"] for item in samples] == [[1, 4, 8, 8]] * 4
    assert len({tuple(item["digests"]) for item in samples}) == 4
    assert [item["shape"] for item in shown(run, hair)] == [[1, 16, 16]] * 4
    report = told(run, node)
    assert "4 faces: 4 encoded now, 0 from" in report and "00003_skin.png" in report
    assert "26999 and below" in report
    # the first face's latent is what VAE Encode makes of its picture
    graph = Graph()
    loaded = graph.add("CheckpointLoaderSimple", ckpt_name=vae)
    # as PNG: ComfyUI decodes JPEG a level apart
    Image.open(root / trees.IMAGES / "0.jpg").save(server.base / "input" / "face0.png")
    picture = graph.add("LoadImage", image="face0.png")
    encoded = graph.add("VAEEncode", pixels=picture, vae=[loaded.id, 2])
    id = graph.show(encoded[0])
    (wanted,) = shown(done(server.run(graph)), id)
    assert np.allclose(wanted["samples"]["first"], samples[0]["first"], atol=0.02)
    assert not np.allclose(wanted["samples"]["first"], samples[1]["first"], atol=0.2)


def test_attributes_are_those_of_the_list(server: ComfyServer, root: Path, vae: str) -> None:
    graph = Graph()
    node = faces(graph, vae, limit=2)
    id = graph.add("TestFaceTexts", attributes=node["attributes"]).id
    run = done(server.run(graph))
    wanted = [to_attributes(trees.states(number)).to_text() for number in range(2)]
    assert run.entry["outputs"][id]["text"] == wanted
    assert "The first 2 of 5 faces" in told(run, node)


def test_latents_are_kept_until_a_file_changes(server: ComfyServer, root: Path, vae: str) -> None:
    assert "5 encoded now, 0 from" in read(server, vae, limit=0)
    assert "0 encoded now, 5 from" in read(server, vae, workers=1)
    Image.fromarray(trees.pixels(9, 64)).save(root / trees.IMAGES / "2.jpg", quality=95)
    assert "1 encoded now, 4 from" in read(server, vae, workers=1)
    assert "5 encoded now, 0 from" in read(server, vae, mask_side=8)


@pytest.mark.parametrize("linked", [False, True])
def test_a_changed_folder_runs_again_and_an_unchanged_one_does_not(
    server: ComfyServer, root: Path, vae: str, linked: bool
) -> None:
    """With a linked limit it runs always: which files it is to read is known only then."""
    graph = Graph()
    limit = graph.add("PrimitiveInt", value=4)[0] if linked else 4
    node = faces(graph, vae, limit=limit)
    graph.show(node["report"])
    done(server.run(graph))
    again = done(server.run(graph))
    cached = [data["nodes"] for name, data in again.events if name == "execution_cached"]
    assert any(node.id in nodes for nodes in cached) != linked
    (root / trees.PARTS / "0" / "00001_hair.png").unlink()
    assert "1 encoded now, 3 from" in told(done(server.run(graph)), node)


def test_a_table_has_no_masks(server: ComfyServer, root: Path, vae: str) -> None:
    shutil.rmtree(root)
    trees.listed(root, 2, "image,Bald\nf0.png,1\nf1.png,0\n", "faces.csv")
    graph = Graph()
    node = faces(graph, vae, kind="csv", side=64, attribute_file="faces/faces.csv", split="all")
    for number in range(2):
        Image.fromarray(trees.pixels(number, 64)).save(root / f"f{number}.png")
    latents, masks = graph.show(node["latents"]), graph.show(node["masks"])
    run = done(server.run(graph))
    assert len(shown(run, latents)) == 2
    assert masks not in run.entry["outputs"]


def test_refusing_names_every_problem(server: ComfyServer, root: Path, vae: str) -> None:
    (root / trees.IMAGES / "1.jpg").write_bytes(b"")
    (root / trees.PARTS / "0" / "00002_nose.png").write_bytes(b"x")
    message = refused(server, vae, on_problem="refuse")
    assert "2 problems" in message and "1.jpg" in message and "00002_nose.png" in message
    assert "3 faces: 0 encoded now, 3 from" in read(server, vae)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [({"folder": "../.."}, "leads outside ComfyUI's folders"), ({"folder": "nothing"}, "does not exist"),
     ({"kind": "csv"}, "give attribute_file"), ({"split": "held out"}, "none of the 5 faces"),
     ({"attribute_file": "a.csv"}, "leave it empty"), ({"held_out_list": "none.txt"}, "cannot be read"),
     ({"kind": "folder"}, "no faces of kind folder")],
)  # fmt: skip
def test_bad_input(server: ComfyServer, root: Path, vae: str, inputs: dict, text: str) -> None:
    assert text in refused(server, vae, **inputs)


def test_a_link_out_of_comfyuis_folders_is_told_with_what_works(
    server: ComfyServer, root: Path, vae: str, tmp_path: Path
) -> None:
    shutil.rmtree(root)
    trees.celebamask(tmp_path / "elsewhere", range(2))
    root.symlink_to(tmp_path / "elsewhere")
    try:
        told = refused(server, vae)
    finally:
        root.unlink()
    assert "links followed" in told and "extra_model_paths.yaml" in told


def test_a_missing_vae_is_told(server: ComfyServer, root: Path) -> None:
    graph = Graph()
    empty = graph.add("TestVae", kind="empty")
    graph.show(graph.add("RealismFaceData", folder="faces", vae=empty)["report"])
    run = server.run(graph)
    assert status(run) == "execution_error" and "holds no VAE" in failure(run)


def test_cancel_keeps_what_is_encoded(server: ComfyServer, root: Path, vae: str) -> None:
    shutil.rmtree(root)
    trees.own(root, 16, apart=True)
    for number in range(16):
        Image.fromarray(trees.pixels(number, 256)).save(root / "images" / f"p{number}.png")
    options = {"kind": "folder", "split": "all", "side": 256}
    graph = Graph()
    node = faces(graph, vae, **options)
    graph.show(node["report"])
    seen = []

    def cancel(name: str, data: dict) -> None:
        if name == "progress" and data["node"] == node.id and not seen:
            seen.append(data["max"])
            server.post("/interrupt", {})

    run = server.run(graph, on_event=cancel)
    assert status(run) == "execution_interrupted" and seen == [16]
    report = read(server, vae, **options)
    encoded = int(report.partition(" encoded now")[0].split()[-1])
    assert 0 < encoded < 16 and f"16 faces: {encoded} encoded now, {16 - encoded} from" in report
