"""Which layers of a network an adapter goes on: by the names of its modules and by how they are built."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from torch import nn

from .layout_names import is_text

TARGETS = ("attention", "cross_attention", "feed_forward", "all", "pattern")
EXAMPLES = 6  # paths that a message shows

_ATTENTION = r"(\w+_)?(attn|attention)(_?\d+)?|\w*Attention"
_CROSS = r"cross_?(attn|attention)\w*|EncDecAttention"
_FEED_FORWARD = r"(ff|ffn|mlp|feed_?forward)(_\w+)?|\w+_(ff|ffn|mlp|feed_?forward)|DenseReluDense"
# one matrix for attention and feed-forward: Flux, HunyuanVideo
_FUSED = r"(^|\.)single_blocks\.\d+\.linear[12]$"
_EMBEDDER = r"embed"


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer: torch's, or one that keeps its matrix in another form.

    Quantised layers are often no nn.Linear; they count if their class is named so and they have
    `in_features` and `out_features`.
    """
    if isinstance(module, nn.Linear):
        return True
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    return "linear" in type(module).__name__.lower() and all(isinstance(size, int) for size in sizes)


def adaptable_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Return the Linear and Conv2d layers below a module by path, in the order of the network.

    A layer that appears in several places is named by its first. Left out is what torch's
    MultiheadAttention holds: it reads its matrices without calling the layers, so an adapter there would
    do nothing.
    """
    found: dict[str, nn.Module] = {}
    silent: list[str] = []
    for path, layer in module.named_modules():
        if isinstance(layer, nn.MultiheadAttention):
            silent.append(f"{path}." if path else "")
        elif path and (is_linear(layer) or isinstance(layer, nn.Conv2d)):
            found[path] = layer
    return {path: layer for path, layer in found.items() if not path.startswith(tuple(silent))}


def choose_layers(module: nn.Module, targets: str = "attention", pattern: str = "") -> dict[str, nn.Module]:
    """Return the layers that a choice of targets stands for, by path, in the order of the network.

    targets: `attention` (projections of self-, cross- and joint attention), `cross_attention` (attention
    from picture to text in layers of its own), `feed_forward` (MLPs of the blocks, not those of time or
    label embedders), `all` (every Linear and Conv2d) or `pattern`. A matrix that serves attention and
    feed-forward at once (`single_blocks.*.linear1` and `linear2`) belongs to both.
    pattern: for `pattern`, one a line: a glob over the whole path, case-sensitive, where * also spans dots
    (`*.attn2.to_?`), or `re:` and a regular expression that is searched for in the path.
    Raises ValueError where a choice, or a line of the pattern, meets no layer, with what the network has.
    """
    layers = adaptable_layers(module)
    if not layers:
        raise ValueError(
            f"{type(module).__name__} has no Linear or Conv2d layer below it that an adapter could go on. "
            "Pass the network itself."
        )
    if targets == "pattern":
        return _by_pattern(layers, pattern)
    if targets == "all":
        return layers
    if targets not in _KINDS:
        raise ValueError(f"targets is {targets!r}; choose one of {', '.join(TARGETS)}.")
    chosen = {path: layer for path, layer in layers.items() if _KINDS[targets](path, layers)}
    if not chosen:
        raise ValueError(_nothing(targets, layers))
    return chosen


def choose_text_layers(module: nn.Module, targets: str = "attention") -> dict[str, nn.Module]:
    """Return the layers of text encoders that a choice of targets stands for, by path, in their order.

    module: holds the encoders as ComfyUI does, clip_l.transformer..., t5xxl.transformer... . targets: as for
    `choose_layers`, but for two: `cross_attention`, which encoders do not have, stands for their attention,
    and `all` for attention and feed-forward, the layers that LoRA files have names for; `pattern` is not
    among them (see `split_pattern`). Raises ValueError where nothing is met, naming the encoders.
    """
    layers = _text_layers(module)
    chosen = {path: layer for path, layer in layers.items() if _TEXT_KINDS[targets](path, layers)}
    if not chosen:
        encoders = ", ".join(name for name, _ in module.named_children()) or type(module).__name__
        there = f"Paths there look like {_examples(layers)}." if layers else "It cannot be trained here."
        raise ValueError(
            f"clip: the text encoder {encoders} has no {targets} layers by name. {there} Choose other "
            "targets or disconnect clip."
        )
    return chosen


def split_pattern(network: nn.Module, encoders: nn.Module, pattern: str) -> tuple[str, list[str]]:
    """Return a pattern for the network alone, and the paths of the text encoders' layers that it means.

    Each line counts where it meets layers; the first is "" where none meets the network. Raises ValueError
    for a line that meets none, and where no line meets an encoder.
    """
    layers, text = adaptable_layers(network), _text_layers(encoders)
    _by_pattern({**layers, **text}, pattern)
    lines = [line.strip() for line in pattern.splitlines() if line.strip()]
    paths = [path for path in text if any(_matcher(line)(path) for line in lines)]
    if not paths:
        raise ValueError(
            f"clip: the pattern names no layer of the text encoder. Paths there look like {_examples(text)}. "
            "Add a line for it, or disconnect clip."
        )
    return "\n".join(line for line in lines if any(map(_matcher(line), layers))), paths


def _text_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Return the layers in the blocks of text encoders: those that LoRA files have names for."""
    layers = {path: layer for path, layer in adaptable_layers(module).items() if is_text(path)}
    return {path: layer for path, layer in layers.items() if _innermost(path)[1]}


