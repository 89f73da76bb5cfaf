"""Realism Train LoRA goes on from its checkpoints to the same bits, whatever ended it before."""

from __future__ import annotations

import json
import pickle
import random
import resource
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from devtools.server import ComfyServer, ServerError
from tests.comfy.conftest import ROOT, TEST_PACK
from tests.comfy.graphs import Graph
from tests.comfy.searches import Checkpoints
from tests.comfy.trainings import (
    at_step,
    checkpoint_of,
    ended,
    interrupted_files,
    metadata,
    noise_training,
    refused,
    trained,
)
from tests.given import given
from tests.tiny_models import tiny_checkpoint

KILLS = 2


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("flow", "sd3", {}),
        ("eps", "sd15_noclip", {"optimiser": "adafactor", "recompute": True}),
        ("v", "koala_vpred", {"targets": "cross_attention", "dora": True}),
        (
            "all", "sd3",
            {
                "ema_decay": 0.9, "optimiser": "adafactor", "accumulation": 2, "lora_dropout": 0.3,
                "warmup": 2, "condition_dropout": 0.3, "negative": True, "seeds": "1,2,3,4,5", "held_out": 1,
            },
        ),
    ],
    ids=["flow", "eps", "v", "all"],
)  # fmt: skip
def test_in_two_parts_it_is_the_same(
    server: ComfyServer, checkpoints: Checkpoints, name: str, kind: str, options: dict
) -> None:
    whole = trained(server, checkpoints, kind, steps=6, **options)
    first = trained(server, checkpoints, kind, steps=3, checkpoint=name, **options)
    second = trained(server, checkpoints, kind, steps=6, checkpoint=name, resume=True, **options)
    assert second.tensors == whole.tensors != first.tensors
    assert second.losses == whole.losses and first.losses == whole.losses[:3]
    ends = ("realism.finished_at", "ss_training_finished_at")
    assert {**second.metadata, **dict.fromkeys(ends)} == {**whole.metadata, **dict.fromkeys(ends)}
    # validated at the break too, which changed nothing
    validated = [one["step"] for one in second.report["held_out"]]
    assert validated == ([0, 3, 6] if "held_out" in options else [])
    assert whole.report["held_out"] == second.report["held_out"][::2]


def test_cancel_leaves_a_checkpoint_to_go_on_from(server: ComfyServer, checkpoints: Checkpoints) -> None:
    options = {"steps": 300, "checkpoint": "cancelled", "seeds": "1,2,3", "ema_decay": 0.9}
    press = at_step(20, lambda: server.post("/interrupt", {}))
    assert ended(server, checkpoints, on_event=press, **options)[0] == "execution_interrupted"
    assert checkpoint_of(server, "cancelled").is_file()
    resumed = trained(server, checkpoints, **options, resume=True)
    (first, *_) = [data["value"] for name, data in resumed.run.events if name == "progress"]
    assert 20 < first < 300
    options.pop("checkpoint")
    assert resumed.tensors == trained(server, checkpoints, **options).tensors


def step_of(path: Path) -> int:
    return json.loads(metadata(path)["state"])["step"]


