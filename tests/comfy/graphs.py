"""Short ways to write graphs for the real server and to read what came of them."""

from __future__ import annotations

import json
from typing import Any

from devtools.client import Run

OUTPUTS = {
    "RealismScore": ("images", "scores", "irs", "plot", "report"),
    "RealismMap": ("overlay", "map"),
    "RealismFitProfile": ("profile", "summary"),
    "RealismLoadProfile": ("profile",),
    "RealismGate": (
        "passed", "rejected", "passed_scores", "rejected_scores", "passed_latents", "rejected_latents",
        "passed_masks", "rejected_masks", "passed_count", "rejected_count",
        "unknown", "unknown_scores", "unknown_latents", "unknown_masks", "unknown_count",
    ),
    "RealismScoreColumn": ("scores",),
    "RealismTrainLoRA": ("model", "lora", "loss", "steps", "plot", "previews", "report", "clip"),
    "RealismSaveLoRA": ("path",),
    "RealismRetry": ("images", "latents", "scores", "attempts_used", "seeds"),
    "RealismSaveImages": ("images",),
    "RealismDegrade": ("images", "setting"),
    "RealismLossWeight": ("weight", "plot", "report"),
    "RealismLossTerm": ("term",),
    "RealismScoreWeights": ("weights", "report", "plot"),
    "RealismFaceAttributes": ("attributes", "text"),
    "RealismTrainAdapter": ("adapter", "model", "loss", "steps", "plot", "previews", "report", "lora"),
    "RealismLoadAdapter": ("adapter",),
    "RealismSaveAdapter": ("path",),
    "RealismAdapterGuidance": ("model",),
    "RealismFaceData": ("latents", "attributes", "masks", "report"),
    "RealismFaceMask": ("mask", "preview"),
    "RealismEditFaceMask": ("mask", "preview"),
    "RealismFaceMaskParts": ("mask", "masks"),
    "RealismConditioner": ("model", "positive", "negative"),
    "RealismParseFace": ("mask", "preview"),
}  # fmt: skip
DEFAULTS = {
    "TestImages": {"kind": "noise", "batch": 1, "height": 64, "width": 64, "channels": 3, "seed": 0},
    "TestImageList": {"kind": "index"},
    "TestLatents": {"extras": True},
    "TestFloats": {"kind": "floats"},
    "TestVideoLatents": {"videos": 1, "frames": 6, "sound": False},
    "TestNoiseLatents": {"seeds": "1,2", "channels": 16, "side": 8},
    "TestConditioning": {"width": 768, "pooled": 0, "tokens": 8, "seed": 0},
    "TestQuantisedModel": {"form": "float8_e4m3fn", "fast": False},
    "TestMask": {"batch": 1, "height": 64, "width": 64, "fill": -1.0},
    "RealismScore": {"definition": "reference"},
    "RealismMap": {"definition": "reference", "tile": 32, "stride": 16},
    "RealismFitProfile": {"definition": "reference", "overwrite": False},
    "RealismGate": {"metric": "typicality", "rule": "threshold", "value": 0.05, "on_empty": "block"},
    "RealismScoreColumn": {"name": "aesthetic", "direction": "higher", "weight": 0.0},
    "RealismTrainLoRA": {
        "steps": 4, "batch_size": 2, "learning_rate": 1e-3, "rank": 4, "alpha": 4.0, "seed": 1,
    },
    "RealismSaveLoRA": {"filename_prefix": "loras/test", "layout": "comfyui"},
    "RealismRetry": {
        "seed": 7, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
        "metric": "irs", "rule": "threshold", "value": 1e9, "attempts": 3,
    },
    "RealismSaveImages": {"filename_prefix": "test/picture", "format": "png", "manifest": "none"},
    "RealismDegrade": {"kind": "jpeg", "strength": 0.5, "seed": 0},
    "RealismLossWeight": {
        "kind": "p2", "k": 1.0, "gamma": 1.0, "mode": "exact", "normalise": True, "timesteps": "uniform",
    },
    "RealismLossTerm": {"weight": 1.0, "crop": 64, "snr_low": 5.0, "snr_high": 50.0, "tolerance": 1.0},
    "RealismScoreWeights": {"metric": "typicality", "kind": "rank", "value": 1.0},
    "RealismTrainAdapter": {"steps": 4, "batch_size": 2, "learning_rate": 1e-2, "seed": 1},
    "RealismSaveAdapter": {"overwrite": False},
    "RealismAdapterGuidance": {"attribute_cfg": 4.0, "mask_cfg": 4.0},
    "RealismFaceData": {
        "kind": "celebamask-hq", "split": "training", "limit": 100, "side": 64, "mask_side": 16,
        "on_problem": "skip", "workers": 0,
    },
    "RealismFaceMask": {"palette": "auto"},
    "RealismEditFaceMask": {"part": "hair", "action": "move", "dx": 0.0, "dy": 0.0, "pixels": 8},
    "RealismConditioner": {"attribute_strength": 1.0, "mask_strength": 1.0},
    "RealismFaceMaskParts": {"parts": "hair", "on_empty": "error"},
    "RealismParseFace": {
        "soft": False, "each_face": False, "turn": False, "confidence": 0.0, "swap_sides": False, "side": 0,
    },
}


class Node:
    """A node; node["name"] or node[0] links to one of its outputs, the node itself to its first."""

    def __init__(self, id: str, kind: str) -> None:
        self.id, self.kind = id, kind

    def __getitem__(self, output: str | int) -> list:
        return [self.id, output if isinstance(output, int) else OUTPUTS[self.kind].index(output)]


class Graph(dict):
    """An API prompt that grows node by node, with the widgets' defaults filled in."""

    def add(self, kind: str, /, **inputs: Any) -> Node:
        """Add a node; nodes and links among the inputs connect it."""
        node = Node(str(len(self) + 1), kind)
        linked = {name: value[0] if isinstance(value, Node) else value for name, value in inputs.items()}
        self[node.id] = {"class_type": kind, "inputs": {**DEFAULTS.get(kind, {}), **linked}}
        return node

    def show(self, link: Node | list) -> str:
        """Add a node that tells what this link brings; returns its id for `shown`."""
        return self.add("TestShow", value=link).id


def status(run: Run) -> str:
    """Return the last event's name: execution_success, execution_error or execution_interrupted."""
    return run.events[-1][0]


def done(run: Run) -> Run:
    """Return the run, having checked that it ended well."""
    assert status(run) == "execution_success", failure(run)
    return run


def failure(run: Run) -> str:
    """Return the message that the artist sees of a prompt that went wrong."""
    return next((data["exception_message"] for name, data in run.events if name == "execution_error"), "")


def shown(run: Run, id: str) -> list:
    """Return what reached a TestShow node, one description an item."""
    return json.loads(run.entry["outputs"][id]["text"][0])


def means(run: Run, id: str) -> list[list[float]]:
    """Return the mean of each picture that reached a TestShow node, batch by batch."""
    return [item["means"] for item in shown(run, id)]
