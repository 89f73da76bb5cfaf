"""ComfyUI with the pack and the benchmark's nodes, prompts that are queued together, and what they took."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks._rounds import cpu_seconds
from devtools.client import LAST_EVENTS
from devtools.comfyui import ensure_install
from devtools.environment import cache_folder
from devtools.server import ComfyServer
from tests.comfy.graphs import Graph

ROOT = Path(__file__).resolve().parents[1]
PACKS = {
    "realism-kit": ROOT,
    "realism-test-nodes": ROOT / "tests" / "comfy" / "pack",
    "realism-benchmark-nodes": ROOT / "benchmarks" / "_expansion_pack",
}
LIMIT = 3600.0
_salts = itertools.count(1)


class Ran(NamedTuple):
    """What prompts took: from the first one's start to the last one's end, by the server's clock.

    seconds: of all. cpu: seconds of the server's processors, which other programs on the machine hardly
    change. nodes: of each node by id, as its messages arrived, added up over the prompts. cached:
    the ids that the cache answered. outputs: what the nodes of the last prompt show.
    """

    seconds: float
    cpu: float
    nodes: dict[str, float]
    cached: set[str]
    outputs: dict[str, Any]


@contextmanager
def bench_server() -> Iterator[ComfyServer]:
    """Yield a running server in an empty folder."""
    install = ensure_install()
    with (
        TemporaryDirectory(dir=cache_folder(), prefix="bench-gate-") as base,
        ComfyServer(base, PACKS, install.folder, install.python) as server,
    ):
        yield server


def salt() -> int:
    """Return a number that was not given before."""
    return next(_salts)


def run(server: ComfyServer, *prompts: Graph) -> Ran:
    """Queue prompts at once, as an artist does with a batch count, and follow them all to their end.

    Raises RuntimeError with the server's words if one fails.
    """
    return asyncio.run(_run(server, prompts))


async def _run(server: ComfyServer, prompts: Sequence[Graph]) -> Ran:
    import aiohttp

    cpu = cpu_seconds(server.process.pid)
    client, begin, end = uuid.uuid4().hex, 0.0, 0.0
    nodes: dict[str, float] = {}
    cached: set[str] = set()
    node, since = None, 0.0
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/ws?clientId={client}", max_msg_size=0) as socket,
    ):
        # in threads: the messages of the first prompts are read while the others are queued
        posted = [
            await asyncio.to_thread(server.post, "/prompt", {"prompt": prompt, "client_id": client})
            for prompt in prompts
        ]
        left = {answer["prompt_id"] for answer in posted}
        while left:
            message = await socket.receive(timeout=LIMIT)
            if message.type != aiohttp.WSMsgType.TEXT:
                server.check_alive()
                continue
            now, event = time.perf_counter(), json.loads(message.data)
            kind, data = event["type"], event["data"]
            if kind == "execution_cached":
                cached |= set(data["nodes"])
            if kind == "execution_start":
                begin = begin or data["timestamp"]
            if kind == "executing" or kind in LAST_EVENTS:
                if node is not None:
                    nodes[node] = nodes.get(node, 0.0) + now - since
                node, since = data.get("node") if kind == "executing" else None, now
            if kind in LAST_EVENTS:
                if kind != "execution_success":
                    raise RuntimeError(f"a prompt of the benchmark failed: {data.get('exception_message')}")
                left.discard(data["prompt_id"])
                end = data["timestamp"]
    cpu = cpu_seconds(server.process.pid) - cpu
    entry = await asyncio.to_thread(_entry, server, posted[-1]["prompt_id"])
    return Ran((end - begin) / 1e3, cpu, nodes, cached, entry["outputs"])


def _entry(server: ComfyServer, prompt: str) -> dict:
    for _ in range(200):  # written just after the last message
        history = server.get(f"/history/{prompt}")
        if prompt in history:
            return history[prompt]
        time.sleep(0.05)
    raise RuntimeError("ComfyUI keeps no history of a prompt of the benchmark")


def digests(server: ComfyServer) -> list[str]:
    """Return the digests of the pictures that reached the sinks since the last call, in order."""
    graph = Graph()
    tell = graph.add("BenchTell", salt=salt())
    return told(run(server, graph), tell.id)


def told(ran: Ran, node: str) -> Any:
    """Return the JSON that a node told."""
    return json.loads(ran.outputs[node]["text"][0])


def defaults(server: ComfyServer, node: str) -> dict[str, Any]:
    """Return the default of every widget of a node, by name."""
    inputs = server.object_info()[node]["input"]
    found = {}
    for name, (kind, *options) in {**inputs.get("required", {}), **inputs.get("optional", {})}.items():
        known = options[0] if options else {}
        choices = kind if isinstance(kind, list) else known.get("options") if kind == "COMBO" else None
        if "default" in known:
            found[name] = known["default"]
        elif choices:
            found[name] = choices[0]
    return found
