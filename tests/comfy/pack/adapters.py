"""Test nodes that watch how a MODEL is called, and one that passes over the words of its prompts."""

from __future__ import annotations

import json

import comfy.patcher_extension
import torch
from comfy_api.latest import io

CALLS: list[list] = []


def wrapped(model, wrapper):
    changed = model.clone()
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    comfy.patcher_extension.add_wrapper(kind, wrapper, changed.model_options, is_model_options=True)
    return changed


class TestPasses(io.ComfyNode):
    """A MODEL that takes down each call, for TestPassesTold: its pictures, and which sides it has."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestPasses",
            category="test",
            inputs=[io.Model.Input("model"), io.Int.Input("salt", default=0, optional=True)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, salt=0) -> io.NodeOutput:
        CALLS.clear()

        def wrapper(apply, noisy, sigma, concat, words, control, options, *arguments, **others):
            CALLS.append([len(noisy), list(options["cond_or_uncond"])])
            return apply(noisy, sigma, concat, words, control, options, *arguments, **others)

        return io.NodeOutput(wrapped(model, wrapper))


class TestPassesTold(io.ComfyNode):
    """Tell what TestPasses took down until these latents were there."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestPassesTold",
            category="test",
            is_output_node=True,
            inputs=[io.Latent.Input("latents")],
            outputs=[],
        )

    @classmethod
    def execute(cls, latents) -> io.NodeOutput:
        return io.NodeOutput(ui={"text": (json.dumps(CALLS),)})


class TestWordless(io.ComfyNode):
    """A MODEL that reads no words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestWordless",
            category="test",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        def wrapper(apply, noisy, sigma, c_concat=None, c_crossattn=None, *arguments, **options):
            words = torch.zeros_like(c_crossattn)
            return apply(noisy, sigma, c_concat, words, *arguments, **options)

        return io.NodeOutput(wrapped(model, wrapper))


class TestPrompt(io.ComfyNode):
    """Tell of each part of a CONDITIONING the shapes of its words and of the tensors beside them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestPrompt",
            category="test",
            is_output_node=True,
            inputs=[io.Conditioning.Input("prompt")],
            outputs=[],
        )

    @classmethod
    def execute(cls, prompt) -> io.NodeOutput:
        told = [
            {"words": list(words.shape), **{k: list(v.shape) for k, v in more.items() if torch.is_tensor(v)}}
            for words, more in prompt
        ]
        return io.NodeOutput(ui={"text": (json.dumps(told),)})


class TestPromptBatch(io.ComfyNode):
    """A CONDITIONING whose words are a batch, all of them heeded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestPromptBatch",
            category="test",
            inputs=[io.Conditioning.Input("prompt"), io.Int.Input("count")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, prompt, count) -> io.NodeOutput:
        batches = []
        for words, more in prompt:
            heeded = torch.ones(count, words.shape[1], dtype=torch.int64)
            batches.append([words.repeat(count, 1, 1), {**more, "attention_mask": heeded}])
        return io.NodeOutput(batches)
