"""Test nodes around attention coupling: a CLIP of any width, probes of attention, and differences."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import comfy.controlnet
import comfy.patcher_extension
import torch
from comfy_api.latest import io

START, END, PLACES = 49406, 49407, 77
_RECORDS: dict[str, list] = {}
_CALLS: dict[str, list] = {}


class WordsAsTheyStand:
    """A CLIP in which each word has its own random vector, wherever it stands."""

    def __init__(self, width: int, pooled: int) -> None:
        self.width, self.pooled = width, pooled

    def tokenize(self, text: str) -> dict:
        words = [int(hashlib.sha256(word.encode()).hexdigest()[:6], 16) % START for word in text.split()]
        ids = [START, *words, END]
        return {"l": [[(id, 1.0) for id in ids + [END] * (PLACES - len(ids))]]}

    def encode_from_tokens_scheduled(self, tokens: dict) -> list:
        ids = [id for id, _ in tokens["l"][0]]
        rows = [torch.randn(self.width, generator=torch.Generator().manual_seed(id)) for id in ids]
        extras = {}
        if self.pooled:
            extras["pooled_output"] = torch.randn(
                1, self.pooled, generator=torch.Generator().manual_seed(sum(ids))
            )
        return [[torch.stack(rows)[None], extras]]


class TestWords(io.ComfyNode):
    """A CLIP of any width, with 77 places."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestWords",
            category="test",
            inputs=[
                io.Int.Input("width", default=768, min=1, max=8192),
                io.Int.Input("pooled", default=0, min=0, max=8192),
            ],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, width, pooled) -> io.NodeOutput:
        return io.NodeOutput(WordsAsTheyStand(width, pooled))


class TestProbe(io.ComfyNode):
    """A MODEL whose attention notes, under a name, what it gave wherever it got a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestProbe",
            category="test",
            inputs=[
                io.Model.Input("model"), io.String.Input("name"),
                io.Combo.Input("kind", options=["see", "blind"], default="see"),
            ],
            outputs=[io.Model.Output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, name, kind="see") -> io.NodeOutput:
        records = _RECORDS[name] = []

        def attend(chosen, q, k, v, heads, mask=None, *args, **kwargs):
            if kind == "blind":
                mask = None
            output = chosen(q, k, v, heads, mask, *args, **kwargs)
            if mask is not None and q.abs().max() > 0:
                records.append((output.detach().clone(), mask.shape))
            return output

        probed = counting(model.clone(), name)
        options = probed.model_options.setdefault("transformer_options", {})
        options["optimized_attention_override"] = attend
        return io.NodeOutput(probed)


class TestProbed(io.ComfyNode):
    """Tell, after sampling, what two probes saw: calls, and where their first masked outputs differ."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestProbed",
            category="test",
            is_output_node=True,
            inputs=[
                io.Latent.Input("a"), io.Latent.Input("b"), io.String.Input("first"),
                io.String.Input("second"),
            ],
            outputs=[],
        )  # fmt: skip

    @classmethod
    def execute(cls, a, b, first, second) -> io.NodeOutput:
        told = {"calls": [_CALLS[name] for name in (first, second)],
                "masked": [len(_RECORDS[name]) for name in (first, second)]}  # fmt: skip
        if all(told["masked"]):
            (one, shape), (other, _) = (_RECORDS[name][0] for name in (first, second))
            apart = (one - other).abs().amax(-1)
            told |= {"mask": list(shape), "changed": (apart > 0).tolist()}
        return io.NodeOutput(ui={"text": (json.dumps(told),)})


class TestCalls(io.ComfyNode):
    """A MODEL that notes, under a name, how many latents each call of the network is given."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestCalls",
            category="test",
            inputs=[io.Model.Input("model"), io.String.Input("name")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, name) -> io.NodeOutput:
        return io.NodeOutput(counting(model.clone(), name))


class TestCallsTold(io.ComfyNode):
    """Tell, after sampling, what calls were noted under a name, and forget them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestCallsTold",
            category="test",
            is_output_node=True,
            inputs=[io.Latent.Input("samples"), io.String.Input("name")],
            outputs=[],
        )

    @classmethod
    def execute(cls, samples, name) -> io.NodeOutput:
        told = json.dumps(_CALLS[name])
        _CALLS[name].clear()
        return io.NodeOutput(ui={"text": (told,)})


