"""Face parsers as they lie on disk: a folder with a SegFormer, its classes and how it takes pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .regions import find_classes
from .vocabulary import CLASS_NAMES, LABELS

WEIGHTS, CONFIG, PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
# what the architecture is made of; nothing else of a config.json is followed
_ARCHITECTURE = (
    "num_channels", "num_encoder_blocks", "depths", "sr_ratios", "hidden_sizes", "patch_sizes", "strides",
    "num_attention_heads", "mlp_ratios", "hidden_act", "layer_norm_eps", "decoder_hidden_size",
)  # fmt: skip
# of face parsers that do not use the names of CelebAMask-HQ, beside what `find_classes` knows
_OTHER_NAMES = {
    "bg": "background", "face": "skin", "facial skin": "skin", "eyeg": "eye_g", "eye glasses": "eye_g",
    "le": "l_eye", "re": "r_eye", "lb": "l_brow", "rb": "r_brow", "lr": "l_ear", "rr": "r_ear",
    "imouth": "mouth", "ulip": "u_lip", "llip": "l_lip", "earr": "ear_r",
}  # fmt: skip
_SIZES = (32, 4096)


class FaceParser(torch.nn.Module):
    """A SegFormer that names the classes of a face's pixels.

    classes: for each of the L classes that the network knows, which of the 19 it is. size: the longer side of
    the pictures that it was made for, in pixels. scale, mean, std: how values 0..1 are prepared.
    """

    def __init__(self, network: torch.nn.Module, classes: tuple[int, ...], taken: Preparation) -> None:
        super().__init__()
        self.network, self.classes, self.taken = network, classes, taken

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits [B,L,H/4,W/4], float32, of pictures [B,3,H,W] in 0..1, sides in steps of 32."""
        weight = next(self.network.parameters())
        mean, std = (pictures.new_tensor(row)[:, None, None] for row in (self.taken.mean, self.taken.std))
        prepared = ((pictures * self.taken.scale - mean) / std).to(weight.device, weight.dtype)
        return self.network(pixel_values=prepared).logits.float()


class Preparation(NamedTuple):
    """How a network takes pictures: its longer side in pixels, then (values * scale - mean) / std."""

    size: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_parser(weights: Path) -> FaceParser:
    """Return the face parser of a folder with model.safetensors, config.json and preprocessor_config.json.

    weights: the path of model.safetensors. It is read on the CPU; no code of the folder runs and nothing is
    downloaded. Raises ValueError, naming the file and the fix, for pickles, files that are absent or broken,
    other architectures, weights that do not fit, and classes that none of the 19 is.
    """
    _check_weights(weights)
    folder = weights.parent
    config = _read(folder / CONFIG)
    if config.get("model_type") != "segformer":
        raise ValueError(
            f"{folder / CONFIG} is of a model of type {config.get('model_type')!r}: only SegFormer models "
            "are read; choose another model."
        )
    classes = classes_of(config.get("id2label"), folder / CONFIG)
    taken = _preparation(_read(folder / PREPROCESSOR), folder / PREPROCESSOR)
    return FaceParser(_network(folder, config, len(classes)), classes, taken).train(False)


def classes_of(names: Any, file: Path) -> tuple[int, ...]:
    """Return which of the 19 classes each class of a network is, by the names in its id2label.

    The names are those of CelebAMask-HQ, also with .png, of FaRL, or words such as "left eye", in any case.
    Several classes may be one of the 19. Raises ValueError for unknown names, numbers left out, and where no
    class is the background.
    """
    try:
        rows = sorted((int(number), str(name)) for number, name in dict(names).items())
    except (TypeError, ValueError):
        rows = []
    if not rows or [number for number, _ in rows] != list(range(len(rows))):
        raise ValueError(
            f"{file} does not name its classes: give id2label a name for each number from 0, such as "
            '"0": "background", "1": "skin".'
        )
    found = [(name, _class_of(name)) for _, name in rows]
    unknown = [name for name, label in found if label is None]
    if unknown:
        told = ", ".join(repr(name[:40]) for name in unknown[:4]) + (" ..." if len(unknown) > 4 else "")
        raise ValueError(
            f"{file} names classes that none of the 19 is: {told}. Give them in id2label the name of the "
            f"nearest: {', '.join(CLASS_NAMES)}; or choose another model."
        )
    if LABELS["background"] not in dict(found).values():
        raise ValueError(f"{file} names no class background: this model cannot tell what is no face.")
    return tuple(label for _, label in found)


