"""RealismFaceData: a folder of faces with attributes and masks, encoded for training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..realism_core.training.faces_entry import FaceFile, mark_of
from ..realism_core.training.faces_files import KINDS, FaceFolder, find_faces
from ..realism_core.training.faces_prepare import ON_PROBLEM, FaceSettings, prepare_faces
from ..realism_core.training.faces_split import SPLITS, describe_split, split
from ..realism_core.training.fingerprints import layer_fingerprints
from .comfy import Progress, blocked, io, output_folder, schema, show_text
from .places import resolve
from .sockets import Attributes, FaceMask
from .vae import check_vae

CACHE = "realism_faces"


class RealismFaceData(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismFaceData",
            display_name="Face Data",
            category="realism/train",
            description=(
                "Reads faces with attributes and semantic masks from a folder, such as CelebAMask-HQ, "
                "encodes them, and keeps the latents on disk, so that a second run, or one after a crash, "
                "goes on where it was. What is wrong with the data is told in one table."
            ),
            search_aliases=["celebamask", "celeba dataset", "face dataset", "load dataset", "cache latents"],
            inputs=[
                io.String.Input(
                    "folder", default="CelebAMask-HQ",
                    tooltip="The data set's folder, relative to ComfyUI's input folder.",
                ),
                io.Combo.Input(
                    "kind", options=list(KINDS), default=KINDS[0],
                    tooltip="celebamask-hq: as it is unpacked. folder: name.jpg, name.mask.png and "
                    "name.json, in which 0 is don't care and false is no. csv: pictures and a table of "
                    "attributes, without masks.",
                ),
                io.Vae.Input("vae", tooltip="The VAE of the model that is to be trained."),
                io.Combo.Input(
                    "split", options=list(SPLITS), default=SPLITS[0],
                    tooltip="Which part: of CelebAMask-HQ, pictures 0 to 26999 are for training and the last "
                    "3000 held out; elsewhere the last tenth is held out.",
                ),
                io.Int.Input(
                    "limit", default=100, min=0, max=1000000,
                    tooltip="Use the first so many faces of the part; 0: all. All are held in memory.",
                ),
                io.Int.Input(
                    "side", default=512, min=64, max=4096, step=8,
                    tooltip="Side of the pictures in pixels; smaller ones are left out.",
                ),
                io.Int.Input(
                    "mask_side", default=128, min=8, max=4096, step=8,
                    tooltip="Side of the masks in pixels; that of the latents is enough, more is finer.",
                ),
                io.Combo.Input(
                    "on_problem", options=list(ON_PROBLEM), default=ON_PROBLEM[0],
                    tooltip="skip: leave out faces with missing or broken files. refuse: an error at the end "
                    "if anything was wrong; what could be encoded is kept.",
                ),
                io.Int.Input(
                    "workers", default=2, min=0, max=64, optional=True,
                    tooltip="Processes that read pictures; 0: none beside ComfyUI's own.",
                ),
                io.String.Input(
                    "held_out_list", default="", optional=True,
                    tooltip="A text file with the held-out pictures, one a line, instead of the usual split; "
                    "relative to ComfyUI's input folder, such as faces/test.txt.",
                ),
                io.String.Input(
                    "attribute_file", default="", optional=True,
                    tooltip="For kind csv: the table, if it is not list_attr_celeba.txt, "
                    "list_attr_celeba.csv or attributes.csv in the folder; relative to ComfyUI's input "
                    "folder, such as faces/table.csv.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latents", is_output_list=True, tooltip="A list: one latent a face."
                ),
                Attributes.Output(
                    display_name="attributes", is_output_list=True, tooltip="A list: the attributes of each."
                ),
                FaceMask.Output(
                    display_name="masks", is_output_list=True,
                    tooltip="A list: the semantic mask of each; none of kind csv.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="What was read and encoded, and what is wrong with the data.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(
        cls, folder=None, kind=None, split=None, limit=None, held_out_list="", attribute_file="", **_
    ) -> str | float:
        """Change when one of the files that are read does; always, where a linked input hides which."""
        if None in (folder, kind, split, limit, held_out_list, attribute_file):
            return float("nan")  # a new one each time: the same one would equal itself in ComfyUI's cache
        _, faces, _ = faces_of(folder, kind, split, limit, held_out_list, attribute_file)
        marks = [(face.name, mark_of(face)) for face in faces]
        return hashlib.sha256(repr(marks).encode()).hexdigest()

    @classmethod
    def execute(
        cls, folder, kind, vae, split, limit, side, mask_side, on_problem, workers=2, held_out_list="",
        attribute_file="",
    ) -> io.NodeOutput:  # fmt: skip
        source, faces, told = faces_of(folder, kind, split, limit, held_out_list, attribute_file)
        settings = FaceSettings(side, mask_side, workers, on_problem)
        encode, fingerprint = encoder(vae, side), vae_fingerprint(vae)
        progress = Progress(len(faces))
        cache = output_folder() / CACHE
        made = prepare_faces(source, faces, encode, fingerprint, cache, settings, progress.step)
        report = f"{told}\n{made.report()}"
        show_text(cls.hidden.unique_id, report)
        latents, attributes, masks = [], [], []
        for face in made:
            progress.check()
            latents.append({"samples": face.latent[None]})
            attributes.append(face.attributes)
            masks.append(face.mask)
        return io.NodeOutput(
            latents, attributes, masks if source.has_masks else [blocked()], report, ui={"text": (report,)}
        )


def faces_of(
    folder: str, kind: str, part: str, limit: int, held_out_list: str, attribute_file: str
) -> tuple[FaceFolder, list[FaceFile], str]:
    """Return a data set, the faces of it that are wanted, and a sentence on which these are."""
    listed = _file(held_out_list, "held_out_list")
    source = find_faces(_folder(folder.strip()), kind, _file(attribute_file, "attribute_file"))
    faces = split(source, part, listed)
    told = describe_split(source, part, listed)
    if limit and limit < len(faces):
        told += f" The first {limit} of {len(faces)} faces."
    return source, faces[: limit or None], told


def encoder(vae: Any, side: int) -> Callable[[Tensor], Tensor]:
    """Return what encodes a picture, uint8 [side,side,3], to its latent [C,h,w] (or [C,T,h,w]).

    Raises ValueError with the fix for a missing VAE, one for no pictures, and a side that it cannot encode.
    """
    check_vae(vae, "vae", "load a checkpoint that has one")
    step = vae.spacial_compression_encode()
    if side % step:
        raise ValueError(
            f"side is {side}, but vae needs a multiple of {step}: set side to {side // step * step}."
        )

    def encode(picture: Tensor) -> Tensor:
        return vae.encode(picture[None].to(torch.float32) / 255)[0].to("cpu", torch.float32)

    return encode


def vae_fingerprint(vae: Any) -> str:
    """Return 16 hex digits of a VAE's kind, precision and numbers spread over its weights."""
    network = vae.first_stage_model
    layers = {
        path: layer
        for path, layer in network.named_modules()
        if "weight" in dict(layer.named_parameters(recurse=False))
    }
    told = [type(network).__name__, str(vae.vae_dtype), layer_fingerprints(layers)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _folder(path: str) -> Path:
    try:
        return resolve(path, "folder")
    except ValueError:
        raise ValueError(
            f"folder {path!r} leads outside ComfyUI's folders, links followed: move the data set into "
            "the input folder, or name its folder in extra_model_paths.yaml and give its whole path here."
        ) from None


def _file(path: str, name: str) -> Path | None:
    return resolve(path.strip(), name) if path.strip() else None


NODES = [RealismFaceData]
