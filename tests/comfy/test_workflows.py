"""Every shipped workflow runs as shipped on a fresh ComfyUI with the packed pack, and does what it says.

The checkpoint that they name is a tiny one here, which paints noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from devtools.server import ComfyServer, Run
from devtools.workflow import to_prompt
from realism_core.conditioning.adapter_file import load_adapter
from tests.comfy.graphs import done
from tests.tiny_models import SHIPPED, link_checkpoint

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
# what makes the adapter comes before what loads it
WORKFLOWS = sorted(FOLDER.glob("*.json"), key=lambda file: (file.stem == "attribute-mask-adapter", file))
VIRTUAL = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
TYPICALITY = (-1.0, 2.0)  # a threshold that every picture reaches, and one that none does
SIDE = 128
ADAPTER = "example faces.safetensors"  # train-adapter makes it, attribute-mask-adapter loads it


@pytest.fixture(scope="module")
def fresh(packed_server: ComfyServer) -> ComfyServer:
    """The packed pack's server, with the checkpoint that the workflows name."""
    link_checkpoint(packed_server.base, "sd3_clip", SHIPPED)
    return packed_server


class Workflow(dict):
    """A shipped workflow as a prompt that paints small pictures, its nodes by title."""

    def __init__(self, server: ComfyServer, name: str) -> None:
        workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        super().__init__(to_prompt(workflow, server.object_info()))
        self["Empty Latent Image"].update(width=SIDE, height=SIDE)
        self.server = server

    def id(self, title: str) -> str:
        (found,) = (id for id, node in self.items() if node["_meta"]["title"] == title)
        return found

    def __getitem__(self, title: str) -> dict[str, Any]:
        return super().__getitem__(self.id(title))["inputs"]

    def run(self) -> Run:
        return done(self.server.run(dict(self)))

    def saved(self, run: Run, title: str) -> list[Path]:
        """Return the files that a node saved or showed in this run; none if it did not run."""
        images = run.entry["outputs"].get(self.id(title), {}).get("images", [])
        return [self.server.base / image["type"] / image["subfolder"] / image["filename"] for image in images]


def trained(server: ComfyServer) -> Path:
    """Return the adapter that one workflow makes and another loads, having run the former if need be."""
    path = server.base / "models" / "realism_adapters" / ADAPTER
    if not path.is_file():
        workflow = json.loads((FOLDER / "train-adapter.json").read_text(encoding="utf-8"))
        done(server.run(to_prompt(workflow, server.object_info())))
    return path


def pixels(files: list[Path]) -> list[bytes]:
    """Return the pixels of pictures, to tell whether they differ."""
    return [Image.open(file).convert("RGB").tobytes() for file in files]


def sizes(files: list[Path]) -> list[tuple[int, int]]:
    found = []
    for file in files:
        with Image.open(file) as picture:
            found.append(picture.size)
    return found


def manifest_rows(files: list[Path]) -> list[dict]:
    """Return the manifest's rows of these files, which lie in one folder."""
    rows = [
        row
        for manifest in files[0].parent.glob("*_manifest.json")
        for row in json.loads(manifest.read_text(encoding="utf-8"))["images"]
    ]
    return [row for row in rows if row["file"] in {file.name for file in files}]


