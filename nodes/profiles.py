"""RealismFitProfile and RealismLoadProfile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from torch import Tensor

from ..realism_core.evidence.domain import Domain, domain_detector, fit_domain
from ..realism_core.images import check_images
from ..realism_core.irs import DEFINITIONS, Profile
from ..realism_core.pictures import PictureError, find_pictures, read_batches
from .comfy import Progress, io, model_names, model_path, schema
from .naming import named_path
from .places import resolve
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
                "it to models/realism_profiles. 100 photographs and more make a useful profile. With "
                "generated pictures beside them it also learns to tell your generator's from your camera's, "
                "and says how well."
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
                io.Image.Input(
                    "generated_images", optional=True,
                    tooltip="Generated pictures of the same kind, 30 and more, for a detector of your own.",
                ),
                io.String.Input(
                    "generated_folder", default="", optional=True,
                    tooltip="A folder of such generated pictures, relative to ComfyUI's input folder; best "
                    "in the same format and sizes as the photographs.",
                ),
            ],
            outputs=[
                ProfileSocket.Output(
                    display_name="profile", tooltip="The fitted profile, for Realism Score and Map."
                ),
                io.String.Output(
                    display_name="summary",
                    tooltip="What was fitted, left out and saved where; with generated pictures how well the "
                    "two were told apart, and what to doubt.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, folder=None, generated_folder=None, **_) -> str:
        """Change when the folders' files do, so that a fit of new pictures is not answered from cache."""
        state = sha256()
        for values, name in ((folder, "folder"), (generated_folder, "generated_folder")):
            state.update(f"{name}\0".encode())
            for path in _find(_first(values), name):
                about = path.stat()
                state.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
        return state.hexdigest()

    @classmethod
    def execute(
        cls, name, definition, overwrite, images=None, folder=None,
        generated_images=None, generated_folder=None,
    ) -> io.NodeOutput:  # fmt: skip
        name, definition, overwrite = name[0].strip(), definition[0], overwrite[0]
        path = named_path(KIND, name, ".json")
        real = _Side.of(images, _first(folder), "folder")
        if real is None:
            raise ValueError(
                "images and folder are both empty: connect photographs, or name a folder of them."
            )
        generated = _Side.of(generated_images, _first(generated_folder), "generated_folder")
        source = real.source + (f" against {generated.source}" if generated else "")
        if path.exists() and not overwrite:
            _refuse_taken(path, name, {"definition": definition, "source": source})
        progress = Progress(real.total + (generated.total if generated else 0))
        unreadable: list[str] = []
        domain = fit_domain(
            real.batches(unreadable, progress),
            generated.batches(unreadable, progress) if generated else None,
            definition,
            name,
            source,
        )
        if path.exists() and not overwrite:
            _refuse_taken(path, name, {"detector": None, **domain.profile.to_dict()})
        domain.profile.save(path)
        summary = _summary(domain, path, unreadable)
        return io.NodeOutput(domain.profile, summary, ui={"text": (summary,)})


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
        profile = Profile.load(path)
        domain_detector(profile)  # a damaged one is refused here, not at the first picture
        return io.NodeOutput(profile)


def _refuse_taken(path: Path, name: str, expected: dict) -> None:
    """Raise a ValueError unless the profile of this name holds these: a few before a long fit, then all."""
    try:
        there = Profile.load(path).to_dict()
    except ValueError:
        there = {}
    if there and "soft" not in there:  # an older file, which loses nothing
        expected = {key: value for key, value in expected.items() if key != "soft"}
    if any(there.get(key) != value for key, value in expected.items()):
        raise ValueError(
            f"name {name!r} is taken by another profile ({path.name}): choose another name, or switch "
            "overwrite on."
        )


@dataclass(frozen=True)
class _Side:
    """The real or the generated pictures: batches of a graph, files, and in words where they come from."""

    images: list
    found: list[Path]
    source: str

    @classmethod
    def of(cls, images: list | None, folder: str, name: str) -> _Side | None:
        """Return the side that two inputs name, None if both are empty; `name` is the folder's input."""
        parts = [f"{sum(map(count, images))} pictures from a graph"] if images else []
        parts += [f"the folder {folder}"] if folder else []
        return cls(images or [], _find(folder, name), " and ".join(parts)) if parts else None

    @property
    def total(self) -> int:
        """How many pictures there are to read."""
        return sum(map(count, self.images)) + len(self.found)

    def batches(self, unreadable: list[str], progress: Progress) -> Iterator[Tensor]:
        """Yield the pictures one by one; why a file cannot be used goes to `unreadable`."""
        for batch in self.images:
            for index in range(len(batch)):
                yield batch[index : index + 1]
                progress.step()
        for path, picture in read_batches(self.found):
            try:
                if isinstance(picture, PictureError):
                    raise picture
                batch = check_images(picture[None], str(path))
            except ValueError as error:
                unreadable.append(str(error))
            else:
                yield batch
            progress.step()


def _first(values: list[str] | None) -> str:
    return (values or [""])[0].strip()


def _find(folder: str, name: str) -> list[Path]:
    return list(find_pictures([resolve(folder, name)])) if folder else []


def _summary(domain: Domain, path: Path, unreadable: list[str]) -> str:
    profile = domain.profile
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
        "realism_term_crops": sorted(profile.soft),
        **domain.summary(),
    }
    if profile.count < FEW:
        summary["note"] = (
            f"{profile.count} pictures: typicality cannot go below {1 / (profile.count + 1):.3f}; {FEW} and "
            "more are better."
        )
    return json.dumps(summary, indent=1, ensure_ascii=False)


NODES = [RealismFitProfile, RealismLoadProfile]
