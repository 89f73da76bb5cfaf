"""`realism audit`: check, read and export the log of gate decisions."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path

from ..gate.audit import Entry, Verdict, read, verify
from ..gate.files import publish, sync
from .common import complain

VARIABLE = "REALISM_AUDIT_LOG"
ABOUT = (
    f"LOG is the log's file; left out, the one that {VARIABLE} names, or ComfyUI's, when the pack lies in "
    "its custom_nodes folder. Exit codes of verify: 0 intact, 1 changed, 2 it cannot be read."
)
_COLUMNS = ("decision", "metric", "value", "purpose", "file", "picture")


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "audit", help="check and read the log of gate decisions", description=__doc__, epilog=ABOUT,
        allow_abbrev=False,
    )  # fmt: skip
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = _action(actions, "verify", "find out whether the log was changed", run_verify)
    check.add_argument(
        "--expect", metavar="SEQ:HASH", help="an entry as noted elsewhere, which must still be in the log"
    )
    show = _action(actions, "show", "print the last entries", run_show)
    show.add_argument("--last", type=int, default=20, metavar="N", help="how many (default: 20)")
    show.add_argument("--decision", metavar="D", help="only those with this decision: passed, rejected ...")
    show.add_argument("--json", action="store_true", help="print whole entries, a JSON object a line")
    export = _action(actions, "export", "write all entries to a file", run_export)
    export.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="a new file that ends in .jsonl or .csv"
    )


def run_verify(args: argparse.Namespace) -> int:
    """Check the log, and print what was found."""
    log = _log(args)
    verdict = verify(log, args.expect)
    for problem in verdict.problems:
        complain(f"{log}: {problem}.")
    for note in verdict.notes:
        complain(f"note: {note}.")
    print(_describe(verdict))
    return 0 if verdict.intact else 1


def run_show(args: argparse.Namespace) -> int:
    """Print the last entries, the newest at the end."""
    if args.last < 1:
        raise ValueError(f"--last {args.last} shows nothing: give 1 or more.")
    with contextlib.closing(read(_log(args), newest_first=True)) as newest:
        chosen = (
            entry for entry in newest if args.decision in (None, (entry.parsed or {}).get("decision"))
        )
        found = list(islice(chosen, args.last))
    for entry in reversed(found):
        print(_json_line(entry) if args.json else line(entry))
    if not found:
        complain("no such entry in the log." if args.decision else "the log is empty.")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write every entry to a file that was not there."""
    output = Path(args.output)
    lines = {".jsonl": _json_lines, ".csv": _csv_lines}.get(output.suffix.lower())
    if lines is None:
        raise ValueError(f"-o {output}: end the name in .jsonl or .csv, which says how to write it.")
    if os.path.lexists(output):
        raise ValueError(f"-o {output} is there already: choose another name.")
    count = 0
    part = output.with_name(f"{output.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            for text, entries in lines(read(_log(args))):
                file.write(text)
                count += entries
            file.flush()
            os.fsync(file.fileno())
        if not publish(part, output):
            raise ValueError(f"-o {output} is there already: choose another name.")
        sync(output.parent)
    finally:
        part.unlink(missing_ok=True)
    print(
        f"{_entries(count)} -> {output}\n"
        "The file holds what the log holds: file names, purposes, model names and scores. Mind who gets it."
    )
    return 0


def line(entry: Entry) -> str:
    """Return an entry as a person reads it: number, local time, decision, score, rule, picture, purpose."""
    record = entry.parsed
    if record is None:
        return f"{entry.seq:>6}  {_local(entry.time)}  (damaged: run `realism audit verify`)"
    value = record.get("value")
    shown = f"{value:.4g}" if isinstance(value, (int, float)) and abs(value) < 1e300 else "-"
    name = record.get("file") or str(record.get("picture") or "")[:12]
    parts = [
        f"{entry.seq:>6}",
        _local(entry.time),
        f"{record.get('decision') or record.get('kind') or '-'!s:<8}",
        f"{record['metric']}={shown}" if record.get("metric") else "",
        _rule(record.get("rule")),
        "by hand" if record.get("by_hand") else "",
        str(name),
        f"for: {record['purpose']}" if record.get("purpose") else "",
    ]
    text = "  ".join(part for part in parts if part)
    # a purpose or a file name must not drive the terminal
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def _action(actions: argparse._SubParsersAction, name: str, help: str, run) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help, description=help, epilog=ABOUT, allow_abbrev=False)
    parser.add_argument("log", nargs="?", metavar="LOG", help="the log, see below")
    parser.set_defaults(run=run)
    return parser


def _log(args: argparse.Namespace) -> Path:
    if args.log:
        return Path(args.log)
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    # not resolved: the pack may be linked into custom_nodes
    places = Path(os.path.abspath(__file__)).parents
    if places[3].name == "custom_nodes":
        return places[4] / "user" / "realism" / "audit.sqlite"
    raise ValueError(f"which log? Name its file, or set {VARIABLE} to it.")


def _describe(verdict: Verdict) -> str:
    span = f", {verdict.first} to {verdict.last}" if verdict.entries else ""
    state = "intact" if verdict.intact else "CHANGED"
    return f"{state}: {_entries(verdict.entries)}{span}\nhead {verdict.head}"


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _rule(rule: object) -> str:
    """Return a rule as words: "threshold value=0.5 keep=high"."""
    if not isinstance(rule, Mapping):
        return str(rule or "")
    name = next((key for key in ("rule", "name", "kind") if key in rule), None)
    words = [str(rule[name])] if name else []
    words += [f"{key}={value}" for key, value in rule.items() if key != name and value is not None]
    return " ".join(words)


def _local(time: str) -> str:
    try:
        moment = datetime.fromisoformat(time.replace("Z", "+00:00"))
        return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OSError, OverflowError):
        return time


def _json_line(entry: Entry) -> str:
    """Return an entry as one JSON object; the record's text is the very one that was hashed."""
    head = {"seq": entry.seq, "time": entry.time, "previous": entry.previous, "hash": entry.hash}
    body = f'"record":{entry.body}' if entry.parsed is not None else f'"damaged":{json.dumps(entry.body)}'
    return f"{json.dumps(head, separators=(',', ':'))[:-1]},{body}}}"


def _json_lines(entries: Iterable[Entry]) -> Iterator[tuple[str, int]]:
    for entry in entries:
        yield _json_line(entry) + "\n", 1


def _csv_lines(entries: Iterable[Entry]) -> Iterator[tuple[str, int]]:
    yield _csv_line(("seq", "time", *_COLUMNS, "previous", "hash", "body")), 0
    for entry in entries:
        record = entry.parsed or {}
        shown = ("" if record.get(name) is None else record[name] for name in _COLUMNS)
        yield _csv_line((entry.seq, entry.time, *shown, entry.previous, entry.hash, entry.body)), 1


def _csv_line(row: tuple) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(row)
    return text.getvalue()
