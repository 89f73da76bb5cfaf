"""Realism Kit for developers: `python dev.py demo`, `test`, `serve`, `bench`, `env`.

Needs Python 3.10 to 3.13 and nothing else.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
EPILOG = """\
The first run makes an environment and fetches ComfyUI, in 1.5 to 3 minutes: 0.5 GB of downloads and 2.4 GB
on disk where pip offers a CPU build of torch; about 3.5 GB and 7 GB where it offers only one for graphics
cards. Later runs start at once.

environment variables:
  REALISM_CACHE     where environments, ComfyUI and pictures are kept (default: ~/.cache/realism-kit)
  COMFYUI_DIR       your own ComfyUI (the folder with main.py) to run the server on, together with
  COMFYUI_PY        the interpreter it is installed in; demo and serve then make no environment
  REALISM_CHROMIUM  the browser for the browser tests (default: chromium or Chrome on the PATH)
  PIP_*             pip's own settings (index, find-links, proxy) are honoured
"""


def arguments():
    parser = argparse.ArgumentParser(
        prog="dev.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "demo",
        help="run the main workflow on real and generated pictures in the real ComfyUI, "
        "and leave pictures, plots and report.json in demo-output/",
    )
    test = commands.add_parser(
        "test",
        help="run the tests: core (no ComfyUI), comfy (the real server), browser (its frontend), or all",
        epilog="Arguments after -- go to pytest: dev.py test core -- -k canny -x",
    )
    test.add_argument("part", nargs="?", default="all", choices=["core", "comfy", "browser", "all"])
    test.add_argument("pytest_arguments", nargs="*", metavar="-- ARGUMENT", help="passed to pytest")
    serve = commands.add_parser(
        "serve", help="run ComfyUI with this pack, for use in a browser, until Ctrl-C"
    )
    serve.add_argument("--port", type=int, default=8188, help="port on this machine (default: 8188)")
    bench = commands.add_parser("bench", help="run a benchmark; without a name, list them")
    bench.add_argument("name", nargs="?", help="file name in benchmarks/ without .py")
    bench.add_argument(
        "benchmark_arguments", nargs="*", metavar="-- ARGUMENT", help="passed to the benchmark"
    )
    commands.add_parser("env", help="make or repair the environment and ComfyUI, and print where they are")
    return parser


def main():
    chosen = arguments().parse_args()
    sys.path.insert(0, str(ROOT))
    from devtools import commands
    from devtools.pip import SetupError
    from devtools.server import ServerError
    from devtools.workflow import WorkflowError

    try:
        return commands.run(chosen)
    except (SetupError, ServerError, WorkflowError, TimeoutError) as error:
        print(f"\ndev.py {chosen.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
