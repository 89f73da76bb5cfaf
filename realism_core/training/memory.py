"""What a training will need, from shapes alone, and what to say when memory ran out."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import nn

from .data import Dataset
from .lora_plan import LoraConfig, estimate_memory
from .optimisers import state_numbers
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
    module: nn.Module, config: LoraConfig, dataset: Dataset, settings: TrainSettings
) -> MemoryEstimate:
    """Return what a training keeps on its device for certain, before anything is allocated.

    module: the model with all its weights, on the device or not, without adapters. Weights that ComfyUI
    loads block by block take less than `model` says. Raises ValueError as `plan_layers` does.
    """
    tensors = (*module.parameters(), *module.buffers())
    lora = estimate_memory(module, config, partial(state_numbers, settings.optimiser))
    ema = lora.weights if settings.ema_decay else 0
    largest = max(example.latent.numel() for example in dataset.examples)
    return MemoryEstimate(
        model=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        trained=lora.weights,
        gradients=lora.gradients,
        optimiser=lora.optimiser,
        ema=ema,
        last_good=lora.weights + ema,
        batch=_BATCH_BYTES * settings.batch_size * largest,
    )


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
    advice.append("lower the LoRA's rank")
    if settings.optimiser == "adamw":
        advice.append("use the optimiser adafactor")
    return ", or ".join(advice)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
