"""A MODEL with an adapter's tokens behind the words, as the training loop sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..realism_core.conditioning.adapter import AdapterConfig, Conditions, TokenAdapter
from ..realism_core.conditioning.adapter_file import AdapterFile, save_adapter
from ..realism_core.conditioning.attributes import FaceAttributes
from ..realism_core.conditioning.masks import SemanticMask
from ..realism_core.training.adapter_training import Said, TrainableAdapter, state_of
from ..realism_core.training.data import LatentExample
from ..realism_core.training.loop import Result
from .adapters import KEY, appended, apply_adapter, check_width, free_file
from .comfy import model_conditions
from .lora import TrainedLora
from .training import plain_conditioning
from .training_model import TrainableModel
from .training_results import Keeper

# how far, as a share, the sides of a mask and of its picture may differ
_ASPECT = 0.1


class AdapterTrainableModel(TrainableModel):
    """A MODEL and a token adapter as one `Denoiser`.

    Its conditioning of an image is {"words": the prompt's, "attributes": [40], "planes": [19,side,side]},
    either of the latter None where nothing is said. The gradient goes back through the model to the tokens.
    """

    def __init__(self, model: TrainableModel, trained: TrainableAdapter) -> None:
        vars(self).update(vars(model))  # the very model, which is loaded already
        self.trained = trained

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Sequence[dict]) -> Tensor:
        """Return what the network predicts for noisy [B,...] at sigma [B] with these prompts and tokens."""
        said = [Said(one["attributes"], one["planes"]) for one in conditioning]
        return self._predict_with(noisy, sigma, conditioning, self.trained.conditions(said))

    def check_reads(self, latent: Tensor, conditioning: dict) -> None:
        """Raise ValueError, naming the model, where it passes over an adapter's tokens or channels.

        latent: [C,...].
        """
        with torch.inference_mode(False), torch.no_grad():
            noisy = latent[None].to(self.device)
            sigma = self.sigmas(torch.tensor([0.5], dtype=torch.float64)).to(self.device, torch.float32)
            made = self.trained.conditions([Said(conditioning["attributes"], conditioning["planes"])])
            plain = self._predict_with(noisy, sigma, [conditioning], made)
            name = type(self._inner).__name__
            if made.tokens.shape[1]:
                other = made._replace(tokens=made.tokens.flip(-1) + 1)
                if torch.equal(plain, self._predict_with(noisy, sigma, [conditioning], other)):
                    raise ValueError(
                        f"model: {name} has no cross-attention that reads a prompt's words, so attribute and "
                        "mask tokens cannot reach it: use a model with text prompts."
                    )
            if made.channels is not None:
                other = made._replace(channels=made.channels + 1)
                if torch.equal(plain, self._predict_with(noisy, sigma, [conditioning], other)):
                    raise ValueError(
                        f"model: {name} takes no channels beside the latent, which mask_form 'channels' "
                        "needs: use an inpainting or instruct model, or mask_form 'tokens'."
                    )

    def _predict_with(
        self, noisy: Tensor, sigma: Tensor, conditioning: Sequence[dict], made: Conditions
    ) -> Tensor:
        parts = []
        size = tuple(noisy.shape[-2:])
        for place, one in enumerate(conditioning):
            rows = slice(place, place + 1)
            channels = None if made.channels is None else made.channels[rows]
            longer = appended(one["words"], made._replace(tokens=made.tokens[rows], channels=channels), size)
            parts.append(model_conditions(self._inner, longer, noisy[:1], self.device))
        return self._predict_for(noisy, sigma, parts)


def adapter_config(
    model: TrainableModel, words: Tensor | None, attributes: str, mask: str, width: int, grid: int, patch: int
) -> AdapterConfig:
    """Return the configuration of an adapter for a model; words: of a prompt [1,T,context].

    Raises ValueError where a prompt has no words, and as `AdapterConfig` does.
    """
    check_width(words, 0 if words is None else words.shape[-1], "positive")
    scale = float(words.float().square().mean().sqrt()) or 1.0
    channels = model.latent_channels if mask == "channels" else 1
    return AdapterConfig(words.shape[-1], attributes, mask, width, grid, patch, scale, channels)


def adapter_examples(
    adapter: TokenAdapter,
    examples: Sequence[LatentExample],
    attributes: Sequence[FaceAttributes] | None,
    masks: Sequence[SemanticMask] | None,
) -> list[LatentExample]:
    """Return examples with what is said of each picture; attributes, masks: one a picture, or one for all.

    Raises ValueError, naming the input, for other numbers, a prompt of other words and a mask of another
    aspect than its picture.
    """
    said = None if attributes is None else [one.values() for one in attributes]
    sizes = None if masks is None else [mask.size for mask in masks for _ in range(len(mask))]
    # one by one, so that no more than a picture's classes are held at full size
    planes = None if masks is None else [
        adapter.planes(mask[n : n + 1])[0] for mask in masks for n in range(len(mask))
    ]  # fmt: skip
    rows = {}
    for name, values in (("attributes", said), ("mask", planes)):
        if values is not None and len(values) not in (1, len(examples)):
            raise ValueError(
                f"{name}: there are {len(values)} for {len(examples)} images: connect one an image, or one "
                "for all."
            )
        rows[name] = [None] * len(examples) if values is None else values * (len(examples) // len(values))
    joined = []
    for place, (example, values, shares) in enumerate(zip(examples, *rows.values(), strict=True)):
        check_width(example.conditioning.get("cross_attn"), adapter.config.context, "positive")
        if sizes is not None:
            _check_aspect(sizes[place % len(sizes)], tuple(example.latent.shape[-2:]), place + 1)
        told = {"words": example.conditioning, "attributes": values, "planes": shares}
        joined.append(example._replace(conditioning=told))
    return joined


def empty_prompt(negative: list, adapter: TokenAdapter) -> dict[str, Any]:
    """Return the conditioning of pictures that are trained without theirs, from a negative CONDITIONING.

    Raises ValueError, naming negative, where it is no plain prompt of the model's own width.
    """
    check_plain([negative], "negative")
    words = plain_conditioning(negative, "negative")
    context = words.get("cross_attn")
    width = 0 if context is None else context.shape[-1]
    if width != adapter.config.context:
        raise ValueError(
            f"negative: its words have {width} numbers, those of positive {adapter.config.context}: encode "
            "both with the model's own CLIP."
        )
    return {"words": words, "attributes": None, "planes": None}


def check_plain(prompts: Sequence[list], name: str) -> None:
    """Raise ValueError, naming the input, if any of these CONDITIONINGs has an adapter's tokens."""
    if any(KEY in extras for prompt in prompts for _, extras in prompt):
        raise ValueError(
            f"{name} has the tokens of an adapter already, and a second would be learned behind them: "
            "connect the plain prompt, from before Realism Conditioner."
        )


class AdapterPrompts:
    """The first picture's prompt with the adapter's tokens as they are now, and the negative one."""

    def __init__(
        self, adapter: TokenAdapter, positive: Sequence[list], negative: Sequence[list] | None,
        attributes: Sequence[FaceAttributes] | None, masks: Sequence[SemanticMask] | None,
    ) -> None:  # fmt: skip
        self._adapter, self._words = AdapterFile(adapter, {}), (positive[0], (negative or positive)[0])
        self._said = (attributes[0] if attributes else None, masks[0][:1] if masks else None)

    def now(self) -> tuple[list, list]:
        """Return (positive, negative)."""
        return apply_adapter(self._adapter, *self._words, *self._said)


class AdapterKeeper(Keeper):
    """Makes the adapter, and the LoRA if one was trained with it, of a result."""

    what = "adapter"
    config: AdapterConfig

    def adapter(self, result: Result) -> AdapterFile:
        """Return the adapter of a result; raises RuntimeError where no step was worth keeping."""
        self.check(result)
        own, _ = state_of(result.state)
        with torch.inference_mode(False):
            made = TokenAdapter(self.config)
            made.load_state_dict(own)
        return AdapterFile(made.requires_grad_(False).train(False), self.about(result))

    def lora(self, result: Result) -> TrainedLora:
        """Return the LoRA of a result."""
        _, others = state_of(result.state)
        return super().lora(result._replace(state=others))

    def about(self, result: Result) -> dict[str, Any]:
        """Return how the adapter was trained."""
        return {"training": asdict(self._record(result))}

    def save(self, result: Result) -> Path:
        """Save the adapter where Load Realism Adapter lists it, and the LoRA where Load LoRA does."""
        path = free_file("interrupted", result.steps)
        made = self.adapter(result)
        save_adapter(path, made.adapter, made.about)
        if self._adapters.layers:
            try:
                super().save(result)
            except OSError as problem:
                self.what = "LoRA"
                kept = f"{problem.strerror}. The adapter is saved as {path.name}"
                raise OSError(problem.errno, kept) from problem
        return path


def _check_aspect(mask: tuple[int, int], picture: tuple[int, int], place: int) -> None:
    # latents round the sides of their pictures
    off = abs(mask[0] * picture[1] / (mask[1] * picture[0]) - 1)
    if off > max(_ASPECT, 1 / min(picture)):
        raise ValueError(
            f"mask: that of image {place} is {mask[1]} x {mask[0]}, the image's latent {picture[1]} x "
            f"{picture[0]}, which is another aspect: cut the mask as the image was."
        )
