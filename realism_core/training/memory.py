"""What a training will need, from shapes alone, and what to say when memory ran out."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from .data import Dataset
from .inference_weights import inner_tensors
from .lora_plan import LoraConfig, LoraMemory, estimate_memory
from .optimisers import state_numbers
from .recompute import blocks_of
from .settings import TrainSettings

# latents, noise, noisy latents, target and prediction, of 4 bytes a number
_BATCH_BYTES = 5 * 4


class MemoryEstimate(NamedTuple):
    """Bytes on the device, by what they are for. Activations are not among them: see `describe`."""

    model: int
    trained: int
    gradients: int
    optimiser: int
    ema: int
    last_good: int
    batch: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(self)

    @property
    def beside_model(self) -> int:
        """The sum of all parts but the model, which may be kept off the device."""
        return self.total - self.model

    def describe(self) -> str:
        """Return it as a sentence that says what it leaves out."""
        named = self._asdict().items()
        parts = ", ".join(f"{name.replace('_', ' ')} {_mib(value)}" for name, value in named)
        return (
            f"At least {_mib(self.total)} ({parts}). Activations come on top and cannot be told from "
            "shapes: they grow with batch_size and with the images' area, and shrink with recompute."
        )


class OutOfMemory(RuntimeError):
    """The device's memory ran out; says what to lower."""


def estimate(
    module: nn.Module, config: LoraConfig | None, dataset: Dataset, settings: TrainSettings
) -> MemoryEstimate:
    """Return what a training keeps on its device for certain, before anything is allocated.

    module: the model with all its weights, on the device or not, without adapters; weights that ComfyUI
    loads block by block take less than `model` says. config: None is no LoRA. Raises ValueError as
    `plan_layers` does.
    """
    lora = LoraMemory(0, 0, 0, 0)
    if config is not None:
        lora = estimate_memory(module, config, partial(state_numbers, settings.optimiser))
    ema = lora.weights if settings.ema_decay else 0
    largest = max(example.latent.numel() for example in dataset.examples)
    return MemoryEstimate(
        model=model_bytes(module),
        trained=lora.weights,
        gradients=lora.gradients,
        optimiser=lora.optimiser,
        ema=ema,
        last_good=lora.weights + ema,
        batch=_BATCH_BYTES * settings.batch_size * largest,
    )


def model_bytes(module: nn.Module) -> int:
    """Return the bytes of a model's weights and buffers, of quantised ones as they are kept."""
    return sum(map(_bytes, (*module.parameters(), *module.buffers())))


def activation_bytes(module: nn.Module, forward: float, recompute: bool) -> float:
    """Return a rough figure of what the activations of a training take at most.

    forward: bytes that one forward pass without gradient takes, which is what its largest block takes. With
    recompute one block keeps that, next to its gradients and what it gives back; without, all blocks do.
    """
    return forward * (3 if recompute else 2 + max(1, len(blocks_of(module))))


def refuse_what_cannot_fit(memory: MemoryEstimate, settings: TrainSettings, free: float) -> None:
    """Raise OutOfMemory if what a training takes beside the model is more than the free bytes."""
    if memory.beside_model > free:
        raise OutOfMemory(
            f"The LoRA and its optimiser take {_mib(memory.beside_model)} beside the model, of which only "
            f"{_mib(max(0, free))} are free on the device. To fit: {what_to_shrink(settings)}."
        )


def what_may_run_out(memory: MemoryEstimate, activations: float, settings: TrainSettings, free: float) -> str:
    """Return a sentence on a rough figure of the activations, with what to lower if it is too much."""
    told = f"Roughly {_mib(activations)}, of {_mib(max(0, free))} that are free."
    if memory.beside_model + activations > free:
        told += f" If memory runs out: {what_to_lower(settings)}."
    return told


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is the device's, or the host's, memory running out."""
    text = str(error).lower()
    told = "out of memory" in text or "can't allocate memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and told)


def what_to_lower(settings: TrainSettings) -> str:
    """Return what would help a training with these settings, the strongest first."""
    advice = []
    if settings.batch_size > 1:
        advice.append(
            f"lower batch_size (now {settings.batch_size}; raise accumulation to keep "
            f"{settings.images_per_step} images a step)"
        )
    if not settings.recompute:
        advice.append("turn on gradient checkpointing (recompute)")
    advice.append("train at a lower resolution")
    if settings.precision == "fp32":
        advice.append("use bf16 precision")
    return ", or ".join([*advice, what_to_shrink(settings)])


def what_to_shrink(settings: TrainSettings) -> str:
    """Return what would make the LoRA and its optimiser take less, the strongest first."""
    advice = ["lower the LoRA's rank", "choose targets of fewer layers"]
    if settings.optimiser == "adamw":
        advice.append("use the optimiser adafactor")
    if settings.ema_decay:
        advice.append("set ema_decay to 0")
    return ", or ".join(advice)


def _bytes(tensor: Tensor) -> int:
    parts = inner_tensors(tensor)
    if parts:
        return sum(map(_bytes, parts.values()))
    return tensor.numel() * tensor.element_size()


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"
