"""RealismFitProfile and RealismLoadProfile in the real ComfyUI."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from devtools.client import Run
from devtools.server import ComfyServer, Refused
from realism_core.irs import Profile
from tests.comfy.graphs import Graph, done, failure, shown, status

INPUTS = Path(__file__).resolve().parents[2] / "workflows" / "inputs"


def textures(folder: Path, count: int, seed: int = 0) -> Path:
    """Fill a folder with soft colour textures."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        Image.fromarray(texture(random)).save(folder / f"{index}.png")
    return folder


def texture(random: np.random.Generator, side: int = 96) -> np.ndarray:
    small = random.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def fit(server: ComfyServer, **inputs: object) -> tuple[Run, dict]:
    """Run the node alone; returns the run and the summary that it shows, {} if it failed."""
    graph = Graph()
    node = graph.add("RealismFitProfile", **inputs)
    run = server.run(graph)
    output = run.entry["outputs"].get(node.id)
    return run, json.loads(output["text"][0]) if output else {}


def check_refused(run: Run, *words: str) -> None:
    assert status(run) == "execution_error"
    assert all(word in failure(run) for word in words), failure(run)


def profiles(server: ComfyServer) -> Path:
    return server.base / "models" / "realism_profiles"


def listed(server: ComfyServer) -> list[str]:
    spec = server.get("/object_info/RealismLoadProfile")["RealismLoadProfile"]["input"]["required"]["name"]
    return spec[0] if isinstance(spec[0], list) else spec[1]["options"]


def test_fit_a_folder_then_load_and_score(server: ComfyServer) -> None:
    textures(server.base / "input" / "real", 5)
    textures(server.base / "input" / "real" / "more", 3, seed=1)
    run, summary = fit(server, folder="real", name="from folder")
    done(run)
    assert summary["pictures"] == 8 and summary["saved"] == "from folder.json" and not summary["unreadable"]
    assert "8 pictures" in summary["note"]
    assert "from folder.json" in listed(server)
    assert Profile.load(profiles(server) / "from folder.json").count == 8
    graph = Graph()
    profile = graph.add("RealismLoadProfile", name="from folder.json")
    picture = graph.add("LoadImage", image="real/0.png")
    scored = graph.add("RealismScore", images=picture, profile=profile)
    who, report = graph.show(profile), graph.show(scored["report"])
    run = done(server.run(graph))
    assert shown(run, who) == [{"name": "from folder", "definition": "reference", "count": 8}]
    assert json.loads(shown(run, report)[0])["profile"] == "from folder"


def test_fit_pictures_of_a_graph_and_a_folder(server: ComfyServer) -> None:
    textures(server.base / "input" / "five", 5)
    graph = Graph()
    images = graph.add("TestImageList", sizes="3x64x80,2x70x64", kind="noise")
    node = graph.add("RealismFitProfile", images=images, folder="five", name="both", definition="paper")
    run = done(server.run(graph))
    assert json.loads(run.entry["outputs"][node.id]["text"][0])["pictures"] == 10
    steps = [data for name, data in run.events if name == "progress" and data["node"] == node.id]
    assert steps[-1]["value"] == steps[-1]["max"] == 10
    assert Profile.load(profiles(server) / "both.json").definition == "paper"


def test_shipped_profiles_load(server: ComfyServer) -> None:
    graph = Graph()
    ids = [graph.show(graph.add("RealismLoadProfile", name=name)) for name in listed(server)[:2]]
    run = done(server.run(graph))
    assert [shown(run, id)[0]["definition"] for id in ids] == ["reference", "paper"]


def fit_images(server: ComfyServer, seed: int, salt: int, **inputs: object) -> Run:
    graph = Graph()
    images = graph.add("TestImages", kind="soft", batch=6, seed=seed, salt=salt)
    graph.add("RealismFitProfile", images=images, name="taken", **inputs)
    return server.run(graph)


def test_a_profile_is_never_overwritten_by_another_unasked(server: ComfyServer) -> None:
    file = profiles(server) / "taken.json"
    done(fit_images(server, seed=1, salt=1))
    first = file.read_bytes()
    done(fit_images(server, seed=1, salt=2))
    assert file.read_bytes() == first
    check_refused(fit_images(server, seed=2, salt=3), "name 'taken' is taken", "overwrite")
    assert file.read_bytes() == first
    done(fit_images(server, seed=2, salt=4, overwrite=True))
    assert file.read_bytes() != first


def test_a_damaged_profile_of_the_same_name_is_replaced_only_when_asked(server: ComfyServer) -> None:
    file = profiles(server) / "taken.json"
    file.write_text("{ broken")
    check_refused(fit_images(server, seed=1, salt=5), "taken.json")
    assert file.read_text() == "{ broken"
    done(fit_images(server, seed=1, salt=6, overwrite=True))
    assert Profile.load(file).count == 6


@pytest.mark.parametrize("name", ["../up", "a/b", "a\\b", "C:x", "", "..", ".hidden", "what?"])
def test_names_with_path_parts_are_refused(server: ComfyServer, name: str) -> None:
    textures(server.base / "input" / "five", 5)
    run, _ = fit(server, folder="five", name=name)
    check_refused(run, "name", "cannot be a file name", "letters")
    assert not (server.base / "models" / "up.json").exists()


def test_folders_outside_comfyui_are_refused(server: ComfyServer, tmp_path: Path) -> None:
    textures(tmp_path / "secret", 5)
    link = server.base / "input" / "way out"
    if not link.is_symlink():
        link.symlink_to(tmp_path / "secret", target_is_directory=True)
    up = os.path.relpath(tmp_path / "secret", server.base / "input")
    for folder in ("..", up, str(tmp_path / "secret"), "way out", "real/../../.."):
        run, _ = fit(server, folder=folder, name="outside")
        check_refused(run, "folder", "leads outside ComfyUI's folders", "inside ComfyUI's input")
    assert not (profiles(server) / "outside.json").exists()


