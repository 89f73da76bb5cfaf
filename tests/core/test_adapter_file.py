"""Adapter files: they come back as they were, and what is no adapter of this vocabulary is refused."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from realism_core.conditioning.adapter import AdapterConfig, TokenAdapter
from realism_core.conditioning.adapter_file import VOCABULARY, load_adapter, save_adapter
from realism_core.tensor_files import read_tensors, write_tensors

FORMS = [("tokens", "tokens"), ("pooled", "pooled"), ("none", "channels"), ("tokens", "none")]


def adapter(attributes: str = "tokens", mask: str = "tokens", seed: int = 3) -> TokenAdapter:
    return TokenAdapter(AdapterConfig(12, attributes, mask, width=8, grid=2, patch=2, scale=0.7), seed)


def saved(path: Path, **changes) -> Path:
    """Write an adapter's file with some of its texts, or tensors, changed; None leaves one out."""
    save_adapter(path, adapter(), {"steps": 3})
    tensors, metadata = read_tensors(path)
    tensors = {**tensors, **changes.pop("tensors", {})}
    metadata = {**metadata, **changes}
    kept = {key: text for key, text in metadata.items() if text is not None}
    write_tensors(path, {k: v for k, v in tensors.items() if v is not None}, kept, overwrite=True)
    return path


@pytest.mark.parametrize("forms", FORMS)
def test_an_adapter_comes_back_as_it_was(tmp_path: Path, forms: tuple[str, str]) -> None:
    made = adapter(*forms)
    save_adapter(tmp_path / "new" / "a.safetensors", made, {"by": "me", "losses": [1.5]})
    loaded, about = load_adapter(tmp_path / "new" / "a.safetensors")
    assert about == {"by": "me", "losses": [1.5]} and loaded.config == made.config
    assert not any(weight.requires_grad for weight in loaded.parameters())
    planes = torch.rand(2, 19, loaded.mask.side, loaded.mask.side) if loaded.mask is not None else None
    values = torch.linspace(-1, 1, 80).reshape(2, 40)
    with torch.no_grad():
        for one, other in zip(made(values, planes, 2), loaded(values, planes, 2), strict=True):
            assert (one is None and other is None) or torch.equal(one, other)


def test_half_precision_files_are_used_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_adapter(path, adapter().half())
    assert {weight.dtype for weight in load_adapter(path).adapter.parameters()} == {torch.float32}


def test_nothing_is_replaced_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_adapter(path, adapter(seed=1))
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="is there already"):
        save_adapter(path, adapter(seed=2))
    assert path.read_bytes() == before
    save_adapter(path, adapter(seed=2), overwrite=True)
    assert path.read_bytes() != before and len(list(tmp_path.iterdir())) == 1


def vocabulary(**changes) -> str:
    return json.dumps({**{kind: list(names) for kind, names in VOCABULARY.items()}, **changes})


def swapped() -> list[str]:
    names = json.loads(vocabulary())["classes"]
    names[4], names[5] = names[5], names[4]
    return names


CONFIG = asdict(adapter().config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"realism.vocabulary": vocabulary(classes=swapped())}, "classes: number 4 is 'r_eye' there and"),
        ({"realism.vocabulary": vocabulary(classes=swapped()[:3])}, "classes: it has 3, this pack has 19"),
        ({"realism.vocabulary": vocabulary(attributes=["Happy"])}, "other attributes: number 0 is 'Happy'"),
        ({"realism.vocabulary": vocabulary(attributes=None)}, "other attributes: it has 0"),
        ({"realism.vocabulary": "[]"}, "realism.vocabulary is missing or no JSON"),
        ({"realism.vocabulary": None}, "realism.vocabulary is missing"),
        ({"realism.config": "{"}, "realism.config is missing or no JSON"),
        ({"realism.config": "[" * 100000}, "realism.config is missing or no JSON"),
        ({"realism.config": json.dumps({**CONFIG, "more": 1})}, "its configuration has"),
        ({"realism.config": json.dumps({**CONFIG, "width": 10**9})}, "width is 1000000000"),
        ({"realism.config": json.dumps({**CONFIG, "width": 16})}, "attributes.absent has the shape (40, 8)"),
        ({"realism.config": json.dumps({**CONFIG, "scale": "1"})}, "scale is '1'"),
        ({"realism.about": "7"}, "realism.about"),
        ({"format": "realism-training"}, "is no adapter of this pack"),
        ({"format": None}, "is no adapter of this pack"),
        ({"version": "2"}, "format version 2, this pack reads 1"),
        ({"tensors": {"attributes.null": None}}, "attributes.null has the shape None"),
        ({"tensors": {"more": torch.ones(1)}}, "more has the shape (1,), its configuration says None"),
        ({"tensors": {"attributes.null": torch.ones(40, 8, dtype=torch.int32)}}, "attributes.null holds NaN"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_files_of_others_and_damaged_ones_are_refused(tmp_path: Path, changes: dict, words: str) -> None:
    path = saved(tmp_path / "a.safetensors", **changes)
    with pytest.raises(ValueError) as raised:
        load_adapter(path)
    assert words in str(raised.value) and "a.safetensors" in str(raised.value)


def test_pickles_halves_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps({"attributes.null": [1]}, protocol=2))
    with pytest.raises(ValueError, match="is a pickle"):
        load_adapter(path)
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="is a pickle"):
        load_adapter(path)
    path.unlink()
    save_adapter(path, adapter())
    whole = path.read_bytes()
    for share in (0.0, 0.01, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match="is truncated"):
            load_adapter(path)
    with pytest.raises(FileNotFoundError, match="is not there"):
        load_adapter(tmp_path / "other.safetensors")


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path: Path) -> None:
    broken = adapter()
    with torch.no_grad():
        broken.attributes.null[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"attributes\.null has values that are NaN"):
        save_adapter(tmp_path / "a.safetensors", broken)
    assert not list(tmp_path.iterdir())
