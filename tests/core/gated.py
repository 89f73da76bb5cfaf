"""A folder gate in a temporary folder, and what the tests of it look at."""

from __future__ import annotations

from pathlib import Path

from realism_core.gate.folders import FolderGate


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def gate(tmp_path: Path, roots=None, rule="threshold", value=0.5, **options) -> FolderGate:
    roots = [tmp_path / "in"] if roots is None else roots
    return FolderGate(
        roots, tmp_path / "passed", tmp_path / "rejected", rule, value, metric="typicality", **options
    )


def scores(tmp_path: Path, *values: float) -> list[tuple[Path, float]]:
    return [(put(tmp_path / "in" / f"{i}.png", b"picture %d" % i), value) for i, value in enumerate(values)]
