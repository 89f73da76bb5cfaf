"""The trainings of benchmarks/adapter.py: each in its own process, and kept in the cache once done."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import _adapter_child, _adapter_codec, _faces_drawn
from benchmarks._adapter_codec import Codec
from benchmarks._faces_drawn import DrawnFaces, drawn_faces
from devtools.comfyui import ensure_install
from devtools.environment import locked

CHILD = Path(_adapter_child.__file__)
HELD_OUT_SEED = 6  # guidance, rate, noise levels and autoencoder were chosen on faces of seed 5


@dataclass(frozen=True)
class Arm:
    """What an adapter is told of a face, and in which form."""

    name: str
    attributes: str
    mask: str


TOKENS = Arm("tokens, both", "tokens", "tokens")
POOLED = Arm("pooled, both", "pooled", "pooled")
ATTRIBUTES = Arm("tokens, attributes only", "tokens", "none")
MASK = Arm("tokens, mask only", "none", "tokens")
ARMS = (TOKENS, POOLED, ATTRIBUTES, MASK)


@dataclass(frozen=True)
class Plan:
    """The sizes of the experiment, the same for every arm; cfg, sample_steps: of the sampling."""

    heads: int = 2
    faces: int = _adapter_codec.FACES
    held_out: int = 200
    steps: int = 8000
    batch: int = 16
    rate: float = 3e-3
    width: int = 128
    unknown: float = 0.1
    dropout: float = 0.1
    noise: float = 1.0  # how far the noise levels that are learned from lie towards noise
    cfg: float = 3.0
    sample_steps: int = 20


# what `Runs.state` trains to know the code by: all but the sizes as in any other
SMALL = Plan(heads=1, faces=16, held_out=2, steps=4, batch=4, width=8, sample_steps=2)


class Runs:
    """Trains what a plan asks for, or takes it from the folder, where it stays."""

    def __init__(self, plan: Plan, codec: Codec, folder: Path, state: str | None = None) -> None:
        """state: what `fingerprint` returned, None: it is asked for."""
        self.plan, self.codec, self.folder = plan, codec, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.state = fingerprint(codec) if state is None else state

    @property
    def held_out(self) -> DrawnFaces:
        """The faces whose attributes and masks are asked for; nothing learned from them."""
        return drawn_faces(self.plan.held_out, HELD_OUT_SEED)

    def made(self, arm: Arm, seed: int) -> Tensor:
        """Return the pictures [n,64,64,3] in 0..1 that an arm makes of the held-out conditions."""
        plan = self.plan
        told = {**asdict(plan), **asdict(arm), "name": "", "seed": seed, "state": self.state}
        path = self._path("made", told)
        if not path.is_file():
            part, network = path.with_suffix(".training"), path.with_suffix(".network.safetensors")
            checkpoint = path.with_suffix(".checkpoint.safetensors")
            settings = {
                "steps": plan.steps, "batch_size": plan.batch, "learning_rate": plan.rate, "seed": seed,
                "schedule": "cosine", "warmup": plan.steps // 20, "ema_decay": 0.998, "weight_decay": 0.0,
                "condition_dropout": plan.dropout, "checkpoint_every": 1000,
            }  # fmt: skip
            config = {
                "attributes": arm.attributes, "mask": arm.mask, "width": plan.width, "grid": 8, "patch": 4,
            }  # fmt: skip
            self._child(
                network, made=str(part), checkpoint=str(checkpoint), heads=plan.heads, config=config,
                settings=settings, dropout=plan.dropout, unknown=plan.unknown, noise=plan.noise,
                sample={"seed": 1000 * seed, "steps": plan.sample_steps, "cfg": plan.cfg, "batch": 50},
            )  # fmt: skip
            os.replace(part, path)
            for file in (network, checkpoint):
                file.unlink()
        return self.codec.decode(load_file(path)["latents"])

    def _path(self, kind: str, told: dict[str, Any]) -> Path:
        numbers = [weight.detach().double().sum().item() for weight in self.codec.state_dict().values()]
        sha = hashlib.sha256(repr((sorted(told.items()), numbers, _faces_drawn.version())).encode())
        return self.folder / f"{kind}-{sha.hexdigest()[:16]}.safetensors"

    def _child(self, network: Path, **wanted: Any) -> None:
        """Run the child; raises RuntimeError if it fails, which then said why."""
        install = ensure_install()
        with TemporaryDirectory(dir=self.folder, prefix="comfyui-") as base:
            models = Path(base) / "models" / "diffusion_models"
            for folder in (
                models,
                *(Path(base) / name for name in ("custom_nodes", "input", "output", "temp")),
            ):
                folder.mkdir(parents=True)
            (models / network.name).symlink_to(network)
            environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            environ["COMFYUI_BASE_DIRECTORY"] = base
            told = json.dumps({"folder": str(self._faces()), "network": str(network), **wanted})
            done = subprocess.run(
                [str(install.python), str(CHILD), str(install.folder), base, told],
                check=False, cwd=base, env=environ,
            )  # fmt: skip
        if done.returncode:
            raise RuntimeError("The training failed, as its process says above.")

    def _faces(self) -> Path:
        """Return the folder with the faces as the child reads them, written once."""
        numbers = {"faces": self.plan.faces, "held_out": self.plan.held_out}
        folder = self._path("faces", numbers).with_suffix("")
        with locked("adapter-faces"):  # arms may be trained side by side
            if not folder.is_dir():
                part = folder.with_suffix(".part")
                part.mkdir(parents=True, exist_ok=True)
                training = drawn_faces(self.plan.faces, _adapter_codec.SEED)
                self._write(training, part, "training")
                self._write(self.held_out, part, "held_out")
                os.replace(part, folder)
        return folder

    def _write(self, faces: DrawnFaces, folder: Path, name: str) -> None:
        labels = faces.mask.resized(_adapter_codec.SIDE, _adapter_codec.SIDE).labels
        latents = self.codec.encode(faces.images).contiguous()
        save_file({"latents": latents, "labels": labels.contiguous()}, folder / f"{name}.safetensors")
        said = [dict(one.strengths) for one in faces.attributes]
        (folder / f"{name}.json").write_text(json.dumps(said), encoding="utf-8")


def fingerprint(codec: Codec) -> str:
    """Return a hash of what a tiny training makes, bit by bit: of code, torch and processor at once."""
    with TemporaryDirectory() as folder:
        made = Runs(SMALL, codec, Path(folder), state="").made(TOKENS, 0)
    return hashlib.sha256(made.numpy().tobytes()).hexdigest()[:16]
