"""What `pip install` of the core alone brings: every tracked file of realism_core and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from devtools.archive import packed_files

ROOT = Path(__file__).resolve().parents[2]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
USE = """
import sys
from realism_core.evidence import detector
from realism_core.irs import DEFINITIONS, profile
for module in (detector, profile):
    assert module.SHIPPED.is_relative_to(sys.argv[1]), module.SHIPPED
detector.shipped()
print([profile.Profile.shipped(definition).definition for definition in DEFINITIONS] == list(DEFINITIONS))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what the Registry's archive holds, built as pip builds it."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the archive is made of tracked files, and this is no git checkout")
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for file in packed_files(ROOT):
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, source / file)
    command = [sys.executable, "-c", BUILD, str(made)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return next(made.glob("*.whl"))


def test_it_holds_every_file_of_the_core_and_nothing_else(wheel: Path) -> None:
    tracked = {file for file in packed_files(ROOT) if file.startswith("realism_core/")}
    assert {file for file in tracked if not file.endswith(".py")}  # the core has files that are no code
    packed = {file for file in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in file}
    assert packed == tracked


def test_what_comes_with_the_core_loads_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == "True", done.stderr[-3000:]
