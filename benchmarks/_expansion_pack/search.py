"""Sample Until Real as it would be by node expansion: each attempt adds its nodes to the running graph.

Scoring, choosing and the final result are the pack's own functions, so that only the way they are called
differs. Unlike the node of the pack it shows nothing on its way.
"""

from __future__ import annotations

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from .pack import pack_module

Found = io.Custom("BENCH_FOUND")
SEEDS = 1 << 64


class BenchSearch(io.ComfyNode):
    """Attempt `attempt` and all that follow: KSampler, VAE Decode, BenchJudge and then itself again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BenchSearch",
            category="benchmark",
            enable_expand=True,
            inputs=[
                io.Model.Input("model", raw_link=True),
                io.Conditioning.Input("positive", raw_link=True),
                io.Conditioning.Input("negative", raw_link=True),
                io.Latent.Input("latent", raw_link=True),
                io.Vae.Input("vae", raw_link=True),
                io.Int.Input("seed", max=SEEDS - 1),
                io.Int.Input("steps"),
                io.Float.Input("cfg"),
                io.String.Input("sampler_name"),
                io.String.Input("scheduler"),
                io.Float.Input("denoise"),
                io.String.Input("metric"),
                io.Float.Input("value", max=1e9),
                io.Int.Input("attempts", max=10000),
                io.Int.Input("attempt", default=0, optional=True),
                Found.Input("found", optional=True),
            ],
            outputs=[io.Image.Output(), io.Latent.Output(), io.Custom("REALISM_SCORES").Output()],
        )

    @classmethod
    def execute(
        cls, model, positive, negative, latent, vae, seed, metric, value, attempts, attempt=0, found=None,
        **settings,
    ) -> io.NodeOutput:  # fmt: skip
        graph = GraphBuilder()
        if attempt == attempts or (found is not None and found[1].done):
            result = graph.node("BenchResult", found=found)
            return _outputs(result, graph)
        sampled = graph.node(
            "KSampler", model=model, seed=(seed + attempt) % SEEDS, positive=positive, negative=negative,
            latent_image=latent, **settings,
        )  # fmt: skip
        decoded = graph.node("VAEDecode", samples=sampled.out(0), vae=vae)
        judged = graph.node(
            "BenchJudge", images=decoded.out(0), latent=sampled.out(0), metric=metric, value=value,
            attempt=attempt, found=found,
        )  # fmt: skip
        again = graph.node(
            "BenchSearch", model=model, positive=positive, negative=negative, latent=latent, vae=vae,
            seed=seed, metric=metric, value=value, attempts=attempts, attempt=attempt + 1,
            found=judged.out(0), **settings,
        )  # fmt: skip
        return _outputs(again, graph)


def _outputs(node, graph: GraphBuilder) -> io.NodeOutput:
    """Return that a node's three outputs are this one's, once the graph has run."""
    return io.NodeOutput(*(node.out(number) for number in range(3)), expand=graph.finalize())


class BenchJudge(io.ComfyNode):
    """Score one attempt and keep what is the best so far."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BenchJudge",
            category="benchmark",
            inputs=[
                io.Image.Input("images"),
                io.Latent.Input("latent"),
                io.String.Input("metric"),
                io.Float.Input("value", max=1e9),
                io.Int.Input("attempt"),
                Found.Input("found", optional=True),
            ],
            outputs=[Found.Output()],
        )

    @classmethod
    def execute(cls, images, latent, metric, value, attempt, found=None) -> io.NodeOutput:
        pack = pack_module("nodes.attempts")
        profile = pack_module("realism_core.irs").Profile.shipped("reference")
        if found is None:
            kept = pack.Kept(latent)
            found = kept, pack_module("realism_core.gate.retry").SlotSearch(kept.slots, "threshold", value)
        kept, search = found
        values, usable = pack.slot_values(images, kept.slots, metric, profile, lambda *_: None)
        for slot in search.offer(attempt, values, usable):
            kept.take(slot, latent["samples"], images)
        return io.NodeOutput(found)


class BenchResult(io.ComfyNode):
    """Give the best attempts with all their scores, and show them, as Sample Until Real does."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BenchResult",
            category="benchmark",
            inputs=[Found.Input("found")],
            outputs=[io.Image.Output(), io.Latent.Output(), io.Custom("REALISM_SCORES").Output()],
        )

    @classmethod
    def execute(cls, found) -> io.NodeOutput:
        pack, ui = pack_module("nodes.attempts"), pack_module("nodes.comfy").ui
        kept, search = found
        profile = pack_module("realism_core.irs").Profile.shipped("reference")
        images = kept.images()
        scores = pack.score_kept(images, search, profile, lambda *_: None)
        faces = torch.stack([pack.preview(kept.picture(slot)) for slot in range(kept.slots)])
        latents = {"samples": kept.samples()}
        return io.NodeOutput(images, latents, scores, ui=ui.PreviewImage(faces, cls=cls))
