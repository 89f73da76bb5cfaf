"""What Realism Train LoRA tells of memory before it trains, and of layers that learnt nothing."""

from __future__ import annotations

from collections.abc import Sequence

from ..realism_core.training.data import Dataset
from ..realism_core.training.inference_weights import inner_tensors
from ..realism_core.training.joined import JoinedAdapters
from ..realism_core.training.lora import LoraAdapters
from ..realism_core.training.memory import (
    MemoryEstimate,
    activation_bytes,
    refuse_what_cannot_fit,
    what_may_run_out,
)
from ..realism_core.training.settings import TrainSettings
from .comfy import free_memory
from .training_model import TrainableModel


def make_room(
    model: TrainableModel, memory: MemoryEstimate, dataset: Dataset, settings: TrainSettings
) -> str:
    """Have ComfyUI leave the memory that a training takes; returns what to show on the node.

    The activations are a rough figure: ComfyUI's own of a forward pass, times blocks (see
    `activation_bytes`). Raises OutOfMemory, before anything is trained, where even the LoRA and its optimiser
    cannot fit.
    """
    largest = max((example.latent for example in dataset.examples), key=lambda latent: latent.numel())
    forward = model.forward_memory((settings.batch_size, *largest.shape))
    activations = activation_bytes(model.module, forward, settings.recompute)
    model.make_room(memory.beside_model + activations)
    free = free_memory(model.device)
    refuse_what_cannot_fit(memory, settings, free)
    return f"{memory.describe()} {what_may_run_out(memory, activations, settings, free)}"


def unused_layers(adapters: LoraAdapters | JoinedAdapters) -> list[str]:
    """Return the paths of trained layers that the model did not call in its passes; none before any pass."""
    idle = adapters.idle
    return idle if len(idle) < len(adapters.layers) else []


def told_of(unused: Sequence[str]) -> str:
    """Return what to add on the node where layers learnt nothing."""
    if not unused:
        return ""
    are = "1 layer is" if len(unused) == 1 else f"{len(unused)} layers are"
    return f"; {are} never used by this model and learnt nothing, the first {unused[0]!r}"


def has_coarse_weights(adapters: LoraAdapters | JoinedAdapters) -> bool:
    """Tell whether trained layers keep weights of 8 bits or fewer, which round a LoRA added to them."""
    weights = [adapter.layer.weight for adapter in adapters.layers.values()]
    return any(inner_tensors(weight) or weight.element_size() < 2 for weight in weights)
