"""Face parsing in the real ComfyUI, and the download of a model from a hub on the loopback interface."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from devtools.client import Run
from devtools.server import ComfyServer
from realism_core.conditioning.masks import SemanticMask
from realism_core.conditioning.parser_download import FACE_PARSER
from realism_core.conditioning.parser_model import load_parser
from realism_core.conditioning.parsing import Options, parse
from realism_core.conditioning.vocabulary import CLASS_NAMES
from tests.comfy.conftest import ROOT, TEST_PACK
from tests.comfy.graphs import Graph, Node, done, failure, shown, status
from tests.core.faces import face
from tests.given import given
from tests.hub_server import REPOSITORY, REVISION, Hub
from tests.tiny_parser import FILES, blocks, pictures, write_grey_parser

MODEL = "grey/model.safetensors"
SMALL = blocks(face(64, 64))
NONE = "none yet: press Download model"


def models(server: ComfyServer) -> Path:
    return server.base / "models" / "face_parsing"


@pytest.fixture(scope="module")
def parser_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grey_parser(tmp_path_factory.mktemp("parsers") / "grey").parent


def installed(server: ComfyServer, folder: Path, name: str = "grey", only: tuple = FILES) -> None:
    (models(server) / name).mkdir(parents=True, exist_ok=True)
    for file in only:
        (models(server) / name / file).write_bytes((folder / file).read_bytes())


def loaded(graph: Graph, server: ComfyServer, labels: Tensor, name: str = "parse") -> tuple[Node, Tensor]:
    """Return a node that loads a picture of labels, and what it gives."""
    levels = (pictures(labels[None])[0].numpy() * 255).round().astype(np.uint8)
    Image.fromarray(levels).save(server.base / "input" / f"{name}.png")
    return graph.add("LoadImage", image=f"{name}.png"), torch.from_numpy(levels / np.float32(255))[None]


def parsed(graph: Graph, images: Node, model: str = MODEL, **inputs) -> Node:
    return graph.add("RealismParseFace", images=images, model=model, **inputs)


def told(run: Run, node: Node) -> str:
    return run.entry["outputs"][node.id].get("text", [""])[0]


def covers(graph: Graph, server: ComfyServer, node: Node) -> tuple[Run, list[list[float]]]:
    """Return how much of each picture each of the 19 classes covers."""
    parts = graph.add(
        "RealismFaceMaskParts", mask=node["mask"], parts="everything", on_empty="empty"
    )
    id = graph.show(parts["masks"])
    run = done(server.run(graph))
    return run, [item["means"] for item in shown(run, id)]


def is_as(means: list[list[float]], mask: SemanticMask) -> bool:
    """Up to a few pixels between two classes, which another number of threads may turn."""
    return all(
        np.allclose(means[label], mask.region([label]).mean((1, 2)), atol=2e-3) for label in range(len(means))
    )


@pytest.mark.parametrize("options", [
    {}, {"soft": True}, {"each_face": True, "confidence": 0.6}, {"turn": True, "swap_sides": True},
    {"side": 100},
])  # fmt: skip
def test_a_face(server: ComfyServer, parser_folder: Path, options: dict) -> None:
    """As the core gives for the same picture and file."""
    installed(server, parser_folder)
    graph = Graph()
    loader, images = loaded(graph, server, SMALL)
    node = parsed(graph, loader, **options)
    run, means = covers(graph, server, node)
    expected = parse(load_parser(parser_folder / FILES[2]), images, Options(**options)).mask
    assert len(means) == 19 and is_as(means, expected)
    assert means[CLASS_NAMES.index("hair")][0] > 0.05
    (preview,) = run.entry["outputs"][node.id]["images"]
    assert Image.open(server.base / "temp" / preview["subfolder"] / preview["filename"]).width > 400
    assert told(run, node) == ""


def test_a_batch_with_no_face_in_one(server: ComfyServer, parser_folder: Path) -> None:
    installed(server, parser_folder)
    graph = Graph()
    one, _ = loaded(graph, server, SMALL)
    other, _ = loaded(graph, server, torch.zeros_like(SMALL), "black")
    node = parsed(graph, graph.add("ImageBatch", image1=one, image2=other))
    run, means = covers(graph, server, node)
    assert means[0][1] == 1 and 0 < means[0][0] < 1
    assert told(run, node) == "picture 2: no face was found, so it is background everywhere"


def test_faces_of_a_mask(server: ComfyServer, parser_folder: Path) -> None:
    installed(server, parser_folder)
    graph = Graph()
    loader, _ = loaded(graph, server, SMALL)
    mask = graph.add("TestMask", height=64, width=64, fill=1.0)
    node = parsed(graph, loader, each_face=True, faces=mask)
    _, means = covers(graph, server, node)
    assert means[CLASS_NAMES.index("skin")][0] > 0.05
    graph = Graph()
    loader, _ = loaded(graph, server, SMALL)
    node = parsed(graph, loader, faces=graph.add("TestMask", height=64, width=64, fill=1.0))
    graph.show(node["mask"])
    assert "each_face is off: switch each_face on, or disconnect it" in failure(server.run(graph))


def test_it_is_unloaded_and_read_again(server: ComfyServer, parser_folder: Path) -> None:
    """Also where the file has changed in between."""
    installed(server, parser_folder, "again")
    results = []
    for step in range(3):
        graph = Graph()
        loader, _ = loaded(graph, server, SMALL, f"again{step}")
        _, means = covers(graph, server, parsed(graph, loader, "again/model.safetensors"))
        results.append(means)
        if step == 0:
            server.post("/free", {"unload_models": True, "free_memory": True})
            time.sleep(4)  # unloaded, and dropped a little later
        if step == 1:
            swapped = write_grey_parser(models(server) / "again", tuple(reversed(CLASS_NAMES)))
            assert swapped.is_file()
    assert results[0] == results[1]
    assert results[2] != results[1], "the classes are named the other way round"


def test_bad_models(server: ComfyServer, parser_folder: Path) -> None:
    installed(server, parser_folder, "half", FILES[:2])
    (models(server) / "half" / "pytorch_model.bin").write_bytes(b"pickle")
    installed(server, parser_folder, "broken")
    (models(server) / "broken" / "model.safetensors").write_bytes(b"x" * 100)
    installed(server, parser_folder, "bert")
    (models(server) / "bert" / "config.json").write_text('{"model_type": "bert"}')
    for model, words in (
        ("half/pytorch_model.bin", "is no safetensors file; files of that kind can run code"),
        ("broken/model.safetensors", "cannot be loaded as its config.json says"),
        ("bert/model.safetensors", "is of a model of type 'bert': only SegFormer models are read"),
    ):
        graph = Graph()
        loader, _ = loaded(graph, server, SMALL)
        graph.show(parsed(graph, loader, model)["mask"])
        assert words in failure(server.run(graph)), model


def test_cancel(server: ComfyServer, parser_folder: Path) -> None:
    """Within a batch; the next run works."""
    installed(server, parser_folder)
    graph = Graph()
    images = graph.add("TestImages", batch=300, height=64, width=64, seed=7)
    node = parsed(graph, images, turn=True)
    graph.show(node["mask"])
    pressed = []

    def interrupt(name: str, data: dict) -> None:
        if name == "progress" and data.get("node") == node.id and data["value"] > 2 and not pressed:
            pressed.append(data["value"])
            server.post("/interrupt", {})

    run = server.run(graph, on_event=interrupt)
    assert pressed and status(run) == "execution_interrupted"
    graph = Graph()
    loader, _ = loaded(graph, server, SMALL, "after")
    _, means = covers(graph, server, parsed(graph, loader))
    assert means[CLASS_NAMES.index("hair")][0] > 0.05


def followed(server: ComfyServer, until: float = 60) -> dict:
    """Return how the download ended."""
    end = time.monotonic() + until
    while (state := server.post("/realism/face_parser/state", {}))["state"] == "running":
        assert time.monotonic() < end
        time.sleep(0.1)
    return state


def test_offline(server: ComfyServer) -> None:
    assert server.post("/realism/face_parser/start", {})["state"] in ("running", "failed")
    ended = followed(server)
    assert ended["state"] == "failed" and "downloads are switched off (HF_HUB_OFFLINE" in ended["error"]
    assert not list(models(server).glob("jonathandinu*"))


@pytest.fixture(scope="module")
def hub(parser_folder: Path) -> Iterator[Hub]:
    with Hub({name: (parser_folder / name).read_bytes() for name in FILES}) as running:
        yield running


@pytest.fixture(scope="module")
def online(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """ComfyUI whose hub is the one on the loopback interface."""
    packs = {"realism-kit": ROOT, "realism-test-nodes": TEST_PACK}
    with pytest.MonkeyPatch.context() as patch:  # other servers that start later are offline
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HUB_OFFLINE", "0")
        server = ComfyServer(
            tmp_path_factory.mktemp("online"), packs, given("REALISM_COMFYUI_DIR", "comfy"),
            given("REALISM_COMFYUI_PY", "comfy"),
        )  # fmt: skip
    with server as running:
        yield running


def test_nothing_is_fetched_before_the_button(online: ComfyServer, hub: Hub) -> None:
    """Neither at the start nor by a run without a model, which says what to do."""
    graph = Graph()
    loader, _ = loaded(graph, online, SMALL)
    graph.show(parsed(graph, loader, NONE)["mask"])
    assert "is not in models/face_parsing: press Download model on the node" in failure(online.run(graph))
    options = online.object_info()["RealismParseFace"]["input"]["required"]["model"]
    assert NONE in (options[0] if isinstance(options[0], list) else options[1]["options"])
    assert not hub.requests and online.post("/realism/face_parser/state", {}) == {"state": "idle"}


def test_another_file_is_refused(online: ComfyServer, hub: Hub) -> None:
    """The pinned model, from a hub that has another one under its name."""
    hub.repository, hub.revision = FACE_PARSER.repository, FACE_PARSER.revision
    online.post("/realism/face_parser/start", {})
    ended = followed(online)
    assert ended["state"] == "failed" and "it is another file, so nothing was downloaded" in ended["error"]
    assert "model.safetensors" not in hub.asked("GET")
    hub.repository, hub.revision = REPOSITORY, "f" * 40
    online.post("/realism/face_parser/start", {})
    ended = followed(online)
    assert ended["state"] == "failed" and "answered with an error (404)" in ended["error"]


def test_a_press_of_the_button(online: ComfyServer, hub: Hub, parser_folder: Path) -> None:
    """Stopped, gone on with, done; then the model is there and works."""
    hub.repository, hub.revision = REPOSITORY, REVISION
    digest = hashlib.sha256((parser_folder / FILES[2]).read_bytes()).hexdigest()
    graph = Graph()
    graph.add("TestParserPin", repository=REPOSITORY, revision=REVISION, digest=digest)
    done(online.run(graph))
    hub.slow = 0.2
    assert online.post("/realism/face_parser/start", {})["state"] == "running"
    time.sleep(0.5)
    online.post("/realism/face_parser/stop", {})
    assert followed(online)["state"] == "stopped"
    assert not list(models(online).glob("*/model.safetensors"))
    hub.slow = 0
    online.post("/realism/face_parser/start", {})
    ended = followed(online)
    assert ended == {"state": "done", "name": "someone--tiny-parser/model.safetensors"}
    graph = Graph()
    loader, images = loaded(graph, online, SMALL)
    _, means = covers(graph, online, parsed(graph, loader, ended["name"]))
    assert is_as(means, parse(load_parser(parser_folder / FILES[2]), images).mask)
    count = len(hub.requests)
    online.post("/realism/face_parser/start", {})
    assert followed(online)["state"] == "done" and len(hub.requests) == count


def test_on_the_oldest_comfyui(old_server: ComfyServer, parser_folder: Path) -> None:
    installed(old_server, parser_folder)
    graph = Graph()
    loader, images = loaded(graph, old_server, SMALL)
    node = parsed(graph, loader)
    _, means = covers(graph, old_server, node)
    assert is_as(means, parse(load_parser(parser_folder / FILES[2]), images).mask)
    old_server.post("/free", {"unload_models": True, "free_memory": True})
    old_server.post("/realism/face_parser/start", {})
    assert "downloads are switched off" in followed(old_server)["error"]
