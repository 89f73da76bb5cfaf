"""What several commands share: arguments, the stream of scored pictures, messages."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .. import __version__
from ..evidence import score_table
from ..evidence.domain import domain_detector
from ..images import check_images
from ..irs import DEFINITIONS, Profile
from ..pictures import PictureError, read_batches

Row = dict[str, float | None]


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Declare the pictures to work on."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="picture files, folders, or patterns in quotes"
    )


def add_definition(parser: argparse.ArgumentParser) -> None:
    """Declare which measures are taken."""
    parser.add_argument(
        "--definition", choices=tuple(DEFINITIONS), default="reference",
        help="the research code's measures at native size, or the paper's at 512 px (default: reference)",
    )  # fmt: skip


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """Declare what `scored_rows` needs besides the pictures."""
    add_definition(parser)
    parser.add_argument(
        "--profile",
        metavar="FILE",
        help="what real pictures look like, by `realism profile fit` (default: the shipped one)",
    )


def load_profile(args: argparse.Namespace) -> Profile:
    """Return the profile that was asked for, or the shipped one; raises ValueError if it does not fit the
    definition.
    """
    profile = Profile.load(args.profile) if args.profile else Profile.shipped(args.definition)
    domain_detector(profile)  # a damaged one is refused here, not at every picture
    return profile.check_for(args.definition)


def scored_rows(
    paths: Iterable[Path], definition: str, profile: Profile, columns: Sequence[str] | None = None
) -> Iterator[tuple[Path, Row | PictureError]]:
    """Yield each picture with its row of the score table, or why it has none, as soon as it is scored."""
    for path, picture in read_batches(paths):
        if isinstance(picture, PictureError):
            yield path, picture
            continue
        try:
            images = check_images(picture[None], str(path))
            yield path, score_table(images, columns, profile, definition=definition).rows()[0]
        except (ValueError, RuntimeError, MemoryError) as error:
            # one at a time: a batch would not give the same last digits, nor each row at once
            reason = str(error) if isinstance(error, ValueError) else f"{path} could not be scored ({error})."
            yield path, PictureError(reason)


def scorer_digest(definition: str, profile: Profile) -> str:
    """Return a text that differs where scores may: by definition, profile and version of the pack."""
    judged_by = {name: value for name, value in profile.to_dict().items() if name != "soft"}
    what = json.dumps([__version__, definition, judged_by], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:16]


def complain(error: object) -> None:
    """Say on stderr what is wrong with one picture."""
    clear_progress()
    sys.stdout.flush()  # so that a terminal shows it in its place
    print(f"realism: {error}", file=sys.stderr)


def show_progress(text: str) -> None:
    """Show how far the work is, in place, if stderr is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def clear_progress() -> None:
    """Wipe the line of `show_progress`."""
    show_progress("")


def plural(count: int, noun: str = "picture") -> str:
    """Return "1 picture", "2 pictures"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