def kill_later(own: ComfyServer, path: Path, checkpoints: int, seconds: float) -> threading.Thread:
    """Kill a server some seconds after it has written so many checkpoints; returns the thread that will."""

    def stamp() -> int:
        return path.stat().st_mtime_ns if path.exists() else 0

    def wait() -> None:
        last, seen = stamp(), 0
        while seen < checkpoints and own.process.poll() is None:
            now = stamp()
            last, seen = now, seen + (now != last)
            time.sleep(0.005)
        time.sleep(seconds)
        own.process.kill()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_killed_again_and_again_it_ends_with_the_same_bits(
    server: ComfyServer, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    options = {"steps": 200, "seeds": "1,2,3,4,5", "held_out": 1, "ema_decay": 0.99, "lora_dropout": 0.2}
    whole = trained(server, checkpoints, **options)
    options |= {"checkpoint": "killed", "checkpoint_every": 3, "resume": True}
    packs = {"realism-kit": ROOT, "realism-test-nodes": TEST_PACK}
    directory, python = given("REALISM_COMFYUI_DIR", "comfy"), given("REALISM_COMFYUI_PY", "comfy")
    dice, reached = random.Random(), []
    for _ in range(KILLS):
        with ComfyServer(tmp_path, packs, directory, python) as own:
            graph = Graph()
            graph.show(noise_training(graph, own, checkpoints, **options)["steps"])
            path = checkpoint_of(own, "killed")
            thread = kill_later(own, path, dice.randint(1, 15), dice.uniform(0, 0.05))
            with pytest.raises(ServerError):
                own.run(graph)
            thread.join()
            assert own.process.wait() == -signal.SIGKILL
        reached.append(step_of(path))
    assert reached == sorted(set(reached)) and reached[0] >= 3 and reached[-1] < 200, reached
    # the last part in a server that was never killed, on what the killed ones left
    folder = checkpoint_of(server, "killed/killed").parent
    shutil.copytree(path.parent, folder)
    options["checkpoint"] = "killed/killed"
    resumed = trained(server, checkpoints, **options)
    first = next(data["value"] for name, data in resumed.run.events if name == "progress")
    assert first == reached[-1] + 1
    assert resumed.tensors == whole.tensors and resumed.losses == whole.losses
    assert [file.name for file in folder.iterdir()] == [path.name], "a part is left"


@pytest.fixture(scope="module")
def at_three(server: ComfyServer, checkpoints: Checkpoints) -> bytes:
    """A checkpoint after three steps."""
    trained(server, checkpoints, steps=3, checkpoint="at-three")
    return checkpoint_of(server, "at-three").read_bytes()


def gone_on(server: ComfyServer, checkpoints: Checkpoints, file: bytes, **options) -> str:
    """Return why a training of six steps does not go on from a file, which stays as it was."""
    path = checkpoint_of(server, "odd")
    path.write_bytes(file)
    given = {"steps": 6, "checkpoint": "odd", "resume": True, **options}
    message = refused(server, checkpoints, **given)
    assert path.read_bytes() == file
    return message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 2e-3}, ("learning_rate was 0.001", "is 0.002 now", "set it back")),
        ({"rank": 8}, ("lora.rank was 4", "is 8 now")),
        ({"ema_decay": 0.5}, ("ema_decay was 0.0", "is 0.5 now")),
        ({"seeds": "1,3"}, ("latents", "not what they were")),
        ({"seeds": "1,2,3", "held_out": 1}, ("latents", "held_out", "not what they were")),
        ({"targets": "all"}, ("other layers: x_embedder.proj", "choose those targets")),
        ({"kind": "sd3_clip"}, ("another model or other layers: joint_blocks.0", "Connect that model")),
        ({"kind": "sd15_noclip"}, ("another model or other layers: input_blocks.1", "Connect that model")),
        ({"steps": 2}, ("at step 3 already", "raise steps")),
    ],
    ids=str,
)
def test_another_training_is_not_gone_on_with(
    server: ComfyServer, checkpoints: Checkpoints, at_three: bytes, options: dict, words: tuple[str, ...]
) -> None:
    message = gone_on(server, checkpoints, at_three, **options)
    assert message.startswith("resume: ") and all(word in message for word in words), message


