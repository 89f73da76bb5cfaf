"""RealismFaceAttributes: which of the 40 attributes of CelebA a face is to have."""

from __future__ import annotations

from ..realism_core.conditioning.attributes import parse_attributes
from .comfy import io, schema, show_text
from .sockets import Attributes


class RealismFaceAttributes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismFaceAttributes",
            display_name="Face Attributes",
            category="realism/face",
            description=(
                "Says what a face is to look like by the 40 attributes of CelebA: wanted, unwanted or as it "
                "may be, with a strength. Understands English, Japanese and Chinese, and warns of what "
                "contradicts itself."
            ),
            search_aliases=[
                "celeba", "face control", "portrait attributes", "smiling", "hair colour",
                "顔の属性", "人脸属性",
            ],
            inputs=[
                io.String.Input(
                    "attributes", default="Smiling, Eyeglasses:0.8, -Bald", multiline=True,
                    tooltip="Attributes with commas between: Smiling wants it, -Smiling, no smile and "
                    "opposites such as woman say no, Smiling:0.5 is weaker, up to 2. Those not named may be "
                    "as they like. The node's help lists all 40.",
                ),
            ],
            outputs=[
                Attributes.Output(display_name="attributes", tooltip="For Realism Conditioner."),
                io.String.Output(
                    display_name="text", tooltip="The same with CelebA's names, in CelebA's order."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, attributes) -> io.NodeOutput:
        found = parse_attributes(attributes)
        text = found.to_text()
        told = "\n".join([text or "No attributes: the face may be as it likes.", *found.contradictions()])
        show_text(cls.hidden.unique_id, told)
        return io.NodeOutput(found, text, ui={"text": (told,)})


NODES = [RealismFaceAttributes]
