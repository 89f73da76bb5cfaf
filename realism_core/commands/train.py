"""`realism train`: train a LoRA on a model in diffusers' folder layout, alone or in several processes."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..pictures import PictureError, find_pictures, read_batches
from ..training.checkpoint import CheckpointError
from ..training.data import Dataset, held_out
from ..training.diffusers_data import PipelineEncoder
from ..training.diffusers_model import denoiser_of, load_pipeline, model_kind
from ..training.diffusers_names import comfyui_shapes, comfyui_state
from ..training.fingerprints import layer_fingerprints, layer_shapes
from ..training.layouts import LAYOUTS, to_layout
from ..training.loop import OutOfMemory, Progress, Result, TrainingDiverged, train
from ..training.lora import LoraAdapters, LoraConfig, attach
from ..training.lora_file import save_lora
from ..training.memory import estimate
from ..training.metadata import BASE_MODELS
from ..training.pictures import bucket_sizes, captions_of, cut
from ..training.recording import held_out_rows, record_of
from ..training.settings import TrainSettings
from ..training.share import PeerStopped, Share
from ..training.weighting import LossWeight
from .common import add_paths, clear_progress, complain, plural, show_progress
from .processes import asked_to_stop, leave_together, processes
from .train_options import add_lora, add_settings, add_weight, lora_of, settings_of, weight_of

ABOUT = (
    "Each picture's caption is the text file of its name beside it. In several processes: accelerate launch "
    "--multi_gpu --num_processes 2 -m realism_core train ...; the batch size is then that of each. Ctrl-C "
    "saves what was trained; with --checkpoint the same command and --resume goes on. Example: realism train "
    "sd15 photos -o mine.safetensors --steps 800 --weight p2:k=1,gamma=1 --checkpoint mine.checkpoint"
)
BASE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LINES = 20  # of progress, where there is no terminal


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "train", help="train a LoRA on pictures", description=__doc__, epilog=ABOUT, allow_abbrev=False
    )
    parser.add_argument("model", metavar="MODEL_FOLDER", help="a model in diffusers' layout, on this disk")
    add_paths(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the LoRA, name.safetensors")
    parser.add_argument("--force", action="store_true", help="overwrite the LoRA if it exists")
    parser.add_argument("--layout", choices=LAYOUTS, default="comfyui", help="of its keys (default: comfyui)")
    parser.add_argument("--caption", metavar="TEXT", help="one caption for all, instead of text files")
    parser.add_argument(
        "--resolution", type=int, default=512, metavar="N", help="side of a square in pixels (default: 512)"
    )
    parser.add_argument("--square", action="store_true", help="cut squares (default: several shapes)")
    parser.add_argument("--held-out", type=int, default=0, metavar="N", help="pictures to measure by only")
    parser.add_argument("--checkpoint", metavar="FILE", help="write the whole training there")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, if it is there")
    parser.add_argument("--losses", metavar="FILE", help="write the losses there, name.csv or name.json")
    parser.add_argument("--device", help="where to compute (default: the accelerator, or cpu)")
    parser.add_argument(
        "--base-dtype", choices=tuple(BASE_DTYPES), default="fp32",
        help="what the model's own weights are kept in (default: fp32)",
    )  # fmt: skip
    parser.add_argument(
        "--guidance", type=float, default=3.5, metavar="X", help="what Flux is told (default: 3.5)"
    )
    add_settings(parser)
    add_lora(parser)
    add_weight(parser)
    parser.set_defaults(run=run)


@dataclass
class Job:
    """What was asked for, checked as far as it can be before anything large is read."""

    args: argparse.Namespace
    share: Share | None
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.share is None or self.share.rank == 0

    def say(self, text: str) -> None:
        """Print a line, in one process only."""
        if self.leads:
            clear_progress()
            print(text, flush=True)


def run(args: argparse.Namespace) -> int:
    """Train and save, telling on stderr what could not be used."""
    settings, config, weight = settings_of(args), lora_of(args), weight_of(args)
    _check(args)
    kind = model_kind(Path(args.model))
    sizes = bucket_sizes(args.resolution, args.square)
    paths = list(find_pictures(args.paths))
    captions_of(paths, args.caption)
    share, device = processes(args.device)
    job = Job(args, share, device)
    try:
        return _train(job, kind, paths, sizes, settings, config, weight)
    except (TrainingDiverged, OutOfMemory, PeerStopped, CheckpointError) as error:
        complain(f"{f'process {share.rank + 1}: ' if share else ''}{error}")
        return 2
    finally:
        leave_together()


def _train(
    job: Job,
    kind: str,
    paths: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    settings: TrainSettings,
    config: LoraConfig,
    weight: LossWeight,
) -> int:
    args = job.args
    pipeline = load_pipeline(Path(args.model), BASE_DTYPES[args.base_dtype])
    encoder = PipelineEncoder(pipeline, kind, job.device)
    examples, unusable = _encoded(job, encoder, paths, sizes)
    trained_on, kept_out = held_out(examples, args.held_out)
    dataset = Dataset(trained_on, buckets=True)
    empty = encoder.empty() if settings.condition_dropout else None
    encoder.close()
    denoiser = denoiser_of(pipeline, job.device, args.guidance)
    shapes = comfyui_shapes(kind, layer_shapes(dict(denoiser.module.named_parameters())))
    job.say(estimate(denoiser.module, config, dataset, settings).describe())
    with attach(denoiser.module, config, settings.seed, job.device) as adapters:
        # a layout that cannot hold these layers is known before they are trained
        to_layout(comfyui_state(kind, adapters.state_dict(), shapes), args.layout, shapes)
        checkpoint = Path(args.checkpoint) if args.checkpoint else None
        layers = {path: adapter.layer for path, adapter in adapters.layers.items()}

        def keep(result: Result) -> None:
            if job.leads:
                record = record_of(
                    result, dataset, settings, config, weight, denoiser.objective.kind,
                    base_model=Path(args.model).resolve().name, base_model_version=BASE_MODELS.get(kind),
                    extra={"processes": job.share.count} if job.share else {},
                )  # fmt: skip
                state = comfyui_state(kind, _state(result, adapters), shapes)
                save_lora(
                    Path(args.output), state, args.layout, shapes, record.to_metadata(),
                    overwrite=args.force or args.resume,
                )  # fmt: skip
                _write_losses(args.losses, result)
                job.say(f"{plural(result.steps, 'step')} of {settings.steps}: saved as {args.output}")

        with asked_to_stop() as check:

            def on_step(progress: Progress) -> None:
                _show(job, progress)
                check()

            result = train(
                denoiser, adapters, dataset, settings, weight, empty_conditioning=empty,
                held_out=Dataset(kept_out, buckets=True) if kept_out else None, checkpoint=checkpoint,
                resume=checkpoint if args.resume and checkpoint and checkpoint.is_file() else None,
                about={"layers": layer_fingerprints(layers), "lora": asdict(config)}, save=keep,
                on_step=on_step, share=job.share,
            )  # fmt: skip
            keep(result)
    _tell_held_out(job, result)
    if unusable:
        job.say(f"{plural(unusable, 'file')} could not be used.")
    return 1 if unusable else 0


def _check(args: argparse.Namespace) -> None:
    output = Path(args.output)
    if output.suffix != ".safetensors":
        raise ValueError(f"-o {output}: give a name that ends with .safetensors.")
    goes_on = args.resume and args.checkpoint and Path(args.checkpoint).is_file()
    if os.path.lexists(output) and not (args.force or goes_on):
        raise ValueError(f"{output} exists already: choose another name, or add --force to overwrite it.")
    if output.parent.is_dir() and not os.access(output.parent, os.W_OK):
        raise ValueError(f"{output.parent} may not be written to: choose another folder for the LoRA.")
    if args.resume and not args.checkpoint:
        raise ValueError("--resume has no effect without --checkpoint: name the checkpoint to go on from.")
    if args.checkpoint and Path(args.checkpoint).exists() and not (args.resume or args.force):
        raise ValueError(
            f"--checkpoint {args.checkpoint} exists already: add --resume to go on from it, or --force to "
            "start anew and overwrite it."
        )
    if args.checkpoint_every and not args.checkpoint:
        raise ValueError("--checkpoint-every has no effect without --checkpoint: name the file.")
    if args.validate_every and not args.held_out:
        raise ValueError("--validate-every has no effect without --held-out: hold pictures out.")
    if args.losses and Path(args.losses).suffix not in (".csv", ".json"):
        raise ValueError(f"--losses {args.losses}: give a name that ends with .csv or .json.")
    if args.held_out < 0:
        raise ValueError(f"--held-out is {args.held_out}: give 0 or more.")


def _encoded(
    job: Job, encoder: PipelineEncoder, paths: Sequence[Path], sizes: Sequence[tuple[int, int]]
) -> tuple[list, int]:
    """Return the examples of the pictures that can be read, and how many cannot."""
    captions = dict(zip(paths, captions_of(paths, job.args.caption), strict=True))
    words: dict[str, Any] = {}
    examples, unusable, grown = [], 0, 0
    for path, picture in read_batches(paths):
        if isinstance(picture, PictureError):
            unusable += 1
            if job.leads:
                complain(picture)
            continue
        caption = captions[path]
        if caption not in words:
            words[caption] = encoder.words(caption)
        part = cut(picture, sizes)
        grown += part.grown
        examples.append(encoder.example(part.picture, words[caption], part.original, part.corner))
        if job.leads:
            show_progress(f"{plural(len(examples))} of {len(paths)} encoded")
    if not examples:
        raise ValueError("none of the pictures could be read: there is nothing to train on.")
    shapes = len({tuple(example.latent.shape) for example in examples})
    more = f", {plural(grown)} scaled up" if grown else ""
    job.say(f"{plural(len(examples))} in {plural(shapes, 'shape')}, {plural(len(words), 'caption')}{more}")
    return examples, unusable


def _state(result: Result, adapters: LoraAdapters) -> dict[str, torch.Tensor]:
    together = {**result.state, **adapters.comfyui_dora_scales()}
    return {name: tensor.detach().cpu() for name, tensor in together.items()}


def _write_losses(name: str | None, result: Result) -> None:
    if name is None:
        return
    if name.endswith(".json"):
        told = {"losses": result.losses, "held_out": held_out_rows(result.held_out)}
        text = json.dumps(told, indent=2) + "\n"
    else:
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(("step", "loss"))
        rows.writerows((step, repr(loss)) for step, loss in enumerate(result.losses, 1))
        text = table.getvalue()
    path = Path(name)
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_text(text, "utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _show(job: Job, progress: Progress) -> None:
    if not job.leads or not progress.losses:
        return
    text = (
        f"step {progress.step} of {progress.steps}, epoch {progress.epoch + 1}, loss "
        f"{progress.losses[-1]:.4g}, learning rate {progress.learning_rate:.3g}"
    )
    if sys.stderr.isatty():
        show_progress(text)
    elif progress.step % max(1, progress.steps // LINES) == 0:
        print(text, flush=True)


def _tell_held_out(job: Job, result: Result) -> None:
    if len(result.held_out) > 1:
        ends = (result.held_out[0][1], result.held_out[-1][1])
        first, last = (sum(band.loss for band in bands) / len(bands) for bands in ends)
        job.say(f"held-out loss {first:.5g} before, {last:.5g} after")
