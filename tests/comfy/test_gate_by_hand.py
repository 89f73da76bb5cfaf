"""RealismGate in the real ComfyUI: choices by hand, the suggested cut, the preview, bands of the profile."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from devtools.client import Run
from devtools.server import ComfyServer
from realism_core.gate import picture_codes
from tests.comfy.graphs import Graph, Node, done, failure, shown
from tests.comfy.test_gate_node import SIZES, VALUES, judged, numbers


def pictures(server: ComfyServer, run: Run, id: str) -> list[torch.Tensor]:
    """Return the pictures of a node's face, as their PNG files hold them."""
    files = [server.image(entry) for entry in run.entry["outputs"][id]["images"]]
    return [torch.from_numpy(np.array(Image.open(io.BytesIO(file)).convert("RGB")))[None] for file in files]


@pytest.fixture(scope="module")
def codes(server: ComfyServer) -> list[str]:
    """The codes of the five pictures that the tests sort."""
    graph = Graph()
    saved = graph.add("RealismSaveImages", images=graph.add("TestImageList", sizes=SIZES["list"]))
    return picture_codes(pictures(server, done(server.run(graph)), saved.id)).codes


def gate(server: ComfyServer, values: str = VALUES, **inputs) -> tuple[list[int], list[int], str, Run, Node]:
    """Run the gate; returns the passed, the rejected, and what the node's face says."""
    graph = Graph()
    images, scores = judged(graph, values, SIZES["list"])
    node = graph.add("RealismGate", images=images, scores=scores, **inputs)
    ids = [graph.show(node[side]) for side in ("passed", "rejected")]
    run = done(server.run(graph))
    (text,) = run.entry["outputs"][node.id]["text"]
    return numbers(run, ids[0]), numbers(run, ids[1]), text, run, node


def test_choices_by_hand_come_before_the_rule(server: ComfyServer, codes: list[str]) -> None:
    passed, rejected, text, *_ = gate(
        server, value=0.6, keep_by_hand=codes[4].upper(), reject_by_hand=f"{codes[1]}, {codes[0][:6]}"
    )
    assert (passed, rejected) == ([3, 4], [0, 1, 2])
    assert "by hand: 1 kept, 2 rejected" in text


def test_the_suggested_cut_does_what_it_says_when_typed_in(server: ComfyServer, codes: list[str]) -> None:
    """Kept: 0.5 and 0.7, rejected: 0.3; the rule at 0.6 explains two of three."""
    hand = {"keep_by_hand": f"{codes[2]} {codes[3]}", "reject_by_hand": codes[4]}
    text = gate(server, value=0.6, **hand)[2]
    suggestion = next(line for line in text.splitlines() if "explains" in line)
    assert "explains 3 of 3" in suggestion and "2 of 3" in suggestion
    value = float(suggestion.split()[suggestion.split().index("value") + 1])
    assert 0.3 < value <= 0.5
    assert gate(server, value=value)[0] == [1, 2, 3]
    assert "explains" not in gate(server, value=value, **hand)[2]


def test_a_choice_for_other_pictures_is_never_applied(server: ComfyServer, codes: list[str]) -> None:
    """The same codes on pictures of other colours: nothing is moved, and the face says so."""
    graph = Graph()
    images = graph.add("TestImages", batch=5, seed=4)
    scores = graph.add("RealismScore", images=images)
    node = graph.add(
        "RealismGate", images=images, scores=scores["scores"], metric="irs", value=-1e9,
        reject_by_hand=", ".join(codes),
    )  # fmt: skip
    count = graph.show(node["passed_count"])
    run = done(server.run(graph))
    assert shown(run, count) == [5]
    (text,) = run.entry["outputs"][node.id]["text"]
    assert f"not among these pictures, so not used: {', '.join(codes)}" in text


@pytest.mark.parametrize("on_empty", ["block", "best"])
def test_rejected_by_hand_stays_out_when_all_is_empty(
    server: ComfyServer, codes: list[str], on_empty: str
) -> None:
    passed, rejected, *_ = gate(server, value=2.0, on_empty=on_empty, reject_by_hand=codes[1])
    assert passed == ([3] if on_empty == "best" else [])
    assert sorted(passed + rejected) == [0, 1, 2, 3, 4]
    passed, rejected, *_ = gate(server, value=2.0, on_empty=on_empty, reject_by_hand=" ".join(codes))
    assert (passed, rejected) == ([], [0, 1, 2, 3, 4])