def test_there_are_workflows() -> None:
    assert WORKFLOWS


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_it_runs_as_shipped(fresh: ComfyServer, file: Path) -> None:
    workflow, known = json.loads(file.read_text()), fresh.object_info()
    assert {node["type"] for node in workflow["nodes"]} - VIRTUAL <= set(known)
    if file.stem == "attribute-mask-adapter":  # as its note says
        trained(fresh)
    run = done(fresh.run(to_prompt(workflow, known)))
    assert any(output.get("images") or output.get("text") for output in run.entry["outputs"].values())


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_saved_slots_are_those_of_the_nodes(fresh: ComfyServer, file: Path) -> None:
    """A renamed output would leave links at the wrong place when the page opens the workflow."""
    known = fresh.object_info()
    for node in json.loads(file.read_text())["nodes"]:
        if node["type"] not in VIRTUAL:
            saved = [output["name"] for output in node.get("outputs") or []]
            assert saved == known[node["type"]]["output_name"][: len(saved)], node["type"]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_it_has_a_thumbnail(file: Path) -> None:
    with Image.open(file.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 128
        picture.load()


def test_best_of_n_saves_the_best_and_shows_the_others(fresh: ComfyServer) -> None:
    workflow = Workflow(fresh, "best-of-n")
    workflow["The best one"]["manifest"] = "json"
    run = workflow.run()
    (best,) = workflow.saved(run, "The best one")
    others = workflow.saved(run, "The others (not saved)")
    assert sizes([best, *others]) == [(SIDE, SIDE)] * 4
    assert best.parent.name == "best-of-n" and {file.parent.name for file in others} == {"temp"}
    (row,) = manifest_rows([best])
    (text,) = run.entry["outputs"][workflow.id("Realism Gate")]["text"]
    assert text.startswith("1 of 4 passed")
    highest = text.split(" to ")[1].split(",")[0]
    assert row["typicality"] == pytest.approx(float(highest), rel=0.01)


@pytest.mark.parametrize("threshold", TYPICALITY)
def test_overnight_filter_enlarges_what_passes_and_keeps_the_rest(
    fresh: ComfyServer, threshold: float
) -> None:
    workflow = Workflow(fresh, "overnight-filter")
    workflow["Realism Gate"]["value"] = threshold
    run = workflow.run()
    large = workflow.saved(run, "Passed: large")
    small = workflow.saved(run, "Rejected: small, with their scores")
    # a sampler that is blocked is named as executing too, but it takes no steps
    ran = {data["node"] for kind, data in run.events if kind == "progress"}
    slow = workflow.id("Second pass: large and slow")
    if threshold == min(TYPICALITY):
        assert slow in ran and not small
        assert sizes(large) == [(SIDE * 3 // 2, SIDE * 3 // 2)] * 4
    else:
        assert slow not in ran and not large
        assert sizes(small) == [(SIDE, SIDE)] * 4
        assert {file.parent.name for file in small} == {"rejected"}
        assert [0 <= row["typicality"] <= 1 for row in manifest_rows(small)] == [True] * 4


@pytest.mark.parametrize(("threshold", "attempts"), list(zip(TYPICALITY, (1, 3), strict=True)))
def test_sample_until_real_stops_when_it_may(fresh: ComfyServer, threshold: float, attempts: int) -> None:
    workflow = Workflow(fresh, "sample-until-real")
    workflow["Sample Until Real"].update(value=threshold, attempts=3, seed=40)
    run = workflow.run()
    (file,) = workflow.saved(run, "Saved with its scores")
    assert sizes([file]) == [(SIDE, SIDE)]
    (row,) = manifest_rows([file])
    (seed,) = run.entry["outputs"][workflow.id("Seed that made it")]["text"]
    assert int(seed) == 40 + row["attempt"]
    (text,) = run.entry["outputs"][workflow.id("Sample Until Real")]["text"]
    passed = int(threshold == min(TYPICALITY))
    assert text.startswith(f"{passed} of 1 passed after {attempts} of 3 attempts")


def test_face_attributes_says_each_where_it_belongs(fresh: ComfyServer) -> None:
    workflow = Workflow(fresh, "face-attributes")
    run = workflow.run()
    (told,) = run.entry["outputs"][workflow.id("Realism Conditioner")]["text"]
    assert {"brown hair (1): hair", "wearing lipstick (1): upper lip, lower lip"} <= set(told.splitlines())
    drawn = workflow.saved(run, "The picture")
    assert sizes(drawn) == [(SIDE, SIDE)]
    workflow["Realism Conditioner"]["attribute_strength"] = 0.0
    assert pixels(workflow.saved(workflow.run(), "The picture")) != pixels(drawn)


def test_train_adapter_keeps_what_it_learned(fresh: ComfyServer) -> None:
    workflow = Workflow(fresh, "train-adapter")
    workflow["Faces in input/realism-kit-faces"]["side"] = SIDE
    workflow["Realism Train Adapter"].update(steps=3, warmup=0, preview_steps=2)
    workflow["Save Realism Adapter"]["name"] = "three steps"
    run = workflow.run()
    (path,) = run.entry["outputs"][workflow.id("Save Realism Adapter")]["text"]
    kept = load_adapter(Path(path))
    assert (kept.adapter.config.attributes, kept.adapter.config.mask) == ("tokens", "tokens")
    about = kept.about["training"]
    faces = list((FOLDER / "inputs" / "faces").glob("*.mask.png"))
    assert about["images"] == len(faces) == 6
    assert about["steps"] == 3 and about["weighting"]["kind"] == "p2"
    assert sizes(workflow.saved(run, "With the adapter")) == [(SIDE, SIDE)]
    before, after = pixels(workflow.saved(run, "First face: before and after"))
    assert before != after


def test_the_adapter_workflow_draws_by_attributes_and_by_mask(fresh: ComfyServer) -> None:
    trained(fresh)
    drawn = []
    for title, changes in (
        ("Realism Adapter Guidance", {}),
        ("Realism Adapter Guidance", {"mask_cfg": 0.0}),
        ("What they are to look like", {"attributes": "bald, beard"}),
    ):
        workflow = Workflow(fresh, "attribute-mask-adapter")
        workflow[title].update(changes)
        drawn += pixels(workflow.saved(workflow.run(), "The picture"))
    assert len(drawn) == len(set(drawn)) == 3
