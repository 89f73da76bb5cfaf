"""The trainings of benchmarks/adapter.py: each in its own process, and kept in the cache once done."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import _adapter_child, _adapter_codec, _faces_drawn
from benchmarks._adapter_codec import Codec
from benchmarks._faces_drawn import DrawnFaces, drawn_faces
from devtools.comfyui import ensure_install

CHILD = Path(_adapter_child.__file__)
HELD_OUT_SEED = 5
LIMIT = 4 * 3600


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
    """The sizes of the experiment; start_*: of the whole network's training, the others of each adapter's."""

    heads: int = 3
    faces: int = _adapter_codec.FACES
    held_out: int = 200
    start_steps: int = 2000
    start_batch: int = 32
    start_rate: float = 2e-3
    steps: int = 1500
    batch: int = 16
    rate: float = 2e-3
    rank: int = 32
    width: int = 128
    unknown: float = 0.1
    cfg: float = 2.5
    sample_steps: int = 20


class Runs:
    """Trains what a plan asks for, or takes it from the folder, where it stays."""

    def __init__(self, plan: Plan, codec: Codec, folder: Path) -> None:
        self.plan, self.codec, self.folder = plan, codec, folder

    @property
    def held_out(self) -> DrawnFaces:
        """The faces whose attributes and masks are asked for; nothing learned from them."""
        return drawn_faces(self.plan.held_out, HELD_OUT_SEED)

    def network(self) -> Path:
        """Return the file of the network that draws faces, not told which."""
        plan = self.plan
        kept = ("faces", "heads", "start_steps", "start_batch", "start_rate")
        path = self._path("start", {name: asdict(plan)[name] for name in kept})
        if not path.is_file():
            settings = {
                "steps": plan.start_steps, "batch_size": plan.start_batch, "learning_rate": plan.start_rate,
                "schedule": "cosine", "warmup": plan.start_steps // 20, "seed": 0, "ema_decay": 0.998,
                "weight_decay": 0.0,
            }  # fmt: skip
            part = path.with_suffix(".training")
            self._child(part, what="start", network=str(part), settings=settings, heads=plan.heads)
            os.replace(part, path)
        return path

    def made(self, arm: Arm, seed: int) -> Tensor:
        """Return the pictures [n,64,64,3] in 0..1 that an arm makes of the held-out conditions."""
        plan, network = self.plan, self.network()
        told = {**asdict(plan), **asdict(arm), "name": "", "seed": seed, "network": network.name}
        path = self._path("made", told)
        if not path.is_file():
            inputs = {
                "steps": plan.steps, "batch_size": plan.batch, "learning_rate": plan.rate, "seed": seed,
                "schedule": "cosine", "warmup": plan.steps // 20, "ema_decay": 0.99, "weight_decay": 0.0,
                "lora_rank": plan.rank, "lora_rate": 1.0, "targets": "all", "width": plan.width,
                "unknown": plan.unknown, "attribute_form": arm.attributes, "mask_form": arm.mask,
            }  # fmt: skip
            part = path.with_suffix(".training")
            sample = {"seed": 1000 * seed, "steps": plan.sample_steps, "cfg": plan.cfg, "batch": 50}
            self._child(
                network, what="adapter", made=str(part), inputs=inputs, sample=sample,
                attributes=arm.attributes != "none", mask=arm.mask != "none",
            )  # fmt: skip
            os.replace(part, path)
        return self.codec.decode(load_file(path)["latents"])

    def _path(self, kind: str, told: dict[str, Any]) -> Path:
        files = [*([] if kind == "faces" else [CHILD]), Path(_adapter_codec.__file__)]
        sha = hashlib.sha256(json.dumps(told, sort_keys=True).encode() + _faces_drawn.version().encode())
        for file in files:
            sha.update(file.read_bytes())
        return self.folder / f"{kind}-{sha.hexdigest()[:16]}.safetensors"

    def _child(self, used: Path, **wanted: Any) -> list[float]:
        """Run the child; raises RuntimeError with the end of what it said if it fails."""
        install, base = ensure_install(), used.parent / "comfyui"
        models = base / "models" / "diffusion_models"
        for folder in (models, base / "custom_nodes", base / "input", base / "output", base / "temp"):
            folder.mkdir(parents=True, exist_ok=True)
        link = models / _adapter_child.NETWORK
        if not link.is_symlink():
            link.symlink_to(used)
        elif link.readlink() != used:
            link.unlink()
            link.symlink_to(used)
        folder = self._faces()
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environ["COMFYUI_BASE_DIRECTORY"] = str(base)
        told = json.dumps({"folder": str(folder), **wanted})
        done = subprocess.run(
            [str(install.python), str(CHILD), str(install.folder), str(base), told],
            check=False, cwd=base, env=environ, text=True, stdout=subprocess.PIPE, timeout=LIMIT,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{wanted['what']}: the process failed, see above.\n{done.stdout[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def _faces(self) -> Path:
        """Return the folder with the faces as the child reads them, written once."""
        folder = self._path("faces", {"faces": self.plan.faces, "held_out": self.plan.held_out}).with_suffix(
            ""
        )
        if not folder.is_dir():
            part = folder.with_suffix(f".{os.getpid()}.part")
            part.mkdir(parents=True)
            training = drawn_faces(self.plan.faces, _adapter_codec.SEED)
            for name, faces in (("training", training), ("held_out", self.held_out)):
                side = _adapter_codec.SIDE
                labels = faces.mask.resized(side, side).labels
                latents = self.codec.encode(faces.images).contiguous()
                save_file({"latents": latents, "labels": labels.contiguous()}, part / f"{name}.safetensors")
                said = [dict(one.strengths) for one in faces.attributes]
                (part / f"{name}.json").write_text(json.dumps(said), encoding="utf-8")
            os.replace(part, folder)
        return folder