def test_an_unknown_picture_can_be_kept_by_hand(server: ComfyServer, codes: list[str]) -> None:
    passed, rejected, *_ = gate(
        server, values="0.1,nan,0.5,nan,0.3", value=0.4, on_unknown="block", keep_by_hand=codes[1]
    )
    assert (passed, rejected) == ([1, 2], [0, 4])


def test_bad_choices_are_refused(server: ComfyServer, codes: list[str]) -> None:
    for inputs, words in (
        ({"keep_by_hand": "kobal"}, ("keep_by_hand", "too short")),
        ({"keep_by_hand": codes[0], "reject_by_hand": codes[0]}, ("keep_by_hand", "reject_by_hand")),
    ):
        graph = Graph()
        images, scores = judged(graph, VALUES, SIZES["list"])
        graph.show(graph.add("RealismGate", images=images, scores=scores, **inputs)["passed"])
        message = failure(server.run(graph))
        assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "inputs",
    [
        {"value": 0.4}, {"rule": "band", "low": 0.2, "high": 0.6}, {"rule": "top_k", "value": 2},
        {"rule": "profile_band"}, {"value": 9.0}, {"values": "nan,nan,nan,nan,nan"},
        {"values": "inf,-inf,0,1e300,nan"},
    ],
    ids=str,
)  # fmt: skip
def test_the_face_shows_the_cut_and_the_pictures(server: ComfyServer, inputs: dict) -> None:
    *_, run, node = gate(server, **inputs)
    (face,) = pictures(server, run, node.id)
    height, width = face.shape[1:3]
    assert width >= 512 and height > 220 + 100
    assert face[:, :220].float().std() > 5 and face[:, 220:].float().std() > 5


def test_more_pictures_than_the_face_holds(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="soft", batch=60, height=32, width=32)
    scores = graph.add("RealismScore", images=images)
    node = graph.add("RealismGate", images=images, scores=scores["scores"], rule="top_fraction", value=0.5)
    count = graph.show(node["passed_count"])
    run = done(server.run(graph))
    assert shown(run, count) == [30]
    (face,) = pictures(server, run, node.id)
    assert face.shape[1] < 2000


def test_the_band_of_the_profile(server: ComfyServer) -> None:
    """0.05 to 0.95 for typicality, by definition of that score."""
    passed, rejected, *_ = gate(server, values="0.01,0.05,0.5,0.95,0.99", rule="profile_band")
    assert (passed, rejected) == ([1, 2, 3], [0, 4])


def test_the_band_of_a_fitted_profile_goes_with_its_scores(server: ComfyServer) -> None:
    """Gate pictures by the IRS of the very pictures of the profile: about nine of ten pass."""
    graph = Graph()
    images = graph.add("TestImages", kind="soft", batch=40, seed=3)
    profile = graph.add("RealismFitProfile", images=images, name="gate-band")
    scored = graph.add("RealismScore", images=images, profile=profile)
    node = graph.add("RealismGate", images=images, scores=scored["scores"], metric="irs", rule="profile_band")
    count = graph.show(node["passed_count"])
    (passed,) = shown(done(server.run(graph)), count)
    assert passed == 36


def test_a_column_without_a_band_is_refused(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImages", batch=2)
    scored = graph.add("RealismScore", images=images)
    graph.show(
        graph.add(
            "RealismGate", images=images, scores=scored["scores"], metric="lattice", rule="profile_band"
        )["passed"]
    )
    message = failure(server.run(graph))
    assert "'lattice'" in message and "typicality" in message


def test_scores_of_two_profiles_are_not_compared(server: ComfyServer) -> None:
    graph = Graph()
    images = graph.add("TestImages", kind="soft", batch=6)
    profile = graph.add("RealismFitProfile", images=images, name="gate-other")
    ours = graph.add("RealismScore", images=images)
    theirs = graph.add("RealismScore", images=images, profile=profile)
    both = graph.add("TestListOfTwo", first=ours["scores"], second=theirs["scores"])
    pictures = graph.add("TestListOfTwo", first=images, second=images)
    graph.show(graph.add("RealismGate", images=pictures, scores=both)["passed"])
    message = failure(server.run(graph))
    assert "profile" in message and "score all pictures with the same" in message
