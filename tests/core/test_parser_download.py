"""The download of a face parser from a hub on the loopback interface."""

from __future__ import annotations

import ast
import hashlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from realism_core.conditioning import parser_download
from realism_core.conditioning.parser_download import FACE_PARSER, Cancelled, Pin, fetch
from realism_core.conditioning.parser_model import load_parser
from tests.hub_server import REPOSITORY, REVISION, Hub
from tests.tiny_parser import FILES, write_parser

FOLDER = "someone--tiny-parser"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = write_parser(tmp_path_factory.mktemp("given")).parent
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture
def hub(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants, file_download

    with Hub(dict(files)) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in (constants, file_download):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        yield running


@pytest.fixture
def pin(files: dict[str, bytes]) -> Pin:
    digest = hashlib.sha256(files[WEIGHTS]).hexdigest()
    return Pin(REPOSITORY, REVISION, {**{name: None for name in FILES}, WEIGHTS: digest})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(file_download.time, "sleep", lambda *_: None)


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_model_is_fetched_and_loads(hub: Hub, pin: Pin, files: dict, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    place = fetch(pin, tmp_path, lambda done, total: told.append((done, total)))
    assert place == tmp_path / FOLDER
    assert left(tmp_path) == sorted(f"{FOLDER}/{name}" for name in FILES)
    assert all((place / name).read_bytes() == content for name, content in files.items())
    assert told[-1] == (len(files[WEIGHTS]), len(files[WEIGHTS]))
    assert len(load_parser(place / WEIGHTS).classes) == 19
    # newer versions of huggingface_hub ask the hub which agents it knows
    asked = {path for _, path, _ in hub.requests if not path.startswith("/api/")}
    assert all(REVISION in path or path == f"/store/{WEIGHTS}" for path in asked)


def test_it_is_fetched_once(hub: Hub, pin: Pin, tmp_path: Path) -> None:
    fetch(pin, tmp_path)
    count = len(hub.requests)
    assert fetch(pin, tmp_path) == tmp_path / FOLDER and len(hub.requests) == count


def test_no_token_is_sent(hub: Hub, pin: Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    handler = hub._server.RequestHandlerClass
    answer = handler._answer

    def noted(self, body: bool) -> None:
        seen.append(str(self.headers))
        answer(self, body)

    monkeypatch.setattr(handler, "_answer", noted)
    fetch(pin, tmp_path)
    assert seen and not any("secret" in headers for headers in seen)


def test_offline(hub: Hub, pin: Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="downloads are switched off.*unset it and restart ComfyUI, or copy"):
        fetch(pin, tmp_path)
    assert not hub.requests and not left(tmp_path)
    shutil.copytree(write_parser(tmp_path / "other").parent, tmp_path / FOLDER)
    assert fetch(pin, tmp_path) == tmp_path / FOLDER, "what is there needs no hub"


@pytest.mark.parametrize(("trouble", "words"), [
    ("missing", r"answered with an error \(404\). The model has moved"),
    ("broken", r"answered with an error \(500\)"),
    ("renamed", "has the checksum ffffffffffff..., not .* it is another file, so nothing was downloaded"),
    ("other", "is not of the commit 01234567"),
    ("wrong", "arrived with a wrong checksum and was deleted: download again"),
    ("silent", "cannot be reached or stopped answering .*check the connection and download again"),
    ("half", "cannot be reached or stopped answering .*what has arrived is kept"),
])  # fmt: skip
def test_troubles_are_told_and_leave_no_model(
    hub: Hub, pin: Pin, tmp_path: Path, impatient: None, trouble: str, words: str
) -> None:
    """Where the server mends, the same download goes on."""
    hub.trouble = trouble
    with pytest.raises(ValueError, match=words) as error:
        fetch(pin, tmp_path)
    assert hub.url in str(error.value)
    assert not (tmp_path / FOLDER).exists()
    assert not any(name.endswith(WEIGHTS) for name in left(tmp_path))
    hub.trouble = ""
    assert load_parser(fetch(pin, tmp_path) / WEIGHTS)
    assert left(tmp_path) == sorted(f"{FOLDER}/{name}" for name in FILES)


def test_a_server_that_is_not_there(hub: Hub, pin: Pin, tmp_path: Path, impatient: None) -> None:
    hub.__exit__()
    with pytest.raises(ValueError, match="cannot be reached or stopped answering"):
        fetch(pin, tmp_path)
    assert not (tmp_path / FOLDER).exists()


def stop_at(share: float):
    def progress(done: int, total: int) -> None:
        if total > 50_000 and done >= share * total:
            raise Cancelled

    return progress


@pytest.mark.parametrize("ranges", [True, False])
def test_a_stopped_download_goes_on(
    hub: Hub, pin: Pin, files: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    """From where it stopped, or from the start where the server knows no ranges."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 14)
    with pytest.raises(Cancelled):
        fetch(pin, tmp_path, stop_at(0.5))
    (part,) = [path for path in tmp_path.rglob("*.part")]
    there = part.stat().st_size
    assert 0 < there < len(files[WEIGHTS]) and not (tmp_path / FOLDER).exists()
    hub.trouble = "" if ranges else "whole"
    hub.requests.clear()
    place = fetch(pin, tmp_path)
    assert (place / WEIGHTS).read_bytes() == files[WEIGHTS]
    asked = [given for verb, path, given in hub.requests if verb == "GET" and path.endswith(WEIGHTS)]
    assert asked[0] == f"bytes={there}-"
    assert hub.asked("GET").count("config.json") == 0, "what was whole is not fetched again"


def test_remains_that_are_wrong_are_fetched_anew(hub: Hub, pin: Pin, files: dict, tmp_path: Path) -> None:
    part = tmp_path / parser_download.INCOMING / FOLDER / REVISION / f"{WEIGHTS}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="wrong checksum and was deleted"):
        fetch(pin, tmp_path)
    assert (fetch(pin, tmp_path) / WEIGHTS).read_bytes() == files[WEIGHTS]
    shutil.rmtree(tmp_path / FOLDER)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * (len(files[WEIGHTS]) + 1))
    assert (fetch(pin, tmp_path) / WEIGHTS).read_bytes() == files[WEIGHTS]


def test_a_text_file_that_changed_on_the_way(hub: Hub, pin: Pin, tmp_path: Path) -> None:
    """It has no pinned SHA-256: the id that the hub names for it is checked."""
    hub.trouble = "wrong"
    with pytest.raises(ValueError, match=r"config.json of someone/tiny-parser .* arrived with a wrong"):
        fetch(pin, tmp_path)
    assert hub.asked("GET") == ["config.json"]


def test_a_folder_in_the_way(hub: Hub, pin: Pin, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    with pytest.raises(ValueError, match="is there, but not all of config.json.*remove it"):
        fetch(pin, tmp_path)
    assert not hub.requests


def test_no_room(hub: Hub, pin: Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(parser_download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match="cannot be written .*make room"):
        fetch(pin, tmp_path)
    assert not (tmp_path / FOLDER).exists()


def test_the_pin_is_whole() -> None:
    assert re.fullmatch("[0-9a-f]{40}", FACE_PARSER.revision)
    assert list(FACE_PARSER.files) == list(FILES)
    assert re.fullmatch("[0-9a-f]{64}", FACE_PARSER.files[WEIGHTS])
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in FACE_PARSER.files)


def test_nothing_is_imported_for_it_before_it_is_asked() -> None:
    tree = ast.parse(Path(parser_download.__file__).read_text())
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in top if isinstance(node, ast.ImportFrom) and not node.level}
    assert not names - set(sys.stdlib_module_names) - {"collections.abc"}
