"""Text encoders that are trained with the model: captions encoded anew, with gradient, at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..realism_core.training.data import Dataset, LatentExample
from ..realism_core.training.joined import JoinedAdapters
from ..realism_core.training.lora import LoraAdapters, LoraConfig, attach
from ..realism_core.training.memory import MemoryEstimate, estimate, model_bytes
from ..realism_core.training.norm_inputs import copied_norm_inputs
from ..realism_core.training.settings import TrainSettings
from ..realism_core.training.targets import choose_text_layers, split_pattern
from .comfy import encoded, model_conditions, tokens_of
from .training_model import TrainableModel

_WORDS = {"cross_attn": "numbers a word", "pooled_output": "pooled numbers"}


class TextTraining(NamedTuple):
    """What the loop takes: the denoiser, the examples, and the empty conditioning if there is one."""

    denoiser: TrainableModel
    examples: list[LatentExample]
    empty: dict | None


class TextTrainableModel(TrainableModel):
    """A MODEL and the text encoders of a CLIP as one `Denoiser`.

    Its conditioning of an image is {"caption": text, "extras": what else the model takes, such as sizes}.
    Each caption of a batch is encoded once, weights of words and clip skip as ComfyUI has them, and the
    gradient goes back through the encoders. module holds both; network and encoders are its parts. What
    ComfyUI's encoders do with token numbers makes the host wait for the device at every caption.
    """

    def __init__(self, model: TrainableModel, clip: Any) -> None:
        vars(self).update(vars(model))  # the very model, which is loaded already
        self._clip = clip
        self._tokens: dict[str, Any] = {}
        self.network, self.encoders = model.module, clip.cond_stage_model
        self.module = nn.Module()
        self.module.network, self.module.encoders = self.network, self.encoders

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Sequence[dict]) -> Tensor:
        """Return what the network predicts for noisy [B,...] at sigma [B] with these captions."""
        texts = {caption: self.encode(caption) for caption in {one["caption"]: 0 for one in conditioning}}
        parts = [
            model_conditions(self._inner, {**one["extras"], **texts[one["caption"]]}, noisy[:1], self.device)
            for one in conditioning
        ]
        return self._predict_for(noisy, sigma, parts)

    def encode(self, caption: str) -> dict:
        """Return cross_attn [1,words,numbers], pooled_output [1,numbers] and more of a caption."""
        if caption not in self._tokens:
            self._tokens[caption] = tokens_of(self._clip, caption)
        self.load_beside(self._clip.patcher)
        with copied_norm_inputs(self.encoders):
            return encoded(self._clip, self._tokens[caption])

    def conditioning_now(self, prompt: Mapping) -> list:
        """Return the CONDITIONING of a prompt by the encoders as they are now, without gradient."""
        with torch.inference_mode(False), torch.no_grad():
            made = {**prompt["extras"], **self.encode(prompt["caption"])}
        return [[made.pop("cross_attn"), made]]

    def check_gradient(self) -> None:
        """Raise ValueError, naming the encoders, where no gradient comes through those with adapters on."""
        with torch.inference_mode(False), torch.enable_grad():
            made = self.encode("")
        if not any(isinstance(value, Tensor) and value.requires_grad for value in made.values()):
            names = ", ".join(name for name, _ in self.encoders.named_children())
            raise ValueError(
                f"clip: no gradient comes through the text encoder {names}, so it cannot be trained here: "
                "disconnect clip."
            )

    def check_widths(self, words: Mapping) -> None:
        """Raise ValueError where an encoded caption is not as wide as a conditioning of the model."""
        with torch.inference_mode(False), torch.no_grad():
            made = self.encode("")
        for name, unit in _WORDS.items():
            ours, theirs = made.get(name), words.get(name)
            if ours is None or theirs is None or ours.shape[-1] == theirs.shape[-1]:
                continue
            raise ValueError(
                f"clip gives {ours.shape[-1]} {unit}, positive has {theirs.shape[-1]}: connect the CLIP that "
                "belongs to the model, and encode positive with it."
            )


def text_training(
    denoiser: TrainableModel,
    clip: Sequence[Any] | None,
    captions: Sequence[str] | None,
    examples: list[LatentExample],
    empty: dict | None = None,
) -> TextTraining:
    """Return what is trained with the text encoders of a CLIP; without clip and captions, what came in.

    clip, captions: as the node's inputs bring them, one caption an image or one for all; an empty caption is
    the empty prompt. examples: with the conditionings of positive; all but what the encoders make of the
    words is kept. empty: the conditioning of negative, of which the same is kept: dropped conditions are the
    empty caption, encoded as all others, so that it too is what the trained encoders will make of it. Raises
    ValueError for one input without the other, another number of captions, a CLIP without encoders and one
    of another model.
    """
    if clip is None and captions is None:
        return TextTraining(denoiser, examples, empty)
    if clip is None:
        raise ValueError("captions need clip: connect the model's CLIP, or disconnect captions.")
    if captions is None:
        raise ValueError("clip needs captions: connect the images' texts, or disconnect clip.")
    if clip[0] is None:
        raise ValueError(
            "clip is empty: the checkpoint comes without a text encoder. Load one with Load CLIP, or "
            "disconnect clip."
        )
    if len(captions) not in (1, len(examples)):
        raise ValueError(
            f"captions: there are {len(captions)} for {len(examples)} images: connect one an image, or one "
            "for all."
        )
    both = TextTrainableModel(denoiser, clip[0])
    both.check_widths(examples[0].conditioning)
    texts = list(captions) * (len(examples) if len(captions) == 1 else 1)
    prompts = [
        example._replace(conditioning=_prompt(text, example.conditioning))
        for text, example in zip(texts, examples, strict=True)
    ]
    return TextTraining(both, prompts, _prompt("", empty or examples[0].conditioning))


def attach_all(
    denoiser: TrainableModel, config: LoraConfig, seed: int, text_rate: float = 1.0
) -> LoraAdapters | JoinedAdapters:
    """Put adapters on a denoiser's network, and on its text encoders where it trains them.

    config: for both; the encoders' layers are those of `choose_text_layers`, and a pattern counts for both.
    text_rate: the encoders' share of the learning rate. Raises ValueError, with nothing attached, as `attach`
    does, and for encoders that cannot be trained.
    """
    if not isinstance(denoiser, TextTrainableModel):
        return attach(denoiser.module, config, seed, denoiser.device)
    configs = _configs(denoiser, config)
    parts: list[LoraAdapters] = []
    try:
        for module, own in configs:
            # without layers it is frozen all the same, for the gradient to go through
            frozen = LoraAdapters(module, config, {}) if own is None else None
            parts.append(frozen or attach(module, own, seed, denoiser.device))
        joined = JoinedAdapters(parts, [text_rate if m is denoiser.encoders else 1.0 for m, _ in configs])
        joined.train(False)  # dropout has no number yet
        denoiser.check_gradient()
        for adapter in joined.layers.values():
            adapter.called = False  # that was no pass of the training
        joined.train()
    except BaseException:
        for part in reversed(parts):
            part.remove()
        raise
    return joined


def weights_of(denoiser: TrainableModel) -> dict[str, Tensor]:
    """Return all weights by the paths that the adapters have, those of trained text encoders included."""
    modules = [denoiser.module]
    if isinstance(denoiser, TextTrainableModel):
        modules = [denoiser.network, denoiser.encoders]
    return {name: weight for module in modules for name, weight in module.named_parameters()}


def estimate_all(
    denoiser: TrainableModel, config: LoraConfig, dataset: Dataset, settings: TrainSettings
) -> MemoryEstimate:
    """Return what a training keeps on its device for certain, with the text encoders that it trains."""
    if not isinstance(denoiser, TextTrainableModel):
        return estimate(denoiser.module, config, dataset, settings)
    (network, own), (encoders, text) = _configs(denoiser, config)
    whole = estimate(encoders, text, dataset, settings)
    if own is None:
        return whole._replace(model=whole.model + model_bytes(network))
    more = estimate(network, own, dataset, settings)._replace(batch=0)
    return MemoryEstimate(*map(sum, zip(whole, more, strict=True)))


def _configs(denoiser: TextTrainableModel, config: LoraConfig) -> list[tuple[nn.Module, LoraConfig | None]]:
    """Return network and encoders, each with the configuration of its adapters; None: it has none."""
    own: LoraConfig | None = config
    if config.targets == "pattern":
        pattern, paths = split_pattern(denoiser.network, denoiser.encoders, config.pattern)
        own = replace(config, pattern=pattern) if pattern else None
    else:
        paths = list(choose_text_layers(denoiser.encoders, config.targets))
    text = replace(config, targets="pattern", pattern="\n".join(paths))
    return [(denoiser.network, own), (denoiser.encoders, text)]


def _prompt(caption: str, words: Mapping) -> dict:
    extras = {name: value for name, value in words.items() if name not in _WORDS}
    return {"caption": caption, "extras": extras}
