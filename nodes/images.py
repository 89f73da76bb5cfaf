"""RealismSaveImages: pictures with their scores inside, and a manifest beside them."""

from __future__ import annotations

import json

from torch import Tensor

from ..realism_core.evidence import ScoreTable
from ..realism_core.gate import picture_codes
from ..realism_core.images import check_finite
from ..realism_core.saving import FORMATS, save_manifest, save_picture
from . import audit as auditing
from .comfy import Progress, io, metadata_wanted, output_folder, schema
from .places import next_output
from .sockets import Scores, check_counts

MANIFESTS = {"none": [], "csv": [".csv"], "json": [".json"], "both": [".csv", ".json"]}


class RealismSaveImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismSaveImages",
            display_name="Save Scored Images",
            category="realism/image",
            description=(
                "Saves pictures with scores, profile name and workflow in their metadata, and a manifest of "
                "all of them as CSV or JSON. Drag a saved picture into ComfyUI to get its workflow back "
                "(PNG and WebP)."
            ),
            search_aliases=["save image with metadata", "save with score"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures to save: a batch, or a list of any sizes."),
                Scores.Input(
                    "scores", optional=True,
                    tooltip="Their scores, written into each picture and the manifest.",
                ),
                io.String.Input(
                    "filename_prefix", default="realism/picture",
                    tooltip="Folder and name inside ComfyUI's output folder. %year% %month% %day% %hour% "
                    "%minute% %second% %width% %height% are filled in.",
                ),
                io.Combo.Input(
                    "format", options=list(FORMATS), default="png",
                    tooltip="png: lossless. webp: smaller, lossless at quality 100. jpeg: without alpha.",
                ),
                io.Combo.Input(
                    "manifest", options=list(MANIFESTS), default="json",
                    tooltip="One row a picture with its file name and scores, beside the pictures.",
                ),
                io.Int.Input(
                    "quality", default=95, min=1, max=100, optional=True,
                    tooltip="For webp and jpeg; png is always lossless.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", is_output_list=True, tooltip="The pictures, unchanged."
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, images, filename_prefix, format, manifest, scores=None, quality=None) -> io.NodeOutput:
        prefix, format, manifest = filename_prefix[0], format[0], manifest[0]
        total = 0
        for batch in images:
            check_finite(batch, "images", total)
            total += len(batch)
        table = None
        if scores is not None:
            check_counts("scores", scores, total)
            table = auditing.unmarked(ScoreTable.concat(scores))
        rows = table.rows() if table else [{} for _ in range(total)]
        progress = Progress(total)
        saved, manifest_rows, manifest_at = [], [], None
        try:
            for batch in images:
                height, width = batch.shape[1:3]
                folder, name, counter, subfolder = next_output(prefix, width, height)
                manifest_at = manifest_at or (folder, f"{name}_{counter:05}_manifest")
                for offset, image in enumerate(batch):
                    row = rows[len(saved)]
                    file = f"{name}_{counter + offset:05}_{FORMATS[format]}"
                    texts = cls._metadata(row, table)
                    save_picture(image, folder / file, format, (quality or [95])[0], texts)
                    saved.append({"filename": file, "subfolder": subfolder, "type": "output"})
                    manifest_rows.append({"file": file, "width": width, "height": height, **row})
                    progress.step()
        finally:
            # also of what was saved before Cancel or an error
            if saved:
                for suffix in MANIFESTS[manifest]:
                    path = manifest_at[0] / (manifest_at[1] + suffix)
                    save_manifest(manifest_rows, path, table.about if table else {})
                paths = [str(output_folder() / entry["subfolder"] / entry["filename"]) for entry in saved]
                _log_saved(paths, images, scores or [])
        return io.NodeOutput(images, ui={"images": saved})

    @classmethod
    def _metadata(cls, row: dict, table: ScoreTable | None) -> dict[str, str]:
        """Texts for one picture: ComfyUI's prompt and workflow, and our scores."""
        if not metadata_wanted():
            return {}
        texts = {}
        if cls.hidden.prompt is not None:
            texts["prompt"] = json.dumps(cls.hidden.prompt)
        for name, value in (cls.hidden.extra_pnginfo or {}).items():
            texts[name] = json.dumps(value)
        if table is not None:
            texts["realism"] = json.dumps({**table.about, "scores": row})
        return texts


def _log_saved(files: list[str], images: list[Tensor], scores: list[ScoreTable]) -> None:
    """Log the files, the first of all pictures, whose scores come from a gate that logs."""
    marks = [table.about.get(auditing.MARK) for table in scores for _ in range(len(table))][: len(files)]
    if not any(marks):
        return
    pictures = [picture[None] for batch in images for picture in batch][: len(files)]
    digests = picture_codes(pictures).digests
    auditing.log_files([record for record in zip(files, digests, marks, strict=True) if record[2]])


NODES = [RealismSaveImages]
