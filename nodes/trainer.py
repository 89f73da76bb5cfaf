"""RealismTrainLoRA: train a LoRA inside ComfyUI."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from ..realism_core.plots.losses import loss_plot
from ..realism_core.training.data import Dataset
from ..realism_core.training.fingerprints import layer_fingerprints
from ..realism_core.training.loop import Result, train
from ..realism_core.training.lora import LoraConfig, attach
from ..realism_core.training.memory import estimate
from ..realism_core.training.metadata import TrainingRecord
from ..realism_core.training.settings import TrainSettings
from ..realism_core.training.weighting import LossWeight
from . import trainer_inputs
from .comfy import blocked, io, schema, show_text, training_mode, with_lora
from .lora import TrainedLora, free_path, joined, layer_shapes
from .stopping import stoppable
from .training import Watch, base_model, checkpoint_path, examples, held_out, plain_conditioning
from .training_model import TrainableModel
from .training_previews import Previews

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
                "flow prediction. Cancel saves what was trained so far, Stop and keep hands it on. The model "
                "that comes in is left as it was."
            ),
            search_aliases=["train lora", "finetune", "P2 weighting", "min-SNR"],
            is_input_list=True,
            inputs=[
                *trainer_inputs.needed(),
                *trainer_inputs.refinements(),
                *trainer_inputs.safeguards(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the LoRA on it."),
                io.LoraModel.Output(
                    display_name="lora", tooltip="The LoRA, for Realism Save LoRA or ComfyUI's own nodes."
                ),
                io.LossMap.Output(display_name="loss", tooltip="The loss of each step, for a plot."),
                io.Int.Output(display_name="steps", tooltip="How many steps were made."),
                io.Image.Output(
                    display_name="plot", tooltip="The loss by step, and the held-out loss by noise level."
                ),
                io.Image.Output(
                    display_name="previews",
                    tooltip="The previews in order, the first from before training; none without vae.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="How it was trained, and the held-out losses, as JSON.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )

    @classmethod
    def execute(
        cls, model, latents, positive, weight=None, masks=None, negative=None, image_weights=None, vae=None,
        **widgets,
    ) -> io.NodeOutput:  # fmt: skip
        chosen = {name: values[0] for name, values in widgets.items()}
        settings, config = settings_of(chosen), config_of(chosen)
        checkpoint = checkpoint_path(chosen.get("checkpoint", ""), chosen.get("resume", False))
        trainable = TrainableModel(model[0])
        all_examples = examples(trainable, latents, positive, masks, image_weights)
        trained_on, kept_out = held_out(all_examples, chosen.get("held_out", 0))
        dataset = Dataset(trained_on, chosen.get("buckets", False))
        trainable.check(dataset.examples[0].latent, dataset.examples[0].conditioning)
        previews = cls.previews(trainable, vae, positive, negative, latents, chosen)
        loss_weight = weight[0] if weight else PLAIN
        memory = estimate(trainable.module, config, dataset, settings)
        node = cls.hidden.unique_id
        show_text(node, memory.describe())
        known = {"base_model": base_model(cls.graph(), node)}
        shapes = layer_shapes(dict(trainable.module.named_parameters()))
        with (
            training_mode(),
            attach(trainable.module, config, settings.seed, trainable.device) as adapters,
            stoppable() as pressed,
        ):

            def lora_of(result: Result) -> TrainedLora:
                record = record_of(result, dataset, settings, config, loss_weight, trainable, known)
                return TrainedLora(joined(result.state, adapters.comfyui_dora_scales()), shapes, record)

            def rescue(result: Result) -> None:
                path = free_path(INTERRUPTED, result.steps)
                lora_of(result).save(path, "comfyui")
                show_text(node, f"stopped after {result.steps} steps; saved as {path.name}")

            layers = {path: adapter.layer for path, adapter in adapters.layers.items()}
            result = train(
                trainable, adapters, dataset, settings, loss_weight,
                empty_conditioning=plain_conditioning(negative[0], "negative") if negative else None,
                held_out=Dataset(kept_out, buckets=True) if kept_out else None,
                checkpoint=checkpoint,
                resume=checkpoint if checkpoint and checkpoint.is_file() else None,
                about={"layers": layer_fingerprints(layers), "lora": asdict(config)},
                save=rescue,
                on_step=Watch(node, settings.steps, pressed, previews).on_step,
                preview=previews,
            )  # fmt: skip
            lora = lora_of(result)
        early = " (Stop and keep)" if result.stopped else ""
        show_text(node, f"{result.steps} steps{early}, last loss {result.losses[-1]:.4g}")
        plot = loss_plot(result.losses, settings.steps, result.held_out)
        return io.NodeOutput(
            with_lora(model[0], lora), lora, {"loss": result.losses}, result.steps, plot,
            torch.stack(previews.pictures) if previews else blocked(), report_of(result, lora.record),
        )  # fmt: skip

    @classmethod
    def previews(
        cls, trainable: TrainableModel, vae: list | None, positive: list, negative: list | None,
        latents: list, chosen: Mapping[str, Any],
    ) -> Previews | None:  # fmt: skip
        """Return what draws the previews; None where no VAE is connected."""
        if not vae:
            if chosen.get("preview_every", 0):
                raise ValueError("preview_every needs vae: connect the model's VAE, or set it to 0.")
            return None
        cfg = chosen.get("preview_cfg", 1.0)
        if cfg != 1 and not negative:
            raise ValueError(
                f"preview_cfg is {cfg:g}, which guides away from negative: connect the empty prompt as "
                "negative, or set preview_cfg to 1."
            )
        shape = latents[0]["samples"].shape[1:]
        return Previews(
            trainable.patcher, vae[0], positive[0], (negative or positive)[0], shape,
            chosen.get("preview_steps", 20), cfg, chosen["seed"],
        )  # fmt: skip

    @classmethod
    def graph(cls) -> dict[str, Any]:
        """Return the nodes of the workflow that runs, by their ids."""
        graph = cls.hidden.dynprompt
        return {name: graph.get_node(name) for name in graph.all_node_ids()}


def settings_of(chosen: Mapping[str, Any]) -> TrainSettings:
    """Return the training's settings as the widgets have them."""
    values = {name: value for name, value in chosen.items() if name in SETTINGS}
    if values.get("weight_decay", 0) < 0:
        del values["weight_decay"]
    return TrainSettings(**values)


