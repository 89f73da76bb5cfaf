"""RealismFitProfile and RealismLoadProfile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from torch import Tensor

from ..realism_core.images import check_images
from ..realism_core.irs import DEFINITIONS, Profile
from ..realism_core.pictures import PictureError, find_pictures, read_batches
from .comfy import Progress, io, model_folder, model_names, model_path, resolve, schema
from .scorer import DEFINITION_TIP
from .sockets import Profile as ProfileSocket
from .sockets import count

KIND = "realism_profiles"
SHIPPED = {f"shipped: photographs ({definition})": definition for definition in DEFINITIONS}
FEW = 100


class RealismFitProfile(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismFitProfile",
            display_name="Fit Realism Profile",
            category="realism/profile",
            description=(
                "Learns what real photographs of your domain measure, from pictures or a folder, and saves "
                "it to models/realism_profiles. 100 photographs and more make a useful profile; use only "
                "real ones."
            ),
            search_aliases=["realism reference", "calibrate realism"],
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images", optional=True, tooltip="Real photographs: a batch, or a list of any sizes."
                ),
                io.String.Input(
                    "folder", default="", optional=True,
                    tooltip="A folder of real photographs (sub-folders too), relative to ComfyUI's input "
                    "folder.",
                ),
                io.String.Input(
                    "name", default="my photographs", tooltip="The profile's name and file name."
                ),
                io.Combo.Input(
                    "definition", options=list(DEFINITIONS), default=DEFINITIONS[0], tooltip=DEFINITION_TIP
                ),
                io.Boolean.Input(
                    "overwrite", default=False,
                    tooltip="Replace a profile of the same name that holds something else.",
                ),
            ],
            outputs=[
                ProfileSocket.Output(
                    display_name="profile", tooltip="The fitted profile, for Realism Score and Map."
                ),
                io.String.Output(
                    display_name="summary", tooltip="What was fitted, left out and saved where."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, folder=None, **_) -> str:
        """Change when the folder's files do, so that a fit of new photographs is not answered from cache."""
        if not folder or not folder[0].strip():
            return ""
        state = sha256()
        for path in find_pictures([resolve(folder[0].strip(), "folder")]):
            about = path.stat()
            state.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
        return state.hexdigest()

    @classmethod
    def execute(cls, name, definition, overwrite, images=None, folder=None) -> io.NodeOutput:
        name, definition, overwrite = name[0].strip(), definition[0], overwrite[0]
        folder = (folder or [""])[0].strip()
        path = _target(name)
        if not images and not folder:
            raise ValueError(
                "images and folder are both empty: connect photographs, or name a folder of them."
            )
        source = _source(images, folder)
        if path.exists() and not overwrite:
            _refuse_taken(path, name, {"definition": definition, "source": source})
        found = list(find_pictures([resolve(folder, "folder")])) if folder else []
        progress = Progress(sum(count(batch) for batch in images or ()) + len(found))
        unreadable: list[str] = []
        profile = Profile.fit(_batches(images or [], found, unreadable, progress), definition, name, source)
        if path.exists() and not overwrite:
            _refuse_taken(path, name, profile.to_dict())
        profile.save(path)
        summary = _summary(profile, path, unreadable)
        return io.NodeOutput(profile, summary, ui={"text": (summary,)})


class RealismLoadProfile(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismLoadProfile",
            display_name="Load Realism Profile",
            category="realism/profile",
            description="Loads a profile from models/realism_profiles, or one that comes with the pack.",
            search_aliases=["realism reference"],
            inputs=[
                io.Combo.Input(
                    "name", options=[*SHIPPED, *model_names(KIND)],
                    tooltip="The profile. Those you fit appear after a refresh (press R).",
                )
            ],
            outputs=[
                ProfileSocket.Output(display_name="profile", tooltip="For Realism Score, Map and others.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name) -> str:
        path = model_path(KIND, name)
        return f"{name} {path.stat().st_mtime_ns if path else 0}"

    @classmethod
    def execute(cls, name) -> io.NodeOutput:
        if name in SHIPPED:
            return io.NodeOutput(Profile.shipped(SHIPPED[name]))
        path = model_path(KIND, name)
        if path is None:
            raise ValueError(
                f"name {name!r} is no profile in models/realism_profiles: fit one, or choose another."
            )
        return io.NodeOutput(Profile.load(path))


def _target(name: str) -> Path:
    if not name or name.startswith(".") or any(mark in name for mark in '/\\:*?"<>|\0'):
        raise ValueError(f"name {name!r} cannot be a file name: use letters, digits, spaces, - and _.")
    return model_folder(KIND) / f"{name}.json"


def _refuse_taken(path: Path, name: str, expected: dict) -> None:
    """Raise a ValueError unless the profile of this name holds these: a few before a long fit, then all."""
    try:
        there = Profile.load(path).to_dict()
    except ValueError:
        there = {}
    if any(there.get(key) != value for key, value in expected.items()):
        raise ValueError(
            f"name {name!r} is taken by another profile ({path.name}): choose another name, or switch "
            "overwrite on."
        )


def _batches(images: list, found: list[Path], unreadable: list[str], progress: Progress) -> Iterator[Tensor]:
    for batch in images:
        for index in range(len(batch)):
            yield batch[index : index + 1]
            progress.step()
    for path, picture in read_batches(found):
        try:
            if isinstance(picture, PictureError):
                raise picture
            batch = check_images(picture[None], str(path))
        except ValueError as error:
            unreadable.append(str(error))
        else:
            yield batch
        progress.step()


def _source(images: list | None, folder: str) -> str:
    parts = [f"{sum(count(batch) for batch in images)} pictures from a graph"] if images else []
    return " and ".join(parts + ([f"the folder {folder}"] if folder else []))


def _summary(profile: Profile, path: Path, unreadable: list[str]) -> str:
    low, middle, high = profile.irs_quantiles[[5, 50, 95]].tolist()
    summary = {
        "name": profile.name,
        "saved": path.name,
        "definition": profile.definition,
        "pictures": profile.count,
        "left_out_flat_or_colourless": profile.skipped,
        "unreadable": unreadable,
        "irs_p5_p50_p95": [round(value, 3) for value in (low, middle, high)],
        "tile_sizes": sorted(profile.tiles),
    }
    if profile.count < FEW:
        summary["note"] = (
            f"{profile.count} pictures: typicality cannot go below {1 / (profile.count + 1):.3f}; {FEW} and "
            "more are better."
        )
    return json.dumps(summary, indent=1, ensure_ascii=False)


NODES = [RealismFitProfile, RealismLoadProfile]
