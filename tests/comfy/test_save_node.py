"""RealismSaveImages in the real ComfyUI: pixels, metadata, manifests, and never a lost file."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from devtools.client import Run
from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, done, failure, status
from tests.comfy.pack.pictures import picture_batch

WORKFLOW = {"nodes": [], "links": [], "version": 0.4, "extra": {"note": "größer: {1}"}}


def save(
    server: ComfyServer, workflow: dict = WORKFLOW, images: dict | None = None, scored: bool = True, **inputs
) -> tuple[Run, list[Path], Graph]:
    """Run a graph that saves pictures; returns the run, the files that it names, and the graph."""
    graph = Graph()
    pictures = graph.add("TestImages", **{"batch": 2, **(images or {})})
    scores = {"scores": graph.add("RealismScore", images=pictures)["scores"]} if scored else {}
    node = graph.add("RealismSaveImages", images=pictures, **scores, **inputs)
    run = server.run(graph, extra_data={"extra_pnginfo": {"workflow": workflow}})
    saved = run.entry["outputs"].get(node.id, {}).get("images", [])
    return run, [server.base / "output" / image["subfolder"] / image["filename"] for image in saved], graph


def folder(server: ComfyServer, name: str) -> list[str]:
    return sorted(file.name for file in (server.base / "output" / name).iterdir())


def truth(batch: int = 2, seed: int = 0, channels: int = 3) -> np.ndarray:
    images = picture_batch("noise", batch, 64, 64, channels, seed)
    return torch.floor(images * 255 + 0.5).to(torch.uint8).numpy()


def manifest_rows(file: Path) -> list[dict]:
    return json.loads(file.read_text())["images"]


@pytest.mark.parametrize("channels", [3, 4])
def test_png_is_exact_and_holds_scores_and_workflow(server: ComfyServer, channels: int) -> None:
    prefix = f"png{channels}/a"
    run, files, graph = save(
        server, images={"channels": channels}, filename_prefix=prefix, manifest="json", format="png"
    )
    done(run)
    assert [file.name for file in files] == ["a_00001_.png", "a_00002_.png"]
    rows = manifest_rows(server.base / "output" / f"png{channels}" / "a_00001_manifest.json")
    for index, (file, pixels) in enumerate(zip(files, truth(channels=channels), strict=True)):
        with Image.open(file) as picture:
            assert np.array_equal(np.array(picture), pixels)
            assert json.loads(picture.text["prompt"]) == graph
            assert json.loads(picture.text["workflow"]) == WORKFLOW
            told = json.loads(picture.text["realism"])
        assert told["definition"] == "reference" and told["profile"]
        assert told["scores"]["irs"] > 0
        assert told["scores"].items() <= rows[index].items() and rows[index]["file"] == file.name


def exif_as_the_frontend_reads_it(content: bytes) -> dict[str, str]:
    """Read the EXIF chunk of a WebP as ComfyUI's page does: each ASCII entry is "name:text"."""
    assert content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    at, found = 12, {}
    while at < len(content):
        kind, size = content[at : at + 4], struct.unpack("<I", content[at + 4 : at + 8])[0]
        if kind == b"EXIF":
            data = content[at + 8 : at + 8 + size]
            data = data[6:] if data[:6] == b"Exif\0\0" else data
            order = "<" if data[:2] == b"II" else ">"
            start = struct.unpack(order + "I", data[4:8])[0]
            (count,) = struct.unpack(order + "H", data[start : start + 2])
            for entry in range(count):
                place = start + 2 + 12 * entry
                _, kind, length, offset = struct.unpack(order + "HHII", data[place : place + 12])
                if kind == 2:
                    name, text = data[offset : offset + length - 1].decode().split(":", 1)
                    found[name] = text
        at += 8 + size + size % 2
    return found


