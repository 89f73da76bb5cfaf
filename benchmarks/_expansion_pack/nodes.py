"""A sink that costs nothing while the clock runs, a way past the cache, the cost of a search's parts."""

from __future__ import annotations

import hashlib
import json
import statistics
import time

from comfy_api.latest import ComfyExtension, io

from .pack import pack_module
from .search import BenchJudge, BenchResult, BenchSearch

_kept: list = []


class BenchSalt(io.ComfyNode):
    """A latent as it came; another salt makes all that hangs on it new to ComfyUI's cache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BenchSalt",
            category="benchmark",
            inputs=[io.Latent.Input("latent"), io.Int.Input("salt", max=1 << 62)],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, latent, salt) -> io.NodeOutput:
        return io.NodeOutput(latent)


class BenchSink(io.ComfyNode):
    """The end of a graph: sets the pictures aside for BenchTell."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BenchSink",
            category="benchmark",
            is_output_node=True,
            inputs=[io.Image.Input("images")],
            outputs=[],
        )

    @classmethod
    def execute(cls, images) -> io.NodeOutput:
        _kept.append(images)
        return io.NodeOutput()


class BenchTell(io.ComfyNode):
    """Tell the digests of the pictures that reached BenchSink since the last time, and forget them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BenchTell",
            category="benchmark",
            is_output_node=True,
            inputs=[io.Int.Input("salt", max=1 << 62)],
            outputs=[],
        )

    @classmethod
    def execute(cls, salt) -> io.NodeOutput:
        rows = [row.cpu().numpy().tobytes() for images in _kept for row in images]
        digests = [hashlib.sha256(row).hexdigest() for row in rows]
        _kept.clear()
        return io.NodeOutput(ui={"text": (json.dumps(digests),)})


class BenchParts(io.ComfyNode):
    """Tell, as JSON, the median milliseconds that the parts of Sample Until Real take on these pictures.

    One score by itself for each of `metrics`, every score ("all scores"), and drawing what the node shows.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BenchParts",
            category="benchmark",
            is_output_node=True,
            inputs=[
                io.Image.Input("images"),
                io.String.Input("metrics"),
                io.Int.Input("repeats", default=15, min=1),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, images, metrics, repeats) -> io.NodeOutput:
        attempts, profile = pack_module("nodes.attempts"), pack_module("realism_core.irs").Profile
        score, ui = pack_module("nodes.scorer").score_in_parts, pack_module("nodes.comfy").ui
        profile, slots = profile.shipped("reference"), len(images)
        parts = {
            name: lambda name=name: attempts.slot_values(images, slots, name, profile, lambda *_: None)
            for name in metrics.split(",")
        }
        parts["all scores"] = lambda: score(images, lambda _: None, profile=profile)
        parts["preview"] = lambda: ui.PreviewImage(attempts.preview(images[0])[None], cls=cls)
        return io.NodeOutput(ui={"text": (json.dumps({n: _median(c, repeats) for n, c in parts.items()}),)})


def _median(call, repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


class BenchNodes(ComfyExtension):
    async def get_node_list(self) -> list:
        return [BenchSalt, BenchSink, BenchTell, BenchParts, BenchSearch, BenchJudge, BenchResult]
