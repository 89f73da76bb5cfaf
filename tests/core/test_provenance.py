"""What the audit log reads off a prompt."""

from __future__ import annotations

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from realism_core.gate.audit.provenance import json_sha256, prompt_sha256, sources

PROMPT = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sub/base.safetensors"}},
    "2": {"class_type": "LoraLoader", "inputs": {"model": ["1", 0], "lora_name": "grain.SAFETENSORS"}},
    "3": {"class_type": "PrimitiveInt", "inputs": {"value": 99}},
    "4": {"class_type": "KSampler", "inputs": {"model": ["2", 0], "seed": ["3", 0], "latent": ["5", 0]}},
    "5": {"class_type": "Advanced", "inputs": {"noise_seed": 2**64 - 1, "model": ["1", 0], "x": "a.png"}},
    "6": {"class_type": "RealismGate", "inputs": {"images": ["4", 0], "value": 0.5}},
    "7": {"class_type": "KSampler", "inputs": {"seed": 1, "model": ["8", 0]}},
    "8": {"class_type": "UNETLoader", "inputs": {"unet_name": "other.gguf"}},
    "9": {"class_type": "Save", "inputs": {"images": ["6", 0], "seed": 5}},
}  # fmt: skip


def test_only_what_lies_upstream_is_found() -> None:
    found = sources(PROMPT, "6")
    assert found.seeds == [
        {"node": "4", "input": "seed", "seed": 99},
        {"node": "5", "input": "noise_seed", "seed": 2**64 - 1},
    ]
    assert sorted(found.models) == ["grain.SAFETENSORS", "sub/base.safetensors"]


def test_what_a_prompt_may_hold_besides_is_passed_over() -> None:
    odd = {
        "1": {"class_type": "A", "inputs": {"seed": True, "noise_seed": "7", "x": ["gone", 0], "y": [1, 2]}},
        "2": {"class_type": "B", "inputs": {"a": ["1", 0], "b": ["2", 0], "seed": ["1", 0], "c": None}},
        "3": {"inputs": {"b": ["2", 0]}},
    }
    assert sources(odd, "3").seeds == [] and sources(odd, "3").models == []
    assert sources({}, "3") == ([], []) and sources(odd, "unknown") == ([], [])


def test_a_loop_of_links_ends() -> None:
    loop = {"1": {"inputs": {"a": ["2", 0], "seed": 1}}, "2": {"inputs": {"a": ["1", 0], "seed": 2}}}
    assert [seed["seed"] for seed in sources(loop, "1").seeds] == [2]


@given(
    st.dictionaries(
        st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=5), st.none(), st.floats())
    )
)
def test_the_hash_does_not_depend_on_the_order_of_keys(value: dict) -> None:
    turned = dict(reversed(value.items()))
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert json_sha256(turned) == json_sha256(value) == hashlib.sha256(text.encode()).hexdigest()


def test_a_prompt_is_hashed_without_what_it_does_not_run() -> None:
    more = {name: {**node, "_meta": {"title": "x"}, "is_changed": 3} for name, node in PROMPT.items()}
    assert prompt_sha256(more) == prompt_sha256(PROMPT) != prompt_sha256({**PROMPT, "9": PROMPT["8"]})
    assert prompt_sha256(None) is None and json_sha256(None) is None
