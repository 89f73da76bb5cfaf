"""Talk to a ComfyUI server over HTTP and websocket, with nothing but aiohttp, which ComfyUI brings."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

LAST_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


class ServerError(RuntimeError):
    """The server could not start, or ended; the text holds the end of its log."""


class Refused(urllib.error.HTTPError):
    """An HTTP error answer; `.body` is what the server said, parsed where it is JSON."""

    def __init__(self, error: urllib.error.HTTPError) -> None:
        content = error.read()
        super().__init__(error.url, error.code, error.msg, error.headers, _Again(content))
        try:
            self.body: Any = json.loads(content)
        except ValueError:
            self.body = content.decode("utf-8", "replace")

    def __str__(self) -> str:
        text = self.body if isinstance(self.body, str) else json.dumps(self.body)
        return f"HTTP {self.code} from {self.url}: {text[:2000]}"


class _Again:
    """A body that can be read any number of times."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, *_: Any) -> bytes:
        return self._content

    def close(self) -> None:
        pass


class Run(NamedTuple):
    """What a prompt did: its history entry, the events as (type, data), and binary messages (previews)."""

    entry: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    blobs: list[bytes]


class ComfyClient:
    """A client of the server at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        # no proxies: the server is on this machine
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def check_alive(self) -> None:
        """Raise ServerError if the server is known to have ended; a plain client knows nothing of it."""

    def log_tail(self) -> str:
        """The end of the server's log, where there is one."""
        return ""

    def get(self, path: str, raw: bool = False) -> Any:
        """GET a path: parsed JSON, or bytes when raw. Raises Refused on an HTTP error."""
        return self._open(urllib.request.Request(self.url + path), raw)

    def post(self, path: str, body: Any) -> Any:
        """POST JSON to a path; parsed JSON, or None for an empty answer. Raises Refused on an HTTP error."""
        return self._open(
            urllib.request.Request(
                self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
            ),
            False,
        )

    def _open(self, request: urllib.request.Request, raw: bool) -> Any:
        try:
            with self._opener.open(request, timeout=60) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(error) from None
        except (urllib.error.URLError, ConnectionError):
            self.check_alive()
            raise
        return content if raw else (json.loads(content) if content else None)

    def object_info(self) -> dict[str, Any]:
        """Every node the server knows, with its inputs and outputs."""
        return self.get("/object_info")

    def image(self, image: Mapping[str, str]) -> bytes:
        """The file behind one image dictionary of a history entry or `executed` event."""
        return self.get(
            "/view?" + urlencode({k: image[k] for k in ("filename", "subfolder", "type")}), raw=True
        )

    def run(
        self,
        prompt: dict[str, Any],
        timeout: float = 300,
        on_event: Callable[[str, dict[str, Any]], object] | None = None,
        extra_data: dict[str, Any] | None = None,
        client_id: str | None = None,
    ) -> Run:
        """Queue an API prompt and follow it to its end, whatever that is (see entry["status"]).

        on_event(type, data) is called for each event as it comes and may call the server.
        Raises Refused if the prompt is invalid, TimeoutError (after interrupting it) or ServerError.
        """
        return asyncio.run(self._run(prompt, timeout, on_event, extra_data, client_id or uuid.uuid4().hex))

    async def _run(
        self,
        prompt: dict,
        timeout: float,
        on_event: Callable | None,
        extra_data: dict | None,
        client_id: str,
    ) -> Run:
        import aiohttp

        events: list[tuple[str, dict[str, Any]]] = []
        blobs: list[bytes] = []
        end = time.monotonic() + timeout
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/ws?clientId={client_id}", max_msg_size=0) as socket_,
        ):
            body = {"prompt": prompt, "client_id": client_id, "extra_data": extra_data or {}}
            answer = self.post("/prompt", body)
            if answer.get("node_errors"):
                # ComfyUI runs what is left of the graph and says so only here
                self.post("/interrupt", {})
                raise ServerError(f"ComfyUI left out nodes: {json.dumps(answer['node_errors'])[:2000]}")
            prompt_id = answer["prompt_id"]
            while not (
                events and events[-1][0] in LAST_EVENTS and events[-1][1].get("prompt_id") == prompt_id
            ):
                try:
                    message = await socket_.receive(timeout=max(0.1, end - time.monotonic()))
                except asyncio.TimeoutError:
                    self.post("/interrupt", {})
                    raise TimeoutError(
                        f"the prompt did not end within {timeout:.0f} s; the end of ComfyUI's log:\n"
                        + self.log_tail()
                    ) from None
                if message.type == aiohttp.WSMsgType.TEXT:
                    event = json.loads(message.data)
                    events.append((event["type"], event["data"]))
                    if on_event:
                        on_event(event["type"], event["data"])
                elif message.type == aiohttp.WSMsgType.BINARY:
                    blobs.append(message.data)
                else:
                    for _ in range(20):  # until a server that is going down has ended
                        self.check_alive()
                        await asyncio.sleep(0.05)
                    raise ServerError(
                        f"ComfyUI closed the connection; the end of its log:\n{self.log_tail()}"
                    )
        return Run(self._history(prompt_id), events, blobs)

    def _history(self, prompt_id: str) -> dict[str, Any]:
        for _ in range(1000):  # written just after the last event
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.005)
        raise ServerError(
            f"ComfyUI has no history of prompt {prompt_id}; the end of its log:\n{self.log_tail()}"
        )
