"""RealismTrainAdapter: train the token adapter inside ComfyUI, alone or together with a LoRA."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from ..realism_core.conditioning.adapter import ATTRIBUTE_FORMS, MASK_FORMS, TokenAdapter
from ..realism_core.plots.losses import loss_plot
from ..realism_core.training.adapter_training import TrainableAdapter, adapter_memory
from ..realism_core.training.data import Dataset, held_out
from ..realism_core.training.fingerprints import layer_fingerprints, layer_shapes
from ..realism_core.training.joined import JoinedAdapters
from ..realism_core.training.layout_names import family
from ..realism_core.training.loop import Result, train
from ..realism_core.training.lora import LoraAdapters, LoraConfig, attach
from ..realism_core.training.memory import estimate
from ..realism_core.training.metadata import BASE_MODELS, TrainingRecord
from ..realism_core.training.recording import record_of
from ..realism_core.training.targets import adaptable_layers
from . import trainer_inputs
from .adapter_training import (
    AdapterKeeper,
    AdapterPrompts,
    AdapterTrainableModel,
    adapter_config,
    adapter_examples,
    check_plain,
    empty_prompt,
)
from .comfy import blocked, io, schema, show_text, training_mode, with_lora
from .sockets import Adapter, Attributes, FaceMask
from .stopping import stoppable
from .trainer import PLAIN, RealismTrainLoRA, config_of, settings_of
from .training import Watch, base_model, checkpoint_path, checkpoint_state, examples
from .training_checks import has_coarse_weights, make_room, told_of, unused_layers
from .training_model import TrainableModel
from .training_results import report_of

# what the LoRA's trainer has and this one has not
_WITHOUT = {
    "rank", "alpha", "masks", "dora", "rank_stabilised", "clamp_rank", "lora_dropout", "realism_term", "clip",
    "captions", "text_rate",
}  # fmt: skip
_BEHIND = "seed"  # the input after which those of the adapter come
# new tokens bear larger steps than weights that were trained before
RATE, LORA_RATE = 1e-3, 0.1


class RealismTrainAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismTrainAdapter",
            display_name="Realism Train Adapter",
            category="realism/face",
            description=(
                "Teaches a model face attributes and semantic masks as further tokens of its "
                "cross-attention, alone or together with a LoRA. Cancel saves what "
                "was trained so far, Stop and keep hands it on. The model that comes in is left as it was."
            ),
            search_aliases=["token adapter", "train attributes", "semantic mask", "CelebA", "P2 weighting"],
            is_input_list=True,
            inputs=_inputs(),
            outputs=[
                Adapter.Output(
                    display_name="adapter", tooltip="For Realism Conditioner and Save Realism Adapter."
                ),
                io.Model.Output(
                    display_name="model", tooltip="The model, with the LoRA on it if one was trained."
                ),
                *trainer_inputs.told(),
                io.LoraModel.Output(
                    display_name="lora", tooltip="The LoRA, for Realism Save LoRA; none with lora_rank 0."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, checkpoint=None, resume=None, **_) -> list:
        """Return what changes with the checkpoint to go on from, so that a stopped training goes on."""
        return checkpoint_state(checkpoint, resume)

    @classmethod
    def execute(
        cls, model, latents, positive, attributes=None, mask=None, weight=None, negative=None,
        image_weights=None, vae=None, **widgets,
    ) -> io.NodeOutput:  # fmt: skip
        chosen = {name: values[0] for name, values in widgets.items()}
        settings, config = settings_of(chosen), _lora_config(chosen)
        checkpoint = checkpoint_path(chosen.get("checkpoint", ""), chosen.get("resume", False))
        network = TrainableModel(model[0])
        check_plain(positive, "positive")
        given = examples(network, latents, positive, None, image_weights)
        network.check(given[0].latent, given[0].conditioning)
        trained = _adapter_of(network, given[0].conditioning, attributes, mask, chosen)
        module = trained.adapter
        attributes = attributes if module.attributes is not None else None
        mask = mask if module.mask is not None else None
        given = adapter_examples(module, given, attributes, mask)
        empty = empty_prompt(negative[0], module) if negative else None
        denoiser = AdapterTrainableModel(network, trained)
        denoiser.check_reads(given[0].latent, given[0].conditioning)
        checked = Dataset(given, chosen.get("buckets", False)).examples
        trained_on, kept_out = held_out(checked, chosen.get("held_out", 0))
        dataset = Dataset(trained_on, chosen.get("buckets", False))
        loss_weight = weight[0] if weight else PLAIN
        node = cls.hidden.unique_id
        memory = adapter_memory(module, settings, estimate(network.module, config, dataset, settings))
        show_text(node, make_room(denoiser, memory, dataset, settings))
        shapes = layer_shapes(dict(network.module.named_parameters()))
        prompts = AdapterPrompts(module, positive, negative, attributes, mask)
        previews = RealismTrainLoRA.previews(denoiser, vae, prompts, negative, latents, chosen)
        told = {
            "adapter": asdict(module.config),
            "group_dropout": trained.dropout,
            "unknown": trained.unknown,
            **({"lora_rate": chosen.get("lora_rate", LORA_RATE)} if config else {}),
        }

        def record(result: Result) -> TrainingRecord:
            graph = cls.hidden.dynprompt
            made = record_of(
                result, dataset, settings, config or LoraConfig(rank=1, alpha=1.0), loss_weight,
                denoiser.objective.kind,
                base_model=base_model({n: graph.get_node(n) for n in graph.all_node_ids()}, node),
                base_model_version=BASE_MODELS.get(family(shapes)),
                extra=told,
            )  # fmt: skip
            return made if config else replace(made, adapter="tokens", rank=None, alpha=None, targets=None)

        with training_mode(), _joined(network, trained, config, chosen) as joined, stoppable() as stop:
            keeper = AdapterKeeper(node, joined, shapes, record)
            keeper.config = module.config
            layers = {path: adapter.layer for path, adapter in joined.layers.items()}
            layers = layers or adaptable_layers(network.module)  # what a resumed training must find again
            result = train(
                denoiser, joined, dataset, settings, loss_weight,
                empty_conditioning=empty,
                held_out=Dataset(kept_out, buckets=True) if kept_out else None,
                checkpoint=checkpoint,
                resume=checkpoint if checkpoint and checkpoint.is_file() else None,
                about={
                    "layers": layer_fingerprints(layers), "lora": asdict(config) if config else None, **told
                },
                save=keeper.rescue,
                on_step=Watch(node, settings.steps, stop, previews).on_step,
                preview=previews,
            )  # fmt: skip
            made = keeper.adapter(result)
            lora = keeper.lora(result) if config else None
        early = " (Stop and keep)" if result.stopped else ""
        unused = unused_layers(joined)
        show_text(node, f"{result.steps} steps{early}, last loss {result.losses[-1]:.4g}{told_of(unused)}")
        finished = model[0]
        if lora is not None:
            finished, _ = with_lora(model[0], lora, beside=has_coarse_weights(joined))
        return io.NodeOutput(
            made, finished, {"loss": result.losses}, result.steps,
            loss_plot(result.losses, result.steps, result.held_out),
            torch.stack(previews.pictures) if previews else blocked(),
            report_of(result, record(result), unused),
            lora if lora is not None else blocked(),
        )  # fmt: skip


def _inputs() -> list:
    ours = [
        Attributes.Input(
            "attributes", optional=True,
            tooltip="The attributes of the images: one list entry an image, in order, or one for all.",
        ),
        FaceMask.Input(
            "mask", optional=True,
            tooltip="Their semantic masks: batches or a list, one an image, in order, or one for all.",
        ),
        io.Combo.Input(
            "attribute_form", options=list(ATTRIBUTE_FORMS), default="tokens", optional=True,
            tooltip="tokens: one an attribute, with yes, no and unknown. pooled: all in one token, as "
            "published before. none: leave the attributes out.",
        ),
        io.Combo.Input(
            "mask_form", options=list(MASK_FORMS), default="tokens", optional=True,
            tooltip="tokens: 19 regions and a grid of places. pooled: 19 flattened classes, as published "
            "before. channels: beside the latent, for inpainting and instruct models. none: leave it out.",
        ),
        io.Int.Input(
            "grid", default=8, min=1, max=32, optional=True,
            tooltip="Mask tokens a side: 8 makes 64 of them. More follows small parts better and is slower.",
        ),
        io.Int.Input(
            "patch", default=4, min=1, max=16, optional=True,
            tooltip="Parts a side that a mask token tells apart; grid times patch is the mask's resolution.",
        ),
        io.Int.Input(
            "width", default=256, min=8, max=4096, optional=True,
            tooltip="Numbers inside the adapter: larger can learn more, and makes a larger file.",
        ),
        io.Float.Input(
            "group_dropout", default=0.1, min=0.0, max=0.9, step=0.05, optional=True,
            tooltip="Share of images trained without their attributes, and, drawn apart, without their "
            "mask, so that each can be guided by itself.",
        ),
        io.Float.Input(
            "unknown", default=0.5, min=0.0, max=1.0, step=0.05, optional=True,
            tooltip="Share of images of which only some attributes are told, so that a few can be asked "
            "for later without the rest.",
        ),
        io.Int.Input(
            "lora_rank", default=0, min=0, max=1024, optional=True,
            tooltip="Train a LoRA of this rank along with the adapter; 0: the adapter alone.",
        ),
    ]  # fmt: skip
    for one in ours:
        one.advanced = one.id in {"grid", "patch", "width", "group_dropout", "unknown"} or None
    together = []
    for one in trainer_inputs.inputs():
        if one.id in _WITHOUT:
            continue
        one.tooltip = one.tooltip.replace("LoRA", "adapter")
        if one.id == "learning_rate":
            one.default = RATE
            one.tooltip = (
                f"How far a step goes. {RATE:g} suits new tokens; lower it if the loss jumps. A LoRA trained "
                "along takes the share lora_rate of it."
            )
        if one.id in ("targets", "pattern"):
            one.tooltip = f"With lora_rank: {one.tooltip[0].lower()}{one.tooltip[1:]}"
        together += [one, *(ours if one.id == _BEHIND else [])]
    lora_rate = io.Float.Input(
        "lora_rate", default=LORA_RATE, min=0.0001, max=10.0, step=0.05, round=False, optional=True,
        tooltip="The learning rate of the LoRA, as a share of learning_rate: weights that were trained "
        "before bear smaller steps than new tokens.",
    )  # fmt: skip
    lora_rate.advanced = True
    return [*together, lora_rate]


def _adapter_of(
    network: TrainableModel, words: Mapping, attributes: list | None, mask: list | None, chosen: Mapping
) -> TrainableAdapter:
    """Return a fresh adapter on the model's device; raises ValueError where nothing is said of the images."""
    forms = {}
    for name, given, form in (("attributes", attributes, "attribute_form"), ("mask", mask, "mask_form")):
        forms[name] = chosen.get(form, "tokens") if given else "none"
    if set(forms.values()) == {"none"}:
        raise ValueError(
            "attributes and mask: neither is connected with a form other than none, so that nothing would be "
            "learned. Connect at least one."
        )
    sizes = (chosen.get("width", 256), chosen.get("grid", 8), chosen.get("patch", 4))
    config = adapter_config(network, words.get("cross_attn"), *forms.values(), *sizes)
    with torch.inference_mode(False):
        module = TokenAdapter(config, chosen["seed"]).to(network.device)
    dropped = (chosen.get("group_dropout", 0.1), chosen.get("unknown", 0.5))
    return TrainableAdapter(module, chosen["seed"], *dropped)


