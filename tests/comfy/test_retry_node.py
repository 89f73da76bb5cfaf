"""Sample Until Real in the real ComfyUI: the best of all attempts, each what KSampler and VAE Decode give."""

from __future__ import annotations

import pytest

from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, done, shown
from tests.comfy.searches import (
    ATTEMPTS,
    SEED,
    STEPS,
    Checkpoints,
    both_ways,
    column,
    digests,
    empty,
    loaded,
    plain,
    show_all,
    something_else,
)
from tests.tiny_models import KINDS

# kinds of binary messages: a text on a node; a preview, without and with the node it belongs to
TEXT, PICTURES = (3).to_bytes(4, "big"), {(1).to_bytes(4, "big"), (4).to_bytes(4, "big")}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sd15"])
def test_it_gives_the_best_of_plain_runs(server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    ours, theirs = both_ways(server, checkpoints, kind)
    assert ours == theirs


@pytest.mark.parametrize(
    "options",
    [
        {"sampler_name": "euler_ancestral", "scheduler": "karras"},
        {"sampler_name": "dpmpp_2m_sde", "scheduler": "normal", "cfg": 1.0},
    ],
    ids=lambda options: options["sampler_name"],
)
def test_samplers_that_draw_noise_of_their_own(
    server: ComfyServer, checkpoints: Checkpoints, options: dict
) -> None:
    ours, theirs = both_ways(server, checkpoints, "sd3", **options)
    assert ours == theirs


def test_on_the_oldest_comfyui(old_server: ComfyServer, checkpoints: Checkpoints) -> None:
    ours, theirs = both_ways(old_server, checkpoints, "sd3")
    assert ours == theirs


def test_from_a_latent_with_a_mask_and_a_batch_index(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """What comes with a latent counts as it does for KSampler, and goes on with the result."""
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    sampling = {name: parts[name] for name in ("model", "positive", "negative")}
    latents = graph.add(
        "KSampler", latent_image=empty(graph, 4), **sampling, seed=1, steps=2, cfg=1.0, denoise=1.0,
        sampler_name="euler", scheduler="simple",
    )  # fmt: skip
    chosen = graph.add("LatentFromBatch", samples=latents, batch_index=1, length=2)
    masked = graph.add("SetLatentNoiseMask", samples=chosen, mask=graph.add("TestMask", height=12, width=8))
    retry = show_all(graph, graph.add("RealismRetry", latent=masked, **parts, attempts=1, denoise=0.6))
    ids = plain(graph, parts, masked, SEED, denoise=0.6)
    run = done(server.run(graph))
    assert digests(run, retry) == digests(run, ids)
    (ours,), (theirs,) = shown(run, retry["latents"]), shown(run, ids["latents"])
    assert ours == theirs and ours["batch_index"] == [1, 2] and "noise_mask" in ours


@pytest.mark.parametrize(
    ("rule", "used"),
    [
        ({"value": -1e9}, 1),
        ({"value": 1e9, "keep": "low"}, 1),
        ({"value": -1e9, "keep": "low"}, ATTEMPTS),
        ({"rule": "band", "low": -1e9, "high": 1e9}, 1),
        ({"rule": "band", "low": 1e8, "high": 1e9}, ATTEMPTS),
        ({"rule": "profile_band", "metric": "percentile_glcm_energy"}, None),
    ],
    ids=str,
)
def test_it_stops_when_the_rule_holds(
    server: ComfyServer, checkpoints: Checkpoints, rule: dict, used: int | None
) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    ids = show_all(graph, graph.add("RealismRetry", latent=empty(graph), **parts, **rule))
    run = done(server.run(graph))
    (attempts,) = shown(run, ids["attempts_used"])
    if used is None:
        inside = [0.05 <= value <= 0.95 for value in column(run, ids, rule["metric"])]
        assert all(inside) if attempts < ATTEMPTS else len(inside) == 2
    else:
        assert attempts == used


def test_low_is_better_keeps_the_lowest(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts, latent = loaded(graph, server, checkpoints, "sd3"), empty(graph, 1)
    ids = show_all(graph, graph.add("RealismRetry", latent=latent, **parts, value=-1e9, keep="low"))
    plains = [plain(graph, parts, latent, SEED + number) for number in range(ATTEMPTS)]
    run = done(server.run(graph))
    assert column(run, ids, "irs") == [min(column(run, one, "irs")[0] for one in plains)]


@pytest.mark.parametrize("keep", ["high", "low"])
def test_the_last_seed_is_followed_by_the_first(
    server: ComfyServer, checkpoints: Checkpoints, keep: str
) -> None:
    """One of the two rules keeps the attempt after the last seed: it is what KSampler gives for seed 0."""
    graph = Graph()
    parts, latent = loaded(graph, server, checkpoints, "sd3"), empty(graph, 1)
    last = 2**64 - 1
    value = 1e9 if keep == "high" else -1e9
    ids = show_all(
        graph,
        graph.add("RealismRetry", latent=latent, **parts, seed=last, attempts=2, keep=keep, value=value),
    )
    plains = {seed: plain(graph, parts, latent, seed) for seed in (last, 0)}
    run = done(server.run(graph))
    best = (max if keep == "high" else min)(plains, key=lambda seed: column(run, plains[seed], "irs")[0])
    assert shown(run, ids["seeds"]) == [str(best)]
    assert digests(run, ids) == digests(run, plains[best])


def test_a_list_of_latents_is_searched_one_by_one(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """The way to sample again only what has not passed: each has attempts of its own."""
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    singles = graph.add("RebatchLatents", latents=empty(graph, 2), batch_size=1)
    ids = show_all(graph, graph.add("RealismRetry", latent=singles, **parts))
    run = done(server.run(graph))
    assert shown(run, ids["attempts_used"]) == [ATTEMPTS, ATTEMPTS]
    assert [item["shape"][0] for item in shown(run, ids["images"])] == [1, 1]


def test_it_tells_how_far_it_is(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    retry = graph.add("RealismRetry", latent=empty(graph), **loaded(graph, server, checkpoints, "sd3"))
    graph.show(retry)
    run = done(server.run(graph))
    bars = [data for name, data in run.events if name == "progress" and data["node"] == retry.id]
    shares = [data["value"] / data["max"] for data in bars]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert {data["max"] for data in bars} >= {ATTEMPTS * STEPS}
    texts = [blob[8 + int.from_bytes(blob[4:8], "big") :].decode() for blob in run.blobs if blob[:4] == TEXT]
    *running, last = texts
    assert [text.split(",")[0] for text in running] == [f"attempt {k} of {ATTEMPTS}" for k in (1, 2, 3)]
    assert "best so far: irs" in running[-1] and f"(seed {SEED}" in running[1]
    assert any(blob[:4] in PICTURES for blob in run.blobs)
    (text,) = run.entry["outputs"][retry.id]["text"]
    assert last == text and text.startswith(f"0 of 2 passed after {ATTEMPTS} of {ATTEMPTS} attempts\n0: irs ")
    assert len(run.entry["outputs"][retry.id]["images"]) == 2


def test_models_are_loaded_once(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """A model that nobody has used yet: its UNet and its VAE are brought in once for all attempts."""
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd15_noclip")
    done(server.run(something_else()))
    before = len(server.log.read_text())
    graph.show(graph.add("RealismRetry", latent=empty(graph), **parts, seed=99, attempts=4))
    done(server.run(graph))
    said = server.log.read_text()[before:]
    assert said.count("Requested to load BaseModel") == 1
    assert said.count("Requested to load TAESD") <= 1 and said.count("Requested to load") == 2
