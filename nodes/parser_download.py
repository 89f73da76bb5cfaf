"""The download of a face parser, which only the button on Realism Parse Face starts."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from ..realism_core.conditioning.parser_download import FACE_PARSER, Cancelled, Pin, fetch
from ..realism_core.conditioning.parser_model import WEIGHTS
from .comfy import answer_posts, model_folder

KIND = "face_parsing"
# the paths that web/face_parser.js posts to
PATHS = "/realism/face_parser/"
# bytes of a file whose share is worth telling; the texts beside the weights are there at once
LARGE = 2**20


class Download:
    """One download at a time, in a thread of its own."""

    def __init__(self, pin: Pin) -> None:
        self._pin = pin
        self._lock = Lock()
        self._stop = Event()
        self._told: dict[str, Any] = {"state": "idle"}

    def start(self) -> dict[str, Any]:
        """Start a download unless one runs; tells how it stands."""
        with self._lock:
            if self._told["state"] != "running":
                self._stop.clear()
                self._told = {"state": "running", "done": 0, "total": 0}
                Thread(target=self._work, args=(model_folder(KIND),), daemon=True).start()
            return dict(self._told)

    def stop(self) -> dict[str, Any]:
        """Stop the download as soon as something arrives; what has arrived is kept."""
        self._stop.set()
        return self.told()

    def told(self) -> dict[str, Any]:
        """Return the state (idle, running, done, stopped, failed), with bytes, name or error."""
        with self._lock:
            return dict(self._told)

    def _work(self, folder: Path) -> None:
        try:
            fetch(self._pin, folder, self._arrived)
            ended = {"state": "done", "name": f"{self._pin.name}/{WEIGHTS}"}
        except Cancelled:
            ended = {"state": "stopped"}
        except Exception as error:  # the thread's end must be told, whatever it was
            ended = {"state": "failed", "error": str(error) or type(error).__name__}
        with self._lock:
            self._told = ended

    def _arrived(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Cancelled
        if total > LARGE:
            with self._lock:
                self._told = {"state": "running", "done": done, "total": total}


download = Download(FACE_PARSER)


def serve() -> None:
    """Let the server take the button's presses."""
    for name, answer in (("start", download.start), ("stop", download.stop), ("state", download.told)):
        answer_posts(PATHS + name, answer)
