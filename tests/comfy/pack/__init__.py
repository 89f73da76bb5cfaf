"""The pack of test nodes, as ComfyUI loads it."""


async def comfy_entrypoint():
    """Return the test nodes."""
    from .nodes import RealismTestNodes

    return RealismTestNodes()
