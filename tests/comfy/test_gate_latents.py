"""RealismGate in the real ComfyUI: what comes with a latent stays with its picture."""

from __future__ import annotations

import pytest

from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, done, failure, shown, status
from tests.comfy.test_gate_node import SIZES, VALUES, judged

VIDEOS = {"one": {"videos": 1, "frames": 6}, "two": {"videos": 2, "frames": 3}}


@pytest.mark.parametrize("form", VIDEOS)
def test_a_video_latent_whose_frames_are_the_pictures_is_sorted(server: ComfyServer, form: str) -> None:
    graph = Graph()
    images, scores = judged(graph, "0.1,0.9,0.5,0.7,0.3,0.8", "6x16x16")
    latents = graph.add("TestVideoLatents", **VIDEOS[form])
    node = graph.add("RealismGate", images=images, scores=scores, latents=latents, value=0.6)
    ids = [graph.show(node[f"{side}_latents"]) for side in ("passed", "rejected")]
    run = done(server.run(graph))
    sides = [
        [
            # four values a frame, and the mask in step
            (
                latent["samples"]["first"][: 4 * latent["samples"]["shape"][2] : 4],
                latent["noise_mask"]["shape"][2],
            )
            for latent in shown(run, id)
        ]
        for id in ids
    ]
    frames = [[number for numbers, _ in side for number in numbers] for side in sides]
    assert frames == [[1, 3, 5], [0, 2, 4]]
    assert all(len(numbers) == masks for side in sides for numbers, masks in side)


@pytest.mark.parametrize(("videos", "frames"), [(1, 2), (2, 2), (1, 9)])
def test_a_video_latent_of_another_length_is_refused(server: ComfyServer, videos: int, frames: int) -> None:
    graph = Graph()
    images, scores = judged(graph, VALUES, SIZES["batch"])
    latents = graph.add("TestVideoLatents", videos=videos, frames=frames)
    graph.show(graph.add("RealismGate", images=images, scores=scores, latents=latents)["passed"])
    message = failure(server.run(graph))
    assert (
        f"{videos * frames} video frames" in message and "5 pictures" in message and "Disconnect" in message
    )


def test_a_video_with_sound_is_refused(server: ComfyServer) -> None:
    graph = Graph()
    images, scores = judged(graph, VALUES, SIZES["batch"])
    latents = graph.add("TestVideoLatents", frames=5, sound=True)
    graph.show(graph.add("RealismGate", images=images, scores=scores, latents=latents)["passed"])
    message = failure(server.run(graph))
    assert "video and sound" in message and "disconnect" in message


@pytest.mark.parametrize("form", ["video", "batch"])
def test_a_mask_a_picture_goes_along(server: ComfyServer, form: str) -> None:
    """As Set Latent Noise Mask gives them: one for each frame of a video or each latent."""
    graph = Graph()
    images, scores = judged(graph, "0.1,0.9,0.5,0.7,0.3,0.8", "6x16x16")
    if form == "video":
        latents = graph.add("TestVideoLatents", frames=6)
    else:
        latents = graph.add("EmptyLatentImage", width=16, height=16, batch_size=6)
    masks = graph.add("ImageToMask", image=images, channel="red")
    masked = graph.add("SetLatentNoiseMask", samples=latents, mask=masks)
    node = graph.add("RealismGate", images=images, scores=scores, latents=masked, value=0.6)
    id = graph.show(node["passed_latents"])
    (latent,) = shown(done(server.run(graph)), id)
    # the pictures are numbered by their colour
    assert [round(100 * mean) for mean in latent["noise_mask"]["means"]] == [1, 3, 5]


def test_fewer_masks_than_latents_are_taken_in_turn(server: ComfyServer) -> None:
    """As ComfyUI does when it samples: the second and the fourth latent have the second mask."""
    graph = Graph()
    images, scores = judged(graph, "0.1,0.9,0.5,0.7", "4x16x16")
    latents = graph.add("EmptyLatentImage", width=16, height=16, batch_size=4)
    two = graph.add("ImageToMask", image=graph.add("TestImageList", sizes="2x16x16"), channel="red")
    masked = graph.add("SetLatentNoiseMask", samples=latents, mask=two)
    node = graph.add("RealismGate", images=images, scores=scores, latents=masked, value=0.6)
    id = graph.show(node["passed_latents"])
    (latent,) = shown(done(server.run(graph)), id)
    assert [round(100 * mean) for mean in latent["noise_mask"]["means"]] == [1, 1]


def test_pictures_of_nan_can_be_sorted(server: ComfyServer) -> None:
    """By scores of another pack: they are drawn black, and go on as they came."""
    graph = Graph()
    images = graph.add("TestImages", kind="nan", batch=2)
    values = graph.add("TestFloats", values="1,2")
    scores = graph.add("RealismScoreColumn", values=values, name="taste")
    node = graph.add("RealismGate", images=images, scores=scores, metric="taste", value=1.5)
    id = graph.show(node["passed_count"])
    assert shown(done(server.run(graph)), id) == [1]


def test_cancel_while_pictures_are_read_loses_nothing(server: ComfyServer) -> None:
    """Nothing behind the gate runs; the same graph again does all of it."""
    graph = Graph()
    images = graph.add("TestImages", batch=120, height=512, width=512)
    values = graph.add("TestFloats", values=",".join(str(number) for number in range(120)))
    scores = graph.add("RealismScoreColumn", values=values, name="number")
    node = graph.add("RealismGate", images=images, scores=scores, metric="number", rule="top_k", value=7)
    id = graph.show(node["passed_count"])

    def press(name: str, data: dict) -> None:
        if name == "progress" and data["node"] == node.id:
            server.post("/interrupt", {})

    run = server.run(graph, on_event=press)
    assert status(run) == "execution_interrupted" and id not in run.entry["outputs"]
    assert shown(done(server.run(graph)), id) == [7]
