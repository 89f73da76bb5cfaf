"""The audit log as RealismGate and RealismSaveImages write it in the real ComfyUI."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from devtools.server import ComfyServer
from realism_core.cli import main
from realism_core.gate import picture_codes
from realism_core.gate.audit import verify
from tests.comfy.conftest import ROOT, TEST_PACK
from tests.comfy.graphs import Graph, done, failure, status
from tests.comfy.test_gate_by_hand import pictures
from tests.comfy.test_gate_node import SIZES, VALUES, judged
from tests.given import given
from tests.tiny_models import tiny_checkpoint

Checkpoints = Callable[[ComfyServer, str], str]


@pytest.fixture(scope="module")
def log(server: ComfyServer) -> Path:
    return server.base / "user" / "realism" / "audit.sqlite"


def entries(log: Path) -> list[dict]:
    """Return the records in order, read without the pack."""
    if not log.exists():
        return []
    with sqlite3.connect(log) as connection:
        return [json.loads(body) for (body,) in connection.execute("SELECT body FROM entries ORDER BY seq")]


@pytest.fixture(scope="module")
def codes(server: ComfyServer) -> list[str]:
    """The codes of the five pictures that are sorted by hand."""
    graph = Graph()
    saved = graph.add("RealismSaveImages", images=graph.add("TestImageList", sizes=SIZES["list"]))
    return picture_codes(pictures(server, done(server.run(graph)), saved.id)).codes


def run_gate(server: ComfyServer, salt: float, **inputs) -> None:
    graph = Graph()
    images, scores = judged(graph, f"0.1,0.9,{salt},0.7,nan", "2x16x24,3x8x8")
    gate = graph.add("RealismGate", images=images, scores=scores, value=0.6, **inputs)
    graph.show(gate["passed_count"])
    done(server.run(graph))


def settings(server: ComfyServer, **values) -> None:
    file = server.base / "user" / "default" / "comfy.settings.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, **{f"RealismKit.{name}": value for name, value in values.items()}}))


@pytest.fixture
def switched_on(server: ComfyServer) -> Iterator[None]:
    settings(server, Audit=True, AuditPurpose="a film")
    yield
    settings(server, Audit=False, AuditPurpose="")


def test_it_is_off_unless_switched_on(server: ComfyServer, log: Path) -> None:
    before = len(entries(log))
    run_gate(server, 0.201)
    run_gate(server, 0.202, audit="off")
    assert len(entries(log)) == before
    run_gate(server, 0.203, audit="on")
    assert len(entries(log)) == before + 5


def test_the_setting_switches_it_on_and_a_gate_can_stay_off(
    server: ComfyServer, log: Path, switched_on: None
) -> None:
    before = len(entries(log))
    run_gate(server, 0.211, audit="off")
    assert len(entries(log)) == before
    run_gate(server, 0.212)
    run_gate(server, 0.213, purpose=" tests ")
    written = entries(log)[before:]
    assert [record["purpose"] for record in written] == ["a film"] * 5 + ["tests"] * 5


def test_the_same_graph_again_is_logged_once_it_is_switched_on(server: ComfyServer, log: Path) -> None:
    """Nothing else changed, so that ComfyUI would not run the gate again; nor does it once it is logged."""
    graph = Graph()
    images, scores = judged(graph, "0.1,0.9,0.216,0.7,0.5", "5x8x8")
    gate = graph.add("RealismGate", images=images, scores=scores)
    graph.add("RealismSaveImages", images=gate["passed"], scores=gate["passed_scores"])
    counts = []
    for on in (False, True, True, False):
        settings(server, Audit=on)
        done(server.run(graph))
        counts.append(len(entries(log)))
    # five decisions and five files
    assert [count - counts[0] for count in counts] == [0, 10, 10, 10]


def test_broken_settings_are_named(server: ComfyServer, switched_on: None) -> None:
    file = server.base / "user" / "default" / "comfy.settings.json"
    good = file.read_text()
    file.write_text("{")
    try:
        graph = Graph()
        images, scores = judged(graph, "0.1,0.2,0.214,0.4,0.5", "5x16x16")
        graph.show(graph.add("RealismGate", images=images, scores=scores)["passed_count"])
        message = failure(server.run(graph))
        assert "comfy.settings.json" in message and "mend" in message
    finally:
        file.write_text(good)


def test_what_a_decision_holds(server: ComfyServer, checkpoints: Checkpoints, log: Path) -> None:
    """Sampled by a real model, gated and saved: each record says what made the picture and where it went."""
    name = checkpoints(server, "sd3")
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=name)
    words = [graph.add("TestConditioning", width=64, pooled=2048, seed=seed) for seed in (1, 2)]
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=2)
    sampled = graph.add(
        "KSampler", model=loader[0], positive=words[0], negative=words[1], latent_image=latent, seed=4321,
        steps=2, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    images = graph.add("VAEDecode", samples=sampled, vae=loader[2])
    scored = graph.add("RealismScore", images=images)
    other = graph.add("TestImages", seed=777)
    gate = graph.add(
        "RealismGate", images=images, scores=scored["scores"], metric="irs", rule="top_k", value=1,
        audit="on", purpose="a test",
    )  # fmt: skip
    saved = graph.add(
        "RealismSaveImages", images=gate["passed"], scores=gate["passed_scores"], filename_prefix="audit/kept"
    )
    graph.show(other)
    before = len(entries(log))
    workflow = {"nodes": [], "version": 0.4}
    run = done(server.run(graph, extra_data={"extra_pnginfo": {"workflow": workflow}}))
    first, second, file = entries(log)[before:]

    assert sorted((first["decision"], second["decision"])) == ["passed", "rejected"]
    kept = first if first["decision"] == "passed" else second
    for record in (first, second):
        assert record["kind"] == "decision" and record["purpose"] == "a test" and not record["by_hand"]
        assert record["metric"] == "irs" and record["value"] == record["scores"]["irs"]
        assert record["rule"]["rule"] == "top_k" and record["rule"]["value"] == 1
        assert {seed["seed"] for seed in record["seeds"]} == {4321, 1, 2}  # not 777, which is not upstream
        (model,) = record["models"]
        assert model["name"] == name and model["folder"] == "checkpoints"
        assert model["sha256"] == hashlib.sha256(tiny_checkpoint("sd3").read_bytes()).hexdigest()
    (image,) = run.entry["outputs"][saved.id]["images"]
    path = server.base / "output" / image["subfolder"] / image["filename"]
    assert file["kind"] == "file" and file["file"] == str(path)
    texts = Image.open(path).text
    prompt = {
        id: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for id, node in json.loads(texts["prompt"]).items()
    }
    for name, value in (("workflow", json.loads(texts["workflow"])), ("prompt", prompt)):
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert kept[name] == hashlib.sha256(text.encode()).hexdigest()
    assert json.loads(texts["workflow"]) == workflow and set(prompt) == set(graph)
    picture = Image.open(path).convert("RGB")
    pixels = f"P6\n{picture.width} {picture.height}\n255\n".encode() + picture.tobytes()
    assert file["picture"] == kept["picture"] == hashlib.sha256(pixels).hexdigest()
    assert file["prompt"] == kept["prompt"] and file["purpose"] == "a test"
    assert verify(log).problems == ()


def test_the_command_line_reads_what_the_gate_wrote(
    server: ComfyServer, log: Path, capsys: pytest.CaptureFixture
) -> None:
    run_gate(server, 0.221, audit="on", purpose="read back")
    assert main(["audit", "verify", str(log)]) == 0
    assert main(["audit", "show", str(log), "--last", "5"]) == 0
    assert capsys.readouterr().out.count("read back") == 5


def test_a_log_from_a_newer_version_stops_the_gate_and_is_left_alone(server: ComfyServer, log: Path) -> None:
    run_gate(server, 0.231, audit="on")
    before = len(entries(log))
    with sqlite3.connect(log) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version + 1}")
    connection.close()
    try:
        graph = Graph()
        images, scores = judged(graph, "0.1,0.2,0.232,0.4,0.5", "5x16x16")
        graph.show(graph.add("RealismGate", images=images, scores=scores, audit="on")["passed_count"])
        message = failure(server.run(graph))
        assert "is of version" in message and "update Realism Kit" in message
        assert len(entries(log)) == before
    finally:
        with sqlite3.connect(log) as connection:
            connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
    run_gate(server, 0.233, audit="on")
    assert len(entries(log)) == before + 5 and verify(log).problems == ()


def test_two_comfyuis_write_one_log(
    server: ComfyServer, log: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Both gate at the same time, again and again; nothing is lost and the chain is whole."""
    base = tmp_path_factory.mktemp("second")
    packs = {"realism-kit": ROOT, "realism-test-nodes": TEST_PACK}
    directory, python = given("REALISM_COMFYUI_DIR", "comfy"), given("REALISM_COMFYUI_PY", "comfy")
    shared = ("--user-directory", str(server.base / "user"))
    with ComfyServer(base, packs, directory, python, shared) as second:
        before = len(entries(log))

        def work(running: ComfyServer, start: float) -> None:
            for number in range(8):
                run_gate(running, start + number / 1e4, audit="on", purpose=f"server {start}")

        threads = [threading.Thread(target=work, args=pair) for pair in ((server, 0.31), (second, 0.32))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    written = [record["purpose"] for record in entries(log)[before:]]
    assert sorted(written) == ["server 0.31"] * 40 + ["server 0.32"] * 40
    verdict = verify(log)
    assert verdict.problems == () and verdict.notes == ()


def test_unknown_and_infinite_scores_are_said(server: ComfyServer, log: Path) -> None:
    before = len(entries(log))
    run_gate(server, float("inf"), audit="on", on_unknown="block")
    written = entries(log)[before:]
    decisions = [record["decision"] for record in written]
    assert decisions == ["rejected", "passed", "passed", "passed", "blocked"]
    assert [written[place]["value"] for place in (2, 4)] == ["inf", None]


def test_choices_by_hand_are_said(server: ComfyServer, log: Path, codes: list[str]) -> None:
    before = len(entries(log))
    graph = Graph()
    images, scores = judged(graph, VALUES, SIZES["list"])
    gate = graph.add(
        "RealismGate", images=images, scores=scores, value=0.6, audit="on", keep_by_hand=codes[0],
        reject_by_hand=codes[1],
    )  # fmt: skip
    graph.show(gate["passed_count"])
    done(server.run(graph))
    written = entries(log)[before:]
    assert [record["by_hand"] for record in written] == [True, True, False, False, False]
    assert [record["decision"] for record in written[:2]] == ["passed", "rejected"]


def test_a_prompt_that_ends_like_a_model_file_is_not_logged(server: ComfyServer, log: Path) -> None:
    graph = Graph()
    images, scores = judged(graph, "0.1,0.9,0.251,0.7,0.5", "5x8x8")
    words = graph.add("TestText", text="a secret, embedding:nobody.pt", more="typicality")
    gate = graph.add("RealismGate", images=images, scores=scores, audit="on", metric=words)
    graph.show(gate["passed_count"])
    before = len(entries(log))
    done(server.run(graph))
    written = entries(log)[before:]
    assert len(written) == 5 and "secret" not in json.dumps(written) and written[0]["models"] == []


def test_the_purpose_stays_in_the_log(server: ComfyServer, log: Path) -> None:
    """Neither the saved picture nor the manifest tells it."""
    graph = Graph()
    images, scores = judged(graph, "0.1,0.9,0.261,0.7,0.5", "5x8x8")
    gate = graph.add("RealismGate", images=images, scores=scores, audit="on", rule="top_k", value=5)
    graph.add(
        "RealismSaveImages", images=gate["passed"], scores=gate["passed_scores"], manifest="both",
        filename_prefix="audit/private",
    )  # fmt: skip
    before = len(entries(log))
    settings(server, AuditPurpose="top secret")
    done(server.run(graph))
    settings(server, AuditPurpose="")
    assert {record["purpose"] for record in entries(log)[before:]} == {"top secret"}
    saved = list((server.base / "output" / "audit").glob("private*"))
    assert len(saved) == 7 and not [file for file in saved if b"top secret" in file.read_bytes()]


def test_what_was_saved_before_cancel_is_logged(server: ComfyServer, log: Path) -> None:
    """As many rows, and as many lines of the manifest, as there are files."""
    graph = Graph()
    images = graph.add("TestImages", batch=60, height=256, width=256)
    values = graph.add("TestFloats", values=",".join("1" * 60))
    scores = graph.add("RealismScoreColumn", name="taste", values=values)
    gate = graph.add("RealismGate", images=images, scores=scores, metric="taste", value=0.5, audit="on")
    saved = graph.add(
        "RealismSaveImages", images=gate["passed"], scores=gate["passed_scores"], manifest="json",
        filename_prefix="audit/half",
    )  # fmt: skip

    def press(name: str, data: dict) -> None:
        if name == "progress" and data["node"] == saved.id and data["value"] >= 2:
            server.post("/interrupt", {})

    before = len(entries(log))
    assert status(server.run(graph, on_event=press)) == "execution_interrupted"
    logged = [Path(record["file"]) for record in entries(log)[before:] if record["kind"] == "file"]
    assert 2 <= len(logged) < 60
    folder = server.base / "output" / "audit"
    assert sorted(folder.glob("half*.png")) == logged
    manifest = json.loads((folder / "half_00001_manifest.json").read_text())
    assert [row["file"] for row in manifest["images"]] == [file.name for file in logged]


def test_nothing_is_written_by_a_gate_that_logs_nothing(packed_server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("EmptyImage", width=64, height=64, batch_size=2, color=0)
    scored = graph.add("RealismScore", images=images)
    gate = graph.add("RealismGate", images=images, scores=scored["scores"])
    preview = graph.add("PreviewImage", images=gate["rejected"])
    run = done(packed_server.run(graph))
    assert len(run.entry["outputs"][preview.id]["images"]) == 2
    assert not (packed_server.base / "user" / "realism").exists()
