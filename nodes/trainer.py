"""RealismTrainLoRA: train a LoRA inside ComfyUI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from ..realism_core.plots.losses import loss_plot
from ..realism_core.training.data import Dataset, held_out
from ..realism_core.training.fingerprints import layer_fingerprints, layer_shapes
from ..realism_core.training.layout_names import family
from ..realism_core.training.loop import PLAIN, Result, train
from ..realism_core.training.lora import LoraConfig
from ..realism_core.training.metadata import BASE_MODELS, TrainingRecord
from ..realism_core.training.recording import record_of
from ..realism_core.training.settings import TrainSettings
from . import trainer_inputs
from .comfy import blocked, io, schema, show_text, training_mode, with_lora
from .stopping import stoppable
from .text_training import attach_all, estimate_all, text_training, weights_of
from .training import (
    Watch,
    base_model,
    checkpoint_path,
    checkpoint_state,
    examples,
    plain_conditioning,
)
from .training_checks import has_coarse_weights, make_room, told_of, unused_layers
from .training_model import TrainableModel
from .training_previews import Previews, Prompts
from .training_results import Keeper, report_of

SETTINGS = {field.name for field in fields(TrainSettings)}


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
            inputs=trainer_inputs.inputs(),
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the LoRA on it."),
                io.LoraModel.Output(
                    display_name="lora", tooltip="The LoRA, for Realism Save LoRA or ComfyUI's own nodes."
                ),
                *trainer_inputs.told(),
                io.Clip.Output(
                    display_name="clip", tooltip="The CLIP with the LoRA on it; none without clip."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint=None, resume=None, **_) -> list:
        """Return what changes with the checkpoint to go on from, so that a stopped training goes on."""
        return checkpoint_state(checkpoint, resume)

    @classmethod
    def execute(
        cls, model, latents, positive, weight=None, masks=None, negative=None, image_weights=None, vae=None,
        realism_term=None, clip=None, captions=None, **widgets,
    ) -> io.NodeOutput:  # fmt: skip
        chosen = {name: values[0] for name, values in widgets.items()}
        settings, config = settings_of(chosen), config_of(chosen)
        checkpoint = checkpoint_path(chosen.get("checkpoint", ""), chosen.get("resume", False))
        text_rate = text_rate_of(chosen, clip)
        network = TrainableModel(model[0])
        given = examples(network, latents, positive, masks, image_weights)
        network.check(given[0].latent, given[0].conditioning)
        empty = plain_conditioning(negative[0], "negative") if negative else None
        trainable, given, empty = text_training(network, clip, captions, given, empty)
        # checked together, so that what is wrong is told by its place among all images
        checked = Dataset(given, chosen.get("buckets", False)).examples
        trained_on, kept_out = held_out(checked, chosen.get("held_out", 0))
        dataset = Dataset(trained_on, chosen.get("buckets", False))
        loss_weight = weight[0] if weight else PLAIN
        node = cls.hidden.unique_id
        memory = estimate_all(trainable, config, dataset, settings)
        show_text(node, make_room(trainable, memory, dataset, settings))
        term = realism_term[0] if realism_term else None
        told = {"realism_term": term.to_dict()} if term else {}
        shapes = layer_shapes(weights_of(trainable))
        extra_loss = term.for_model(trainable, [example.latent for example in trained_on]) if term else None
        dtype = str(network.dtype).removeprefix("torch.")
        prompts = Prompts(trainable, positive, negative, given, empty)
        previews = cls.previews(trainable, vae, prompts, negative, latents, chosen)

        def record(result: Result) -> TrainingRecord:
            return record_of(
                result, dataset, settings, config, loss_weight, trainable.objective.kind,
                base_model=base_model(cls.graph(), node),
                base_model_version=BASE_MODELS.get(family(shapes)),
                extra={**told, **({"text_rate": text_rate} if clip else {}), "network_dtype": dtype},
            )  # fmt: skip

        with (
            training_mode(),
            attach_all(trainable, config, settings.seed, text_rate) as adapters,
            stoppable() as pressed,
        ):
            keeper = Keeper(node, adapters, shapes, record)
            layers = {path: adapter.layer for path, adapter in adapters.layers.items()}
            result = train(
                trainable, adapters, dataset, settings, loss_weight,
                empty_conditioning=empty,
                held_out=Dataset(kept_out, buckets=True) if kept_out else None,
                checkpoint=checkpoint,
                resume=checkpoint if checkpoint and checkpoint.is_file() else None,
                about={
                    "layers": layer_fingerprints(layers), "lora": asdict(config), "text_rate": text_rate,
                    **told,
                },
                extra_loss=extra_loss,
                save=keeper.rescue,
                on_step=Watch(node, settings.steps, pressed, previews).on_step,
                preview=previews,
            )  # fmt: skip
            lora = keeper.lora(result)
        early = " (Stop and keep)" if result.stopped else ""
        unused = unused_layers(adapters)
        show_text(node, f"{result.steps} steps{early}, last loss {result.losses[-1]:.4g}{told_of(unused)}")
        # DoRA changes the weights' lengths, which nothing beside them can
        beside = has_coarse_weights(adapters) and not config.dora
        trained, trained_clip = with_lora(model[0], lora, clip[0] if clip else None, beside=beside)
        return io.NodeOutput(
            trained, lora, {"loss": result.losses}, result.steps,
            loss_plot(result.losses, result.steps, result.held_out),
            torch.stack(previews.pictures) if previews else blocked(),
            report_of(result, lora.record, unused),
            trained_clip if clip else blocked(),
        )  # fmt: skip

    @classmethod
    def previews(
        cls, trainable: TrainableModel, vae: list | None, prompts: Prompts, negative: list | None,
        latents: list, chosen: Mapping[str, Any],
    ) -> Previews | None:  # fmt: skip
        """Return what draws the previews; None where no VAE is connected."""
        if not vae:
            if chosen.get("preview_every", 0):
                raise ValueError("preview_every needs vae: connect the model's VAE, or set it to 0.")
            return None
        cfg = chosen.get("preview_cfg", 4.0)
        if cfg != 1 and not negative:
            raise ValueError(
                f"preview_cfg is {cfg:g}, which guides away from negative: connect the empty prompt as "
                "negative, or set preview_cfg to 1."
            )
        shape = latents[0]["samples"].shape[1:]
        return Previews(
            trainable.patcher, vae[0], prompts, shape, chosen.get("preview_steps", 20), cfg, chosen["seed"]
        )

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


def text_rate_of(chosen: Mapping[str, Any], clip: list | None) -> float:
    """Return the text encoders' share of the learning rate; raises ValueError where there are none."""
    rate = chosen.get("text_rate", 1.0)
    if rate != 1 and not clip:
        raise ValueError(
            f"text_rate is {rate:g}, but no text encoder is trained: connect clip and captions, or set it to "
            "1."
        )
    return rate


def config_of(chosen: Mapping[str, Any]) -> LoraConfig:
    """Return the adapters' configuration as the widgets have it."""
    same = ("rank", "alpha", "dora", "targets", "pattern", "rank_stabilised", "clamp_rank")
    values = {name: chosen[name] for name in same if name in chosen}
    return LoraConfig(**{"targets": "attention", **values}, dropout=chosen.get("lora_dropout", 0.0))


NODES = [RealismTrainLoRA]
