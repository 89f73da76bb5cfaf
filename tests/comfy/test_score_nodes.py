"""RealismScore and RealismMap in the real ComfyUI: right numbers, and a sentence for every bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from devtools.server import ComfyServer, Refused
from realism_core.irs import Profile, score
from tests.comfy.graphs import Graph, done, failure, means, shown, status
from tests.comfy.pack.pictures import picture_batch

INPUTS = Path(__file__).resolve().parents[2] / "workflows" / "inputs"
PHOTOGRAPHS = ("astronaut.png", "coffee.png")


def expected(name: str, definition: str = "reference", mask: torch.Tensor | None = None) -> float:
    picture = torch.from_numpy(np.array(Image.open(INPUTS / name).convert("RGB")))
    return float(score(picture[None], definition, mask=mask).irs[0])


def same(value: float, other: float) -> bool:
    return value == pytest.approx(other, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("definition", ["reference", "paper"])
def test_numbers_are_the_cores_for_png_photographs(server: ComfyServer, definition: str) -> None:
    graph, ids = Graph(), []
    for name in PHOTOGRAPHS:
        scored = graph.add(
            "RealismScore", images=graph.add("LoadImage", image=f"realism-kit/{name}"), definition=definition
        )
        ids.append((graph.show(scored["irs"]), graph.show(scored["report"])))
    run = done(server.run(graph))
    for name, (irs, report) in zip(PHOTOGRAPHS, ids, strict=True):
        assert len(shown(run, irs)) == 1
        assert same(shown(run, irs)[0], expected(name, definition))
        told = json.loads(shown(run, report)[0])
        assert same(told["pictures"][0]["irs"], expected(name, definition))
        assert told["definition"] == definition and told["profile"] and told["pictures"][0]["notes"]


def test_batch(server: ComfyServer) -> None:
    """One number, one row and one plot a picture, and the pictures pass through unchanged."""
    graph = Graph()
    images = graph.add("TestImages", kind="soft", batch=3, height=70, width=90, seed=5)
    scored = graph.add("RealismScore", images=images)
    before, after, irs, plot, report, table = (
        graph.show(link) for link in (images, *(scored[i] for i in (0, 2, 3, 4, 1)))
    )
    run = done(server.run(graph))
    truth = score(picture_batch("soft", 3, 70, 90, 3, 5))
    assert shown(run, before) == shown(run, after)
    assert len(shown(run, irs)) == 3 and same(shown(run, irs), truth.irs.tolist())
    (drawn,) = shown(run, plot)
    assert drawn["shape"] == [3, 512, 512, 3] and 0 <= drawn["min"] < drawn["max"] <= 1
    assert [row["index"] for row in json.loads(shown(run, report)[0])["pictures"]] == [0, 1, 2]
    rows = shown(run, table)[0]["rows"]
    assert same([row["typicality"] for row in rows], truth.typicality.tolist())


def test_twenty_pictures_share_one_plot(server: ComfyServer) -> None:
    graph = Graph()
    scored = graph.add("RealismScore", images=graph.add("TestImages", batch=20, height=32, width=32))
    irs, plot = graph.show(scored["irs"]), graph.show(scored["plot"])
    run = done(server.run(graph))
    assert len(shown(run, irs)) == 20
    assert shown(run, plot)[0]["shape"] == [1, 512, 512, 3]


def test_list_of_sizes(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImageList", sizes="2x64x48,1x33x80", kind="noise")
    scored = graph.add("RealismScore", images=images)
    passed, irs, plot = graph.show(scored["images"]), graph.show(scored["irs"]), graph.show(scored["plot"])
    run = done(server.run(graph))
    truth = [*score(picture_batch("noise", 2, 64, 48, 3, 0)).irs.tolist()]
    truth += score(picture_batch("noise", 1, 33, 80, 3, 2)).irs.tolist()
    assert same(shown(run, irs), truth)
    assert [item["shape"] for item in shown(run, passed)] == [[2, 64, 48, 3], [1, 33, 80, 3]]
    assert [item["shape"][0] for item in shown(run, plot)] == [2, 1]


@pytest.mark.parametrize("masks", [1, 2])
def test_mask(server: ComfyServer, masks: int) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="soft", batch=2, seed=3)
    scored = graph.add("RealismScore", images=images, mask=graph.add("TestMask", batch=masks))
    irs = graph.show(scored["irs"])
    run = done(server.run(graph))
    mask = torch.zeros(64, 64)
    mask[:, :32] = 1
    assert same(shown(run, irs), score(picture_batch("soft", 2, 64, 64, 3, 3), mask=mask).irs.tolist())


def test_profile_of_another_kind_of_picture(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="soft", batch=8, seed=1)
    profile = graph.add("RealismFitProfile", images=images, name="score test")
    irs = graph.show(graph.add("RealismScore", images=images, profile=profile)["irs"])
    run = done(server.run(graph))
    pictures = picture_batch("soft", 8, 64, 64, 3, 1)
    fitted = Profile.fit([picture[None] for picture in pictures])
    assert same(shown(run, irs), score(pictures, profile=fitted).irs.tolist())


def test_grey_and_flat_have_no_reference_score_but_say_why(server: ComfyServer) -> None:
    graph, ids = Graph(), []
    for kind, channels in (("grey", 3), ("grey", 1), ("index", 3)):
        scored = graph.add("RealismScore", images=graph.add("TestImages", kind=kind, channels=channels))
        ids.append((graph.show(scored["irs"]), graph.show(scored["report"])))
    run = done(server.run(graph))
    for (irs, report), why in zip(ids, ("colourless", "colourless", "flat"), strict=True):
        assert same(shown(run, irs), [float("nan")])
        picture = json.loads(shown(run, report)[0])["pictures"][0]
        assert picture["irs"] is None
        assert any(note.startswith(why) for note in picture["notes"])


def test_grey_rgba_and_out_of_range_give_the_documented_result(server: ComfyServer) -> None:
    """Paper scores grey; alpha is left out; values beyond 0..1 count as 0 and 1."""
    graph = Graph()
    cases = (("grey", 1, "paper"), ("noise", 4, "reference"), ("out_of_range", 3, "reference"))
    ids = []
    for kind, channels, definition in cases:
        images = graph.add("TestImages", kind=kind, channels=channels)
        ids.append(graph.show(graph.add("RealismScore", images=images, definition=definition)["irs"]))
    run = done(server.run(graph))
    for id, (kind, channels, definition) in zip(ids, cases, strict=True):
        picture = picture_batch(kind, 1, 64, 64, channels, 0)[..., :3].clamp(0, 1)
        assert same(shown(run, id), score(picture, definition).irs.tolist())
        assert shown(run, id)[0] > 0


def test_map(server: ComfyServer) -> None:
    graph, ids = Graph(), []
    for images in (
        graph.add("TestImages", kind="soft", batch=2, height=80, width=100),
        graph.add("TestImages", kind="noise", channels=4),
        graph.add("TestImages", kind="index"),
    ):
        mapped = graph.add("RealismMap", images=images)
        ids.append((graph.show(mapped["overlay"]), graph.show(mapped["map"])))
    run = done(server.run(graph))
    for (overlay, mask), shape in zip(ids, ([2, 80, 100], [1, 64, 64], [1, 64, 64]), strict=True):
        (picture,), (values,) = shown(run, overlay), shown(run, mask)
        assert picture["shape"] == [*shape, 3] and values["shape"] == shape
        assert picture["min"] >= 0 and picture["max"] <= 1
        assert values["min"] >= 0 and values["max"] <= 1
    assert means(run, ids[2][1]) == [[0.0]]  # a flat picture says nothing


BAD_IMAGES = {
    "nan": ({"kind": "nan", "batch": 2}, ["images", "picture 1", "NaN", "VAE"]),
    "inf": ({"kind": "inf"}, ["images", "infinite"]),
    "1x1": ({"height": 1, "width": 1}, ["images is 1 x 1 pixels", "larger"]),
    "2xN": ({"height": 2, "width": 90}, ["images is 90 x 2 pixels", "larger"]),
    "none": ({"batch": 0}, ["images holds no pictures", "connect"]),
    "rank": ({"kind": "rank3"}, ["images has shape 64x64x3", "[B,H,W,C]"]),
    "channels": ({"channels": 5}, ["images has 5 channels", "RGB"]),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
@pytest.mark.parametrize("kind", ["RealismScore", "RealismMap"])
def test_bad_pictures_are_refused_with_the_fix(server: ComfyServer, kind: str, case: str) -> None:
    inputs, words = BAD_IMAGES[case]
    graph = Graph()
    graph.add("PreviewImage", images=graph.add(kind, images=graph.add("TestImages", **inputs))[0])
    run = server.run(graph)
    assert status(run) == "execution_error"
    assert all(word in failure(run) for word in words), failure(run)


def score_with(graph: Graph, **inputs: object) -> None:
    images = graph.add("TestImages", batch=2)
    graph.show(graph.add("RealismScore", images=images, **inputs)["irs"])


def check_refused(server: ComfyServer, graph: Graph, *words: str) -> None:
    run = server.run(graph)
    assert status(run) == "execution_error"
    assert all(word in failure(run) for word in words), failure(run)


def test_bad_masks_are_refused(server: ComfyServer) -> None:
    for inputs, words in (
        ({"width": 32}, ["mask has shape 1x64x32", "resize"]),
        ({"batch": 3}, ["mask holds 3 masks for 2 pictures"]),
        ({"fill": 0.0}, ["mask selects only 0 pixels of picture 0", "disconnect"]),
    ):
        graph = Graph()
        score_with(graph, mask=graph.add("TestMask", **inputs))
        check_refused(server, graph, *words)


def test_errors_name_a_picture_by_its_place_in_the_whole_batch(server: ComfyServer) -> None:
    """Large batches are scored in parts; a place within a part would mislead."""
    graph = Graph()
    bad = graph.add("TestImages", kind="nan", batch=10, height=1024, width=1024)
    graph.show(graph.add("RealismScore", images=bad)["irs"])
    check_refused(server, graph, "picture 9", "NaN")


def test_paper_takes_no_mask(server: ComfyServer) -> None:
    graph = Graph()
    score_with(graph, mask=graph.add("TestMask"), definition="paper")
    check_refused(server, graph, "mask works with definition 'reference' only", "crop")


@pytest.mark.parametrize("kind", ["RealismScore", "RealismMap"])
def test_profile_of_the_other_definition_is_refused(server: ComfyServer, kind: str) -> None:
    graph = Graph()
    profile = graph.add("RealismLoadProfile", name="shipped: photographs (paper)")
    graph.show(graph.add(kind, images=graph.add("TestImages"), profile=profile)[0])
    check_refused(server, graph, "definition 'paper'", "set definition to 'paper'")


def test_map_refuses_tiles_that_do_not_fit(server: ComfyServer) -> None:
    for inputs, words in (
        ({"tile": 128}, ["tile is 128", "64 x 64", "smaller tile"]),
        ({"tile": 32, "stride": 48}, ["stride 48"]),
    ):
        graph = Graph()
        graph.show(graph.add("RealismMap", images=graph.add("TestImages"), **inputs)[0])
        check_refused(server, graph, *words)


def test_unknown_definition_is_refused_before_the_run(server: ComfyServer) -> None:
    graph = Graph()
    score_with(graph, definition="papers")
    with pytest.raises(Refused) as refusal:
        server.run(graph)
    assert refusal.value.code == 400
    (errors,) = refusal.value.body["node_errors"].values()
    assert errors["errors"][0]["extra_info"]["input_name"] == "definition"


def test_progress_is_reported(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="soft", batch=10, height=1024, width=1024)
    scored = graph.add("RealismScore", images=images)
    graph.show(scored["irs"])
    run = done(server.run(graph))
    steps = [data for name, data in run.events if name == "progress" and data["node"] == scored.id]
    assert [step["value"] for step in steps] == [8, 10]
    assert {step["max"] for step in steps} == {10}


def check_interrupted(server: ComfyServer, graph: Graph, node: str) -> None:
    """Interrupt at the node's first progress, then see that it ended there and the server still works."""
    asked = []

    def interrupt(name: str, data: dict) -> None:
        if name == "progress" and data["node"] == node and not asked:
            asked.append(data["value"] / data["max"])
            server.post("/interrupt", {})

    run = server.run(graph, on_event=interrupt)
    assert asked and asked[0] < 1
    assert status(run) == "execution_interrupted"
    assert run.events[-1][1]["node_id"] == node
    after = Graph()
    images = after.add("TestImages", seed=len(graph))
    shown_id = after.show(after.add("RealismScore", images=images)["irs"])
    assert len(shown(done(server.run(after)), shown_id)) == 1


def test_interrupt_of_scoring(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="soft", batch=12, height=1024, width=1024)
    scored = graph.add("RealismScore", images=images)
    graph.show(scored["irs"])
    check_interrupted(server, graph, scored.id)


def test_interrupt_of_a_fit_saves_no_profile(server: ComfyServer) -> None:
    folder = server.base / "input" / "many"
    folder.mkdir(exist_ok=True)
    for index in range(60):
        shutil.copyfile(INPUTS / "chelsea.png", folder / f"{index}.png")
    graph = Graph()
    fit = graph.add("RealismFitProfile", folder="many", name="interrupted")
    check_interrupted(server, graph, fit.id)
    assert not list((server.base / "models" / "realism_profiles").glob("interrupted*"))
