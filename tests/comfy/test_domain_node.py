"""RealismFitProfile with generated pictures beside the real ones, in the real ComfyUI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from devtools.client import Run
from devtools.server import ComfyServer
from realism_core.evidence.domain import fit_domain
from realism_core.irs import Profile
from realism_core.pictures import read_picture
from tests.comfy.graphs import Graph, done, failure, shown, status
from tests.core.domains import decoded, photo

N = 30


@pytest.fixture(scope="module")
def sides(server: ComfyServer) -> Path:
    """ComfyUI's input folder with `domain real` and `domain made`, 30 PNG files each."""
    root = server.base / "input"
    for name, make, start in (("domain real", photo, 0), ("domain made", decoded, 100)):
        (root / name).mkdir(exist_ok=True)
        for index in range(N):
            Image.fromarray(make(start + index)).save(root / name / f"{index}.png")
    return root


def fit(server: ComfyServer, **inputs: object) -> tuple[Run, dict, str]:
    """Run the node alone: (the run, the summary it shows or {}, its id)."""
    graph = Graph()
    node = graph.add("RealismFitProfile", **inputs)
    run = server.run(graph)
    output = run.entry["outputs"].get(node.id)
    return run, json.loads(output["text"][0]) if output else {}, node.id


def saved(server: ComfyServer, name: str) -> Path:
    return server.base / "models" / "realism_profiles" / f"{name}.json"


def test_two_folders_make_a_domain(server: ComfyServer, sides: Path) -> None:
    (sides / "domain made" / "broken.png").write_text("no picture")
    run, summary, id = fit(server, folder="domain real", generated_folder="domain made", name="two")
    (sides / "domain made" / "broken.png").unlink()
    done(run)
    steps = [data for name, data in run.events if name == "progress" and data["node"] == id]
    assert steps[-1]["value"] == steps[-1]["max"] == 2 * N + 1
    real, made = (
        [read_picture(sides / name / f"{index}.png")[None] for index in range(N)]
        for name in ("domain real", "domain made")
    )
    source = "the folder domain real against the folder domain made"
    expected = fit_domain(real, made, name="two", source=source)
    assert json.loads(saved(server, "two").read_text()) == expected.profile.to_dict()
    assert summary["pictures"] == N and summary["cross_validated_auc"] > 0.95
    assert {key: summary[key] for key in expected.summary()} == expected.summary()
    (line,) = summary["unreadable"]
    assert "broken.png" in line


def test_pictures_of_a_graph_and_a_warning(server: ComfyServer, sides: Path) -> None:
    """Both sides of one law from the graph, one of them larger: nothing to learn but the size."""
    graph = Graph()
    real = graph.add("TestImageList", sizes="20x104x112,12x112x104", kind="noise", salt=1)
    made = graph.add("TestImages", kind="noise", batch=N, height=128, width=136, seed=500)
    node = graph.add("RealismFitProfile", images=real, generated_images=made, name="graph")
    who = graph.show(node)
    run = done(server.run(graph))
    summary = json.loads(run.entry["outputs"][node.id]["text"][0])
    assert (summary["real"]["used"], summary["generated"]["used"]) == (32, N)
    assert any("by their size alone (AUC 1.00)" in line for line in summary["warnings"])
    assert shown(run, who) == [{"name": "graph", "definition": "reference", "count": 32}]
    assert Profile.load(saved(server, "graph")).detector["about"]["warnings"] == summary["warnings"]


def test_too_few_generated_pictures_and_bad_folders_are_refused(server: ComfyServer, sides: Path) -> None:
    shutil.rmtree(sides / "few made", ignore_errors=True)
    (sides / "few made").mkdir()
    for index in range(29):
        shutil.copyfile(sides / "domain made" / f"{index}.png", sides / "few made" / f"{index}.png")
    for inputs, words in (
        ({"generated_folder": "few made"}, ["29 usable generated pictures", "at least 30"]),
        ({"generated_folder": "missing"}, ["missing", "does not exist"]),
        ({"generated_folder": ".."}, ["generated_folder", "leads outside ComfyUI's folders"]),
        ({"folder": "few made", "generated_folder": "domain made"}, ["29 usable real pictures"]),
        ({"folder": "", "generated_folder": "domain made"}, ["images and folder are both empty"]),
    ):
        run, _, _ = fit(server, **{"folder": "domain real", "name": "refused", **inputs})
        assert status(run) == "execution_error"
        assert all(word in failure(run) for word in words), failure(run)
    assert not saved(server, "refused").exists()


def test_a_domain_is_not_replaced_by_a_plain_profile_unasked(server: ComfyServer, sides: Path) -> None:
    both = {"folder": "domain real", "generated_folder": "domain made", "name": "kept"}
    done(fit(server, **both)[0])
    before = saved(server, "kept").read_bytes()
    run, _, _ = fit(server, **{**both, "generated_folder": ""})
    assert status(run) == "execution_error" and "'kept' is taken" in failure(run)
    assert saved(server, "kept").read_bytes() == before


def test_new_generated_pictures_are_fitted_again(server: ComfyServer, sides: Path) -> None:
    """The same graph after pictures came into the generated folder must not answer from ComfyUI's cache."""
    folder = sides / "growing made"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sides / "domain made", folder)
    inputs = {
        "folder": "domain real", "generated_folder": "growing made", "name": "grown", "overwrite": True,
    }  # fmt: skip
    assert fit(server, **inputs)[1]["generated"]["used"] == N
    Image.fromarray(decoded(999)).save(folder / "more.png")
    assert fit(server, **inputs)[1]["generated"]["used"] == N + 1


def test_cancel_on_the_generated_side_saves_nothing(server: ComfyServer, sides: Path) -> None:
    folder = sides / "many made"
    folder.mkdir(exist_ok=True)
    for index in range(60):
        Image.fromarray(decoded(1000 + index, 320)).save(folder / f"{index}.png")
    graph = Graph()
    node = graph.add("RealismFitProfile", folder="domain real", generated_folder="many made", name="stopped")
    asked: list[float] = []

    def interrupt(name: str, data: dict) -> None:
        if name == "progress" and data["node"] == node.id and data["value"] > N and not asked:
            asked.append(data["value"])
            server.post("/interrupt", {})

    run = server.run(graph, on_event=interrupt)
    assert asked and N < asked[0] < N + 60
    assert status(run) == "execution_interrupted"
    assert not list(saved(server, "stopped").parent.glob("stopped*"))


def test_a_damaged_detector_is_refused_on_loading(server: ComfyServer) -> None:
    dice = np.random.default_rng(0)
    pictures = [read[None] for read in dice.integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)]
    data = Profile.fit(pictures, name="bad").to_dict() | {"detector": {"format": "other"}}
    saved(server, "bad detector").parent.mkdir(parents=True, exist_ok=True)
    saved(server, "bad detector").write_text(json.dumps(data))
    graph = Graph()
    graph.show(graph.add("RealismLoadProfile", name="bad detector.json"))
    run = server.run(graph)
    saved(server, "bad detector").unlink()
    assert status(run) == "execution_error"
    assert "profile 'bad': the detector" in failure(run) and "fit it again" in failure(run)
