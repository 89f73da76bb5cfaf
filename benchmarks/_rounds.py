"""Times of several sides that do the same work, taken in turn, with their medians and spread."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")


def in_turn(
    sides: Mapping[str, Callable[[int], Value]], repeats: int, warm: int = 1
) -> dict[str, list[Value]]:
    """Return what each side gives, a value a round.

    sides: called with the number of the round; round r begins with side r, so that none is always first.
    warm: rounds before those that count, whose numbers are negative. Each round is told on stderr.
    """
    names = list(sides)
    told: dict[str, list[Value]] = {name: [] for name in names}
    for number in range(-warm, repeats):
        print(f"  round {number + 1} of {repeats}", file=sys.stderr, flush=True)
        start = number % len(names)
        for name in names[start:] + names[:start]:
            value = sides[name](number)
            if number >= 0:
                told[name].append(value)
    return told


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """Return "median (least..most)"."""
    least, most = min(values), max(values)
    return f"{statistics.median(values):{form}} ({least:{form}}..{most:{form}})"


def versus(
    values: Sequence[float], others: Sequence[float], by: Callable[[float, float], float]
) -> list[float]:
    """Return by(value, other), round by round."""
    return [by(value, other) for value, other in zip(values, others, strict=True)]


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the mean of two values or more and half the width of its interval, by Student's t."""
    from scipy.stats import t as student  # not in the processes whose memory is measured

    spread = statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), float(student.ppf((1 + level) / 2, len(values) - 1)) * spread


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a head: the first column to the left, the others to the right."""
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    for row in [head, *rows]:
        first, *others = (
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]), flush=True)


def machine() -> str:
    """Return what this runs on, in a line."""
    import torch

    processor = platform.processor() or platform.machine()
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        processor = next((x.split(":", 1)[1].strip() for x in lines if "model name" in x), processor)
    memory = f", {int(meminfo.read_text().split()[1]) / 2**20:.0f} GiB" if meminfo.exists() else ""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    threads = torch.get_num_threads()
    return (
        f"{platform.system()}, {processor}, {os.cpu_count()} cores{memory}, Python "
        f"{platform.python_version()}, torch {torch.__version__} with {threads} threads{load}"
    )


def cpu_seconds(process: int | str = "self") -> float:
    """Return what a process has spent on processors so far, on all its threads, in seconds (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak(process: int | str = "self") -> float:
    """Return a process's peak memory in MiB, as Linux keeps it."""
    return _memory(process, "VmHWM")


def forget_peak(process: int | str = "self") -> float:
    """Let a process's peak memory begin anew, and return what it has now, in MiB (Linux)."""
    Path(f"/proc/{process}/clear_refs").write_text("5")
    return _memory(process, "VmRSS")


def _memory(process: int | str, field: str) -> float:
    return int(Path(f"/proc/{process}/status").read_text().split(f"{field}:")[1].split()[0]) / 2**10
