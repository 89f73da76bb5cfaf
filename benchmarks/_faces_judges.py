"""A segmenter and an attribute classifier of drawn faces: they judge if a picture is as it was asked for.

Both are small, learn from drawn faces in some twenty minutes of one core, and are kept in the user's cache
under a name that changes with whatever they follow from. What they say of faces that they never saw, true
ones, is the most that a generator can be given: see `Judges.measured`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import _faces_drawn
from benchmarks._faces_drawn import DrawnFaces, drawn_faces
from devtools.environment import cache_folder
from realism_core.conditioning.attributes import FaceAttributes
from realism_core.conditioning.mask_edits import mirror
from realism_core.conditioning.masks import CLASSES, SemanticMask
from realism_core.conditioning.vocabulary import CLASS_NAMES, NAMES

# seeds of the faces that the judges learn from and are measured on: use others for generators
TRAINING_SEED, TEST_SEED = 0, 1
BATCH = 16


@dataclass(frozen=True)
class Plan:
    """How the judges are trained; side: of the pictures that they judge, in pixels."""

    side: int = 64
    faces: int = 5000
    tests: int = 500
    segmenter_steps: int = 4000
    classifier_steps: int = 4000
    width: int = 32
    seed: int = 0


class Measured(NamedTuple):
    """Shares in 0..1: mean and by name, NaN where a class or attribute does not occur."""

    mean: float
    each: dict[str, float]


def down(images: Tensor, side: int) -> Tensor:
    """Return pictures [n,H,W,3], uint8 or float 0..1, as float32 planes [n,3,side,side] by area."""
    planes = images.movedim(-1, 1).to(torch.float32)
    planes = planes / 255 if images.dtype == torch.uint8 else planes
    return functional.interpolate(planes, (side, side), mode="area") if planes.shape[-1] != side else planes


def mean_iou(found: Tensor, wanted: Tensor) -> Measured:
    """Return intersection over union of labels [n,H,W], over all pictures, by class name.

    Classes that neither has are left out of the mean.
    """
    pairs = wanted.flatten().long() * CLASSES + found.flatten().long()
    table = torch.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES).double()
    both = table.diagonal()
    ratio = both / (table.sum(0) + table.sum(1) - both)
    return Measured(float(ratio.nanmean()), dict(zip(CLASS_NAMES, ratio.tolist(), strict=True)))


def accuracy(found: Tensor, wanted: Sequence[FaceAttributes]) -> Measured:
    """Return how many of the wanted states, yes or no, are those of found [n,40], above 0 for yes.

    What is don't care is not counted; the mean is over attributes, so that rare ones count as much.
    """
    states = torch.stack([attributes.values() for attributes in wanted])
    known = states != 0
    right = ((found > 0) == (states > 0)) & known
    each = right.sum(0).double() / known.sum(0)
    return Measured(float(each.nanmean()), dict(zip(NAMES, each.tolist(), strict=True)))


class Segmenter(nn.Module):
    """A U-Net on blocks of 2 x 2 pixels: planes [n,3,H,W] in 0..1, sides in eights, to scores [n,19,H,W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _pair(14, width)
        self.second = _pair(width, 2 * width)
        self.third = _pair(2 * width, 2 * width)
        self.up_second = _pair(4 * width, 2 * width)
        self.up_first = _pair(3 * width, width)
        self.last = nn.Conv2d(width, 4 * CLASSES, 1)

    def forward(self, planes: Tensor) -> Tensor:
        fine = self.first(_blocks(planes))
        middle = self.second(functional.max_pool2d(fine, 2))
        coarse = self.third(functional.max_pool2d(middle, 2))
        middle = self.up_second(torch.cat((middle, _doubled(coarse)), 1))
        scores = self.last(self.up_first(torch.cat((fine, _doubled(middle)), 1)))
        return functional.pixel_shuffle(scores, 2)


class Classifier(nn.Module):
    """Strided convolutions on blocks of 2 x 2 pixels: planes [n,3,H,W] in 0..1 to signed scores [n,40]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _pair(14, width),
            nn.MaxPool2d(2),
            _pair(width, 2 * width),
            nn.MaxPool2d(2),
            _pair(2 * width, 2 * width),
        )
        self.head = nn.Sequential(nn.Linear(2 * width * 64, 64), nn.ReLU(), nn.Linear(64, len(NAMES)))

    def forward(self, planes: Tensor) -> Tensor:
        return self.head(functional.adaptive_max_pool2d(self.body(_blocks(planes)), 8).flatten(1))


class Judges:
    """The trained pair; pictures of any size are brought to `side` first."""

    def __init__(self, segmenter: Segmenter, classifier: Classifier, side: int) -> None:
        self.segmenter, self.classifier, self.side = segmenter.eval(), classifier.eval(), side

    @torch.no_grad()
    def labels(self, images: Tensor) -> Tensor:
        """Return the labels uint8 [n,side,side] of pictures [n,H,W,3], uint8 or float 0..1."""
        planes = down(images, self.side).split(50)
        return torch.cat([self.segmenter(part).argmax(1).to(torch.uint8) for part in planes])

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """Return signed scores float32 [n,40] of pictures [n,H,W,3]: above 0 is yes.

        Only of attributes that drawn faces have; the others mean nothing.
        """
        return torch.cat([self.classifier(part) for part in down(images, self.side).split(50)])

    def measured(self, images: Tensor, mask: SemanticMask, wanted: Sequence[FaceAttributes]) -> tuple:
        """Return (mIoU, accuracy) of pictures against the mask and the attributes that were asked for."""
        fitted = mask.resized(self.side, self.side).labels
        return mean_iou(self.labels(images), fitted), accuracy(self.scores(images), wanted)


def judges(plan: Plan | None = None, say: bool = True) -> Judges:
    """Return the judges of a plan, training them if they are not in the cache."""
    plan = plan or Plan()
    told = repr(plan) + _faces_drawn.version() + Path(__file__).read_text(encoding="utf-8")
    name = f"judges-{hashlib.sha256(told.encode()).hexdigest()[:16]}.safetensors"
    path = cache_folder() / "faces" / name
    segmenter, classifier = Segmenter(plan.width), Classifier(plan.width)
    if not path.is_file():
        started = time.process_time()
        _train(plan, segmenter, classifier, say)
        state = {f"s.{name}": value for name, value in segmenter.state_dict().items()}
        state |= {f"c.{name}": value for name, value in classifier.state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file({name: value.contiguous() for name, value in state.items()}, part)
        os.replace(part, path)
        if say:
            print(f"judges trained in {time.process_time() - started:.0f} s of one processor", flush=True)
    state = load_file(path)
    for part, network in (("s.", segmenter), ("c.", classifier)):
        own = {name[2:]: value for name, value in state.items() if name.startswith(part)}
        network.load_state_dict(own)
    return Judges(segmenter, classifier, plan.side)


def held_out(plan: Plan | None = None) -> DrawnFaces:
    """Return the faces that the judges of a plan never saw."""
    return drawn_faces((plan or Plan()).tests, TEST_SEED)


def _train(plan: Plan, segmenter: Segmenter, classifier: Classifier, say: bool) -> None:
    faces = drawn_faces(plan.faces, TRAINING_SEED)
    planes = down(faces.images, plan.side)
    labels = faces.mask.resized(plan.side, plan.side).labels
    states = torch.stack([attributes.values() for attributes in faces.attributes])
    # a mirrored face has the same attributes, and its left eye on the other side
    planes = torch.cat((planes, planes.flip(-1)))
    labels = torch.cat((labels, mirror(SemanticMask.from_labels(labels)).labels))
    states = states.repeat(2, 1)

    def segmenting(chosen: Tensor) -> Tensor:
        return functional.cross_entropy(segmenter(planes[chosen]), labels[chosen].long())

    def classifying(chosen: Tensor) -> Tensor:
        wanted = states[chosen]
        loss = functional.binary_cross_entropy_with_logits(
            classifier(planes[chosen]), (wanted > 0).float(), reduction="none"
        )
        return (loss * (wanted != 0)).sum() / (wanted != 0).sum()

    jobs = (("segmenter", segmenter, segmenting, plan.segmenter_steps),
            ("classifier", classifier, classifying, plan.classifier_steps))  # fmt: skip
    for name, network, loss_of, steps in jobs:
        dice = torch.Generator().manual_seed(plan.seed)
        _start(network, dice)
        network.train()
        optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, steps, pct_start=0.1)
        for step in range(steps):
            loss = loss_of(torch.randint(len(planes), (BATCH,), generator=dice))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
            if say and (step + 1) % 200 == 0:
                print(f"  {name}: step {step + 1} of {steps}, loss {loss.item():.3f}", flush=True)


def _start(network: nn.Module, dice: torch.Generator) -> None:
    """Give every weight its start from the dice alone."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=dice)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _pair(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
        nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
    )  # fmt: skip


def _blocks(planes: Tensor) -> Tensor:
    """Return planes [n,14,H/2,W/2]: 2 x 2 pixels each, and where they lie, for left and right look alike."""
    blocks = functional.pixel_unshuffle(planes - 0.5, 2)
    count, _, tall, wide = blocks.shape
    down, across = torch.linspace(-1, 1, tall), torch.linspace(-1, 1, wide)
    places = torch.stack(torch.meshgrid(down, across, indexing="ij")).expand(count, -1, -1, -1)
    return torch.cat((blocks, places), 1)


def _doubled(planes: Tensor) -> Tensor:
    return functional.interpolate(planes, scale_factor=2, mode="nearest")
