"""Realism Kit for ComfyUI: score, gate and train for realism."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the pack's extension, as ComfyUI asks for it after importing this module."""
    from .nodes import RealismKit

    return RealismKit()
