"""install.py as ComfyUI-Manager runs it: by ComfyUI's interpreter, in the pack's folder."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import install

ROOT = Path(__file__).resolve().parents[2]
INPUTS = ROOT / "workflows" / "inputs"
PICTURES = {file.name for file in INPUTS.iterdir() if file.is_file() and file.suffix != ".md"}
FACES = {file.name for file in (INPUTS / "faces").iterdir()}
MASK = "realism-kit-face.png"


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A copy of the pack in the custom_nodes of an empty ComfyUI."""
    folder = tmp_path / "ComfyUI" / "custom_nodes" / "any name"
    (folder / "workflows").mkdir(parents=True)
    shutil.copy(ROOT / "install.py", folder)
    shutil.copytree(INPUTS, folder / "workflows" / "inputs")
    return folder


def run(pack: Path, **environ: str) -> tuple[int, str]:
    known = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COMFYUI_BASE_DIRECTORY", "COMFYUI_FOLDERS_BASE_PATH", "COMFYUI_PATH", "PWD")
    }
    done = subprocess.run(
        [sys.executable, "install.py"], cwd=pack, env={**known, **environ}, capture_output=True, text=True
    )
    assert not done.stderr
    return done.returncode, done.stdout


def test_it_prepares_the_folders_and_the_example_pictures(pack: Path) -> None:
    base = pack.parent.parent
    code, said = run(pack)
    assert code == 0 and said == f"Realism Kit: ready in {base}.\n"
    assert {file.name for file in (base / "input" / "realism-kit").iterdir()} == PICTURES
    assert {file.name for file in (base / "input" / "realism-kit-faces").iterdir()} == FACES
    assert (base / "input" / MASK).read_bytes() == (INPUTS / "mask" / MASK).read_bytes()
    assert {file.name for file in (base / "input").iterdir()} == {"realism-kit", "realism-kit-faces", MASK}
    for name in ("realism_profiles", "realism_adapters"):
        assert (base / "models" / name).is_dir()


def test_a_second_run_changes_nothing(pack: Path) -> None:
    inputs = pack.parent.parent / "input" / "realism-kit"
    run(pack)
    name = sorted(PICTURES)[0]
    (inputs / name).write_bytes(b"the artist's own")
    (inputs / "mine.png").write_bytes(b"kept")
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in inputs.iterdir()}
    assert run(pack)[0] == 0
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in inputs.iterdir()} == before


def test_a_picture_that_is_gone_comes_back(pack: Path) -> None:
    run(pack)
    gone = pack.parent.parent / "input" / "realism-kit" / sorted(PICTURES)[0]
    gone.unlink()
    run(pack)
    assert gone.is_file()


def test_the_base_folder_can_be_named(pack: Path, tmp_path: Path) -> None:
    code, said = run(pack, COMFYUI_BASE_DIRECTORY=str(tmp_path / "elsewhere"))
    assert code == 0 and "elsewhere" in said
    assert (tmp_path / "elsewhere" / "models" / "realism_profiles").is_dir()
    assert not (pack.parent.parent / "models").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_a_linked_checkout_prepares_the_comfyui_it_is_linked_into(tmp_path: Path) -> None:
    link = tmp_path / "ComfyUI" / "custom_nodes" / "linked"
    link.parent.mkdir(parents=True)
    link.symlink_to(ROOT, target_is_directory=True)
    code, _ = run(link, PWD=str(link))
    assert code == 0 and (tmp_path / "ComfyUI" / "models" / "realism_profiles").is_dir()


def test_outside_custom_nodes_it_says_where_to_move_it(tmp_path: Path) -> None:
    shutil.copy(ROOT / "install.py", tmp_path)
    code, said = run(tmp_path)
    assert code == 1
    assert "not inside ComfyUI's custom_nodes" in said and "COMFYUI_BASE_DIRECTORY" in said
    assert {file.name for file in tmp_path.iterdir()} == {"install.py"}


def test_a_target_that_cannot_be_written_is_named(pack: Path) -> None:
    (pack.parent.parent / "models").write_text("a file where a folder belongs")
    code, said = run(pack)
    assert code == 1 and "models" in said and "could not be written" in said and "permissions" in said
    assert "Traceback" not in said


def test_an_incomplete_pack_is_named(pack: Path) -> None:
    shutil.rmtree(pack / "workflows")
    code, said = run(pack)
    assert code == 1 and "workflows" in said


def test_an_old_comfyui_is_named(pack: Path) -> None:
    (pack.parent.parent / "comfyui_version.py").write_text('__version__ = "0.3.40"\n')
    code, said = run(pack)
    assert code == 1 and "ComfyUI 0.3.40 is too old: update it to 0.3.75 or newer." in said
    (pack.parent.parent / "comfyui_version.py").write_text('__version__ = "0.30.0"\n')
    assert run(pack)[0] == 0


def test_an_old_python_and_an_old_torch_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(install.metadata, "version", lambda name: "2.1.2+cpu")
    python, torch = install.version_problems(None)
    assert python == "Python 3.9 is too old: use 3.10 or newer."
    assert torch == "torch 2.1.2+cpu is too old: use 2.2 or newer."


def test_a_python_without_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise install.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(install.metadata, "version", absent)
    (problem,) = install.version_problems(None)
    assert "torch is not installed" in problem and "the Python that runs ComfyUI" in problem


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.13.0", (2, 13, 0)), ("2.2.0a0+git1", (2, 2, 0)), ("2.14.1+cpu", (2, 14, 1)), ("0.3.75", (0, 3, 75))],
)
def test_versions_are_read_as_numbers(version: str, expected: tuple[int, ...]) -> None:
    assert install.numbers(version) == expected


def test_it_starts_nothing_and_fetches_nothing() -> None:
    """Only what needs neither a package nor a network nor another process is imported."""
    tree = ast.parse((ROOT / "install.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"os", "re", "shutil", "sys", "importlib", "pathlib"}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not attributes & {"system", "popen", "execv", "spawnv", "startfile", "import_module"}
