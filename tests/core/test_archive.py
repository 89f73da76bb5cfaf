"""What the Registry's archive holds, and what a security scanner says of it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from nodesafe.scanner import Scanner

from devtools.archive import build_archive, packed_files, unpack

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("nodes", "realism_core", "web", "workflows", "locales")
KINDS = {"", ".py", ".json", ".md", ".txt", ".toml", ".svg", ".png", ".jpg", ".js", ".css", ".safetensors"}
KEPT_BACK = ("tests", "devtools", "benchmarks", "docs", ".ci", "dev.py", ".comfyignore", ".gitignore")
NEEDED = ("__init__.py", "install.py", "pyproject.toml", "requirements.txt", "LICENSE", "nodes/__init__.py")
# extras that exist under these very names; the scanner finds them close to other packages' names
REAL_PACKAGES = {"lpips"}
LONGEST_WORD = 60


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the archive is made of tracked files, and this is no git checkout")
    return build_archive(ROOT, tmp_path_factory.mktemp("archive") / "pack.zip")


@pytest.fixture(scope="module")
def unpacked(archive: Path) -> Path:
    return unpack(archive, archive.parent / "realism-kit")


def files(unpacked: Path) -> set[str]:
    return {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}


def test_tests_and_tools_stay_behind(unpacked: Path) -> None:
    assert not {file for file in files(unpacked) if file.split("/")[0] in KEPT_BACK}


def test_everything_that_runs_goes_along(unpacked: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = {
        file
        for file in listed.split()
        if file.split("/")[0] in SHIPPED and (ROOT / file).is_file()
    }
    packed = files(unpacked)
    assert wanted <= packed and set(NEEDED) <= packed
    assert any(file.startswith("web/docs/") for file in packed)
    assert any(file.startswith("realism_core/irs/profiles/") for file in packed)


def test_nothing_but_what_is_known_goes_along(unpacked: Path) -> None:
    assert {Path(file).suffix for file in files(unpacked)} <= KINDS


def test_it_is_small(archive: Path) -> None:
    assert archive.stat().st_size < 4_000_000


def test_patterns_without_git_history(tmp_path: Path) -> None:
    """A folder of the same name further down is packed; files gone from the working tree are not."""
    for file in ("nodes/a.py", "docs/guide.md", "web/docs/A/en.md", "gone.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("text")
    (tmp_path / ".comfyignore").write_text((ROOT / ".comfyignore").read_text())
    subprocess.run("git init -q && git add -A", shell=True, cwd=tmp_path, check=True)
    (tmp_path / "gone.py").unlink()
    (tmp_path / "untracked.py").write_text("text")
    assert packed_files(tmp_path) == ["nodes/a.py", "web/docs/A/en.md"]


def test_the_scanner_finds_nothing(unpacked: Path) -> None:
    """nodesafe has no way to mark a finding as reviewed, so each kind of false alarm is disproved here.

    Most are docstrings: it calls every text of 40 letters with an entropy of 4.5 bits an encoded payload.
    """
    report = Scanner().scan(unpacked)
    alarms = [finding for finding in report.findings if not is_disproved(finding, unpacked)]
    assert not alarms, "\n".join(f"{a.file}:{a.line} {a.title}: {a.snippet}" for a in alarms)
    assert report.verdict.label.value != "malicious"
    assert len(report.scan.layers_run) == 6


def is_disproved(finding, root: Path) -> bool:
    """Tell whether a finding is one of the false alarms that can be shown to be one, by the file itself."""
    if finding.severity.value in ("high", "critical"):
        return False
    if finding.category == "typosquatting":
        return finding.snippet in REAL_PACKAGES
    tree = ast.parse((root / finding.file).read_text()) if finding.file.endswith(".py") else None
    if tree is None:
        return False
    if finding.category == "code_obfuscation_high_entropy":
        return all(is_prose(text) for text in texts_at(tree, finding.line))
    if finding.category == "obfuscation_chains" and "`ord(`" in finding.title:
        return "ord" not in called_names(tree)
    if finding.category == "dynamic_attribute_access":
        # the command line's own options, by names written out in the same function
        return "getattr(args, option)" in finding.snippet
    return finding.category == "code_obfuscation_suspicious_ident" and finding.severity.value == "low"


def texts_at(tree: ast.AST, line: int) -> list[str]:
    """Return the string literals that begin on a line."""
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.lineno == line
    ]


def is_prose(text: str) -> bool:
    """Tell sentences from encoded data: short words with spaces between them."""
    words = re.split(r"\s+", text.strip())
    spaced = len(text) < 2 * LONGEST_WORD or len(words) > len(text) / 15
    return max(map(len, words)) <= LONGEST_WORD and spaced


def called_names(tree: ast.AST) -> set[str]:
    return {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def test_the_scanner_would_see_a_payload(unpacked: Path, tmp_path: Path) -> None:
    """The disproof lets no encoded payload through."""
    bad = tmp_path / "bad"
    bad.mkdir()
    payload = "QWxhZGRpbjpvcGVuIHNlc2FtZQ+/x8Zk3LmPq1VbNc7RtYu0IoHjKw2SdFgE5a6BnMvCzXlJ9hGyTrW4" * 3
    (bad / "__init__.py").write_text(f'import base64\nDATA = "{payload}"\nexec(base64.b64decode(DATA))\n')
    assert any(not is_disproved(finding, bad) for finding in Scanner().scan(bad).findings)
