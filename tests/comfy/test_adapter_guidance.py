"""Guidance of attributes and mask apart, against the sum of plain runs; and what it costs."""

from __future__ import annotations

import pytest

from devtools.server import ComfyServer
from tests.comfy.adapter_graphs import adapter_training, conditioned, faces, parts_of, sampled
from tests.comfy.graphs import Graph, Node, done, failure
from tests.comfy.searches import Checkpoints
from tests.comfy.test_adapter_nodes import text_of
from tests.comfy.test_train_node import far, values

CFG = 3.0


def guided(graph: Graph, model: list | Node, attributes: float, mask: float) -> Node:
    return graph.add("RealismAdapterGuidance", model=model, attribute_cfg=attributes, mask_cfg=mask)


@pytest.mark.parametrize("kind", ["sd15_noclip", "koala_vpred", "sd3", "flux", "sd3 and more words"])
def test_each_weight_is_its_own(server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    """One step of euler gives what the model thinks the picture is, so that runs can be added up.

    Also where another node has added words behind the tokens, and with the sampler's cfg at 1.
    """
    kind, _, more = kind.partition(" ")
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, kind)
    adapter = adapter_training(graph, kind, parts)["adapter"]
    if more:
        parts["mask"] = faces(graph, server, "nose")

    def prompted(**strengths) -> dict:
        node = conditioned(graph, parts, adapter, **strengths)
        sides = {name: node[name] for name in ("positive", "negative")}
        if more:
            sides["positive"] = graph.add(
                "ConditioningConcat", conditioning_to=sides["positive"], conditioning_from=parts["positive"]
            )
        return sides

    prompts = prompted()
    sides = {
        "all": prompts,
        "attributes": prompted(mask_strength=0.0),
        "prompt": prompted(attribute_strength=0.0, mask_strength=0.0),
        "none": {"positive": prompts["negative"], "negative": prompts["negative"]},
    }
    singles = {
        name: graph.show(sampled(graph, parts["model"], side, steps=1, cfg=1.0))
        for name, side in sides.items()
    }
    weights = [(CFG, 5.0, 1.0), (CFG, 0.0, 0.0), (CFG, CFG, 7.0), (CFG, 6.0, CFG), (CFG, 2.0, 2.0)]
    weights += [(1.0, 5.0, 2.0)]
    if kind == "koala_vpred":  # as slow as all others together
        weights = [weights[0], weights[-1]]
    ids = [
        graph.show(sampled(graph, guided(graph, parts["model"], *pair), prompts, steps=1, cfg=cfg))
        for cfg, *pair in weights
    ]
    run = done(server.run(graph))
    found = {name: values(run, id) for name, id in singles.items()}
    for (cfg, attributes, mask), id in zip(weights, ids, strict=True):
        wanted = [
            none + cfg * (prompt - none) + attributes * (told - prompt) + mask * (both - told)
            for none, prompt, told, both in zip(
                *(found[name] for name in ("none", "prompt", "attributes", "all")), strict=True
            )
        ]
        assert far(values(run, id), wanted) < 2e-3, (cfg, attributes, mask)
    assert far(values(run, ids[0]), values(run, ids[1])) > 1e-3


def test_weights_that_equal_the_cfg_cost_nothing(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    adapter = adapter_training(graph, "sd3", parts)["adapter"]
    prompts = conditioned(graph, parts, adapter)
    plain = graph.show(sampled(graph, parts["model"], prompts))
    same = graph.show(sampled(graph, guided(graph, parts["model"], CFG, CFG), prompts))
    run = done(server.run(graph))
    assert values(run, same) == values(run, plain)
    # what is needed besides the plain call: prompts without the mask, or without both, which other nodes'
    # patches are to take for positive ones, as they are
    costs = (
        (CFG, CFG, {}, 0), (CFG, 1.0, {}, 1), (2.0, 2.0, {}, 1), (1.0, 2.0, {}, 2),
        (2.0, 1.0, {"attributes": None}, 1), (1.0, 2.0, {"mask": None}, 1), (CFG, 2.0, {"mask": None}, 0),
    )  # fmt: skip
    for place, (attributes, mask, left_open, more) in enumerate(costs):
        graph = Graph()
        parts = parts_of(graph, server, checkpoints, "sd3")
        adapter = adapter_training(graph, "sd3", parts, **left_open)["adapter"]
        prompts = conditioned(graph, parts, adapter, **left_open)
        watched = graph.add("TestPasses", model=parts["model"], salt=place)
        latents = sampled(graph, guided(graph, watched, attributes, mask), prompts, steps=1)
        told = graph.add("TestPassesTold", latents=latents)
        both, *others = text_of(done(server.run(graph)), told)
        assert both[0] == 4 and sorted(both[1]) == [0, 1]
        assert others == [[2, [0]]] * more, (attributes, mask, left_open)


def test_two_guidances_would_add_up(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    first = guided(graph, parts["model"], 1.0, 2.0)
    graph.show(sampled(graph, guided(graph, first, 2.0, 1.0), parts))
    assert "model is guided by a Realism Adapter Guidance already" in failure(server.run(graph))


def test_a_picture_beside_the_latent_is_no_mask_in_channels(
    server: ComfyServer, checkpoints: Checkpoints
) -> None:
    """As nodes for inpainting give one; only an adapter's own cannot be guided apart."""
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    adapter = adapter_training(graph, "sd3", parts)["adapter"]
    beside = graph.add(
        "InpaintModelConditioning", positive=parts["positive"], negative=parts["negative"], vae=parts["vae"],
        pixels=graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0),
        mask=graph.add("SolidMask", value=1.0, width=64, height=64), noise_mask=False,
    )  # fmt: skip
    prompts = conditioned(graph, parts, adapter, positive=beside[0], negative=beside[1])
    latents = graph.show(sampled(graph, guided(graph, parts["model"], 1.0, 2.0), prompts, steps=1))
    assert values(done(server.run(graph)), latents)


def test_prompts_without_an_adapter_are_refused(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = parts_of(graph, server, checkpoints, "sd3")
    graph.show(sampled(graph, guided(graph, parts["model"], 1.0, 2.0), parts))
    assert "positive carries no tokens of an adapter" in failure(server.run(graph))
