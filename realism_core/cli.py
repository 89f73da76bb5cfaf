"""The command `realism`: the pack's work on files, without a user interface.

Exit codes: 0 done; 1 some files could not be used (each is named on stderr, the others were done); 2 the
command makes no sense or cannot go on (one sentence on stderr); 130 stopped with Ctrl-C; 141 the reader of
stdout went away.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from . import __version__
from .commands import audit, fit_domain, gate, profile, score, train

COMMANDS = (score, gate, audit, profile, fit_domain, train)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # file names may hold what the terminal's encoding does not
            stream.reconfigure(errors="backslashreplace")
    try:
        args = _parser().parse_args(argv)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    try:
        with warnings.catch_warnings():
            # large photographs are meant; Pillow's hard limit still holds
            warnings.filterwarnings("ignore", module="PIL")
            code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # what is still buffered must not fail again when Python leaves
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("\nrealism: stopped; nothing is half written.", file=sys.stderr)
        return 130
    except ValueError as error:
        print(f"realism: {error}", file=sys.stderr)
    except OSError as error:
        print(f"realism: {error.filename or 'output'}: {error.strerror or error}.", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="realism", description="Score and gate the realism of pictures.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"realism-kit {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
