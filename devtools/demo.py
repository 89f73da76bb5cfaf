"""The demo: real photographs and generated pictures scored and gated in the real ComfyUI."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from .comfyui import Install
from .environment import ROOT, cache_folder
from .pictures import Picture, demo_generated
from .pip import say
from .server import ComfyServer, Run, ServerError
from .workflow import to_prompt

WORKFLOW = ROOT / "workflows" / "score-and-gate.json"
OUTPUT = ROOT / "demo-output"
INPUTS = "realism-kit"
GENERATED = 6
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def main(install: Install) -> int:
    """Run the demo on an install and leave its results in demo-output/; returns the exit code."""
    began = time.monotonic()
    base = Path(tempfile.mkdtemp(prefix="realism-demo-"))
    try:
        say("Starting ComfyUI (about 10 s)")
        with ComfyServer(base, {"realism-kit": ROOT}, install.folder, install.python) as server:
            say(f"  ready after {time.monotonic() - began:.0f} s; fetching generated pictures if not there")
            generated = add_generated(
                base / "input" / INPUTS, demo_generated(cache_folder(), sys.executable)
            )
            say(f"Running {WORKFLOW.name} on {len(pictures_in(base / 'input' / INPUTS))} pictures")
            run_workflow(server, WORKFLOW)
            if OUTPUT.exists():
                shutil.rmtree(OUTPUT)
            rows = collect(server, OUTPUT)
        write_report(rows, generated, OUTPUT)
    finally:
        if (base / "server.log").is_file():
            OUTPUT.mkdir(exist_ok=True)
            shutil.copy(base / "server.log", OUTPUT / "server.log")
        shutil.rmtree(base, ignore_errors=True)
    say(f"Pictures, plots and report.json are in {OUTPUT} ({time.monotonic() - began:.0f} s)")
    return 0


def pictures_in(folder: Path) -> list[Path]:
    """The picture files directly in a folder, by name."""
    return sorted(f for f in folder.glob("*") if f.suffix.lower() in PICTURES)


def add_generated(folder: Path, pictures: list[Picture]) -> dict[str, Picture]:
    """Copy the first few generated pictures beside the photographs; {file name: picture}."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {f"generated-{i}{p.path.suffix.lower()}": p for i, p in enumerate(pictures[:GENERATED], 1)}
    for name, picture in chosen.items():
        shutil.copy(picture.path, folder / name)
    return chosen


def run_workflow(server: ComfyServer, file: Path) -> Run:
    """Run a UI-format workflow to its end; raises ServerError with the node's own message if it fails."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, server.object_info())
    run = server.run(prompt, timeout=900, extra_data={"extra_pnginfo": {"workflow": workflow}})
    for kind, data in run.events:
        if kind == "execution_error":
            raise ServerError(
                f"{data.get('node_type')} in {file.name} failed: {data.get('exception_message')}"
            )
    return run


def collect(server: ComfyServer, out: Path) -> list[dict[str, Any]]:
    """Copy what the workflow saved to a folder; returns its manifests' rows with the side they passed to.

    ComfyUI's folder loader hands on no file names, so pictures are told apart by their pixels.
    """
    shutil.copytree(server.base / "output" / INPUTS, out)
    sources = {pixels(file): file.name for file in pictures_in(server.base / "input" / INPUTS)}
    rows: list[dict[str, Any]] = []
    for side in ("passed", "rejected"):
        for manifest in sorted((out / side).glob("*manifest.json")):
            for row in json.loads(manifest.read_text(encoding="utf-8"))["images"]:
                source = sources[pixels(out / side / row["file"])]
                rows.append(
                    {**row, "file": f"{side}/{row['file']}", "source": source, "passed": side == "passed"}
                )
    return rows


def pixels(file: Path) -> str:
    """A picture's content, whatever file format it lies in."""
    with Image.open(file) as image:
        return hashlib.sha256(image.convert("RGB").tobytes() + repr(image.size).encode()).hexdigest()


def write_report(rows: list[dict[str, Any]], generated: dict[str, Picture], out: Path) -> None:
    """Write report.json and print it as a table, real photographs first."""
    report = []
    for row in rows:
        picture = generated.get(row["source"])
        report.append({"kind": "generated" if picture else "real", "model": picture and picture.model, **row})
    report.sort(key=lambda row: (row["kind"] != "real", row["source"]))
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    say(f"\n{'picture':<22} {'kind':<10} {'model':<32} {'IRS':>7} {'typicality':>11}  gate")
    for row in report:
        irs, typicality = (f"{row[k]:.3f}" if row[k] is not None else "-" for k in ("irs", "typicality"))
        gate = "passed" if row["passed"] else "rejected"
        say(
            f"{row['source'][:22]:<22} {row['kind']:<10} {(row['model'] or '')[:32]:<32} "
            f"{irs:>7} {typicality:>11}  {gate}"
        )
