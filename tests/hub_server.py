"""A model hub on the loopback interface, as far as huggingface_hub asks, with the troubles of real ones."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REVISION = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/tiny-parser"


@dataclass
class Hub:
    """What a hub has and how it behaves; requests are kept as (method, path, Range header or empty).

    trouble: "" none; missing: 404; broken: 500; silent: answers only after `patience` seconds; half: sends
    half of each large file and closes; wrong: sends other bytes of the same length; renamed: names another
    checksum; other: says it is of another commit; whole: knows no ranges.
    """

    files: dict[str, bytes]
    repository: str = REPOSITORY
    revision: str = REVISION
    trouble: str = ""
    patience: float = 5.0
    slow: float = 0.0
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def asked(self, method: str) -> list[str]:
        """Return the file names that were asked for by a method."""
        return [path.rsplit("/", 1)[-1] for verb, path, _ in self.requests if verb == method]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, body: bool) -> None:
        hub = self.hub
        hub.requests.append((self.command, self.path, self.headers.get("Range", "")))
        if hub.trouble == "silent":
            time.sleep(hub.patience)
            self.close_connection = True
            return
        store = self.path.startswith("/store/")
        name = self.path.rsplit("/", 1)[-1]
        known = f"/{hub.repository}/resolve/{hub.revision}/{name}"
        if hub.trouble == "broken" or name not in hub.files or not (store or self.path == known):
            self._say(500 if hub.trouble == "broken" else 404)
            return
        if hub.trouble == "missing" and name.endswith(".safetensors"):
            self._say(404, {"X-Error-Code": "EntryNotFound"})
            return
        content = hub.files[name]
        large = name.endswith(".safetensors")
        git = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False)
        checksum = hashlib.sha256(content).hexdigest() if large else git.hexdigest()
        if hub.trouble == "renamed" and large:
            checksum = "f" * 64
        commit = "f" * 40 if hub.trouble == "other" else hub.revision
        about = {"X-Repo-Commit": commit, "ETag": f'"{checksum}"'}
        if large and not store:  # as the hub keeps large files elsewhere
            about |= {"X-Linked-Etag": f'"{checksum}"', "X-Linked-Size": str(len(content))}
            self._say(302, {**about, "Location": f"{hub.url}/store/{name}"})
            return
        self._send(content, about, body, large)

    def _send(self, content: bytes, about: dict[str, str], body: bool, large: bool) -> None:
        hub = self.hub
        if hub.trouble == "wrong" and body:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start, status = 0, 200
        wanted = self.headers.get("Range", "")
        if wanted and hub.trouble != "whole":
            start, status = int(wanted.removeprefix("bytes=").split("-")[0]), 206
            about = {**about, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        rest = content[start:]
        self.send_response(status)
        for key, value in {**about, "Content-Length": str(len(rest)), "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        self.end_headers()
        if not body:
            return
        if hub.trouble == "half" and large:
            rest = rest[: len(content) // 2 - start] if start < len(content) // 2 else b""
            self.close_connection = True
        for place in range(0, len(rest), 1 << 14):
            self.wfile.write(rest[place : place + (1 << 14)])
            if hub.slow:
                self.wfile.flush()
                time.sleep(hub.slow)

    def _say(self, status: int, about: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(about or {}), "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()
