"""`realism profile fit`: what real pictures of a domain measure, for later scores."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from ..images import check_images
from ..irs import Profile
from ..pictures import PictureError, find_pictures, read_batches
from .common import add_definition, add_paths, clear_progress, complain, plural, show_progress
from .score import TITLES

MEDIAN = 50


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command and its own sub-commands."""
    parser = commands.add_parser("profile", help="fit a profile of real photographs", allow_abbrev=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    fit = actions.add_parser("fit", help="fit a profile", description=__doc__, allow_abbrev=False)
    add_paths(fit)
    add_fitting(fit)
    fit.set_defaults(run=run_fit)


def add_fitting(fit: argparse.ArgumentParser) -> None:
    """Declare how pictures are read for a fit, and where its profile goes."""
    add_definition(fit)
    fit.add_argument("-o", "--output", metavar="FILE", required=True, help="the profile to write, name.json")
    fit.add_argument("--force", action="store_true", help="overwrite the profile if it exists")
    fit.add_argument("--name", help="the profile's name (default: that of the file)")
    fit.add_argument(
        "--source", default="", help="a sentence that says whose pictures these are, kept in the profile"
    )
    fit.add_argument(
        "--max-side",
        type=int,
        metavar="N",
        help="scale larger pictures down to N pixels first, with Lanczos (default: no)",
    )


def run_fit(args: argparse.Namespace) -> int:
    """Fit and save a profile, telling on stderr what is left out."""
    output = check_fitting(args)
    unusable: list[Path] = []
    profile = Profile.fit(
        read_usable(args.paths, args.max_side, unusable),
        definition=args.definition,
        name=args.name or output.stem,
        source=args.source,
        on_batch=lambda count: show_progress(f"{plural(count)} measured"),
    )
    clear_progress()
    profile.save(output)
    print(describe(profile, output))
    return tell_unusable(unusable)


def check_fitting(args: argparse.Namespace) -> Path:
    """Return where the profile goes; raises ValueError if it may not go there, or the size makes no sense."""
    output = Path(args.output)
    if os.path.isdir(output):
        raise ValueError(
            f"{output} is a folder: give the name of a file in it, such as {output / 'profile.json'}."
        )
    if os.path.lexists(output) and not args.force:
        raise ValueError(f"{output} exists already: choose another name, or add --force to overwrite it.")
    if args.max_side is not None and args.max_side < 64:
        raise ValueError(f"--max-side is {args.max_side}: use 64 pixels or more, or leave it out.")
    return output


def read_usable(paths: Iterable[str], max_side: int | None, unusable: list[Path]) -> Iterator[Tensor]:
    """Return the pictures of files, folders and patterns, uint8 [1,H,W,3] each, as they are read.

    Those that cannot be used are named on stderr and added to `unusable`. Raises ValueError at once for a
    path that is not there.
    """
    return _usable_pictures(read_batches(find_pictures(paths), max_side=max_side), unusable)


def tell_unusable(unusable: list[Path]) -> int:
    """Say how many files could not be used; returns the exit code."""
    if unusable:
        print(f"realism: {plural(len(unusable), 'file')} could not be used.", file=sys.stderr)
    return 1 if unusable else 0


def describe(profile: Profile, path: Path) -> str:
    """Return a few lines on what was fitted."""
    medians = ", ".join(
        f"{title} {row[MEDIAN]:.3f}"
        for title, row in zip(TITLES, profile.radius_quantiles.tolist(), strict=True)
    )
    why = "flat or colourless" if profile.definition == "reference" else "flat"
    return (
        f"{path}: profile {profile.name!r} of {plural(profile.count)}, definition {profile.definition}, "
        f"{profile.skipped} skipped ({why})\n"
        f"median irs {profile.irs_quantiles[MEDIAN]:.3f}; median radii: {medians}"
    )


def _usable_pictures(
    read: Iterator[tuple[Path, Tensor | PictureError]], unusable: list[Path]
) -> Iterator[Tensor]:
    for path, picture in read:
        try:
            if isinstance(picture, PictureError):
                raise picture
            yield check_images(picture[None], str(path))
        except ValueError as error:
            unusable.append(path)
            complain(error)