def counting(model, name: str):
    """Have a MODEL note the calls of its network."""
    calls = _CALLS[name] = []

    def count(execute, x, *args, **options):
        calls.append(x.shape[0])
        return execute(x, *args, **options)

    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    comfy.patcher_extension.add_wrapper(kind, count, model.model_options, is_model_options=True)
    return model


class TestDifference(io.ComfyNode):
    """Tell how far latents differ, and by how much inside and outside a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestDifference",
            category="test",
            is_output_node=True,
            inputs=[io.Latent.Input("a"), io.Latent.Input("b"), io.Mask.Input("mask", optional=True)],
            outputs=[],
        )

    @classmethod
    def execute(cls, a, b, mask=None) -> io.NodeOutput:
        a, b = a["samples"].double(), b["samples"].double()
        apart = (a - b).abs()
        told = {"relative": float(apart.max() / a.abs().max()), "rows": apart.flatten(1).amax(1).tolist()}
        if mask is not None:
            inside = torch.nn.functional.interpolate(mask[:, None].double(), apart.shape[2:], mode="area")
            inside = inside.expand_as(apart)
            told["inside"] = float(apart[inside == 1].mean())
            told["outside"] = float(apart[inside == 0].mean())
        return io.NodeOutput(ui={"text": (json.dumps(told),)})


class TestTakenOver(io.ComfyNode):
    """A MODEL whose cross-attention another node replaces, or whose latents one cuts into tiles."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestTakenOver",
            category="test",
            inputs=[io.Model.Input("model"), io.Combo.Input("what", options=["attention", "tiles"])],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, what) -> io.NodeOutput:
        def replaced(q, k, v, extra_options):
            return v.mean(1, keepdim=True).expand_as(q)

        def tiled(apply, given):
            halves = given["input"].chunk(2, -1)
            return torch.cat([apply(half, given["timestep"], **given["c"]) for half in halves], -1)

        taken = model.clone()
        if what == "attention":
            taken.set_model_attn2_replace(replaced, "input", 1)
        else:
            taken.set_model_unet_function_wrapper(tiled)
        return io.NodeOutput(taken)


class TestTokens(io.ComfyNode):
    """Tell the tokens of each prompt of a conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestTokens",
            category="test",
            is_output_node=True,
            inputs=[io.Conditioning.Input("conditioning")],
            outputs=[],
        )

    @classmethod
    def execute(cls, conditioning) -> io.NodeOutput:
        return io.NodeOutput(ui={"text": (json.dumps([context.shape[1] for context, _ in conditioning]),)})


class TestOtherNetwork(io.ComfyNode):
    """A MODEL whose network is of a kind that nobody knows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestOtherNetwork", category="test", outputs=[io.Model.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(SimpleNamespace(model=SimpleNamespace(diffusion_model=torch.nn.Linear(1, 1))))


class Control(comfy.controlnet.ControlBase):
    """Adds a constant to the network's last layers, and notes the tokens it is given."""

    def __init__(self, seen: list) -> None:
        super().__init__()
        self.seen = seen

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        self.seen.append(cond.get("crossattn_controlnet", cond["c_crossattn"]).shape[1])
        return {"output": [torch.full((1, 1, 1, 1), 0.5)]}

    def get_models(self) -> list:
        return []


class TestControl(io.ComfyNode):
    """Both conditionings with a ControlNet that notes, under a name, the tokens it is given."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestControl",
            category="test",
            inputs=[
                io.Conditioning.Input("positive"), io.Conditioning.Input("negative"), io.String.Input("name"),
            ],
            outputs=[io.Conditioning.Output(), io.Conditioning.Output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, positive, negative, name) -> io.NodeOutput:
        _RECORDS[name], _CALLS[name] = [], []
        control = Control(_CALLS[name])
        return io.NodeOutput(*(
            [[context, {**extras, "control": control}] for context, extras in side]
            for side in (positive, negative)
        ))
