"""The nodes an artist sees; each file ends in a NODES list."""

from . import (
    adapter_guidance,
    adapters,
    columns,
    conditioner,
    degrade,
    edit_face_mask,
    face_attributes,
    face_data,
    face_mask,
    gate,
    images,
    lora,
    loss_weight,
    parse_face,
    parser_download,
    profiles,
    realism_loss,
    retry,
    score_weights,
    scorer,
    stopping,
    train_adapter,
    trainer,
)
from .comfy import ComfyExtension, add_model_folder


class RealismKit(ComfyExtension):
    """The pack as ComfyUI loads it."""

    async def get_node_list(self) -> list:
        # not in on_load, which ComfyUI 0.3.75 never calls
        add_model_folder("realism_profiles", {".json"})
        add_model_folder(adapters.KIND, {".safetensors"})
        add_model_folder(parser_download.KIND, parse_face.SUFFIXES)
        stopping.serve()
        parser_download.serve()
        parts = (
            scorer, columns, profiles, gate, retry, images, degrade,
            loss_weight, score_weights, realism_loss, trainer, lora,
            face_attributes, face_mask, edit_face_mask, face_data, conditioner, parse_face,
            train_adapter, adapters, adapter_guidance,
        )  # fmt: skip
        return [node for part in parts for node in part.NODES]
