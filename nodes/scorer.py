"""RealismScore and RealismMap."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..realism_core.evidence import ScoreTable, lattice_map, report, score_table
from ..realism_core.images import check_finite, check_images, check_mask
from ..realism_core.irs import DEFINITIONS, Profile, typicality_map
from ..realism_core.plots import overlay, radar
from .comfy import Progress, io, schema, ui
from .sockets import Profile as ProfileSocket
from .sockets import Scores
from .vae import reconstructor

CHUNK_PIXELS = 1 << 23
DEFINITION_TIP = (
    "Which formulas to use. 'reference' is the research code at the picture's own size; 'paper' is the "
    "paper's text, at 512 x 512, and also works on grey pictures. Scores of the two cannot be compared."
)
PROFILE_TIP = (
    "What real photographs of your domain measure, from Load or Fit Realism Profile. Left open: the 154 "
    "photographs that come with the pack."
)
VAES = ("vae", "vae_2", "vae_3")
VAE_TIP = (
    "Adds how closely this VAE gives each picture back: pictures that its model made come back unusually "
    "close. Several VAEs: the closest counts. It takes one encode and decode a picture."
)
SHOWN = ("typicality", "lattice")


class RealismScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismScore",
            display_name="Realism Score",
            category="realism/score",
            description=(
                "Scores each picture: the Image Realism Score (five classical statistics), how typical it is "
                "of real photographs, and whether its finest detail carries an image decoder's trace, with "
                "how far that can be trusted. Evidence, not proof."
            ),
            search_aliases=["IRS", "image realism score", "photorealism", "quality score"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures to score, a batch or a list."),
                io.Combo.Input(
                    "definition", options=list(DEFINITIONS), default=DEFINITIONS[0], tooltip=DEFINITION_TIP
                ),
                ProfileSocket.Input("profile", optional=True, tooltip=PROFILE_TIP),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="Take the five measures only where the mask is white (definition 'reference'). "
                    "Same size as the pictures. The verdict and its columns look at the whole picture.",
                ),
                *(io.Vae.Input(name, optional=True, tooltip=VAE_TIP) for name in VAES),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The pictures, unchanged."),
                Scores.Output(
                    display_name="scores",
                    tooltip="All numbers of each picture, for Realism Gate and others.",
                ),
                io.Float.Output(
                    display_name="irs", is_output_list=True,
                    tooltip="The Image Realism Score of each picture; NaN where it does not apply. More is "
                    "not more real.",
                ),
                io.Image.Output(
                    display_name="plot",
                    tooltip="Radar of the five radii against the band of real photographs, one a picture "
                    "(one for all above 16 pictures).",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="The verdict, its reliability and reasons, then all numbers, as JSON.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, definition, profile=None, mask=None, **vaes) -> io.NodeOutput:
        images = _checked(images)
        profile = (profile or Profile.shipped(definition)).check_for(definition)
        if mask is not None and mask.shape[0] not in (1, len(images)):
            raise ValueError(
                f"mask holds {mask.shape[0]} masks for {len(images)} pictures: give one for all, or one for "
                "each."
            )
        mask = check_mask(mask, images.movedim(-1, 1))
        progress = Progress(len(images))
        wrapped = [
            reconstructor(vaes[name], name, before=progress.check) for name in VAES if name in vaes
        ]
        table = score_in_parts(
            images, progress.step, profile=profile, definition=definition, mask=mask, vae=wrapped
        )
        plot = radar(table, profile)
        irs = table["irs"].tolist()
        text = json.dumps(report(table), indent=1, ensure_ascii=False)
        return io.NodeOutput(images, table, irs, plot, text, ui=ui.PreviewImage(plot, cls=cls))


class RealismMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismMap",
            display_name="Realism Map",
            category="realism/score",
            description=(
                "Shows where a picture is unlike real photographs: each square tile is compared with tiles "
                "of the profile's photographs. Or where it carries an image decoder's trace. Flat places say "
                "nothing and stay grey."
            ),
            search_aliases=["realism heatmap", "where is it off", "decoder lattice map"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures to look at."),
                io.Combo.Input(
                    "definition", options=list(DEFINITIONS), default=DEFINITIONS[0], tooltip=DEFINITION_TIP
                ),
                ProfileSocket.Input("profile", optional=True, tooltip=PROFILE_TIP),
                io.Int.Input(
                    "tile", default=128, min=16, max=1024, step=16,
                    tooltip="Side of a tile in pixels. Profiles know tiles of 64, 128 and 256; others use "
                    "the nearest.",
                ),
                io.Int.Input(
                    "stride", default=32, min=1, max=1024,
                    tooltip="Step between tiles in pixels, at most the tile. Smaller is smoother and slower.",
                ),
                io.Combo.Input(
                    "show", options=list(SHOWN), default=SHOWN[0], optional=True,
                    tooltip="typicality: how unlike the profile's photographs. lattice: how clear the trace "
                    "of an image decoder is (tiles of 104 and more; definition does not matter for it).",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="overlay", tooltip="The pictures in grey with untypical places in colour."
                ),
                io.Mask.Output(
                    display_name="map",
                    tooltip="0 to 1, 1 = least typical (or the clearest trace); 0 where nothing can be said.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, definition, tile, stride, profile=None, show=SHOWN[0]) -> io.NodeOutput:
        images = _checked(images)
        if show == "lattice" and profile is not None:
            raise ValueError(
                "profile has no effect on the lattice: disconnect it, or set show to 'typicality'."
            )
        progress = Progress(len(images))
        maps = []
        for index in range(len(images)):
            picture = images[index : index + 1]
            if show == "lattice":
                maps.append(lattice_map(picture, tile, stride))
            else:
                maps.append(typicality_map(picture, definition, profile, tile, stride))
            progress.step()
        found = torch.cat(maps).float()
        look = {"floor": 0.1, "ends": ("no trace", "decoder trace")} if show == "lattice" else {}
        picture = overlay(_rgb(images), found.to(images.device), **look)
        return io.NodeOutput(picture, found.nan_to_num(0.0), ui=ui.PreviewImage(picture, cls=cls))


def _checked(images: Tensor) -> Tensor:
    """Return a batch that can be measured in parts: errors name a picture by its place in the whole batch."""
    images = check_images(images)
    check_finite(images)
    return images


def score_in_parts(
    images: Tensor, step: Callable[[int], object], columns: Sequence[str] | None = None, **options: Any
) -> ScoreTable:
    """Return the `score_table` of a batch, measured in parts; step(pictures) is called after each part.

    options: as for `score_table`; mask is cut like the pictures.
    """
    mask = options.pop("mask", None)
    tables = []
    for rows in chunks(images):
        part = None if mask is None else mask if mask.shape[0] == 1 else mask[rows]
        tables.append(score_table(images[rows], columns, mask=part, **options))
        step(len(tables[-1]))
    return ScoreTable.concat(tables)


def chunks(images: Tensor) -> Iterator[slice]:
    """Yield slices of a batch that hold about 8 million pixels each, at least one picture."""
    step = max(1, CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def _rgb(images: Tensor) -> Tensor:
    return images.expand(-1, -1, -1, 3) if images.shape[-1] == 1 else images[..., :3]


NODES = [RealismScore, RealismMap]