def config_of(chosen: Mapping[str, Any]) -> LoraConfig:
    """Return the adapters' configuration as the widgets have it."""
    same = ("rank", "alpha", "dora", "targets", "pattern", "rank_stabilised", "clamp_rank")
    values = {name: chosen[name] for name in same if name in chosen}
    return LoraConfig(**{"targets": "attention", **values}, dropout=chosen.get("lora_dropout", 0.0))


def record_of(
    result: Result, dataset: Dataset, settings: TrainSettings, config: LoraConfig, loss_weight: LossWeight,
    model: TrainableModel, known: Mapping[str, Any],
) -> TrainingRecord:  # fmt: skip
    """Return what the LoRA's file will say of its training; known: what only the graph tells."""
    return TrainingRecord(
        **known,
        adapter="dora" if config.dora else "lora",
        scaling="alpha/sqrt(rank)" if config.rank_stabilised else "alpha/rank",
        rank=None if config.clamp_rank else config.rank,
        alpha=None if config.clamp_rank else config.alpha,
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


def report_of(result: Result, record: TrainingRecord) -> str:
    """Return what the node tells of a training, as JSON."""
    validations = [
        {"step": step, "bands": [band._asdict() for band in bands]} for step, bands in result.held_out
    ]
    return json.dumps({"stopped": result.stopped, "held_out": validations, "training": asdict(record)})


NODES = [RealismTrainLoRA]
