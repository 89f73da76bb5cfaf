"""RealismSaveLoRA, and a trained LoRA as it goes from node to node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..realism_core.training.layouts import LAYOUTS, to_layout
from ..realism_core.training.lora_file import save_lora
from ..realism_core.training.metadata import TrainingRecord
from .comfy import io, schema, show_text
from .places import next_output


class TrainedLora(dict):
    """The tensors of a LoRA in the comfyui layout, as ComfyUI's own nodes take them, and how they came about.

    state: the same by the paths of the layers. shapes: of all weights of the model it is for, by their paths.
    record: for the metadata.
    """

    def __init__(self, state: Mapping[str, Tensor], shapes: Mapping, record: TrainingRecord) -> None:
        super().__init__(to_layout(state, "comfyui", shapes))
        self.state, self.shapes, self.record = state, shapes, record

    def save(self, path: Path, layout: str, extra: Mapping[str, str] | None = None) -> None:
        """Write the LoRA in a layout; raises ValueError for what the layout cannot hold."""
        record = replace(self.record, extra={**self.record.extra, **(extra or {})})
        save_lora(path, self.state, layout, self.shapes, record.to_metadata())


class RealismSaveLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismSaveLoRA",
            display_name="Realism Save LoRA",
            category="realism/train",
            description=(
                "Saves a trained LoRA as safetensors, in the layout of ComfyUI, kohya or diffusers, with how "
                "it was trained in its metadata. Nothing is overwritten."
            ),
            search_aliases=["export lora", "lora metadata", "kohya"],
            is_output_node=True,
            inputs=[
                io.LoraModel.Input("lora", tooltip="The LoRA, from Realism Train LoRA."),
                io.String.Input(
                    "filename_prefix", default="loras/realism",
                    tooltip="Folder and name inside ComfyUI's output folder; LoRAs in loras are found by "
                    "Load LoRA.",
                ),
                io.Combo.Input(
                    "layout", options=list(LAYOUTS), default="comfyui",
                    tooltip="comfyui and kohya load in ComfyUI and most tools, diffusers in diffusers too.",
                ),
                io.String.Input(
                    "metadata", default="", optional=True, multiline=True,
                    tooltip="More to write into the file, a `name: text` a line, such as `author: me`.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Where the file is.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, lora, filename_prefix, layout, metadata="") -> io.NodeOutput:
        if not isinstance(lora, TrainedLora):
            raise ValueError(
                "lora comes from another trainer, which does not say what it was trained on: save it with "
                "ComfyUI's own Save LoRA Weights."
            )
        path = free_path(filename_prefix, lora.record.steps or 0)
        lora.save(path, layout, _notes(metadata))
        show_text(cls.hidden.unique_id, str(path))
        return io.NodeOutput(str(path), ui={"text": (str(path),)})


def free_path(prefix: str, steps: int) -> Path:
    """Return a free file name for a LoRA of so many steps below the output folder."""
    folder, name, number, _ = next_output(prefix, 0, 0)
    while (path := folder / f"{name}_{steps}_steps_{number:05}_.safetensors").exists():
        number += 1
    return path


def joined(*parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of tensors by name on the processor, later parts first where names are the same."""
    return {name: value.detach().cpu().clone() for part in parts for name, value in part.items()}


def _notes(text: str) -> dict[str, str]:
    notes = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not (colon and name.strip()):
            raise ValueError(f"metadata: {line!r} is no `name: text`: put a colon between the two.")
        notes[name.strip()] = value.strip()
    return notes


NODES = [RealismSaveLoRA]
