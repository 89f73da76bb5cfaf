"""Run commands in lanes: lanes side by side, the commands of a lane one after the other."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

Command = Sequence[str]


class Lane:
    """Commands that run one after the other, their output going to a file, or through if there is none.

    codes: the exit codes of those that have ended.
    """

    def __init__(
        self, commands: Sequence[Command], folder: Path, environ: Mapping[str, str], output: IO | None = None
    ) -> None:
        self.codes: list[int] = []
        self._commands, self._folder, self._environ, self._output = commands, folder, environ, output
        self._process: subprocess.Popen | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def run(self) -> None:
        """Run all commands, whatever their exit codes; returns early once stopped."""
        for command in self._commands:
            with self._lock:
                if self._stopped:
                    return
                self._process = subprocess.Popen(
                    command, cwd=self._folder, env=self._environ, stdout=self._output,
                    stderr=None if self._output is None else subprocess.STDOUT,
                )  # fmt: skip
            self.codes.append(self._process.wait())

    def stop(self) -> None:
        """Kill what runs and start nothing more."""
        with self._lock:
            self._stopped = True
            if self._process is not None and self._process.poll() is None:
                self._process.kill()


def run_lanes(lanes: Sequence[Sequence[Command]], folder: Path, environ: Mapping[str, str]) -> list[int]:
    """Run lanes at once in a folder; shows the first one's output as it comes, then that of the others.

    Returns all exit codes, lane by lane. When interrupted, it kills what runs and shows what that said.
    Raises OSError for a command that cannot be started.
    """
    with contextlib.ExitStack() as stack:
        outputs = [None, *(stack.enter_context(tempfile.TemporaryFile()) for _ in lanes[1:])]
        made = [Lane(lane, folder, environ, output) for lane, output in zip(lanes, outputs, strict=True)]
        pool = stack.enter_context(ThreadPoolExecutor(len(made)))
        try:
            others = [pool.submit(lane.run) for lane in made[1:]]
            made[0].run()
            for other in others:
                other.result()  # raises what went wrong there
        finally:
            for lane in made:
                lane.stop()
            for output in outputs[1:]:
                output.seek(0)
                print(output.read().decode(errors="replace"), flush=True)
    return [code for lane in made for code in lane.codes]