def _is_attention(path: str, layers: dict[str, nn.Module]) -> bool:
    return _innermost(path)[1] == "attention" or re.search(_FUSED, path) is not None


def _is_feed_forward(path: str, layers: dict[str, nn.Module]) -> bool:
    return _innermost(path)[1] == "feed_forward" or re.search(_FUSED, path) is not None


def _is_cross_attention(path: str, layers: dict[str, nn.Module]) -> bool:
    place, kind = _innermost(path)
    if kind != "attention":
        return False
    name = place.rpartition(".")[2]
    if name != "attn2":
        return re.fullmatch(_CROSS, name, re.IGNORECASE) is not None
    # attn2 is cross-attention beside an attn1; beside an attn (SD3.5 Medium) it is a second self-attention
    beside = place[: -len("attn2")] + "attn1."
    return any(other.startswith(beside) for other in layers)


_KINDS: dict[str, Callable[[str, dict[str, nn.Module]], bool]] = {
    "attention": _is_attention,
    "cross_attention": _is_cross_attention,
    "feed_forward": _is_feed_forward,
}


_TEXT_KINDS = {
    **_KINDS,
    "cross_attention": _is_attention,
    "all": lambda path, layers: True,
}


def _innermost(path: str) -> tuple[str, str]:
    """Return the innermost attention or feed-forward around a layer, and which of them; "" for none."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        if re.fullmatch(_ATTENTION, parts[end - 1]):
            return ".".join(parts[:end]), "attention"
        if re.fullmatch(_FEED_FORWARD, parts[end - 1]):
            embeds = any(re.search(_EMBEDDER, part, re.IGNORECASE) for part in parts[: end - 1])
            return ".".join(parts[:end]), "" if embeds else "feed_forward"
    return "", ""


def _by_pattern(layers: dict[str, nn.Module], pattern: str) -> dict[str, nn.Module]:
    lines = [line.strip() for line in pattern.splitlines() if line.strip()]
    if not lines:
        raise ValueError(
            f"targets is 'pattern' but the pattern is empty. Paths here look like {_examples(layers)}."
        )
    chosen: set[str] = set()
    for line in lines:
        matches = _matcher(line)
        met = {path for path in layers if matches(path)}
        if not met:
            here = _examples(layers)
            raise ValueError(f"The pattern {line!r} matches no layer. Paths here look like {here}.")
        chosen |= met
    return {path: layer for path, layer in layers.items() if path in chosen}


def _matcher(line: str) -> Callable[[str], bool]:
    if not line.startswith("re:"):
        return lambda path: fnmatchcase(path, line)
    try:
        expression = line[3:].strip()
        re.search(expression, "")
    except re.error as error:
        raise ValueError(f"The pattern {line!r} is not a regular expression: {error}.") from error
    return lambda path: re.search(expression, path) is not None


def _examples(layers: dict[str, nn.Module]) -> str:
    """Name some paths, numbers as *, spread over the network; they work as patterns."""
    forms = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", path) for path in layers))
    step = max(1, len(forms) // EXAMPLES)
    return ", ".join(forms[::step][:EXAMPLES])


def _nothing(targets: str, layers: dict[str, nn.Module]) -> str:
    counts = {kind: sum(test(path, layers) for path in layers) for kind, test in _KINDS.items()}
    there = [f"{kind} ({count} layers)" for kind, count in counts.items() if count]
    there += [f"all ({len(layers)} layers)", "pattern"]
    if targets == "cross_attention" and counts["attention"]:
        joint = next(path for path in layers if _is_attention(path, layers))
        why = f"This network has no cross-attention; its attention is self- or joint attention ({joint})."
    else:
        why = f"This network has no {targets} layers by name. Paths here look like {_examples(layers)}."
    return f"{why} Choose targets {', '.join(there)}."