def test_an_absolute_folder_inside_comfyui_is_fine(server: ComfyServer) -> None:
    folder = textures(server.base / "output" / "good ones", 5)
    run, summary = fit(server, folder=str(folder), name="absolute")
    done(run)
    assert summary["pictures"] == 5


def test_nothing_to_fit(server: ComfyServer) -> None:
    (server.base / "input" / "empty").mkdir(exist_ok=True)
    textures(server.base / "input" / "few", 3)
    for inputs, words in (
        ({"folder": "empty"}, ["empty", "holds no pictures"]),
        ({"folder": "missing"}, ["missing", "does not exist"]),
        ({}, ["images and folder are both empty", "connect"]),
        ({"folder": "few"}, ["at least 5 usable pictures, got 3", "add photographs"]),
    ):
        run, _ = fit(server, name="nothing", **inputs)
        check_refused(run, *words)
    assert not (profiles(server) / "nothing.json").exists()


def test_odd_and_damaged_files(server: ComfyServer) -> None:
    """Unreadable files are named and the rest is fitted, each in the documented way."""
    folder = textures(server.base / "input" / "odd", 5)
    random = np.random.default_rng(7)
    pictures = [Image.fromarray(texture(random)) for _ in range(6)]
    pictures[0].save(folder / "cut.jpg", quality=95)
    whole = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "tiny.txt").write_text("passed over")
    pictures[1].save(folder / "moving.webp", save_all=True, append_images=pictures[2:4], lossless=True)
    deep = random.integers(0, 65536, (96, 96)).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    pictures[4].convert("CMYK").save(folder / "print.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures[5].crop((0, 0, 96, 70)).save(folder / "turned.jpg", exif=exif)
    run, summary = fit(server, folder="odd", name="odd", definition="paper")
    done(run)
    assert summary["pictures"] == 5 + 4  # the animation's first frame, 16 bits, CMYK, rotated
    assert len(summary["unreadable"]) == 2
    assert any("cut.jpg is damaged or cut short" in line for line in summary["unreadable"])
    assert any("text.png" in line for line in summary["unreadable"])


def test_pictures_that_are_too_small_are_left_out_by_name(server: ComfyServer) -> None:
    folder = textures(server.base / "input" / "small", 5)
    Image.new("RGB", (2, 50), "red").save(folder / "thin.png")
    run, summary = fit(server, folder="small", name="small")
    done(run)
    assert summary["pictures"] == 5
    assert any("thin.png" in line for line in summary["unreadable"])


def test_nan_pictures_do_not_get_into_a_profile(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="nan", batch=6)
    graph.add("RealismFitProfile", images=images, name="nan")
    check_refused(server.run(graph), "images", "NaN")
    assert not (profiles(server) / "nan.json").exists()


def load(server: ComfyServer, name: str) -> Run:
    graph = Graph()
    graph.show(graph.add("RealismLoadProfile", name=name))
    return server.run(graph)


def test_bad_profile_files_are_refused(server: ComfyServer) -> None:
    done(fit_images(server, seed=3, salt=7, overwrite=True))
    good = json.loads((profiles(server) / "taken.json").read_text())
    for name, content, words in (
        ("broken.json", "{ not json", ["broken.json cannot be read", "fit it again"]),
        ("list.json", "[1]", ["list.json is no realism profile"]),
        ("future.json", json.dumps({**good, "version": 99}), ["version 99", "update Realism Kit"]),
        ("nan.json", json.dumps({**good, "means": [float("nan")] * 5}), ["nan.json is damaged"]),
        ("short.json", json.dumps({**good, "means": [1.0]}), ["short.json is damaged"]),
    ):
        (profiles(server) / name).write_text(content)
        check_refused(load(server, name), *words)
        (profiles(server) / name).unlink()


def test_a_profile_that_is_gone_is_refused_before_the_run(server: ComfyServer) -> None:
    with pytest.raises(Refused) as refusal:
        load(server, "gone.json")
    assert refusal.value.code == 400
    (errors,) = refusal.value.body["node_errors"].values()
    assert errors["errors"][0]["extra_info"]["input_name"] == "name"


def test_a_refitted_profile_is_loaded_anew(server: ComfyServer) -> None:
    """ComfyUI caches by inputs; the file's time is one of them."""
    shutil.rmtree(server.base / "input" / "real2", ignore_errors=True)
    textures(server.base / "input" / "real2", 5)
    done(fit(server, folder="real2", name="anew")[0])
    graph = Graph()
    who = graph.show(graph.add("RealismLoadProfile", name="anew.json"))
    assert shown(done(server.run(graph)), who)[0]["count"] == 5
    textures(server.base / "input" / "real2", 7)
    graph_of_fit = Graph()
    graph_of_fit.add("RealismFitProfile", folder="real2/.", name="anew", overwrite=True)
    done(server.run(graph_of_fit))
    assert shown(done(server.run(graph)), who)[0]["count"] == 7


def test_a_folder_whose_pictures_changed_is_fitted_again(server: ComfyServer) -> None:
    """The same graph after new photographs came into the folder must not answer from ComfyUI's cache."""
    shutil.rmtree(server.base / "input" / "growing", ignore_errors=True)
    textures(server.base / "input" / "growing", 5)
    _, summary = fit(server, folder="growing", name="growing", overwrite=True)
    assert summary["pictures"] == 5
    textures(server.base / "input" / "growing", 6)
    _, summary = fit(server, folder="growing", name="growing", overwrite=True)
    assert summary["pictures"] == 6