@pytest.mark.parametrize(("quality", "exact"), [(100, True), (90, False)])
def test_webp(server: ComfyServer, quality: int, exact: bool) -> None:
    run, files, graph = save(server, format="webp", quality=quality, filename_prefix=f"webp{quality}/a")
    done(run)
    assert [file.suffix for file in files] == [".webp"] * 2
    for file, pixels in zip(files, truth(), strict=True):
        texts = exif_as_the_frontend_reads_it(file.read_bytes())
        assert json.loads(texts["prompt"]) == graph
        assert json.loads(texts["workflow"]) == WORKFLOW
        assert json.loads(texts["realism"])["scores"]["irs"] > 0
        decoded = np.array(Image.open(file).convert("RGB"))
        assert np.array_equal(decoded, pixels) == exact


def test_jpeg(server: ComfyServer) -> None:
    images = {"channels": 4, "seed": 3}
    run, files, graph = save(server, images=images, format="jpeg", filename_prefix="jpeg/a")
    done(run)
    for file, pixels in zip(files, truth(seed=3, channels=4), strict=True):
        with Image.open(file) as picture:
            assert picture.format == "JPEG" and picture.mode == "RGB"
            texts = dict(text.split(":", 1) for text in picture.getexif().values())
            assert np.abs(np.array(picture).astype(float) - pixels[..., :3]).mean() < 12
        assert json.loads(texts["prompt"]) == graph and json.loads(texts["workflow"]) == WORKFLOW
        assert json.loads(texts["realism"])["profile"]
    assert folder(server, "jpeg") == ["a_00001_.jpg", "a_00002_.jpg"]


def test_what_does_not_fit_into_a_jpeg_lies_beside_it(server: ComfyServer) -> None:
    huge = {**WORKFLOW, "extra": {"note": "x" * 100_000}}
    run, files, graph = save(server, workflow=huge, format="jpeg", filename_prefix="huge/a")
    done(run)
    assert len(files) == 2
    for file in files:
        beside = json.loads(file.with_name(file.name + ".json").read_text())
        assert json.loads(beside["workflow"]) == huge and json.loads(beside["prompt"]) == graph
        assert json.loads(beside["realism"])["scores"]["irs"] > 0
        Image.open(file).load()


@pytest.mark.parametrize("format", ["png", "webp"])
def test_a_huge_workflow_fits_into_png_and_webp(server: ComfyServer, format: str) -> None:
    huge = {**WORKFLOW, "extra": {"note": "x" * 200_000}}
    run, files, _ = save(server, workflow=huge, format=format, filename_prefix=f"huge-{format}/a")
    done(run)
    for file in files:
        text = Image.open(file).text if format == "png" else exif_as_the_frontend_reads_it(file.read_bytes())
        assert json.loads(text["workflow"]) == huge


def test_manifests(server: ComfyServer) -> None:
    """A row a picture, in order, with its file's name and the numbers that its metadata hold."""
    graph = Graph()
    images = graph.add("TestImageList", sizes="2x64x48,1x40x40", kind="noise")
    scored = graph.add("RealismScore", images=images)
    save_node = graph.add(
        "RealismSaveImages", images=images, scores=scored["scores"], filename_prefix="list/p", manifest="both"
    )
    run = done(server.run(graph))
    files = [image["filename"] for image in run.entry["outputs"][save_node.id]["images"]]
    at = server.base / "output" / "list"
    manifest = json.loads((at / "p_00001_manifest.json").read_text())
    assert manifest["about"]["definition"] == "reference" and manifest["about"]["profile"]
    rows = manifest["images"]
    table = list(csv.DictReader(io.StringIO((at / "p_00001_manifest.csv").read_text())))
    assert [row["file"] for row in rows] == [row["file"] for row in table] == files
    assert [(row["width"], row["height"]) for row in rows] == [(48, 64), (48, 64), (40, 40)]
    for row, line in zip(rows, table, strict=True):
        with Image.open(at / row["file"]) as picture:
            scores = json.loads(picture.text["realism"])["scores"]
            assert picture.size == (row["width"], row["height"])
        assert {name: row[name] for name in scores} == scores
        assert {name: float(line[name]) if line[name] else None for name in scores} == scores
    steps = [data for name, data in run.events if name == "progress" and data["node"] == save_node.id]
    assert steps[-1]["value"] == steps[-1]["max"] == 3


