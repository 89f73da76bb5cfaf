"""Test nodes that give numbers the way score nodes of other packs do, and things that are no numbers."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io

KINDS = ["floats", "nested", "tensor", "array", "text", "none", "image"]


def given(kind: str, values: str) -> list:
    """Return the numbers of a text such as "0.1,nan" in one of the ways that packs give them."""
    if kind == "text":
        return values.split(",")
    numbers = [float(value) for value in values.split(",")]
    if kind == "nested":
        return [numbers[:1], [numbers[1:]]]
    if kind == "tensor":
        return [torch.tensor(numbers)]
    if kind == "array":
        return [np.array(numbers)]
    if kind == "none":
        return [*numbers[:-1], None]
    if kind == "image":
        return [torch.zeros(1, 8, 8, 3)]
    return numbers


class TestFloats(io.ComfyNode):
    """A FLOAT list."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestFloats",
            category="test",
            inputs=[io.String.Input("values"), io.Combo.Input("kind", options=KINDS, default="floats")],
            outputs=[io.Float.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, values, kind) -> io.NodeOutput:
        return io.NodeOutput(given(kind, values))


class TestFloat(io.ComfyNode):
    """One FLOAT that holds a whole list, as some packs give them; a single number stays one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestFloat",
            category="test",
            inputs=[io.String.Input("values"), io.Combo.Input("kind", options=KINDS, default="floats")],
            outputs=[io.Float.Output()],
        )

    @classmethod
    def execute(cls, values, kind) -> io.NodeOutput:
        numbers = given(kind, values)
        return io.NodeOutput(numbers if len(numbers) > 1 else numbers[0])
