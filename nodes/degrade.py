"""RealismDegrade: the field's picture degradations, with a seed."""

from __future__ import annotations

import torch

from ..realism_core.degrade import KINDS, degrade, setting
from ..realism_core.images import check_finite, check_images
from .comfy import Progress, io, schema


class RealismDegrade(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismDegrade",
            display_name="Degrade Images",
            category="realism/evaluate",
            description=(
                "Does to pictures what happens to them on their way: compression, resizing, blur, grain, "
                "sharpening, cropping. For seeing how far a score can be trusted afterwards."
            ),
            search_aliases=[
                "jpeg artifacts", "compress image", "add noise", "film grain", "unsharp mask",
                "robustness",
            ],
            inputs=[
                io.Image.Input("images", tooltip="The pictures to degrade, a batch or a list."),
                io.Combo.Input(
                    "kind", options=list(KINDS), default="jpeg",
                    tooltip="jpeg, webp: saved and loaded again. resize, upscale: both sides scaled, and "
                    "left so. blur: Gaussian. noise: Gaussian grain. sharpen: unsharp mask. crop: a "
                    "random part.",
                ),
                io.Float.Input(
                    "strength", default=0.5, min=0.0, max=1.0, step=0.01,
                    tooltip="0 leaves the pictures as they are. 1 is JPEG or WebP quality 10, a quarter of "
                    "each side (resize, crop), 4 times each side (upscale), blur of 4 pixels, noise of 25 "
                    "levels, 300 % sharpening.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="For noise and crop; the other kinds have no chance in them. Picture 2 of a "
                    "batch gets what picture 1 gets from the next seed.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The degraded pictures, all of one size."),
                io.String.Output(
                    display_name="setting",
                    tooltip="What the strength means for this kind, such as 'quality 55'.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, kind, strength, seed) -> io.NodeOutput:
        images = check_images(images)
        check_finite(images)
        progress = Progress(len(images))
        parts = []
        for index in range(len(images)):
            parts.append(degrade(images[index : index + 1], kind, strength, seed + index))
            progress.step()
        told = setting(kind, strength)
        return io.NodeOutput(torch.cat(parts), told, ui={"text": (told,)})


NODES = [RealismDegrade]
