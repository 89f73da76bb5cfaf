"""What made a picture, read off ComfyUI's prompt: hashes of it, the seeds, and the model files it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

SEEDS = ("seed", "noise_seed")
# inputs of the nodes that hand a number on to a seed
NUMBERS = (*SEEDS, "value", "int", "number")
MODEL_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".gguf", ".pt", ".pt2", ".pth", ".bin", ".onnx")


class Sources(NamedTuple):
    """What lies upstream of a node: seeds as {node, input, seed} dicts, and what may name model files."""

    seeds: list[dict[str, Any]]
    models: list[str]


def sources(prompt: Mapping[str, Any], node: str) -> Sources:
    """Return the seeds and possible model names of all nodes that a node of an API-format prompt depends on.

    A seed that comes over links is read from the node at their other end, if that holds it as a plain number.
    Any text that ends like a model file counts as a possible name, also inside lists and objects.
    """
    seeds, models = [], []
    for name in _upstream(prompt, node):
        inputs = prompt[name].get("inputs", {})
        for key, value in inputs.items():
            if key in SEEDS:
                seeds += [{"node": name, "input": key, "seed": seed} for seed in _numbers(prompt, value)]
            models += [text for text in _texts(value) if text.lower().endswith(MODEL_SUFFIXES)]
    return Sources(seeds, list(dict.fromkeys(models)))


def prompt_sha256(prompt: Mapping[str, Any] | None) -> str | None:
    """Return the SHA-256 of what a prompt runs: each node's class_type and inputs, and nothing else of it."""
    if prompt is None:
        return None
    return json_sha256(
        {name: {key: node.get(key) for key in ("class_type", "inputs")} for name, node in prompt.items()}
    )


def json_sha256(value: Any) -> str | None:
    """Return the SHA-256 of a JSON value in its shortest form with sorted keys, hexadecimal; None of None."""
    if value is None:
        return None
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _upstream(prompt: Mapping[str, Any], node: str) -> Iterator[str]:
    """Yield the nodes that a node depends on, itself left out, nearest first."""
    seen, waiting = {node}, [node]
    while waiting:
        for value in prompt.get(waiting.pop(0), {}).get("inputs", {}).values():
            if _is_link(prompt, value) and value[0] not in seen:
                seen.add(value[0])
                waiting.append(value[0])
                yield value[0]


def _numbers(prompt: Mapping[str, Any], value: Any, links: int = 8) -> list[int]:
    if not _is_link(prompt, value):
        return [value] if _is_number(value) else []
    inputs = prompt[value[0]].get("inputs", {})
    near = [inputs[key] for key in NUMBERS if key in inputs]
    return [number for one in near if links for number in _numbers(prompt, one, links - 1)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_link(prompt: Mapping[str, Any], value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in prompt
