"""The nodes an artist sees; each file ends in a NODES list."""

from . import gate, images, profiles, scorer
from .comfy import ComfyExtension, add_model_folder


class RealismKit(ComfyExtension):
    """The pack as ComfyUI loads it."""

    async def on_load(self) -> None:
        add_model_folder("realism_profiles", {".json"})

    async def get_node_list(self) -> list:
        return [*scorer.NODES, *profiles.NODES, *gate.NODES, *images.NODES]
