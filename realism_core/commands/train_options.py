"""The options of `realism train` that say how is trained."""

from __future__ import annotations

import argparse

from ..training.lora import LoraConfig
from ..training.optimisers import OPTIMISERS
from ..training.schedule import SCHEDULES
from ..training.settings import PRECISIONS, TrainSettings
from ..training.targets import TARGETS
from ..training.timesteps import KINDS as TIMESTEPS
from ..training.timesteps import TimestepSampler
from ..training.weighting import KINDS as WEIGHTS
from ..training.weighting import MODES, LossWeight

_SETTINGS = (
    ("batch_size", int, "N", "images a step and process (default: 1)"),
    ("accumulation", int, "N", "batches a step (default: 1)"),
    ("learning_rate", float, "X", "how far a step goes (default: 1e-4)"),
    ("weight_decay", float, "X", "decay of the weights (default: the optimiser's usual one)"),
    ("warmup", int, "N", "steps of rising learning rate (default: 0)"),
    ("clip_norm", float, "X", "the longest gradient; 0: any (default: 1)"),
    ("ema_decay", float, "X", "keep an average of the steps, such as 0.999; 0: off (default)"),
    ("condition_dropout", float, "X", "share of images trained without their caption (default: 0)"),
    ("seed", int, "N", "of all dice (default: 0)"),
    ("log_every", int, "N", "steps between two looks at the losses (default: 10)"),
    ("checkpoint_every", int, "N", "steps between two checkpoints (default: only at the end)"),
    ("validate_every", int, "N", "steps between two looks at held-out pictures (default: first and last)"),
)
_CHOICES = (
    ("optimiser", OPTIMISERS, "how steps are made (default: adamw)"),
    ("schedule", SCHEDULES, "of the learning rate (default: constant)"),
    ("precision", PRECISIONS, "bf16: autocast (default: fp32)"),
)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the training itself."""
    group = parser.add_argument_group("training")
    group.add_argument("--steps", type=int, required=True, metavar="N", help="steps of the optimiser")
    for name, kind, metavar, text in _SETTINGS:
        group.add_argument(_flag(name), type=kind, metavar=metavar, help=text)
    for name, choices, text in _CHOICES:
        group.add_argument(_flag(name), choices=tuple(choices), help=text)
    group.add_argument(
        "--recompute", action="store_true", default=None, help="gradient checkpointing: less memory, slower"
    )


def settings_of(args: argparse.Namespace) -> TrainSettings:
    """Return the settings; raises ValueError for numbers that make no sense."""
    names = ("steps", "recompute", *(entry[0] for entry in (*_SETTINGS, *_CHOICES)))
    return TrainSettings(**{name: vars(args)[name] for name in names if vars(args)[name] is not None})


def add_lora(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the adapters."""
    group = parser.add_argument_group("LoRA")
    group.add_argument("--rank", type=int, default=16, metavar="N", help="its size (default: 16)")
    group.add_argument("--alpha", type=float, metavar="X", help="scale times rank (default: the rank)")
    group.add_argument("--rank-stabilised", action="store_true", help="scale alpha / sqrt(rank) instead")
    group.add_argument(
        "--lora-dropout", type=float, default=0.0, metavar="X", help="share of input left out"
    )
    group.add_argument("--dora", action="store_true", help="train lengths and directions apart")
    group.add_argument("--targets", choices=TARGETS, help="which layers learn (default: attention)")
    group.add_argument(
        "--pattern", action="append", metavar="GLOB",
        help="layers by diffusers' paths with *, or re: and a regular expression; may be repeated",
    )  # fmt: skip
    group.add_argument(
        "--clamp-rank", action="store_true", help="smaller layers get the rank they can hold"
    )


def lora_of(args: argparse.Namespace) -> LoraConfig:
    """Return the adapters' configuration; raises ValueError for numbers that make no sense."""
    targets = args.targets or ("pattern" if args.pattern else "attention")
    alpha = args.rank if args.alpha is None else args.alpha
    return LoraConfig(
        args.rank, float(alpha), args.rank_stabilised, args.lora_dropout, args.dora, targets,
        "\n".join(args.pattern or ()), args.clamp_rank,
    )  # fmt: skip


def add_weight(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the loss weight."""
    group = parser.add_argument_group("loss weight")
    group.add_argument(
        "--weight", action="append", metavar="KIND[:NAME=X,...]",
        help=f"how much each noise level counts: {_listed(WEIGHTS)}. Repeated, they are multiplied (default: "
        "all alike, in the model's own prediction)",
    )  # fmt: skip
    group.add_argument("--weight-mode", choices=MODES, help="see docs/train-cli.md (default: exact)")
    group.add_argument("--no-normalise", action="store_true", help="do not divide by the weight's mean")
    group.add_argument(
        "--timesteps", default="uniform", metavar="KIND[:NAME=X,...]",
        help=f"how often each noise level is drawn: {', '.join(_listed_timesteps())} (default: uniform)",
    )  # fmt: skip
    group.add_argument("--not-stratified", action="store_true", help="draw each noise level by itself")


def weight_of(args: argparse.Namespace) -> LossWeight:
    """Return the loss weight; raises ValueError for what it does not know."""
    kind, numbers = _parsed("--timesteps", args.timesteps)
    if unknown := set(numbers) - set(TIMESTEPS.get(kind, ())):
        raise ValueError(f"--timesteps {kind} takes no {', '.join(sorted(unknown))}: leave it out.")
    timesteps = TimestepSampler(kind, **numbers, stratified=not args.not_stratified)
    if not args.weight:
        if args.weight_mode or args.no_normalise:
            raise ValueError("--weight-mode and --no-normalise have no effect without --weight: add one.")
        return LossWeight("constant", mode="factor", normalise=False, timesteps=timesteps)
    (kind, numbers), *times = (_parsed("--weight", text) for text in args.weight)
    mode = args.weight_mode or "exact"
    return LossWeight(kind, numbers, mode, not args.no_normalise, timesteps, tuple(times))


def _parsed(option: str, text: str) -> tuple[str, dict[str, float]]:
    kind, _, rest = text.partition(":")
    numbers = {}
    for part in filter(None, rest.split(",")):
        name, _, value = part.partition("=")
        try:
            numbers[name.strip()] = float(value)
        except ValueError:
            raise ValueError(f"{option} {text}: {part!r} is no NAME=NUMBER, such as gamma=1.") from None
    return kind.strip(), numbers


def _listed(kinds: dict) -> str:
    told = []
    for name, kind in kinds.items():
        numbers = ",".join(f"{number}={value:g}" for number, value in kind.numbers.items())
        told.append(f"{name}:{numbers}" if numbers else name)
    return ", ".join(told)


def _listed_timesteps() -> list[str]:
    plain = TimestepSampler()
    return [
        f"{kind}:{','.join(f'{name}={vars(plain)[name]:g}' for name in names)}" if names else kind
        for kind, names in TIMESTEPS.items()
    ]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