def test_another_model_of_the_same_shapes(
    server: ComfyServer, checkpoints: Checkpoints, at_three: bytes
) -> None:
    """A merge or a fine-tune: one layer differs, and is named."""
    with safe_open(tiny_checkpoint("sd3"), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["model.diffusion_model.joint_blocks.0.x_block.attn.proj.weight"] *= 1.5
    save_file(tensors, server.base / "models" / "checkpoints" / "merged.safetensors")
    message = gone_on(server, lambda *_: "merged.safetensors", at_three)
    assert "joint_blocks.0.x_block.attn.proj is not what it was" in message


@pytest.mark.parametrize("what", ["truncated", "pickle", "lora", "text", "empty", "later version"])
def test_files_that_are_no_checkpoint(
    server: ComfyServer, checkpoints: Checkpoints, at_three: bytes, what: str
) -> None:
    if what == "lora":
        trained(server, checkpoints, steps=2)
        lora = max((server.base / "output" / "loras").glob("kept_2*"), key=lambda file: file.stat().st_mtime)
    file, words = {
        "truncated": (at_three[:-100], ("is truncated",)),
        "pickle": (pickle.dumps({"step": 3}), ("is a pickle", "only safetensors")),
        "lora": (lora.read_bytes() if what == "lora" else b"", ("a LoRA alone", "that the training wrote")),
        "text": (b"step 3", ("truncated",)),
        "empty": (b"", ("is truncated: it has 0 bytes",)),
        "later version": (
            at_three.replace(b'"version":"1"', b'"version":"7"'), ("version 7", "this trainer reads 1"),
        ),
    }[what]  # fmt: skip
    message = gone_on(server, checkpoints, file)
    assert message.startswith("resume: ") and all(word in message for word in words), message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"checkpoint": "at-three"}, ("checkpoint: ", "there already", "Turn resume on", "another name")),
        ({"checkpoint": "../../secret"}, ("checkpoint '", "leads outside")),
        ({"checkpoint": "away/secret"}, ("checkpoint '", "leads outside")),
        ({"resume": True}, ("resume needs to know which checkpoint",)),
        ({"checkpoint": "  ", "resume": True}, ("resume needs to know which checkpoint",)),
        ({"checkpoint_every": 2}, ("checkpoint_every needs", "checkpoint", "set it to 0")),
    ],
    ids=str,
)
def test_where_to_is_checked_first(
    server: ComfyServer, checkpoints: Checkpoints, at_three: bytes, tmp_path: Path, options: dict,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    link = checkpoint_of(server, "at-three").parent / "away"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path)
    message = refused(server, checkpoints, **options)
    assert all(word in message for word in words), message
    assert checkpoint_of(server, "at-three").read_bytes() == at_three
    assert not list(tmp_path.iterdir()) and not list(server.base.parent.glob("*secret*"))


def test_resume_without_a_checkpoint_starts_anew(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """So that a workflow that was killed can be queued again as it is, however early that was."""
    begun = trained(server, checkpoints, steps=3, checkpoint="sub/folder", resume=True)
    assert begun.tensors == trained(server, checkpoints, steps=3).tensors
    assert checkpoint_of(server, "sub/folder").is_file()


# a checkpoint of megabytes
LARGE = {"kind": "sd15_noclip", "steps": 12, "rank": 32, "clamp_rank": True, "targets": "all"}


@pytest.fixture(scope="module")
def undisturbed(server: ComfyServer, checkpoints: Checkpoints) -> tuple[dict, bytes]:
    """The LoRA of LARGE, trained in one go."""
    return trained(server, checkpoints, **LARGE).tensors


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process's files")
@pytest.mark.parametrize("share", [0.6, 0.2], ids=["the LoRA fits", "nothing fits"])
def test_a_full_disk_keeps_the_checkpoint_before(
    server: ComfyServer, checkpoints: Checkpoints, undisturbed: tuple[dict, bytes], share: float
) -> None:
    """share: of a checkpoint's size there is room for. The server's log has to fit into half of that."""
    name = f"full-{share}"
    options = {**LARGE, "checkpoint": name}
    process, before = server.process.pid, len(interrupted_files(server))
    path = checkpoint_of(server, name)

    def fill_disk() -> None:
        room = int(share * path.stat().st_size)
        assert server.log.stat().st_size < room // 2
        resource.prlimit(process, resource.RLIMIT_FSIZE, (room, limits[1]))

    limits = resource.prlimit(process, resource.RLIMIT_FSIZE)
    try:
        how, message = ended(
            server, checkpoints, on_event=at_step(5, fill_disk), checkpoint_every=3, **options
        )
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, limits)
    assert how == "execution_error" and f"the checkpoint {path} cannot be written" in message
    assert "make room" in message and "The checkpoint before it is whole" in message
    assert [file.name for file in path.parent.glob("full*")] == [path.name]
    saved = len(interrupted_files(server)) - before
    assert (saved, "LoRA" in message) == ((1, False) if share > 0.5 else (0, True)), message
    resumed = trained(server, checkpoints, **options, resume=True)
    assert next(data["value"] for name, data in resumed.run.events if name == "progress") % 3 == 1
    assert resumed.tensors == undisturbed
    path.unlink()
