"""RealismTrainLoRA: train a LoRA inside ComfyUI."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from ..realism_core.training.data import Dataset, LatentExample, pair
from ..realism_core.training.loop import Progress as TrainProgress
from ..realism_core.training.loop import Result, train
from ..realism_core.training.lora import LoraConfig, attach
from ..realism_core.training.memory import estimate
from ..realism_core.training.metadata import TrainingRecord
from ..realism_core.training.optimisers import OPTIMISERS
from ..realism_core.training.schedule import SCHEDULES
from ..realism_core.training.settings import PRECISIONS, TrainSettings
from ..realism_core.training.targets import TARGETS
from ..realism_core.training.weighting import LossWeight
from .comfy import (
    Progress,
    io,
    schema,
    show_text,
    training_mode,
    with_lora,
)
from .lora import TrainedLora, free_path, joined, layer_shapes
from .sockets import LossWeight as LossWeightSocket
from .training_model import TrainableModel

PLAIN = LossWeight("constant", mode="factor", normalise=False)
SETTINGS = {field.name for field in fields(TrainSettings)}
INTERRUPTED = "loras/realism_interrupted"


class RealismTrainLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismTrainLoRA",
            display_name="Realism Train LoRA",
            category="realism/train",
            description=(
                "Trains a LoRA on latents and prompts, with a loss weight that is exact for noise, v, x0 and "
                "flow prediction. Cancel saves what was trained so far. The model that comes in is left as "
                "it was."
            ),
            search_aliases=["train lora", "finetune", "P2 weighting", "min-SNR"],
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to train on: noise, v, x0 or flow prediction."),
                io.Latent.Input(
                    "latents", tooltip="The images to learn from, encoded by the model's VAE."
                ),
                io.Conditioning.Input(
                    "positive", tooltip="Their prompts: one for each image, in order, or one for all."
                ),
                io.Int.Input("steps", default=500, min=1, max=1000000, tooltip="Steps of the optimiser."),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=4096,
                    tooltip="Images a step; at most as many as there are. More is steadier and takes memory.",
                ),
                io.Float.Input(
                    "learning_rate", default=1e-4, min=1e-9, max=1.0, step=1e-6, round=False,
                    tooltip="How far a step goes. 1e-4 is common; lower it if the loss jumps.",
                ),
                io.Int.Input(
                    "rank", default=16, min=1, max=1024,
                    tooltip="Size of the LoRA. Larger learns more and overfits sooner.",
                ),
                io.Float.Input(
                    "alpha", default=16.0, min=0.001, max=4096.0, step=0.5,
                    tooltip="Scale of the LoRA: alpha / rank. The rank itself is a good value.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**63 - 1, control_after_generate=True,
                    tooltip="The same seed and inputs give the same LoRA.",
                ),
                LossWeightSocket.Input(
                    "weight", optional=True,
                    tooltip="How much each noise level counts, from Realism Loss Weight. Left open: all "
                    "alike, in the model's own prediction.",
                ),
                io.Mask.Input(
                    "masks", optional=True,
                    tooltip="Where each image counts, white; one an image. Left open: everywhere.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True,
                    tooltip="The empty prompt, for condition_dropout.",
                ),
                io.Combo.Input(
                    "targets", options=list(TARGETS), default="attention", optional=True,
                    tooltip="Which layers learn. pattern: those that `pattern` names.",
                ),
                io.String.Input(
                    "pattern", default="", optional=True, multiline=True,
                    tooltip="For targets 'pattern': a path with * a line, or re: and a regular expression.",
                ),
                io.Combo.Input(
                    "optimiser", options=list(OPTIMISERS), default="adamw", optional=True,
                    tooltip="adamw: the usual one. adafactor: less memory. sgd: plain.",
                ),
                io.Combo.Input(
                    "schedule", options=list(SCHEDULES), default="constant", optional=True,
                    tooltip="How the learning rate goes on after the warm-up.",
                ),
                io.Int.Input(
                    "warmup", default=0, min=0, max=100000, optional=True,
                    tooltip="Steps in which the learning rate rises from 0.",
                ),
                io.Int.Input(
                    "accumulation", default=1, min=1, max=1024, optional=True,
                    tooltip="Batches a step: as steady as a larger batch, without its memory.",
                ),
                io.Float.Input(
                    "clip_norm", default=1.0, min=0.0, max=1000.0, step=0.1, optional=True,
                    tooltip="Longest gradient of a step; 0: no limit.",
                ),
                io.Float.Input(
                    "ema_decay", default=0.0, min=0.0, max=0.99999, step=0.0001, round=False, optional=True,
                    tooltip="Keeps an average of the steps instead of the last one, such as 0.999; 0: off.",
                ),
                io.Float.Input(
                    "lora_dropout", default=0.0, min=0.0, max=0.99, step=0.05, optional=True,
                    tooltip="Share of the LoRA's input that is left out by chance, against overfitting.",
                ),
                io.Float.Input(
                    "condition_dropout", default=0.0, min=0.0, max=0.99, step=0.05, optional=True,
                    tooltip="Share of images trained with the empty prompt (connect negative).",
                ),
                io.Boolean.Input(
                    "dora", default=False, optional=True,
                    tooltip="Learn length and direction of the weights apart (DoRA): slower, often closer.",
                ),
                io.Boolean.Input(
                    "recompute", default=False, optional=True,
                    tooltip="Gradient checkpointing: much less memory, a third more time. Flux needs it.",
                ),
                io.Combo.Input(
                    "precision", options=list(PRECISIONS), default="fp32", optional=True,
                    tooltip="bf16: faster and smaller where the device has it.",
                ),
                io.Boolean.Input(
                    "buckets", default=False, optional=True,
                    tooltip="Allow images of several sizes; a batch never mixes them.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the LoRA on it."),
                io.LoraModel.Output(
                    display_name="lora", tooltip="The LoRA, for Realism Save LoRA or ComfyUI's own nodes."
                ),
                io.LossMap.Output(display_name="loss", tooltip="The loss of each step, for a plot."),
                io.Int.Output(display_name="steps", tooltip="How many steps were made."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, latents, positive, weight=None, masks=None, negative=None, **widgets
    ) -> io.NodeOutput:
        chosen = {name: values[0] for name, values in widgets.items()}
        settings = TrainSettings(**{name: chosen[name] for name in chosen if name in SETTINGS})
        config = LoraConfig(
            chosen["rank"], chosen["alpha"], dropout=chosen.get("lora_dropout", 0.0),
            dora=chosen.get("dora", False), targets=chosen.get("targets", "attention"),
            pattern=chosen.get("pattern", ""),
        )  # fmt: skip
        trainable = TrainableModel(model[0])
        dataset = Dataset(_examples(trainable, latents, positive, masks), chosen.get("buckets", False))
        trainable.check(dataset.examples[0].latent, dataset.examples[0].conditioning)
        shapes = layer_shapes(dict(trainable.module.named_parameters()))
        loss_weight = weight[0] if weight else PLAIN
        show_text(cls.hidden.unique_id, estimate(trainable.module, config, dataset, settings).describe())
        progress = Progress(settings.steps)

        def on_step(now: TrainProgress) -> None:
            if now.losses:
                told = f"step {now.step} of {now.steps}, loss {now.losses[-1]:.4g}"
                show_text(cls.hidden.unique_id, told)
            progress.step()

        with (
            training_mode(),
            attach(trainable.module, config, chosen["seed"], trainable.device) as adapters,
        ):

            def lora_of(result: Result) -> TrainedLora:
                record = _record(result, dataset, settings, config, loss_weight, trainable)
                return TrainedLora(joined(result.state, adapters.comfyui_dora_scales()), shapes, record)

            def rescue(result: Result) -> None:
                path = free_path(INTERRUPTED, result.steps)
                lora_of(result).save(path, "comfyui")
                show_text(cls.hidden.unique_id, f"stopped after {result.steps} steps; saved as {path.name}")

            result = train(
                trainable, adapters, dataset, settings, loss_weight, save=rescue, on_step=on_step,
                empty_conditioning=plain_conditioning(negative[0]) if negative else None,
            )  # fmt: skip
            lora = lora_of(result)
        show_text(cls.hidden.unique_id, f"{result.steps} steps, last loss {result.losses[-1]:.4g}")
        return io.NodeOutput(with_lora(model[0], lora), lora, {"loss": result.losses}, result.steps)


def plain_conditioning(conditioning: list) -> dict:
    """Return the one entry of a CONDITIONING as the core keeps it, its tensors free of inference mode.

    Raises ValueError if there are several: areas and combined prompts have no meaning in training.
    """
    if len(conditioning) != 1:
        raise ValueError(
            f"positive has a conditioning of {len(conditioning)} parts: give one plain prompt an image, "
            "without Conditioning (Combine) or areas."
        )
    with torch.inference_mode(False):
        words, extras = conditioning[0]
        plain = {name: v.clone() if isinstance(v, Tensor) else v for name, v in extras.items()}
        return plain if words is None else {**plain, "cross_attn": words.clone()}


def _examples(
    model: TrainableModel, latents: Sequence[dict], positive: Sequence[list], masks: Sequence[Tensor] | None
) -> list[LatentExample]:
    images = [image for latent in latents for image in model.latents(latent["samples"])]
    words = [plain_conditioning(conditioning) for conditioning in positive]
    return pair(images, words, masks=None if masks is None else [mask for batch in masks for mask in batch])


def _record(
    result: Result, dataset: Dataset, settings: TrainSettings, config: LoraConfig, loss_weight: LossWeight,
    model: TrainableModel,
) -> TrainingRecord:  # fmt: skip
    return TrainingRecord(
        adapter="dora" if config.dora else "lora",
        rank=config.rank,
        alpha=config.alpha,
        dropout=config.dropout,
        targets=config.targets,
        objective=model.objective.kind,
        weighting=loss_weight.to_dict(),
        dataset_sha256=dataset.digest,
        images=len(dataset),
        steps=result.steps,
        planned_steps=settings.steps,
        batch_size=settings.batch_size,
        accumulation=settings.accumulation,
        learning_rate=settings.learning_rate,
        optimiser=settings.optimiser,
        schedule=settings.schedule,
        warmup_steps=settings.warmup,
        seed=settings.seed,
        precision=settings.precision,
        finished_at=time.time(),
    )


NODES = [RealismTrainLoRA]
