"""A test node for attention that knows no way back."""

from __future__ import annotations

from comfy_api.latest import io


class TestBlindAttention(io.ComfyNode):
    """A MODEL with attention that gives no gradient, as SageAttention's kernels have none."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestBlindAttention",
            category="test",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        patched = model.clone()
        options = patched.model_options.setdefault("transformer_options", {})
        options["optimized_attention_override"] = cls.blind
        return io.NodeOutput(patched)

    @staticmethod
    def blind(chosen, *args, **kwargs):
        """Compute what was chosen, cut off from its inputs."""
        return chosen(*args, **kwargs).detach()
