"""RealismParseFace: the semantic mask of a face, by a face parsing model."""

from __future__ import annotations

from pathlib import PurePath
from threading import Timer
from typing import Any

from ..realism_core.conditioning.parser_model import WEIGHTS, load_parser
from ..realism_core.conditioning.parsing import MOST_FACES, Options, parse
from .comfy import (
    Progress,
    io,
    is_on_device,
    managed,
    model_names,
    model_path,
    onto_device,
    schema,
    show_text,
)
from .face_mask import MASK_TOOLTIP, PREVIEW_TOOLTIP, with_preview
from .parser_download import KIND
from .sockets import FaceMask

SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt"}
NONE = "none yet: press Download model"
# what the activations of a picture of 512 pixels take, in bytes
MEMORY = 2**30
# seconds after which an unloaded model is dropped
WAIT = 2.0
# the model of the last run, until ComfyUI unloads it
_kept: dict[str, Any] = {}


class RealismParseFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismParseFace",
            display_name="Parse Face",
            category="realism/face",
            description=(
                "Makes the semantic mask of a face in a picture with a SegFormer face parsing model from "
                "models/face_parsing: hair, skin, eyes, lips and 15 other classes."
            ),
            search_aliases=[
                "face parsing", "face segmentation", "segformer", "hair mask", "semantic mask", "bisenet",
            ],
            inputs=[
                io.Image.Input("images", tooltip="Pictures of faces, of any size."),
                io.Combo.Input(
                    "model", options=models(),
                    tooltip="A folder in models/face_parsing with model.safetensors, config.json and "
                    "preprocessor_config.json. Download model fetches one (339 MB); press R to see new ones.",
                ),
                io.Boolean.Input(
                    "soft", default=False,
                    tooltip="Give each pixel the model's share of every class, not the strongest one alone.",
                ),
                io.Boolean.Input(
                    "each_face", default=False,
                    tooltip="Look at each face again, enlarged: for several faces, and small ones.",
                ),
                io.Boolean.Input(
                    "turn", default=False,
                    tooltip="Try the picture on its sides and upside down too, and keep what shows most of a "
                    "face. Takes four times as long.",
                ),
                io.Float.Input(
                    "confidence", default=0.0, min=0.0, max=1.0, step=0.05,
                    tooltip="Pixels whose strongest class has a smaller share become background. 0: none.",
                ),
                io.Boolean.Input(
                    "swap_sides", default=False,
                    tooltip="Swap left and right eyes, brows and ears, for models that name them the other "
                    "way round.",
                ),
                io.Int.Input(
                    "side", default=0, min=0, max=16384,
                    tooltip="Longer side of the mask in pixels; 0 is the picture's.",
                ),
                io.Mask.Input(
                    "faces", optional=True,
                    tooltip="With each_face: where the faces are, from a detector or painted, a blob a face.",
                ),
            ],
            outputs=[
                FaceMask.Output(display_name="mask", tooltip=MASK_TOOLTIP),
                io.Image.Output(display_name="preview", tooltip=PREVIEW_TOOLTIP),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, model, **_) -> str:
        return f"{model} {_state(model)}"

    @classmethod
    def execute(
        cls, images, model, soft, each_face, turn, confidence, swap_sides, side, faces=None
    ) -> io.NodeOutput:  # fmt: skip
        options = Options(soft, confidence, swap_sides, turn, each_face, side)
        progress = Progress(len(images))
        show_text(cls.hidden.unique_id, "loading the model")
        patcher = _loaded(model)
        onto_device(patcher, memory=MEMORY * (patcher.model.taken.size / 512) ** 2)
        parsed = parse(patcher.model, images, options, faces, progress.reach)
        progress.reach(len(images))
        return with_preview(cls, parsed.mask, _notes(parsed.faces, each_face))


def models() -> list[str]:
    """Return the models that can be chosen, those that are read first; one that says so if there is none."""
    names = [name for name in model_names(KIND) if not any(part[0] == "." for part in PurePath(name).parts)]
    names.sort(key=lambda name: (PurePath(name).name != WEIGHTS, name))
    return names or [NONE]


def _state(name: str) -> tuple:
    path = model_path(KIND, name)
    if path is None:
        return ()
    about = path.stat()
    config = path.parent / "config.json"
    return (str(path), about.st_mtime_ns, about.st_size, config.is_file() and config.stat().st_mtime_ns)


def _loaded(name: str) -> Any:
    """Return a model as ComfyUI handles it; that of the last run again, unless it changed or was unloaded."""
    path, state = model_path(KIND, name), _state(name)
    if path is None:
        raise ValueError(
            f"model {name!r} is not in models/face_parsing: press Download model on the node, or put "
            "model.safetensors, config.json and preprocessor_config.json of a SegFormer face parser into a "
            "folder there."
        )
    known = dict(_kept)  # _drop works in another thread
    if known.get("state") == state:
        return known["patcher"]
    _kept.clear()
    known.clear()
    patcher = managed(load_parser(path))
    patcher.add_callback("on_detach_after", _let_go)
    _kept.update(state=state, patcher=patcher)
    return patcher


def _let_go(*_: object) -> None:
    """Drop an unloaded model, but only when ComfyUI, which is walking its list of models, is done with it."""
    timer = Timer(WAIT, _drop)
    timer.daemon = True
    timer.start()


def _drop() -> None:
    if "patcher" in _kept and not is_on_device(_kept["patcher"]):
        _kept.clear()


def _notes(counts: tuple[int, ...], each_face: bool) -> list[str]:
    notes = []
    for place, count in enumerate(counts, 1):
        if count == 0:
            notes.append(f"picture {place}: no face was found, so it is background everywhere")
        elif each_face and count > 1:
            most = f", of which {MOST_FACES} were looked at again" if count > MOST_FACES else ""
            notes.append(f"picture {place}: {count} faces{most}")
    return notes


NODES = [RealismParseFace]
