"""The layers of text encoders that targets and patterns stand for."""

from __future__ import annotations

import pytest
from torch import nn

from realism_core.training.targets import choose_text_layers, split_pattern
from tests.core.test_lora_targets import grown

CLIP = "transformer.text_model.encoder.layers"
T5 = "t5xxl.transformer.encoder.block"
PROJECTIONS = [f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")]


def encoders() -> nn.Module:
    paths = [
        f"{encoder}.{CLIP}.{layer}.{name}"
        for encoder in ("clip_l", "clip_g")
        for layer in range(2)
        for name in (*PROJECTIONS, "mlp.fc1", "mlp.fc2")
    ]
    paths += ["clip_l.transformer.text_projection", "clip_g.transformer.text_projection"]
    paths += [f"{T5}.0.layer.0.SelfAttention.{name}" for name in "qkvo"]
    paths += [f"{T5}.0.layer.1.DenseReluDense.{name}" for name in ("wi_0", "wi_1", "wo")]
    return grown({path: nn.Linear(4, 4) for path in paths})


NETWORK = ("blocks.0.attn.qkv", "blocks.0.mlp.fc1", "final.linear")


@pytest.mark.parametrize(
    ("targets", "count"), [("attention", 16 + 4), ("cross_attention", 16 + 4), ("feed_forward", 8 + 3),
                           ("all", 24 + 7)],
)  # fmt: skip
def test_targets_of_text_encoders(targets: str, count: int) -> None:
    chosen = choose_text_layers(encoders(), targets)
    assert len(chosen) == count and not any("text_projection" in path for path in chosen)
    assert {path.split(".")[0] for path in chosen} == {"clip_l", "clip_g", "t5xxl"}
    if targets in ("attention", "cross_attention"):
        assert all("self_attn" in path or "SelfAttention" in path for path in chosen)


def test_encoders_without_such_layers_are_named() -> None:
    with pytest.raises(ValueError, match=r"encoder llm has no feed_forward layers by name.*llm\.transformer"):
        choose_text_layers(grown({"llm.transformer.0.attn.q": nn.Linear(2, 2)}), "feed_forward")
    with pytest.raises(ValueError, match=r"encoder odd has no attention.*cannot be trained"):
        choose_text_layers(grown({"odd.net.attn.q": nn.Linear(2, 2)}), "attention")


@pytest.mark.parametrize(
    ("pattern", "network", "count"),
    [
        ("*.qkv\n clip_l.* \n", "*.qkv", 12),
        ("*.fc1", "*.fc1", 4),
        ("re:^t5xxl\n*.linear", "*.linear", 7),
        ("clip_g.*.fc2", "", 2),
    ],
)
def test_a_pattern_is_split(pattern: str, network: str, count: int) -> None:
    own, paths = split_pattern(grown({path: nn.Linear(4, 4) for path in NETWORK}), encoders(), pattern)
    assert own == network and len(paths) == count


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("*.qkv", "names no layer of the text encoder"), ("*.fc1\nnone", "'none' matches no layer"),
     ("clip_l.transformer.text_projection\n*.qkv", "matches no layer"), ("", "pattern is empty")],
)  # fmt: skip
def test_patterns_that_miss_are_refused(pattern: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        split_pattern(grown({path: nn.Linear(4, 4) for path in NETWORK}), encoders(), pattern)
