"""The nodes an artist sees; each file ends in a NODES list."""

from . import (
    columns,
    degrade,
    edit_face_mask,
    face_attributes,
    face_mask,
    gate,
    images,
    lora,
    loss_weight,
    profiles,
    realism_loss,
    retry,
    score_weights,
    scorer,
    stopping,
    trainer,
)
from .comfy import ComfyExtension, add_model_folder


class RealismKit(ComfyExtension):
    """The pack as ComfyUI loads it."""

    async def get_node_list(self) -> list:
        # not in on_load, which ComfyUI 0.3.75 never calls
        add_model_folder("realism_profiles", {".json"})
        stopping.serve()
        parts = (
            scorer, columns, profiles, gate, retry, images, degrade,
            loss_weight, score_weights, realism_loss, trainer, lora,
            face_attributes, face_mask, edit_face_mask,
        )  # fmt: skip
        return [node for part in parts for node in part.NODES]
