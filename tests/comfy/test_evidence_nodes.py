"""The verdict, the reconstruction columns and the lattice map in the real ComfyUI."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from devtools.client import Run
from devtools.server import ComfyServer, Refused
from realism_core.evidence import lattice_map, report, score_table
from realism_core.evidence.columns import COLUMNS, VAE_COLUMNS
from tests.comfy.graphs import Graph, Node, done, failure, means, shown, status
from tests.tiny_vae import save_vae

INPUTS = Path(__file__).resolve().parents[2] / "workflows" / "inputs"
KINDS = ("pool", "shifted", "smooth")
LEFT, TOP, SIDE = 150, 60, 128


def astronaut() -> np.ndarray:
    return np.array(Image.open(INPUTS / "astronaut.png").convert("RGB"))


def latticed() -> np.ndarray:
    """Grain, and in one corner a pattern that repeats every 8 pixels."""
    dice = np.random.default_rng(7)
    values = dice.normal(128, 1.5, (352, 384, 3))
    values[144:, 176:] += np.tile(dice.normal(0, 1.1, (8, 8, 1)), (26, 26, 3))
    return values.round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(server: ComfyServer) -> dict[str, np.ndarray]:
    """Pictures by name; the server has them as evidence/NAME.png."""
    dice = np.random.default_rng(3)
    grain = dice.normal(128, 8, (336, 336, 3)).round().clip(0, 255).astype(np.uint8)
    found = {
        "astronaut": astronaut(), "small": astronaut()[:90, :100], "latticed": latticed(), "grain": grain,
        "flat": np.full((200, 210, 3), 99, np.uint8),
    }  # fmt: skip
    folder = server.base / "input" / "evidence"
    folder.mkdir(exist_ok=True)
    for name, picture in found.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    Image.fromarray(astronaut()).save(folder / "jpeg.jpg", quality=50)
    found["jpeg"] = np.array(Image.open(folder / "jpeg.jpg").convert("RGB"))
    for kind in KINDS:
        save_vae(kind, server.base / "models" / "vae" / f"{kind}.safetensors")
    return found


def load(graph: Graph, name: str) -> Node:
    return graph.add("LoadImage", image=f"evidence/{name}.{'jpg' if name == 'jpeg' else 'png'}")


def told(run: Run, id: str) -> list[dict]:
    return json.loads(shown(run, id)[0])["pictures"]


def same(value: object, other: object) -> bool:
    return value == (pytest.approx(other, rel=1e-4, abs=1e-4) if isinstance(other, float) else other)


def check_refused(server: ComfyServer, graph: Graph, *words: str) -> None:
    run = server.run(graph)
    assert status(run) == "execution_error"
    assert all(word in failure(run) for word in words), failure(run)


def test_the_report_leads_with_the_verdict_and_its_reasons(server: ComfyServer, pictures: dict) -> None:
    graph, names = Graph(), ("astronaut", "jpeg", "small", "flat", "latticed")
    ids = [graph.show(graph.add("RealismScore", images=load(graph, name))["report"]) for name in names]
    run = done(server.run(graph))
    found = {}
    for name, id in zip(names, ids, strict=True):
        (found[name],) = told(run, id)
        assert list(found[name])[:5] == ["index", "verdict", "reliability", "reasons", "notes"]
        (expected,) = report(score_table(torch.from_numpy(pictures[name])[None]))["pictures"]
        assert set(found[name]) == set(expected) == {"index", "reasons", "notes", *COLUMNS}
        for column in COLUMNS:
            # ComfyUI has its own JPEG decoder
            assert name == "jpeg" or same(found[name][column], expected[column]), column
    for name, reason in (("jpeg", "JPEG at quality about 50"), ("small", "short side is only 90 pixels")):
        assert found[name]["verdict"] == "unknown" and found[name]["p_photo"] is None
        assert any(reason in text for text in found[name]["reasons"])
    assert found["flat"]["verdict"] == "unknown" and found["flat"]["reliability"] == 0
    assert found["latticed"]["reasons"] and "for a decoder" in " ".join(found["latticed"]["reasons"])


def test_the_report_says_how_to_read_it(server: ComfyServer, pictures: dict) -> None:
    graph = Graph()
    id = graph.show(graph.add("RealismScore", images=load(graph, "small"))["report"])
    whole = json.loads(shown(done(server.run(graph)), id)[0])
    assert list(whole)[:2] == ["pictures", "reading"] and "evidence, not proof" in whole["reading"]
    assert "reconstruction" not in whole["pictures"][0]


def crop(graph: Graph) -> Node:
    picture = load(graph, "astronaut")
    return graph.add("ImageCrop", image=picture, width=SIDE, height=SIDE, x=LEFT, y=TOP)


def loaders(graph: Graph) -> dict[str, Node]:
    return {kind: graph.add("VAELoader", vae_name=f"{kind}.safetensors") for kind in KINDS}


def test_vaes_add_the_reconstruction_columns_and_the_right_one_wins(
    server: ComfyServer, pictures: dict
) -> None:
    graph = Graph()
    vaes, picture = loaders(graph), crop(graph)
    inputs = dict(zip(("vae", "vae_2", "vae_3"), vaes.values(), strict=True))
    ids = {"photograph": graph.show(graph.add("RealismScore", images=picture, **inputs)["report"])}
    for kind, vae in vaes.items():
        latent = graph.add("VAEEncode", pixels=picture, vae=vae)
        made = graph.add("VAEDecode", samples=latent, vae=vae)
        ids[kind] = graph.show(graph.add("RealismScore", images=made, **inputs)["report"])
    run = done(server.run(graph))
    rows = {name: told(run, id)[0] for name, id in ids.items()}
    for row in rows.values():
        assert all(math.isfinite(row[name]) for name in VAE_COLUMNS)
        assert set(COLUMNS) < set(row)
    for index, kind in enumerate(KINDS):
        assert rows[kind]["reconstruction_vae"] == index
        assert rows[kind]["reconstruction"] < 0.9 * rows["photograph"]["reconstruction"]
    assert rows["pool"]["reconstruction"] < 0.02


def test_vaes_are_counted_by_socket_whatever_their_order_in_the_graph(
    server: ComfyServer, pictures: dict
) -> None:
    """And a socket that is left open is not counted."""
    graph = Graph()
    vaes, picture = loaders(graph), crop(graph)
    latent = graph.add("VAEEncode", pixels=picture, vae=vaes["shifted"])
    made = graph.add("VAEDecode", samples=latent, vae=vaes["shifted"])
    connected = (
        {"vae_2": vaes["shifted"], "vae": vaes["pool"]}, {"vae": vaes["shifted"], "vae_2": vaes["pool"]},
        {"vae_3": vaes["shifted"], "vae_2": vaes["smooth"]}, {"vae_3": vaes["shifted"]},
    )  # fmt: skip
    ids = [graph.show(graph.add("RealismScore", **inputs, images=made)["report"]) for inputs in connected]
    run = done(server.run(graph))
    assert [told(run, id)[0]["reconstruction_vae"] for id in ids] == [1, 0, 1, 0]


def test_a_batch_with_a_vae(server: ComfyServer, pictures: dict) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="noise", batch=3, height=67, width=93)
    id = graph.show(graph.add("RealismScore", images=images, vae=loaders(graph)["pool"])["scores"])
    rows = shown(done(server.run(graph)), id)[0]["rows"]
    assert len(rows) == 3 and len({row["reconstruction"] for row in rows}) == 3
    assert all(0.5 < row["reconstruction"] < 2 and row["p_photo"] is None for row in rows)


def test_a_vae_that_cannot_serve_is_named(server: ComfyServer, pictures: dict) -> None:
    graph = Graph()
    broken = graph.add("TestVae", kind="empty")
    images = graph.add("TestImages")
    graph.show(graph.add("RealismScore", images=images, vae=loaders(graph)["pool"], vae_2=broken)[0])
    check_refused(server, graph, "vae_2", "holds no VAE")


def test_the_gate_takes_the_new_columns(server: ComfyServer, pictures: dict) -> None:
    """Less lattice is better; and where p_photo does not apply, a picture is unknown."""
    graph = Graph()
    sorted_out = []
    for name, metric, rule in (
        ("grain", "lattice", {"value": 2.0, "keep": "low"}),
        ("latticed", "lattice", {"value": 2.0, "keep": "low"}),
        ("small", "p_photo", {"value": 0.0, "on_unknown": "block"}),
        ("jpeg", "verdict", {"value": 0.5, "on_unknown": "pass"}),
    ):
        images = load(graph, name)
        scores = graph.add("RealismScore", images=images)["scores"]
        gate = graph.add("RealismGate", images=images, scores=scores, metric=metric, **rule)
        sides = ("passed_count", "rejected_count", "unknown_count")
        sorted_out.append([graph.show(gate[side]) for side in sides])
    run = done(server.run(graph))
    counts = [[shown(run, id)[0] for id in ids] for ids in sorted_out]
    assert counts == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]]


def test_the_lattice_map_lights_up_where_the_lattice_is(server: ComfyServer, pictures: dict) -> None:
    graph = Graph()
    mapped = graph.add("RealismMap", images=load(graph, "latticed"), tile=128, stride=32, show="lattice")
    picture = graph.add("MaskToImage", mask=mapped["map"])
    places = {"inside": (240, 200), "outside": (0, 0)}
    ids = {
        name: graph.show(graph.add("ImageCrop", image=picture, width=100, height=100, x=x, y=y))
        for name, (x, y) in places.items()
    }
    whole, overlay = graph.show(mapped["map"]), graph.show(mapped["overlay"])
    run = done(server.run(graph))
    inside, outside = (means(run, ids[name])[0][0] for name in places)
    assert inside > 0.4 and outside < 0.1
    expected = lattice_map(torch.from_numpy(pictures["latticed"])[None], 128, 32)
    assert means(run, whole)[0][0] == pytest.approx(expected.mean().item(), abs=1e-3)
    assert shown(run, whole)[0]["shape"] == [1, 352, 384]
    (drawn,) = shown(run, overlay)
    assert drawn["shape"] == [1, 352, 384, 3] and 0 <= drawn["min"] < drawn["max"] <= 1


def test_a_lattice_map_of_a_batch_of_grain_and_of_a_flat_picture(server: ComfyServer, pictures: dict) -> None:
    graph = Graph()
    flat = graph.add("RealismMap", images=load(graph, "flat"), tile=128, stride=64, show="lattice")
    grain = graph.add("TestImages", kind="noise", batch=2, height=140, width=150)
    noise = graph.add("RealismMap", images=grain, tile=112, stride=32, show="lattice")
    ids = [graph.show(node["map"]) for node in (flat, noise)]
    run = done(server.run(graph))
    assert means(run, ids[0]) == [[0.0]]
    assert shown(run, ids[1])[0]["shape"] == [2, 140, 150] and max(means(run, ids[1])[0]) < 0.15


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"tile": 96}, ["tile is 96 pixels, too small for a lattice", "at least 104"]),
        ({"tile": 512, "stride": 64}, ["tile is 512 pixels, larger than the pictures (336 x 336)"]),
        ({"tile": 128, "stride": 144}, ["stride 144"]),
        (
            {"tile": 128, "profile": "shipped: photographs (reference)"},
            ["profile has no effect on the lattice", "disconnect it"],
        ),
    ],
)
def test_what_a_lattice_map_cannot_do_is_said(server: ComfyServer, pictures: dict, inputs, words) -> None:
    graph = Graph()
    if "profile" in inputs:
        inputs = {**inputs, "profile": graph.add("RealismLoadProfile", name=inputs["profile"])}
    graph.show(graph.add("RealismMap", images=load(graph, "grain"), show="lattice", **inputs)[0])
    check_refused(server, graph, *words)


def test_another_kind_of_map_is_refused_before_the_run(server: ComfyServer) -> None:
    graph = Graph()
    graph.show(graph.add("RealismMap", images=graph.add("TestImages"), show="beauty")[0])
    with pytest.raises(Refused) as refusal:
        server.run(graph)
    (errors,) = refusal.value.body["node_errors"].values()
    assert errors["errors"][0]["extra_info"]["input_name"] == "show"