def test_scores_that_do_not_apply_are_empty_not_nan(server: ComfyServer) -> None:
    grey = {"kind": "grey", "batch": 1}
    run, files, _ = save(server, images=grey, filename_prefix="grey/a", manifest="both")
    done(run)
    text = (files[0].parent / "a_00001_manifest.json").read_text()
    assert "NaN" not in text and json.loads(text)["images"][0]["irs"] is None
    (line,) = csv.DictReader(io.StringIO((files[0].parent / "a_00001_manifest.csv").read_text()))
    assert line["irs"] == "" and float(line["glcm_contrast"]) > 0


def test_without_scores(server: ComfyServer) -> None:
    run, files, _ = save(server, scored=False, filename_prefix="plain/a", manifest="csv")
    done(run)
    assert set(Image.open(files[0]).text) == {"prompt", "workflow"}
    assert folder(server, "plain") == ["a_00001_.png", "a_00001_manifest.csv", "a_00002_.png"]


def test_nothing_is_ever_overwritten(server: ComfyServer) -> None:
    first = save(server, filename_prefix="again/a", manifest="both")[1]
    before = {file.name: file.read_bytes() for file in first[0].parent.iterdir()}
    second = save(server, images={"seed": 1}, filename_prefix="again/a", manifest="both")[1]
    assert [file.name for file in second] == ["a_00003_.png", "a_00004_.png"]
    after = {file.name: file.read_bytes() for file in first[0].parent.iterdir()}
    assert len(after) == 2 * len(before) == 8
    assert {name: after[name] for name in before} == before


def test_other_formats_under_one_name_do_not_collide(server: ComfyServer) -> None:
    for format in ("png", "webp", "jpeg"):
        done(save(server, format=format, filename_prefix="mixed/a", manifest="json")[0])
    assert len(folder(server, "mixed")) == 9


@pytest.mark.parametrize("prefix", ["../out", "a/../../out", "/tmp/out", "..", "way out/a"])
def test_prefixes_that_lead_out_are_refused(server: ComfyServer, prefix: str, tmp_path: Path) -> None:
    link = server.base / "output" / "way out"
    if not link.is_symlink():
        link.symlink_to(tmp_path, target_is_directory=True)
    run, files, _ = save(server, filename_prefix=prefix)
    assert status(run) == "execution_error" and not files
    assert "filename_prefix" in failure(run) and "outside" in failure(run)
    assert not list(server.base.glob("out*.png")) and not list(tmp_path.iterdir())


def test_counts_that_do_not_match_are_refused(server: ComfyServer) -> None:
    graph = Graph()
    scored = graph.add("RealismScore", images=graph.add("TestImages", batch=3))
    graph.add("RealismSaveImages", images=graph.add("TestImages", batch=2), scores=scored["scores"])
    run = server.run(graph)
    assert status(run) == "execution_error"
    assert "scores holds 3 but images holds 2" in failure(run)


def test_names_are_filled_in_as_the_tooltip_says(server: ComfyServer) -> None:
    run, files, _ = save(
        server, filename_prefix="filled/%year%%month%%day%%hour%%minute%%second%_%width%x%height%"
    )
    done(run)
    assert all(re.fullmatch(r"20\d{12}_64x64_0000[12]_\.png", file.name) for file in files), files


def test_pictures_that_are_no_numbers_are_refused_before_any_is_written(server: ComfyServer) -> None:
    run, files, _ = save(server, images={"kind": "nan"}, scored=False, filename_prefix="nan/a")
    assert status(run) == "execution_error" and not files
    assert "images: picture 1 contains NaN" in failure(run)
    assert not (server.base / "output" / "nan").exists()
