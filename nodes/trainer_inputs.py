"""What trainers take, new inputs at the end, where saved workflows expect them, and what they tell."""

from __future__ import annotations

from ..realism_core.training.optimisers import OPTIMISERS
from ..realism_core.training.schedule import SCHEDULES
from ..realism_core.training.settings import PRECISIONS
from ..realism_core.training.targets import TARGETS
from .comfy import io
from .sockets import LossWeight, RealismTerm

# what most trainings leave as it is: folded away until asked for, where ComfyUI can
ADVANCED = {
    "pattern", "optimiser", "schedule", "warmup", "accumulation", "clip_norm", "ema_decay", "lora_dropout",
    "condition_dropout", "dora", "precision", "buckets", "rank_stabilised", "clamp_rank", "weight_decay",
    "validate_every", "checkpoint_every", "preview_steps", "preview_cfg", "text_rate",
}  # fmt: skip


def inputs() -> list:
    """Return all inputs in their order."""
    together = [*needed(), *refinements(), *safeguards()]
    for one in together:
        one.advanced = one.id in ADVANCED or None
    return together


def needed() -> list:
    """Return the inputs that ComfyUI's own trainer has too, and alpha."""
    return [
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
    ]  # fmt: skip


def refinements() -> list:
    """Return the inputs on what is learned, and how."""
    return [
        LossWeight.Input(
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
            tooltip="Gradient checkpointing: much less memory, a third more time.",
        ),
        io.Combo.Input(
            "precision", options=list(PRECISIONS), default="fp32", optional=True,
            tooltip="fp32: in the model's own precision, the LoRA in fp32. bf16: autocast, faster and "
            "smaller where the device has it.",
        ),
        io.Boolean.Input(
            "buckets", default=False, optional=True,
            tooltip="Allow images of several sizes; a batch never mixes them.",
        ),
    ]  # fmt: skip


def safeguards() -> list:
    """Return the inputs on what is seen and kept while it trains."""
    return [
        io.Boolean.Input(
            "rank_stabilised", default=False, optional=True,
            tooltip="Scale by alpha / sqrt(rank), so that a large rank learns as fast as a small one.",
        ),
        io.Boolean.Input(
            "clamp_rank", default=False, optional=True,
            tooltip="Layers that are too small for the rank get the largest they can hold.",
        ),
        io.Float.Input(
            "weight_decay", default=-1.0, min=-1.0, max=0.99, step=0.001, round=False, optional=True,
            tooltip="How fast the LoRA fades by itself; -1: the optimiser's usual, 0.01 for adamw, else 0.",
        ),
        io.Float.Input(
            "image_weights", optional=True, force_input=True,
            tooltip="How much each image counts: a FLOAT list, one an image, such as from Realism Score "
            "Weights. 0 leaves an image out.",
        ),
        io.Int.Input(
            "held_out", default=0, min=0, max=100000, optional=True,
            tooltip="So many of the images are not trained on: the loss on them, by noise level, shows what "
            "was learned. It is plain squared error, so that loss weights can be compared.",
        ),
        io.Int.Input(
            "validate_every", default=0, min=0, max=1000000, optional=True,
            tooltip="Steps between two looks at the held-out images; 0: before the first and after the last.",
        ),
        io.String.Input(
            "checkpoint", default="", optional=True,
            tooltip="A name for the file that a training can go on from, in output/realism_checkpoints. It "
            "is written at the end, on Cancel, and every checkpoint_every steps. Empty: none.",
        ),
        io.Int.Input(
            "checkpoint_every", default=0, min=0, max=1000000, optional=True,
            tooltip="Steps between two checkpoints, against crashes and power cuts; 0: only at the end.",
        ),
        io.Boolean.Input(
            "resume", default=False, optional=True,
            tooltip="Go on from that checkpoint, to the same LoRA as without the break; start anew if there "
            "is none yet.",
        ),
        io.Vae.Input("vae", optional=True, tooltip="Decodes the previews."),
        io.Int.Input(
            "preview_every", default=0, min=0, max=1000000, optional=True,
            tooltip="Steps between two pictures of the first prompt, always from the same noise; 0: before "
            "the first step and after the last, if vae is connected.",
        ),
        io.Int.Input(
            "preview_steps", default=20, min=1, max=1000, optional=True,
            tooltip="Sampling steps of a preview (euler, simple).",
        ),
        io.Float.Input(
            "preview_cfg", default=4.0, min=0.0, max=100.0, step=0.1, optional=True,
            tooltip="Guidance of the previews, away from negative; 1: none.",
        ),
        RealismTerm.Input(
            "realism_term", optional=True,
            tooltip="A second loss that keeps what the model draws within the measures of photographs, from "
            "Realism Loss Term.",
        ),
        io.Clip.Input(
            "clip", optional=True,
            tooltip="The model's text encoders, to train them too; needs captions. positive still gives what "
            "else the model takes, such as sizes.",
        ),
        io.String.Input(
            "captions", optional=True, force_input=True,
            tooltip="The prompts as texts, for clip: one an image, in order, or one for all.",
        ),
        io.Float.Input(
            "text_rate", default=1.0, min=0.0001, max=10.0, step=0.05, round=False, optional=True,
            tooltip="The text encoders' share of the learning rate; 0.5 and less is usual.",
        ),
    ]  # fmt: skip


def told() -> list:
    """Return the outputs on how a training went, which all trainers have."""
    return [
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
    ]
