"""A real ComfyUI server as a child process.

The server's process never has this repository on its module path: our folder `nodes` would stand in for
ComfyUI's nodes.py.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import time
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path

from .client import ComfyClient, Refused, Run, ServerError
from .comfyui import FRONTEND
from .environment import is_ours

__all__ = ["ComfyServer", "Refused", "Run", "ServerError", "free_port"]

LAUNCHER = Path(__file__).resolve().parent / "run_comfy.py"
FOLDERS = ("custom_nodes", "input", "output", "temp", "user", "models/checkpoints", "models/loras")
ACCELERATOR_CHECK = (
    "import torch; print(bool(getattr(torch, 'accelerator', None)) and torch.accelerator.is_available())"
)


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def link_folder(link: Path, target: Path) -> None:
    """Make a folder link; a junction on Windows where links need a privilege."""
    if link.is_symlink():
        link.unlink()
    if link.exists():
        return
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        import _winapi

        _winapi.CreateJunction(str(target), str(link))


class ComfyServer(ComfyClient):
    """A running ComfyUI with packs linked into its custom_nodes.

    base: folder for models, input, output, user data and `server.log`; made if absent.
    packs: {folder name under custom_nodes: path of the pack}. A pack's install.py is run first, as
    ComfyUI-Manager does: by the same interpreter, in the pack's folder, with COMFYUI_BASE_DIRECTORY set.
    python: the interpreter; on one that dev.py made, and where torch sees no accelerator, --cpu is passed.
    """

    def __init__(
        self,
        base: Path | str,
        packs: Mapping[str, Path | str],
        comfy_dir: Path | str,
        python: Path | str,
        extra_args: Sequence[str] = (),
        port: int | None = None,
    ) -> None:
        self.base = Path(base).resolve()
        self.comfy_dir = Path(comfy_dir).resolve()
        self.python = str(python)
        self.port = port or free_port()
        super().__init__(f"http://127.0.0.1:{self.port}")
        self.log = self.base / "server.log"
        for folder in FOLDERS:
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        self.environ = self._environ()
        for name, path in packs.items():
            link_folder(self.base / "custom_nodes" / name, Path(path).resolve())
            self._install(self.base / "custom_nodes" / name)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self._command(extra_args),
                cwd=self.base,
                env=self.environ,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        atexit.register(self.stop)

    def _environ(self) -> dict[str, str]:
        environ = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH")
        }
        environ.setdefault("HF_HUB_OFFLINE", "1")
        return {
            **environ,
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8",
            "REALISM_WATCH_PARENT": "1",
            "COMFYUI_PATH": str(self.comfy_dir),
            "COMFYUI_BASE_DIRECTORY": str(self.base),
        }

    def _install(self, pack: Path) -> None:
        if not (pack / "install.py").is_file():
            return
        done = subprocess.run(
            [self.python, "install.py"],
            check=False,
            cwd=pack,
            env=self.environ,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        (self.base / f"install-{pack.name}.log").write_text(done.stdout, encoding="utf-8")
        if done.returncode:
            raise ServerError(
                f"install.py of {pack.name} ended with {done.returncode}:\n{done.stdout[-3000:]}"
            )

    def _command(self, extra_args: Sequence[str]) -> list[str]:
        command = [
            self.python,
            str(LAUNCHER),
            str(self.comfy_dir),
            "--listen",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--base-directory",
            str(self.base),
            "--database-url",
            f"sqlite:///{self.base.as_posix()}/user/comfyui.db",
            "--disable-api-nodes",
            "--disable-auto-launch",
        ]
        if (self.comfy_dir / FRONTEND).is_dir():
            command += ["--front-end-root", str(self.comfy_dir / FRONTEND)]
        if "--cpu" not in extra_args and (is_ours(self.python) or not self._has_accelerator()):
            command.append("--cpu")
        return [*command, *extra_args]

    def _has_accelerator(self) -> bool:
        done = subprocess.run(
            [self.python, "-c", ACCELERATOR_CHECK],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.base,
            env=self.environ,
        )
        return done.stdout.strip() == "True"

    def __enter__(self) -> ComfyServer:  # noqa: PYI034 (Self is newer than Python 3.10)
        return self.wait()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log_tail(self) -> str:
        """The end of the server's log, 4,000 characters."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-4000:] if self.log.is_file() else ""

    def check_alive(self) -> None:
        """Raise ServerError with the end of the log if the server has ended."""
        if self.process.poll() is not None:
            raise ServerError(
                f"ComfyUI ended with {self.process.returncode}; the end of {self.log}:\n{self.log_tail()}"
            )

    def wait(self, timeout: float = 180) -> ComfyServer:
        """Return when the server answers; ServerError if it ends, TimeoutError if too late."""
        end = time.monotonic() + timeout
        try:
            while time.monotonic() < end:
                self.check_alive()
                try:
                    self.get("/system_stats")
                    return self
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.1)
            raise TimeoutError(
                f"ComfyUI did not answer within {timeout:.0f} s; the end of its log:\n{self.log_tail()}"
            )
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server: politely, then by force. Does nothing when it has ended."""
        atexit.unregister(self.stop)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
