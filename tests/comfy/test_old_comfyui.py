"""A smoke run on the oldest ComfyUI that is supported."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from devtools.server import ComfyServer
from tests.comfy.graphs import OUTPUTS, Graph, done, shown
from tests.comfy.searches import Checkpoints
from tests.comfy.trainings import at_step, ended, interrupted_files, trained


def test_nodes_are_listed(old_server: ComfyServer) -> None:
    known = old_server.object_info()
    for node, outputs in OUTPUTS.items():
        assert tuple(known[node]["output_name"][: len(outputs)]) == outputs
        page = old_server.get(f"/extensions/realism-kit/docs/{node}/en.md", raw=True).decode()
        assert known[node]["display_name"] in page


def test_score_gate_and_save(old_server: ComfyServer) -> None:
    """One picture passes and is saved; the server runs with --disable-metadata, so it carries none."""
    graph = Graph()
    images = graph.add("TestImageList", sizes="2x64x64,1x48x80", kind="noise")
    scored = graph.add("RealismScore", images=images)
    latents = graph.add("TestLatents", counts="3")
    gate = graph.add(
        "RealismGate", images=scored["images"], scores=scored["scores"], metric="irs", rule="top_k", value=1,
        latents=latents[0], masks=latents[1],
    )  # fmt: skip
    saved = graph.add(
        "RealismSaveImages", images=gate["passed"], scores=gate["passed_scores"], manifest="both"
    )
    mapped = graph.add("RealismMap", images=gate["rejected"])
    ids = [graph.show(link) for link in (gate["passed_latents"], gate["rejected_masks"], mapped["map"])]
    run = done(old_server.run(graph, extra_data={"extra_pnginfo": {"workflow": {"nodes": []}}}))
    (image,) = run.entry["outputs"][saved.id]["images"]
    file = old_server.base / "output" / image["subfolder"] / image["filename"]
    assert Image.open(file).text == {}
    assert json.loads((file.parent / "picture_00001_manifest.json").read_text())["images"][0]["irs"] > 0
    assert [len(part["batch_index"]) for part in shown(run, ids[0])] == [1]
    assert sum(len(part["means"]) for part in shown(run, ids[1])) == 2
    assert all(part["max"] <= 1 for part in shown(run, ids[2]))


@pytest.mark.parametrize(("value", "ran"), [(1e9, "rejected"), (-1e9, "passed")])
def test_an_empty_side_does_not_run(old_server: ComfyServer, value: float, ran: str) -> None:
    graph = Graph()
    images = graph.add("TestImages", batch=2)
    scored = graph.add("RealismScore", images=images)
    gate = graph.add("RealismGate", images=images, scores=scored["scores"], metric="irs", value=value)
    ids = {side: graph.show(gate[side]) for side in ("passed", "rejected")}
    run = done(old_server.run(graph))
    assert [side for side, id in ids.items() if id in run.entry["outputs"]] == [ran]


def test_fit_then_load(old_server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="soft", batch=6)
    graph.add("RealismFitProfile", images=images, name="old")
    done(old_server.run(graph))
    graph = Graph()
    profile = graph.add("RealismLoadProfile", name="old.json")
    scored = graph.add("RealismScore", images=graph.add("TestImages", kind="soft"), profile=profile)
    who, irs = graph.show(profile), graph.show(scored["irs"])
    run = done(old_server.run(graph))
    assert shown(run, who)[0]["count"] == 6 and shown(run, irs)[0] > 0


@pytest.mark.parametrize("kind", ["sd15_noclip", "sd3"])
def test_a_training_goes_on(old_server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    options = {"seeds": "1,2,3", "held_out": 1, "vae": True, "preview_cfg": 1.0, "preview_steps": 2}
    whole = trained(old_server, checkpoints, kind, steps=4, **options)
    trained(old_server, checkpoints, kind, steps=2, checkpoint=kind, **options)
    resumed = trained(old_server, checkpoints, kind, steps=4, checkpoint=kind, resume=True, **options)
    assert resumed.tensors == whole.tensors and resumed.losses == whole.losses
    assert whole.pictures["shape"] == [2, 64, 64, 3] and len(set(whole.pictures["digests"])) == 2
    assert [one["step"] for one in whole.report["held_out"]] == [0, 4]


def test_a_training_is_stopped_or_cancelled(old_server: ComfyServer, checkpoints: Checkpoints) -> None:
    """Stop and keep succeeds; Cancel saves and ends the workflow."""
    said = []
    press = at_step(20, lambda: said.append(old_server.post("/realism/stop_and_keep", {})))
    kept = trained(old_server, checkpoints, steps=5000, on_event=press)
    assert said == [{"stopping": True}] and kept.report["stopped"] and 20 <= len(kept.losses) < 5000
    cancel = at_step(20, lambda: old_server.post("/interrupt", {}))
    how, message = ended(old_server, checkpoints, steps=4999, on_event=cancel)
    assert how == "execution_interrupted", message
    (file,) = interrupted_files(old_server)
    assert 20 <= int(file.name.split("_")[2]) < 4999
