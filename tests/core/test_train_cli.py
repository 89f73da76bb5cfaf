"""`realism train` in this process: files, options, messages, exit codes."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realism_core.cli import main
from realism_core.commands import train as train_command
from realism_core.training.loop import Result
from realism_core.training.lora_file import read_tensors
from realism_core.training.metadata import read_record
from realism_core.training.pictures import bucket_sizes, cut
from tests import diffusers_peer
from tests.core.tiny_pipelines import folder_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def photos(folder: Path, count: int = 5, sizes=((70, 70), (64, 130))) -> Path:
    """Write pictures with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(3)
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        shades = dice.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(shades).resize((width, height)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a photo {'abc'[number % 3]}\n")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Iterator[dict[str, Path]]:
    root = tmp_path_factory.mktemp("models")
    with diffusers_peer.without_torchvision():
        diffusers = diffusers_peer.diffusers()
        yield {kind: folder_of(diffusers, kind, root / kind) for kind in ("sd", "sd3")}


@pytest.fixture
def run(folders: dict, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Run the command: (exit code, stdout, stderr)."""

    def command(*words: object, model: object = None, pictures: object = None, steps: int = 4):
        pictures = photos(tmp_path / "photos") if pictures is None else pictures
        told = ["train", model or folders["sd"], pictures, "-o", tmp_path / "out.safetensors"]
        told += [
            "--resolution",
            64,
            "--rank",
            2,
            "--learning-rate",
            0.01,
            "--log-every",
            2,
            "--device",
            "cpu",
        ]
        code = main([str(word) for word in (*told, "--steps", steps, *words)])
        return code, *capsys.readouterr()

    return command


def losses_of(file: Path) -> list[float]:
    with file.open(newline="") as table:
        return [float(row["loss"]) for row in csv.DictReader(table)]


def test_it_trains_and_writes_what_it_did(run, tmp_path: Path) -> None:
    code, out, err = run(
        "--batch-size", 2, "--weight", "p2:k=1,gamma=0.5", "--weight", "min_snr", "--held-out", 1,
        "--losses", tmp_path / "losses.csv", "--layout", "kohya", "--condition-dropout", 0.3,
        "--timesteps", "logit_normal:std=0.8", "--resolution", 128,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "5 pictures in 2 shapes, 3 captions" in out and "held-out loss" in out
    tensors, metadata = read_tensors(tmp_path / "out.safetensors")
    assert all(key.startswith("lora_unet_") for key in tensors)
    record = read_record(metadata)
    assert (record.base_model, record.base_model_version) == ("sd", "sd_v1")
    assert (record.steps, record.images, record.rank, record.layout) == (4, 4, 2, "kohya")
    assert record.weighting["kind"] == "p2" and record.weighting["times"] == [["min_snr", {"gamma": 5.0}]]
    assert record.timesteps == {"kind": "logit_normal", "mean": 0.0, "std": 0.8, "stratified": True}
    losses = losses_of(tmp_path / "losses.csv")
    assert len(losses) == 4 and all(0 < loss < 10 for loss in losses)
    code, out, err = run()
    assert code == 2 and "out.safetensors exists already: choose another name, or add --force" in err


def test_resume_goes_on_to_the_same_bits(run, tmp_path: Path) -> None:
    checkpoint, whole = tmp_path / "c.safetensors", tmp_path / "whole.safetensors"
    options = ("--lora-dropout", 0.2, "--accumulation", 2, "--ema-decay", 0.9, "--force")
    assert run(*options, "-o", whole, steps=6)[0] == 0
    assert run(*options, "--checkpoint", checkpoint, steps=3)[0] == 0
    losses = tmp_path / "losses.json"
    code, out, err = run(*options, "--checkpoint", checkpoint, "--resume", "--losses", losses, steps=6)
    assert (code, err) == (0, "")
    expected, got = (read_tensors(file)[0] for file in (whole, tmp_path / "out.safetensors"))
    assert set(expected) == set(got) and all(torch.equal(expected[name], got[name]) for name in got)
    assert len(json.loads(losses.read_text())["losses"]) == 6
    code, out, err = run(*options, "--checkpoint", checkpoint, "--resume", "--learning-rate", 0.5, steps=6)
    assert code == 2 and "resume: learning_rate was 0.01" in err
    code, out, err = run(*options, "--checkpoint", checkpoint, "--resume", "--rank", 3, steps=6)
    assert code == 2 and "resume: lora.rank was 2" in err


def test_ctrl_c_keeps_what_was_trained(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = train_command._show

    def show(job, progress) -> None:
        if progress.step == 3:
            signal.raise_signal(signal.SIGINT)
        honest(job, progress)

    monkeypatch.setattr(train_command, "_show", show)
    checkpoint = tmp_path / "c.safetensors"
    before = signal.getsignal(signal.SIGINT)
    code, out, err = run("--checkpoint", checkpoint, steps=8)
    assert code == 130 and "3 steps of 8: saved as" in out and "stopped" in err
    assert signal.getsignal(signal.SIGINT) is before
    assert read_record(read_tensors(tmp_path / "out.safetensors")[1]).steps == 3
    monkeypatch.undo()
    code, _, err = run("--checkpoint", checkpoint, "--force", steps=8, model=tmp_path / "nowhere")
    assert code == 2 and "exists already" not in err  # force starts anew
    code, _, err = run("--checkpoint", checkpoint, steps=8)
    assert code == 2 and "exists already" in err and "--force" in err
    (tmp_path / "out.safetensors").rename(tmp_path / "stopped.safetensors")
    code, _, err = run("--checkpoint", checkpoint, steps=8)
    assert code == 2 and "add --resume to go on from it" in err
    (tmp_path / "stopped.safetensors").rename(tmp_path / "out.safetensors")
    assert run("--checkpoint", checkpoint, "--resume", steps=8)[0] == 0
    resumed = read_tensors(tmp_path / "out.safetensors")[0]
    assert run("--force", steps=8)[0] == 0
    whole = read_tensors(tmp_path / "out.safetensors")[0]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_unreadable_pictures_are_named_and_the_others_used(run, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 3)
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "bad.txt").write_text("a photo")
    code, out, err = run(pictures=folder)
    assert (
        code == 1
        and "bad.png is no PNG" in err
        and "3 pictures" in out
        and "1 file could not be used" in out
    )
    for file in folder.glob("?.png"):
        file.unlink()
    code, out, err = run("--force", pictures=folder)
    assert code == 2 and "none of the pictures could be read" in err


def test_one_picture_with_one_caption_is_enough(run, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 1)
    (folder / "0.txt").unlink()
    code, out, err = run("--caption", "a photo", pictures=folder)
    assert (code, err) == (0, "") and "1 picture in 1 shape, 1 caption" in out


def test_an_sd3_trains_too(run, folders: dict, tmp_path: Path) -> None:
    code, out, err = run("--pattern", "*.attn.to_q", "--layout", "diffusers", model=folders["sd3"])
    assert (code, err) == (0, "")
    tensors, metadata = read_tensors(tmp_path / "out.safetensors")
    assert read_record(metadata).objective == "flow"
    assert any(key.startswith("transformer.transformer_blocks.0.attn.to_q.lora_A") for key in tensors)


WRONG = {
    "does not exist|is not there": {"pictures": "nowhere"},
    "nowhere is not there: give the folder of a diffusers model": {"model": "nowhere"},
    "batch_size is 9, but there are only 5 images": {"words": ("--batch-size", 9)},
    "resolution is 100: use a multiple of 64": {"words": ("--resolution", 100)},
    "held_out is 5 of 5 images": {"words": ("--held-out", 5)},
    "--resume has no effect without --checkpoint": {"words": ("--resume",)},
    "ends with .csv or .json": {"words": ("--losses", "losses.txt")},
    "ends with .safetensors": {"words": ("-o", "out.ckpt")},
    "the kind of loss weight is 'p3'": {"words": ("--weight", "p3")},
    "'gamma' is no NAME=NUMBER": {"words": ("--weight", "p2:gamma")},
    "p2 takes no beta": {"words": ("--weight", "p2:beta=1")},
    "--timesteps uniform takes no std": {"words": ("--timesteps", "uniform:std=1")},
    "no effect without --weight": {"words": ("--weight-mode", "factor")},
    "learning_rate is 0": {"words": ("--learning-rate", 0)},
    "steps is 0": {"words": ("--steps", 0)},
    "rank 99 is more than layer": {"words": ("--rank", 99)},
    "--checkpoint-every has no effect without --checkpoint": {"words": ("--checkpoint-every", 2)},
    "--validate-every has no effect without --held-out": {"words": ("--validate-every", 2)},
    "trained with DoRA, which ComfyUI does not read": {"words": ("--dora", "--layout", "diffusers")},
}


@pytest.mark.parametrize("text", WRONG)
def test_what_makes_no_sense_is_refused_before_training(run, tmp_path: Path, text: str) -> None:
    given = {name: value for name, value in WRONG[text].items() if name != "words"}
    code, out, err = run(*WRONG[text].get("words", ()), **given)
    assert code == 2 and not (tmp_path / "out.safetensors").exists()
    assert re.search(text, err), err
    assert "Traceback" not in err and err.count("\n") == 1


def test_missing_captions_and_folders_without_pictures(run, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    for name in ("1.txt", "3.txt"):
        (folder / name).unlink()
    code, out, err = run(pictures=folder)
    assert code == 2 and "1.png and 1 more has no caption: write it into 1.txt beside" in err
    (folder / "1.txt").write_bytes(b"\xff\xfe\x00\xd8")
    (folder / "3.txt").write_text("a")
    code, out, err = run(pictures=folder)
    assert code == 2 and "1.txt is no UTF-8 text" in err
    (tmp_path / "empty").mkdir()
    code, out, err = run(pictures=tmp_path / "empty")
    assert code == 2 and "empty" in err


def test_models_that_cannot_be_read(run, folders: dict, tmp_path: Path, monkeypatch) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders["sd"], copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    code, out, err = run(model=copy)
    assert code == 2 and "is a pickle, which can run programs" in err
    (copy / "model_index.json").write_text('{"_class_name": "LTXPipeline"}')
    code, out, err = run(model=copy)
    assert (
        code == 2 and "copy is a LTXPipeline, which cannot be trained here: give a StableDiffusion" in err
    )
    (copy / "model_index.json").unlink()
    code, out, err = run(model=copy)
    assert code == 2 and "copy has no model_index.json" in err
    monkeypatch.setitem(sys.modules, "diffusers", None)
    code, out, err = run()
    assert code == 2 and "diffusers is needed" in err and "pip install realism-kit[train]" in err


def test_a_training_that_diverges_at_once_writes_nothing(run, tmp_path: Path, monkeypatch) -> None:
    class Broken(train_command.Dataset):
        def epochs(self, batch_size: int, seed: int):
            for example in self.examples:
                example.latent.mul_(float("nan"))
            return super().epochs(batch_size, seed)

    monkeypatch.setattr(train_command, "Dataset", Broken)
    code, out, err = run("--losses", tmp_path / "losses.csv")
    assert code == 2 and "The loss became NaN at step 1 of 4" in err
    assert not (tmp_path / "losses.csv").exists() and not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("resolution", [64, 256, 512, 1024])
def test_bucket_sizes_keep_the_area_and_take_all_shapes(resolution: int) -> None:
    sizes = bucket_sizes(resolution)
    assert (resolution, resolution) in sizes and bucket_sizes(resolution, True) == [
        (resolution, resolution)
    ]
    for height, width in sizes:
        assert height % 64 == width % 64 == 0 and height * width <= resolution**2
        assert height * width >= 0.6 * resolution**2
    for shape in np.geomspace(0.5, 2, 20) if resolution > 64 else ():
        assert min(abs(np.log(width / height / shape)) for height, width in sizes) < 0.36


def test_a_cut_covers_its_size_from_the_middle() -> None:
    ramp = torch.arange(300, dtype=torch.float32).div(300).mul(255).to(torch.uint8)
    picture = ramp[None, :, None].expand(100, 300, 3).contiguous()
    part = cut(picture, [(64, 64), (64, 128)])
    assert part.picture.shape == (64, 128, 3) and part.original == (100, 300) and not part.grown
    assert part.corner == (0, 32) and abs(float(part.picture.float().mean()) - 127) < 2
    small = cut(picture[:50, :50], [(64, 64)])
    assert small.grown and small.corner == (0, 0)
    same = cut(picture[:64, :64], [(64, 64)])
    assert torch.equal(same.picture, picture[:64, :64])


def test_a_result_without_held_out_pictures_tells_nothing(capsys) -> None:
    train_command._tell_held_out(None, Result({}, 1, [0.5], [], False))
    assert capsys.readouterr().out == ""
