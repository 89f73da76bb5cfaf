"""Nodes for benchmarks/gate.py only, as ComfyUI loads them: never part of what is shipped."""


async def comfy_entrypoint():
    """Return the nodes."""
    from .nodes import BenchNodes

    return BenchNodes()
