"""What the nodes write into the audit log, and whether they do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..realism_core import __version__
from ..realism_core.evidence import ScoreTable
from ..realism_core.gate.audit import AuditLog
from ..realism_core.gate.audit.provenance import json_sha256, prompt_sha256, sources
from .comfy import Progress, model_files, user_folder
from .places import setting

SWITCH = ("as set", "on", "off")
# the ids that web/realism.js gives ComfyUI's settings dialog
LOG_SETTING, PURPOSE_SETTING = "RealismKit.Audit", "RealismKit.AuditPurpose"
MARK = "audit"


def wanted(switch: str) -> bool:
    """Return whether to log: "on", "off", or "as set" in ComfyUI's settings (off by default)."""
    return bool(setting(LOG_SETTING, False)) if switch == "as set" else switch == "on"


def purpose_of(text: str) -> str:
    """Return the declared use of pictures: a node's own, or else the one in ComfyUI's settings."""
    return text.strip() or str(setting(PURPOSE_SETTING, "")).strip()


def fingerprint(switch: str, purpose: str) -> str:
    """Return what changes with what is logged; a hash, as ComfyUI writes it into every saved picture."""
    return json_sha256([wanted(switch), purpose_of(purpose)])


def log_decisions(
    scores: Sequence[ScoreTable],
    decisions: Sequence[str],
    values: Tensor,
    metric: str,
    digests: Sequence[str],
    by_hand: Collection[int],
    rule: Mapping[str, Any],
    purpose: str,
    hidden: Any,
) -> list[ScoreTable]:
    """Append a record a picture to the log; returns the scores, marked so that saved files are logged too.

    decisions, values: where each picture went, and by which number. digests: SHA-256 of their pixels.
    by_hand: the pictures sorted by hand. rule: how it was decided. hidden: the node's prompt, dynprompt,
    extra_pnginfo and unique_id.
    """
    graph = {name: hidden.dynprompt.get_node(name) for name in hidden.dynprompt.all_node_ids()}
    found = sources(graph, hidden.unique_id)
    mark = {"purpose": purpose_of(purpose), "prompt": prompt_sha256(hidden.prompt)}
    rows = [(row, _about(table)) for table in scores for row in table.rows()]
    with _open() as log:
        shared = {
            "kind": "decision",
            "rule": dict(rule),
            "metric": metric,
            **mark,
            "workflow": json_sha256((hidden.extra_pnginfo or {}).get("workflow")),
            "node": hidden.unique_id,
            "seeds": found.seeds,
            "models": [model for name in found.models for model in _models(log, name)],
            "file": None,
            "pack": __version__,
        }
        log.append(
            [
                {
                    **shared,
                    "decision": decisions[place],
                    "value": _number(value),
                    "by_hand": place in by_hand,
                    "picture": digests[place],
                    "scores": rows[place][0],
                    "about": rows[place][1],
                }
                for place, value in enumerate(values.tolist())
            ]
        )
    return [replace(table, about={**table.about, MARK: mark}) for table in scores]


def log_files(files: Sequence[tuple[str, str, Mapping[str, Any]]]) -> None:
    """Append a record for each saved file: its path, SHA-256 of its pixels, the mark of its scores."""
    with _open() as log:
        log.append(
            [
                {"kind": "file", "file": file, "picture": digest, **mark, "pack": __version__}
                for file, digest, mark in files
            ]
        )


def unmarked(table: ScoreTable) -> ScoreTable:
    """Return scores without the mark: what it says (the purpose) is for the log only."""
    return replace(table, about=_about(table))


def _about(table: ScoreTable) -> dict[str, Any]:
    return {name: value for name, value in table.about.items() if name != MARK}


def _number(value: float) -> float | str | None:
    """Return a score as JSON can hold it: None if there is none, infinities as text."""
    if value != value:
        return None
    return str(value) if value in (float("inf"), float("-inf")) else value


def _open() -> AuditLog:
    return AuditLog(user_folder() / "realism" / "audit.sqlite")


def _models(log: AuditLog, name: str) -> list[dict[str, Any]]:
    """Return the files of ComfyUI's model folders that go by a name, with their SHA-256.

    What is no such name is not logged: any text may end like one, also a prompt.
    """
    return [
        {"name": name, "folder": kind, "sha256": log.file_sha256(path, _percents(path))}
        for kind, path in model_files(name)
    ]


def _percents(path: Path) -> Callable[[int], None]:
    """Return what shows how many bytes of a file are read, in a hundred steps."""
    size = path.stat().st_size if path.is_file() else 0
    progress, shown = Progress(max(1, size)), 0

    def show(read: int) -> None:
        nonlocal shown
        progress.check()
        if read - shown >= size // 100:
            shown = read
            progress.reach(read)

    return show
