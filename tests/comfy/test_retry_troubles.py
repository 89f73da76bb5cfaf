"""Sample Until Real where something goes wrong: Cancel, NaN, odd pictures, bad input."""

from __future__ import annotations

import math

import pytest

from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, done, failure, shown, status
from tests.comfy.searches import (
    ATTEMPTS,
    SEED,
    STEPS,
    Checkpoints,
    both_ways,
    column,
    empty,
    loaded,
    plain,
    show_all,
    something_else,
    troubled,
)


@pytest.mark.parametrize(("where", "call"), [("model", 0), ("model", 3), ("vae", 0), ("vae", 1)])
def test_cancel_reports_the_best_so_far(
    server: ComfyServer, checkpoints: Checkpoints, where: str, call: int
) -> None:
    """In sampling, decoding and scoring: nothing half done goes on, and the log says what was best."""
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    model, vae = parts.pop("model"), parts.pop("vae")
    trouble = graph.add("TestTrouble", model=model, vae=vae, where=where, what="cancel", call=call)
    retry = graph.add("RealismRetry", latent=empty(graph), model=trouble[0], vae=trouble[1], **parts, cfg=1.0)
    told = graph.show(retry)
    before = len(server.log.read_text())
    run = server.run(graph)
    assert status(run) == "execution_interrupted" and told not in run.entry["outputs"]
    said = server.log.read_text()[before:]
    attempt = call // STEPS if where == "model" else call
    assert f"Sample Until Real was cancelled in attempt {attempt + 1} of {ATTEMPTS}" in said
    assert ("best so far: irs" in said) == (attempt > 0)
    ours, theirs = both_ways(server, checkpoints, "sd3")
    assert ours == theirs


def test_the_stop_button_takes_effect_within_a_step(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    retry = graph.add("RealismRetry", latent=empty(graph), **parts, steps=200, attempts=1000)
    graph.show(retry)

    def press(name: str, data: dict) -> None:
        if name == "progress" and data["value"] > 250:
            server.post("/interrupt", {})

    run = server.run(graph, on_event=press)
    assert status(run) == "execution_interrupted"
    assert max(data["value"] for name, data in run.events if name == "progress") < 2000


def test_a_picture_of_nan_is_unknown_and_another_attempt_is_taken(
    server: ComfyServer, checkpoints: Checkpoints
) -> None:
    graph = Graph()
    ids = show_all(graph, troubled(graph, server, checkpoints, "nan", value=-1e9))
    run = done(server.run(graph))
    assert shown(run, ids["attempts_used"]) == [2]
    assert shown(run, ids["seeds"]) == [f"{SEED + 1}, {SEED + 1}"]
    assert all(math.isfinite(value) for value in column(run, ids, "irs"))


def test_a_place_that_is_always_nan_loses_nothing_of_the_others(
    server: ComfyServer, checkpoints: Checkpoints
) -> None:
    graph = Graph()
    retry = troubled(graph, server, checkpoints, "first_nan", attempts=4)
    ids = show_all(graph, retry)
    run = done(server.run(graph))
    (pictures,) = shown(run, ids["images"])
    assert pictures["means"][0] == 0 and pictures["means"][1] > 0
    first, second = column(run, ids, "irs")
    assert first is None and second > 0
    (text,) = run.entry["outputs"][retry.id]["text"]
    assert "0: irs does not apply" in text and "every attempt was NaN" in text


def test_pictures_with_alpha(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """They go on with alpha; the previews, which are JPEG, do without and the server lives on."""
    graph = Graph()
    ids = show_all(graph, troubled(graph, server, checkpoints, "alpha"))
    run = done(server.run(graph))
    assert shown(run, ids["images"])[0]["shape"] == [2, 96, 64, 4]
    assert done(server.run(something_else()))


def test_a_video_is_one_place_and_scores_the_mean_of_its_frames(
    server: ComfyServer, checkpoints: Checkpoints
) -> None:
    graph = Graph()
    parts, latent = loaded(graph, server, checkpoints, "sd3"), empty(graph)
    trouble = graph.add(
        "TestTrouble", model=parts["model"], vae=parts["vae"], where="vae", what="frames", call=0
    )
    retry = graph.add("RealismRetry", latent=latent, **{**parts, "vae": trouble[1]})
    ids = show_all(graph, retry)
    plains = [plain(graph, {**parts, "vae": trouble[1]}, latent, SEED + n) for n in range(ATTEMPTS)]
    run = done(server.run(graph))
    means = [[sum(column(run, one, "irs")[3 * slot :][:3]) / 3 for slot in range(2)] for one in plains]
    best = [max(range(ATTEMPTS), key=lambda n: means[n][slot]) for slot in range(2)]
    assert shown(run, ids["seeds"]) == [", ".join(str(SEED + n) for n in best)]
    assert column(run, ids, "attempt") == [best[0]] * 3 + [best[1]] * 3
    (images,), (latents,) = shown(run, ids["images"]), shown(run, ids["latents"])
    wanted = [shown(run, plains[best[slot]]["images"])[0]["digests"][3 * slot :][:3] for slot in range(2)]
    assert images["digests"] == wanted[0] + wanted[1] and latents["samples"]["shape"][0] == 2


def wrong(server: ComfyServer, checkpoints: Checkpoints, **options) -> str:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    graph.show(graph.add("RealismRetry", **{"latent": empty(graph), **parts, **options}))
    run = server.run(graph)
    assert status(run) == "execution_error"
    assert not [name for name, _ in run.events if name == "progress"], "it began before it looked"
    return failure(run)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "beauty"}, ("metric", "'beauty'", "typicality")),
        ({"metric": "reconstruction"}, ("metric", "irs")),
        ({"rule": "band", "low": 2.0, "high": 1.0}, ("low is 2 and high 1", "exchange")),
        ({"rule": "band"}, ("low and high",)),
        ({"rule": "profile_band", "metric": "lattice"}, ("profile_band", "'lattice'", "typicality")),
        ({"denoise": 0.0}, ("denoise is 0", "raise")),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_anything_is_sampled(
    server: ComfyServer, checkpoints: Checkpoints, options: dict, words: tuple[str, ...]
) -> None:
    message = wrong(server, checkpoints, **options)
    assert all(word in message for word in words), message


def test_a_batch_of_videos_with_sound_is_refused(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, "sd3")
    latent = graph.add("TestVideoLatents", videos=2, sound=True)
    graph.show(graph.add("RealismRetry", latent=latent, **parts))
    assert "Rebatch Latents" in failure(server.run(graph))


def test_a_vae_that_gives_only_nan_is_named_after_three_attempts(
    server: ComfyServer, checkpoints: Checkpoints
) -> None:
    graph = Graph()
    graph.show(troubled(graph, server, checkpoints, "always_nan", attempts=1000))
    message = failure(server.run(graph))
    assert "all 3 attempts are NaN" in message and "fp32" in message


def test_cancel_while_the_result_is_scored_is_reported(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """The last decode presses Cancel after the last check: what was best is said all the same."""
    graph = Graph()
    graph.show(troubled(graph, server, checkpoints, "cancel", attempts=1))
    before = len(server.log.read_text())
    assert status(server.run(graph)) == "execution_interrupted"
    assert "Sample Until Real was cancelled in attempt 1 of 1" in server.log.read_text()[before:]
