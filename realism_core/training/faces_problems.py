"""What is wrong with a data set of faces: gathered while it is read, told in one table at the end."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

# each with what to do about it, in the order of the table
FIXES = {
    "missing picture": "copy it from the data set again",
    "unused row": "copy their pictures, if they are wanted",
    "broken picture": "copy it from the data set again",
    "missing mask": "copy its files from the data set again",
    "broken mask": "copy it from the data set again",
    "missing part": "copy it from the data set again",
    "empty mask": "paint its parts, or leave the picture out",
    "unknown label": "save grey labels, 0 (background) to 18 (cloth), or CelebAMask-HQ's colours, as PNG",
    "wrong size": "use the data set's own files, or a smaller side",
    "missing attributes": "add its row or file",
    "wrong attributes": "correct the row or file",
    "broken latent": "run the VAE in fp32 or bf16: start ComfyUI with --fp32-vae or --bf16-vae",
    "extra file": "it is not read: remove it, or set on_problem to skip",
    "cache": "nothing: it was made again",
}
# told, but nothing that is wrong with what was asked for
HARMLESS = ("unused row", "cache")
_SHOWN = 3


class Problem(NamedTuple):
    """One thing that is wrong.

    kind: a key of FIXES. file: what is wrong. about: how. left_out: whether a face is left out for it.
    row: the name in the list of attributes that it is about. place: of the face that it is about, or between
    two faces where a row has none; None if it is about none.
    """

    kind: str
    file: str
    about: str
    left_out: bool = True
    row: str | None = None
    place: float | None = None


class ProblemTable:
    """Counts of problems by kind and the first few of each, so that memory stays the same however many."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faces: Counter[str] = Counter()
        self._first: dict[str, list[Problem]] = {}

    def __len__(self) -> int:
        return sum(self.counts.values())

    def add(self, problem: Problem) -> None:
        """Count a problem; raises KeyError for a kind that is not in FIXES."""
        if problem.kind not in FIXES:
            raise KeyError(problem.kind)
        self.counts[problem.kind] += 1
        self.faces[problem.kind] += problem.left_out
        first = self._first.setdefault(problem.kind, [])
        if len(first) < _SHOWN:
            first.append(problem)

    @property
    def serious(self) -> int:
        """How many of the problems left a face out."""
        return sum(self.faces.values())

    @property
    def to_refuse(self) -> int:
        """How many of the problems speak against the data set."""
        return len(self) - sum(self.counts[kind] for kind in HARMLESS)

    def examples(self, kind: str) -> list[Problem]:
        """Return the first problems of a kind, at most 3."""
        return list(self._first.get(kind, []))

    def text(self) -> str:
        """Return the table: a row a kind, with its number, what to do and the first files; "" if empty."""
        kinds = [kind for kind in FIXES if self.counts[kind]]
        if not kinds:
            return ""
        head = ("problem", "count", "faces left out", "what to do")
        rows = [(kind, f"{self.counts[kind]}", f"{self.faces[kind]}", FIXES[kind]) for kind in kinds]
        widths = [max(len(row[place]) for row in [head, *rows]) for place in range(3)]
        lines = []
        for row in [head, *rows]:
            lines.append(
                f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
            )
            lines += [f"  {problem.file}: {problem.about}" for problem in self._first.get(row[0], [])]
            more = self.counts[row[0]] - len(self._first.get(row[0], []))
            if row is not head and more:
                lines.append(f"  ... and {more} more")
        return "\n".join(lines)
