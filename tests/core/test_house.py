"""The rules of the house that a program can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ["__init__.py", "install.py", "nodes", "realism_core", "web", "workflows", "locales"]
TEXTS = {".py", ".json", ".md", ".js", ".txt", ".toml", ".svg"}
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "execution"}
FORBIDDEN = {"subprocess", "pip", "pickle", "cv2", "skimage", "ctypes", "socket"}
# which parts of realism_core each part may import; "" are the modules at its top
CORE = {
    "": set(),
    "irs": {""},
    "degrade": {""},
    "evidence": {"", "irs"},
    "gate": {"", "irs", "evidence"},
    "conditioning": {""},
    "training": {"", "irs", "evidence", "conditioning"},
    "plots": {"", "irs", "evidence", "gate", "training", "conditioning"},
    "evaluation": {"", "irs", "evidence", "conditioning"},
    "commands": {"", "irs", "evidence", "gate", "conditioning", "training", "plots", "evaluation"},
}
COMMAND_LINE = {"cli.py", "__main__.py"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (level, module) of every import of a file; level 0 is absolute."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            yield from ((node.level, node.module) for _ in names[:1] if node.module)
            yield from ((node.level, name) for name in names if not node.module)


def inside(path: Path, level: int, module: str) -> str:
    """Return the dotted place, from the checkout's root, that a relative import leads to."""
    folder = path.relative_to(ROOT).parts[:-level] if level <= len(path.relative_to(ROOT).parts) else None
    assert folder is not None, f"{name_of(path)} imports from outside the pack"
    return ".".join([*folder, module])


@pytest.mark.parametrize("path", sources("realism_core"), ids=name_of)
def test_the_core_knows_nothing_of_comfyui_and_its_arrows_point_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT / "realism_core").parts
    part = parts[0] if len(parts) > 1 else ""
    assert part in CORE, f"realism_core/{part} is new: say in CORE what it may import"
    for level, module in imports(path):
        if level == 0:
            first = module.split(".")[0]
            assert first not in COMFYUI | {"nodes", "realism_core"}, f"{module}: the core imports relatively"
            continue
        place = inside(path, level, module).split(".")
        assert place[0] == "realism_core", f"{'.'.join(place)} is above the core"
        other = place[1] if len(place) > 1 and (ROOT / "realism_core" / place[1]).is_dir() else ""
        if path.name not in COMMAND_LINE or part:
            assert other == part or other in CORE[part], f"{part or 'the top'} may not import {other}"


@pytest.mark.parametrize("path", sources("nodes"), ids=name_of)
def test_only_the_adapter_touches_comfyui(path: Path) -> None:
    for level, module in imports(path):
        first = module.split(".")[0]
        if level == 0:
            assert first not in {"realism_core", "comfy_extras"}, f"{module}: import relatively"
            # an absolute `nodes` is ComfyUI's nodes.py
            ours = first not in COMFYUI | {"nodes"} or path.name == "comfy.py"
            assert ours, f"{module} belongs into nodes/comfy.py"
        else:
            assert inside(path, level, module).split(".")[0] in ("nodes", "realism_core")


def test_the_entrypoint_imports_nothing_before_it_is_asked() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text())
    assert not [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]


def shipped() -> Iterator[Path]:
    for name in SHIPPED:
        path = ROOT / name
        files = [path] if path.is_file() else path.rglob("*")
        yield from (file for file in files if file.suffix in TEXTS and "__pycache__" not in file.parts)


@pytest.mark.parametrize("word", ["cuda", "NODE_CLASS_MAPPINGS"])
def test_words_that_appear_in_no_shipped_file(word: str) -> None:
    assert not [name_of(file) for file in shipped() if word.lower() in file.read_text("utf-8").lower()]


def test_nothing_shipped_evaluates_text_or_starts_programs() -> None:
    for file in shipped():
        if file.suffix != ".py":
            continue
        tree = ast.parse(file.read_text())
        calls = {
            node.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"eval", "exec", "compile", "__import__"}, name_of(file)
        modules = {module.split(".")[0] for level, module in imports(file) if level == 0}
        assert not modules & FORBIDDEN, name_of(file)


def test_node_ids_are_written_out() -> None:
    """Registries read node ids from the source."""
    for path in sources("nodes"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "node_id":
                assert isinstance(node.value, ast.Constant), name_of(path)
                assert node.value.value.startswith("Realism")


def test_ruff_finds_nothing() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


WATCH = """
import sys
import numpy, PIL.Image, PIL.ImageDraw, scipy.ndimage, torch  # what ComfyUI has imported anyway
from torch.utils._python_dispatch import TorchDispatchMode

seen = []

class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if getattr(result, "numel", lambda: 0)() > 1000:
            seen.append(f"torch: {function}")
        return result

def audit(event, args):
    if event == "open" and isinstance(args[0], str) and not args[0].endswith((".py", ".pyc", ".so")):
        if ".pyc." not in args[0]:
            seen.append(f"open: {args[0]}")
    if event.startswith(("socket.", "subprocess.", "os.system")):
        seen.append(event)

with Watch():
    torch.ones(1)  # the watching itself imports parts of torch
sys.addaudithook(audit)
with Watch():
    import realism_core.irs, realism_core.evidence, realism_core.gate, realism_core.plots
    import realism_core.pictures, realism_core.saving
    import realism_core.conditioning.attributes, realism_core.conditioning.mask_edits
    import realism_core.conditioning.mask_pictures, realism_core.plots.mask
    import realism_core.conditioning.parsing, realism_core.conditioning.parser_download
print("\\n".join(seen))
"""


def test_importing_the_core_reads_no_file_opens_no_connection_and_computes_nothing() -> None:
    """Tables of up to a thousand numbers are constants, not work."""
    done = subprocess.run([sys.executable, "-c", WATCH], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
