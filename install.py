"""What ComfyUI-Manager runs after requirements.txt: folders, example pictures and a check of versions.

Downloads nothing and starts nothing. Run by hand: python install.py, in the pack's folder under custom_nodes.
"""

import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

MODEL_FOLDERS = ("realism_profiles", "realism_adapters", "face_parsing")
# folders of workflows/inputs, and where they go in input; Load Image lists what lies in input itself
INPUTS = {".": "realism-kit", "faces": "realism-kit-faces", "mask": "."}
PYTHON = (3, 10)
TORCH = (2, 2)
COMFYUI = (0, 3, 75)


def main() -> int:
    """Prepare ComfyUI's folders for the pack; returns 1 if something is wrong, after saying what."""
    pack = Path(os.path.abspath(__file__)).parent
    base = find_base(pack)
    problems = version_problems(base)
    if base is None:
        problems.append(
            "this folder is not inside ComfyUI's custom_nodes, so its model and input folders were not "
            "found: move the pack to ComfyUI/custom_nodes, or set COMFYUI_BASE_DIRECTORY to the folder that "
            "holds models and input."
        )
    else:
        problems += prepare(pack, base)
    for problem in problems:
        print(f"Realism Kit: {problem}")
    print("Realism Kit: " + ("see above." if problems else f"ready in {base}."))
    return 1 if problems else 0


def find_base(pack: Path) -> Path | None:
    """Return the folder that holds models/ and input/, or None."""
    for name in ("COMFYUI_BASE_DIRECTORY", "COMFYUI_FOLDERS_BASE_PATH"):
        if os.environ.get(name):
            return Path(os.environ[name])
    for folder in (Path(os.environ.get("PWD", "")), Path.cwd(), pack):
        if folder.parent.name == "custom_nodes":
            return folder.parent.parent
    return Path(os.environ["COMFYUI_PATH"]) if os.environ.get("COMFYUI_PATH") else None


def prepare(pack: Path, base: Path) -> list[str]:
    """Make the model folders and copy the example pictures where absent; returns what went wrong."""
    problems = []
    try:
        for name in MODEL_FOLDERS:
            (base / "models" / name).mkdir(parents=True, exist_ok=True)
        for folder, name in INPUTS.items():
            target = base / "input" / name
            target.mkdir(parents=True, exist_ok=True)
            for source in sorted((pack / "workflows" / "inputs" / folder).iterdir()):
                if source.is_file() and source.suffix != ".md" and not (target / source.name).exists():
                    shutil.copyfile(source, target / source.name)
    except OSError as error:
        problems.append(
            f"{error.filename} could not be written ({error.strerror}): check its permissions, run again."
        )
    return problems


def version_problems(base: Path | None) -> list[str]:
    """Return a sentence for each of Python, torch and ComfyUI that is too old or absent."""
    problems = []
    if sys.version_info < PYTHON:
        problems.append(f"Python {dotted(sys.version_info[:2])} is too old: use {dotted(PYTHON)} or newer.")
    try:
        torch = metadata.version("torch")
        if numbers(torch) < TORCH:
            problems.append(f"torch {torch} is too old: use {dotted(TORCH)} or newer.")
    except metadata.PackageNotFoundError:
        problems.append(
            "torch is not installed for this Python: run install.py with the Python that runs ComfyUI."
        )
    comfyui = comfyui_version(base)
    if comfyui and numbers(comfyui) < COMFYUI:
        problems.append(f"ComfyUI {comfyui} is too old: update it to {dotted(COMFYUI)} or newer.")
    return problems


def comfyui_version(base: Path | None) -> str | None:
    """Return ComfyUI's version as its comfyui_version.py states it, None if that file is not found."""
    for folder in (os.environ.get("COMFYUI_PATH"), base):
        file = Path(folder) / "comfyui_version.py" if folder else None
        if file and file.is_file():
            found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", file.read_text(encoding="utf-8"))
            return found.group(1) if found else None
    return None


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version text."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def dotted(version: tuple[int, ...]) -> str:
    """Return a version tuple as text."""
    return ".".join(map(str, version))


if __name__ == "__main__":
    sys.exit(main())
