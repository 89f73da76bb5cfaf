"""A test node that has the download of face parsers fetch another model."""

from __future__ import annotations

import sys

from comfy_api.latest import io


class TestParserPin(io.ComfyNode):
    """Pin another repository, commit and SHA-256 of model.safetensors, until the server ends."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestParserPin",
            category="test",
            is_output_node=True,
            inputs=[io.String.Input("repository"), io.String.Input("revision"), io.String.Input("digest")],
            outputs=[],
        )

    @classmethod
    def execute(cls, repository, revision, digest) -> io.NodeOutput:
        (module,) = [
            module for name, module in list(sys.modules.items())
            if name.endswith("nodes.parser_download") and "realism" in name
        ]  # fmt: skip
        files = {**module.FACE_PARSER.files, "model.safetensors": digest}
        module.download._pin = module.Pin(repository, revision, files)
        return io.NodeOutput()
