"""A test node that tells face attributes as text."""

from __future__ import annotations

from comfy_api.latest import io


class TestFaceTexts(io.ComfyNode):
    """Show the text of each of the attributes that reached this node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestFaceTexts",
            category="test",
            is_input_list=True,
            is_output_node=True,
            inputs=[io.Custom("FACE_ATTRIBUTES").Input("attributes")],
            outputs=[],
        )

    @classmethod
    def execute(cls, attributes) -> io.NodeOutput:
        return io.NodeOutput(ui={"text": [one.to_text() for one in attributes]})
