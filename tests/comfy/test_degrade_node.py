"""RealismDegrade in the real ComfyUI: it gives what the core gives, and a sentence for every bad input."""

from __future__ import annotations

import pytest
import torch

from devtools.server import ComfyServer, Refused
from realism_core.degrade import KINDS, degrade, setting
from tests.comfy.graphs import Graph, done, failure, shown, status
from tests.comfy.pack.pictures import picture_batch


def check_same(told: dict, expected: torch.Tensor) -> None:
    """Compare what TestShow tells of a batch with a batch."""
    whole = expected.double()
    assert told["shape"] == list(expected.shape) and told["dtype"] == str(expected.dtype)
    assert told["min"] == pytest.approx(whole.min().item(), abs=1e-9)
    assert told["max"] == pytest.approx(whole.max().item(), abs=1e-9)
    assert told["means"] == pytest.approx(whole.flatten(1).mean(1).tolist(), rel=1e-9)


def test_the_widgets_offer_every_kind_and_the_whole_range(server: ComfyServer) -> None:
    inputs = server.object_info()["RealismDegrade"]["input"]["required"]
    assert list(inputs) == ["images", "kind", "strength", "seed"]
    assert list(KINDS) in (inputs["kind"][0], inputs["kind"][1].get("options"))
    assert (inputs["strength"][1]["min"], inputs["strength"][1]["max"]) == (0, 1)
    assert inputs["seed"][1]["max"] == 2**64 - 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_are_the_cores(server: ComfyServer, channels: int) -> None:
    """Every kind, on a batch, with its setting in words."""
    graph, ids = Graph(), {}
    images = graph.add("TestImages", kind="soft", batch=3, height=48, width=70, channels=channels, seed=4)
    for kind in KINDS:
        degraded = graph.add("RealismDegrade", images=images, kind=kind, strength=0.7, seed=2**64 - 2)
        ids[kind] = graph.show(degraded["images"]), graph.show(degraded["setting"])
    run = done(server.run(graph))
    pictures = picture_batch("soft", 3, 48, 70, channels, 4)
    for kind, (degraded, told) in ids.items():
        check_same(shown(run, degraded)[0], degrade(pictures, kind, 0.7, 2**64 - 2))
        assert shown(run, told) == [setting(kind, 0.7)]


def test_strength_0_changes_nothing(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="out_of_range", batch=2)
    before = graph.show(images)
    nodes = [graph.add("RealismDegrade", images=images, kind=kind, strength=0) for kind in KINDS]
    after = [graph.show(node) for node in nodes]
    run = done(server.run(graph))
    assert all(shown(run, id) == shown(run, before) for id in after)


def test_seeds(server: ComfyServer) -> None:
    """The same seed gives the same pictures, another one others."""
    graph, ids = Graph(), []
    for kind in ("noise", "crop"):
        for seed, salt in ((5, 0), (5, 1), (6, 0)):
            images = graph.add("TestImages", kind="soft", batch=2, seed=1, salt=salt)
            ids.append(graph.show(graph.add("RealismDegrade", images=images, kind=kind, seed=seed)))
    run = done(server.run(graph))
    for first in (0, 3):
        one, again, other = (shown(run, id) for id in ids[first : first + 3])
        assert one == again and one != other


def test_list_of_sizes(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImageList", sizes="2x64x48,1x33x80", kind="noise")
    id = graph.show(graph.add("RealismDegrade", images=images, kind="noise", strength=0.4, seed=9))
    run = done(server.run(graph))
    assert len(shown(run, id)) == 2
    for told, pictures in zip(
        shown(run, id),
        (picture_batch("noise", 2, 64, 48, 3, 0), picture_batch("noise", 1, 33, 80, 3, 2)),
        strict=True,
    ):
        check_same(told, degrade(pictures, "noise", 0.4, 9))


BAD = {
    "nan": ({"kind": "nan", "batch": 2}, {}, ["images", "picture 1", "NaN", "VAE"]),
    "inf": ({"kind": "inf"}, {"strength": 0}, ["images", "infinite"]),
    "2xN": ({"height": 2, "width": 90}, {}, ["images is 90 x 2 pixels", "larger"]),
    "none": ({"batch": 0}, {}, ["images holds no pictures", "connect"]),
    "rank": ({"kind": "rank3"}, {}, ["images has shape 64x64x3", "[B,H,W,C]"]),
    "channels": ({"channels": 5}, {}, ["images has 5 channels", "RGB"]),
    "resize": (
        {"height": 8, "width": 40}, {"kind": "resize", "strength": 1},
        ["images is 40 x 8 pixels", "would become 10 x 2", "larger pictures, or lower the strength"],
    ),
    "crop": (
        {"height": 8, "width": 40}, {"kind": "crop", "strength": 1},
        ["would become 10 x 2", "larger pictures, or lower the strength"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_pictures_are_refused_with_the_fix(server: ComfyServer, case: str) -> None:
    pictures, inputs, words = BAD[case]
    graph = Graph()
    graph.show(graph.add("RealismDegrade", images=graph.add("TestImages", **pictures), **inputs))
    run = server.run(graph)
    assert status(run) == "execution_error"
    assert all(word in failure(run) for word in words), failure(run)


@pytest.mark.parametrize(
    "name, value", [("kind", "gif"), ("strength", 1.01), ("strength", -0.1), ("seed", -1)]
)
def test_bad_widgets_are_refused_before_the_run(server: ComfyServer, name: str, value: object) -> None:
    graph = Graph()
    graph.show(graph.add("RealismDegrade", images=graph.add("TestImages"), **{name: value}))
    with pytest.raises(Refused) as refusal:
        server.run(graph)
    assert refusal.value.code == 400
    (errors,) = refusal.value.body["node_errors"].values()
    assert errors["errors"][0]["extra_info"]["input_name"] == name


def test_progress_counts_pictures(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="soft", batch=4, height=1024, width=1024, seed=2)
    degraded = graph.add("RealismDegrade", images=images, kind="webp")
    graph.show(degraded)
    run = done(server.run(graph))
    steps = [data for name, data in run.events if name == "progress" and data["node"] == degraded.id]
    assert steps[-1]["value"] == 4 and {step["max"] for step in steps} == {4}
    assert len(steps) >= 2


def test_cancel_ends_it_and_the_server_works_on(server: ComfyServer) -> None:
    graph, asked = Graph(), []
    images = graph.add("TestImages", kind="soft", batch=40, height=512, width=512, seed=3)
    degraded = graph.add("RealismDegrade", images=images, kind="webp", strength=0.3)
    graph.show(degraded)

    def interrupt(name: str, data: dict) -> None:
        if name == "progress" and data["node"] == degraded.id and not asked:
            asked.append(data["value"])
            server.post("/interrupt", {})

    run = server.run(graph, on_event=interrupt)
    assert asked and asked[0] < 40
    assert status(run) == "execution_interrupted"
    assert run.events[-1][1]["node_id"] == degraded.id
    after = Graph()
    id = after.show(after.add("RealismDegrade", images=after.add("TestImages", seed=8), strength=0.2))
    expected = degrade(picture_batch("noise", 1, 64, 64, 3, 8), "jpeg", 0.2)
    check_same(shown(done(server.run(after)), id)[0], expected)