def _class_of(name: str) -> int | None:
    plain = name.strip().casefold().removesuffix(".png").replace("_", " ")
    if plain in _OTHER_NAMES:
        return LABELS[_OTHER_NAMES[plain]]
    try:
        labels = find_classes(plain)
    except ValueError:
        return None
    return labels[0] if len(labels) == 1 else None


def _check_weights(weights: Path) -> None:
    if weights.suffix != ".safetensors":
        raise ValueError(
            f"{weights} is no safetensors file; files of that kind can run code, so they are not opened: "
            f"take {WEIGHTS} from where it came from, or press Download model on the node."
        )
    if weights.name != WEIGHTS:
        raise ValueError(f"{weights} is not called {WEIGHTS}: give it that name, in a folder of its own.")
    for name in (WEIGHTS, CONFIG, PREPROCESSOR):
        if not (weights.parent / name).is_file():
            raise ValueError(
                f"{weights.parent / name} is absent: copy it from where {WEIGHTS} came from, or press "
                "Download model on the node."
            )


def _read(file: Path) -> dict[str, Any]:
    try:
        if isinstance(content := json.loads(file.read_text(encoding="utf-8")), dict):
            return content
        problem: object = "it is no JSON object"
    except (OSError, ValueError) as error:
        problem = error
    raise ValueError(f"{file} cannot be read ({problem}): copy it from where the model came from again.")


def _preparation(given: dict[str, Any], file: Path) -> Preparation:
    size = given.get("size", 512)
    sides = list(size.values()) if isinstance(size, dict) else size if isinstance(size, list) else [size]
    rescale = given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 1
    normalise = given.get("do_normalize", True)
    rows = [given.get("image_mean", [0.485, 0.456, 0.406]), given.get("image_std", [0.229, 0.224, 0.225])]
    mean, std = rows if normalise else ([0.0] * 3, [1.0] * 3)
    try:
        made = Preparation(
            max(map(int, sides)), 255 * float(rescale), tuple(map(float, mean)), tuple(map(float, std))
        )
        fits = _SIZES[0] <= made.size <= _SIZES[1] and len(made.mean) == len(made.std) == 3
        if fits and all(value > 0 for value in (made.scale, *made.std)):
            return made
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"{file} does not say how pictures are prepared: size must be {_SIZES[0]} to {_SIZES[1]} pixels, "
        "image_mean and image_std three numbers. Copy it from where the model came from again."
    )


def _network(folder: Path, config: dict[str, Any], count: int) -> torch.nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    try:
        made = SegformerConfig(
            **{name: config[name] for name in _ARCHITECTURE if name in config}, num_labels=count
        )
        network, told = SegformerForSemanticSegmentation.from_pretrained(
            str(folder), config=made, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # any kind comes out of a broken file
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ValueError(
            f"{folder / WEIGHTS} cannot be loaded as its {CONFIG} says ({first}): copy both from where the "
            "model came from again."
        ) from error
    # it would go on with random numbers in their place
    absent = [key for key in told["missing_keys"] if not key.endswith("num_batches_tracked")]
    if absent or told["mismatched_keys"]:
        raise ValueError(
            f"{folder / WEIGHTS} does not hold the weights that its {CONFIG} speaks of, such as "
            f"{next(iter(absent or told['mismatched_keys']))}: copy both from where the model came from."
        )
    return network.train(False).requires_grad_(False)
