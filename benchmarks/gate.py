"""Time and memory of the gate: Sample Until Real, Realism Gate, the audit log and the folder gate.

    python dev.py bench gate [-- SECTION ... --repeats 5 --attempts 8 --steps 20 --models sd3 --files 5000]

Sides take turns, another one first in each round, after a round that does not count; a table gives medians
with the least and the most, and compares with its first row within the round. ComfyUI runs as in the tests,
with its own settings and a client that listens; the server's clock tells what a run took. A salt makes each
run new to its cache, and every run's pictures are compared by digest: all sides made the same ones, or the
benchmark stops.

retry    A rule that never holds, so that all attempts are made, against the same seeds as KSampler and VAE
         Decode: queued at once, in one graph, and queued with Realism Score behind. Against node expansion
         too (_expansion_pack/search.py): the same scoring and choosing, each attempt adding its nodes to
         the graph. The models are tiny: sampling costs less than with any real one, so the percentages are
         the worst that can be.
gate     Noise, Realism Score and a sink, with a gate between them that lets half of the pictures pass.
audit    AuditLog.append against the same rows in SQLite (WAL, synchronous=FULL) without chain and anchor,
         and against JSON lines with fsync; in the user's cache folder, so on its disk.
folders  FolderGate with a score that costs nothing against a plain loop, sources in the page cache. What
         the gate copies or moves is on disk and was read back before it counts as done; what the loop moves
         or copies is not. 100,000 files: --files 100000 --repeats 1.

Sampling inside the node or node expansion, SD3 layout at 512 x 512, 20 steps, 8 attempts, 3 rounds on 2 cores
of an Intel Xeon, 24 GB, CPU: 1155 ms a plain run, 1199 an attempt by irs in the node (+4.1 %), 1293 by
expansion (+11.7 %); a fresh server's peak memory grew by 288 MiB in 32 attempts in the node, by 387 by
expansion. Hence the node samples inside. All tables: docs/speed.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import _gate_audit, _gate_folders, _gate_node, _gate_retry
from benchmarks._rounds import machine

SECTIONS = ("retry", "gate", "audit", "folders")
MODELS = ("sd15_noclip", "sd3")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    options = _parse(arguments)
    if options.writer:
        kind, path, calls = options.writer
        _gate_audit.writer(kind, path, int(calls))
        return
    if options.place:
        who, mode, folder = options.place
        _gate_folders.place(who, mode, Path(folder))
        return
    print(machine(), flush=True)
    for section in options.sections or SECTIONS:
        if section == "retry":
            _gate_retry.measure(options.models, options.steps, options.attempts, options.repeats)
        elif section == "gate":
            _gate_node.measure(options.repeats)
        elif section == "audit":
            _gate_audit.measure(__file__, options.repeats)
        else:
            _gate_folders.measure(__file__, options.files, options.repeats)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    several = f"{', '.join(SECTIONS)} (default: all)"
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=several)
    parser.add_argument("--repeats", type=int, default=5, help="rounds that are counted (default: 5)")
    parser.add_argument("--attempts", type=int, default=8, help="attempts of a search (default: 8)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps an attempt (default: 20)")
    parser.add_argument(
        "--models", nargs="+", default=MODELS, choices=MODELS, help="tiny models to search with"
    )
    parser.add_argument("--files", type=int, default=5000, help="files to place (default: 5000)")
    parser.add_argument("--writer", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--place", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"there is no section {', '.join(sorted(unknown))}; use {', '.join(SECTIONS)}.")
    if min(options.repeats, options.attempts, options.steps, options.files) < 1:
        parser.error("--repeats, --attempts, --steps and --files must be 1 or more.")
    return options


if __name__ == "__main__":
    main()
