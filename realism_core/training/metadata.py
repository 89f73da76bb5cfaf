"""What a LoRA file says of how it was made: kohya's keys where kohya has one, `realism.*` for the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .. import __version__

# kohya's names of the models that LoRAs are for (ss_base_model_version), by families of layouts.py
BASE_MODELS = {"sd": "sd_v1", "sdxl": "sdxl_base_v1-0", "sd3": "sd3", "flux": "flux1"}
_OURS = "realism."
# which key of kohya's holds a field as well
_KOHYA = {
    "base_model": "ss_sd_model_name",
    "base_model_version": "ss_base_model_version",
    "rank": "ss_network_dim",
    "alpha": "ss_network_alpha",
    "dropout": "ss_network_dropout",
    "steps": "ss_steps",
    "planned_steps": "ss_max_train_steps",
    "learning_rate": "ss_learning_rate",
    "optimiser": "ss_optimizer",
    "schedule": "ss_lr_scheduler",
    "warmup_steps": "ss_lr_warmup_steps",
    "batch_size": "ss_batch_size_per_device",
    "accumulation": "ss_gradient_accumulation_steps",
    "images": "ss_num_train_images",
    "epochs": "ss_num_epochs",
    "seed": "ss_seed",
    "precision": "ss_mixed_precision",
    "finished_at": "ss_training_finished_at",
}


@dataclass(frozen=True)
class TrainingRecord:
    """How a LoRA was trained; None: not known, and left out of the file.

    base_model: the checkpoint's name. base_model_version: see BASE_MODELS. adapter: "lora" or "dora".
    rank, alpha: of all layers, None where they differ; scaling: "alpha/rank" or "alpha/sqrt(rank)".
    objective: what the network predicts (eps, v, x0, flow, edm). weighting, timesteps: the loss weight and
    the timestep sampler with their numbers. dataset_sha256: of the training data. steps: how many were made,
    planned_steps: how many were asked for. finished_at: seconds since 1970. extra: anything else, JSON-ready.
    """

    base_model: str | None = None
    base_model_version: str | None = None
    adapter: str = "lora"
    scaling: str = "alpha/rank"
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    targets: str | None = None
    objective: str | None = None
    weighting: Mapping[str, Any] | None = None
    timesteps: Mapping[str, Any] | None = None
    dataset_sha256: str | None = None
    images: int | None = None
    steps: int | None = None
    planned_steps: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    accumulation: int | None = None
    learning_rate: float | None = None
    optimiser: str | None = None
    schedule: str | None = None
    warmup_steps: int | None = None
    seed: int | None = None
    precision: str | None = None
    finished_at: float | None = None
    layout: str | None = None
    pack_version: str = __version__
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """Return the record as the texts of a safetensors header.

        Every known field is realism.<field> as JSON; those that kohya's sd-scripts knows are its ss_ keys
        as well, as it writes them. Raises ValueError for what JSON cannot say, such as NaN, naming the field.
        """
        metadata = {"ss_network_module": "networks.lora"}
        for entry in fields(self):
            value = vars(self)[entry.name]
            if value is None or value == {}:
                continue
            try:
                text = json.dumps(value, allow_nan=False, sort_keys=True, ensure_ascii=False)
            except (TypeError, ValueError) as reason:
                raise ValueError(f"the metadata cannot hold {entry.name}: {reason}.") from None
            metadata[_OURS + entry.name] = text
            if entry.name in _KOHYA:
                metadata[_KOHYA[entry.name]] = str(value)
        if self.rank is None:
            metadata["ss_network_dim"] = "Dynamic"
        weighting = self.weighting or {}
        if weighting.get("kind") == "min_snr" and "gamma" in weighting.get("numbers", {}):
            metadata["ss_min_snr_gamma"] = str(weighting["numbers"]["gamma"])
        return metadata


def read_record(metadata: Mapping[str, str]) -> TrainingRecord | None:
    """Return the record in a file's metadata; None for a file that does not come from this pack.

    Keys of newer versions of the pack are kept in `extra`. Raises ValueError for damaged values, naming one.
    """
    known = {entry.name for entry in fields(TrainingRecord)}
    values: dict[str, Any] = {}
    later: dict[str, Any] = {}
    for key, text in metadata.items():
        if not key.startswith(_OURS):
            continue
        name = key.removeprefix(_OURS)
        try:
            value = json.loads(text)
        except ValueError:
            raise ValueError(f"the metadata {key} is no JSON: the file is damaged.") from None
        (values if name in known else later)[name] = value
    if "pack_version" not in values:
        return None
    if later:
        values["extra"] = {**later, **values.get("extra", {})}
    return TrainingRecord(**values)