def _lora_config(chosen: Mapping[str, Any]) -> LoraConfig | None:
    rank, rate = chosen.get("lora_rank", 0), chosen.get("lora_rate", LORA_RATE)
    if not rank:
        if chosen.get("targets", "attention") != "attention" or chosen.get("pattern", ""):
            raise ValueError("targets and pattern choose a LoRA's layers: set lora_rank above 0 for one.")
        if rate != LORA_RATE:
            raise ValueError("lora_rate is that of a LoRA: set lora_rank above 0 for one.")
        return None
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(
            f"lora_rate is {rate}: it is the LoRA's share of learning_rate, a number above 0. To train the "
            "adapter alone, set lora_rank to 0."
        )
    return config_of({**chosen, "rank": rank, "alpha": float(rank)})


def _joined(
    network: TrainableModel, trained: TrainableAdapter, config: LoraConfig | None, chosen: Mapping[str, Any]
) -> JoinedAdapters:
    # without layers the network is frozen all the same, for the gradient to go through
    if config is None:
        layers = LoraAdapters(network.module, LoraConfig(rank=1, alpha=1.0), {})
    else:
        layers = attach(network.module, config, chosen["seed"], network.device)
    return JoinedAdapters([layers, trained], [chosen.get("lora_rate", LORA_RATE), 1.0])


NODES = [RealismTrainAdapter]
