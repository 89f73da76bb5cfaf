"""`realism fit-domain`: a profile of your photographs, and a detector that knows your generated pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..evidence.domain import Domain, fit_domain
from .common import clear_progress, plural, show_progress
from .profile import add_fitting, check_fitting, describe, read_usable, tell_unusable


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "fit-domain", help="learn your own domain: real against generated pictures", description=__doc__,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("real", metavar="REAL", help="a folder of your photographs, or a pattern in quotes")
    parser.add_argument(
        "generated", metavar="GENERATED", nargs="?",
        help="a folder of your generated pictures; without it only the profile is fitted",
    )  # fmt: skip
    add_fitting(parser)
    parser.set_defaults(run=run_fit_domain)


def run_fit_domain(args: argparse.Namespace) -> int:
    """Fit and save a domain, telling on stderr what is left out and what to doubt."""
    output = check_fitting(args)
    unusable: list[Path] = []
    real = read_usable([args.real], args.max_side, unusable)
    generated = args.generated and read_usable([args.generated], args.max_side, unusable)
    domain = fit_domain(
        real,
        generated,
        definition=args.definition,
        name=args.name or output.stem,
        source=args.source,
        on_picture=lambda count: show_progress(f"{plural(count)} measured"),
    )
    clear_progress()
    domain.profile.save(output)
    print(f"{describe(domain.profile, output)}\n{describe_detector(domain)}")
    for warning in domain.warnings:
        print(f"realism: warning: {warning}", file=sys.stderr)
    return tell_unusable(unusable)


def describe_detector(domain: Domain) -> str:
    """Return a line on how well the sides were told apart, and one on what the detector was fitted on."""
    if domain.auc is None:
        return "no generated pictures, so no detector of its own: p_photo stays that of the shipped one"
    low, high = domain.interval
    counts = []
    for side, count in (("real", domain.real), ("generated", domain.generated)):
        left = [
            f"{number} {why}"
            for number, why in (
                (count.unmeasured, "too small or flat"),
                (count.repeated, f"cop{'y' if count.repeated == 1 else 'ies'}"),
            )
            if number
        ]
        counts.append(f"{count.used} {side}" + (f" ({', '.join(left)} left out)" if left else ""))
    alone = ", ".join(f"{name} {auc:.2f}" for name, auc in domain.shortcuts.items())
    return (
        f"cross-validated AUC {domain.auc:.3f} (95 % interval {low:.3f} to {high:.3f}); "
        f"detector of {' and '.join(counts)} pictures\n"
        f"AUC of what may differ for other reasons, alone: {alone}"
    )
