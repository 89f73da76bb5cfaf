"""LoRA files on disk: whole or not there, never run, refused with a sentence; and their metadata."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from realism_core import __version__
from realism_core.training.layouts import LAYOUTS
from realism_core.training.lora_file import load_lora, read_tensors, save_lora, write_tensors
from realism_core.training.metadata import TrainingRecord, read_record
from tests.core.lora_models import MODELS
from tests.lora_states import deltas, layers, random_state

MODEL = MODELS["flux"]()
RECORD = TrainingRecord(
    base_model="flux1-dev.safetensors",
    base_model_version="flux1",
    rank=4,
    alpha=2.0,
    targets="attention",
    objective="flow",
    weighting={"kind": "min_snr", "numbers": {"gamma": 5.0}, "mode": "exact"},
    timesteps={"kind": "shifted", "shift": 3.0},
    dataset_sha256="ab" * 32,
    images=12,
    steps=90,
    planned_steps=100,
    learning_rate=1e-4,
    seed=7,
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
FILES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def state(seed: int = 1) -> dict[str, Tensor]:
    return random_state(MODEL, layers(MODEL)[::3], rank=4, alpha=2, seed=seed)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_lora_comes_back_with_its_record(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "new" / "lora.safetensors"
    save_lora(path, state(), layout, MODEL, RECORD.to_metadata())
    loaded = load_lora(path, MODEL)
    assert loaded.layout == layout
    wanted = deltas(state())
    for name, delta in deltas(loaded.state).items():
        assert (delta - wanted.pop(name)).abs().max() <= 1e-6 * delta.abs().max()
    assert not wanted
    record = read_record(loaded.metadata)
    assert record == TrainingRecord(**{**vars(RECORD), "layout": layout})
    assert left(path.parent) == ["lora.safetensors"]


def test_half_precision_halves_the_file_and_keeps_alpha(tmp_path: Path) -> None:
    made = state() | {"img_in.alpha": torch.tensor(1.0001)}
    for name, dtype in (("whole", None), ("half", torch.float16), ("brain", torch.bfloat16)):
        save_lora(tmp_path / name, made, "comfyui", MODEL, {}, dtype=dtype)
    assert (tmp_path / "half").stat().st_size < 0.7 * (tmp_path / "whole").stat().st_size
    for name in ("half", "brain"):
        loaded = load_lora(tmp_path / name, MODEL).state
        assert torch.equal(loaded["img_in.alpha"], torch.tensor(1.0001))
        assert loaded["img_in.lora_A.weight"].dtype == torch.float32
        assert torch.allclose(loaded["img_in.lora_A.weight"], made["img_in.lora_A.weight"], rtol=0.01)


def test_a_file_is_never_replaced_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lora.safetensors"
    save_lora(path, state(1), "kohya", MODEL, {})
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"lora\.safetensors is there already: choose another name"):
        save_lora(path, state(2), "kohya", MODEL, {})
    assert path.read_bytes() == before
    save_lora(path, state(2), "kohya", MODEL, {}, overwrite=True)
    assert path.read_bytes() != before and left(tmp_path) == [path.name]

    late = tmp_path / "late.safetensors"
    monkeypatch.setattr(os, "fsync", lambda _: late.write_bytes(b"of another program"))
    with pytest.raises(FileExistsError, match="is there already"):
        save_lora(late, state(), "kohya", MODEL, {})
    assert late.read_bytes() == b"of another program" and left(tmp_path) == [late.name, path.name]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lora.safetensors"
    save_lora(path, state(1), "kohya", MODEL, {})
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for target, overwrite in ((path, True), (tmp_path / "other.safetensors", False)):
        with pytest.raises(OSError, match=r"was not written \(the disk is full; it needs \d") as raised:
            save_lora(target, state(2), "kohya", MODEL, {}, overwrite=overwrite)
        assert raised.value.errno == errno.ENOSPC
        assert path.read_bytes() == before and left(tmp_path) == [path.name]


def test_a_file_system_without_links_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    path = tmp_path / "lora.safetensors"
    save_lora(path, state(), "kohya", MODEL, {})
    assert load_lora(path, MODEL).layout == "kohya" and left(tmp_path) == [path.name]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    for value, dtype in ((torch.nan, None), (torch.inf, None), (1e6, torch.float16)):
        broken = state()
        broken["img_in.lora_B.weight"][0, 0] = value
        with pytest.raises(ValueError, match=r"img_in\.lora_up\.weight has values that are NaN or infinite"):
            save_lora(tmp_path / "lora.safetensors", broken, "comfyui", MODEL, {}, dtype=dtype)
    assert left(tmp_path) == []
    with pytest.raises(ValueError, match="the metadata steps is int; safetensors holds texts only"):
        write_tensors(tmp_path / "x", {"a": torch.ones(1)}, {"steps": 3})  # type: ignore[dict-item]


@FILES
@given(metadata=st.dictionaries(TEXTS, TEXTS, max_size=4), data=st.data())
def test_truncated_files_are_refused(tmp_path: Path, metadata: dict[str, str], data: st.DataObject) -> None:
    path = tmp_path / "lora.safetensors"
    write_tensors(path, {"a": torch.arange(5.0), "b": torch.ones(2, 3)}, metadata, overwrite=True)
    whole = path.read_bytes()
    tensors, found = read_tensors(path)
    assert found == metadata and torch.equal(tensors["a"], torch.arange(5.0))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ValueError, match=r"lora\.safetensors is truncated: it has \d+"):
        read_tensors(path)


@FILES
@given(st.binary(max_size=60) | st.binary(max_size=40).map((b"\x20" + bytes(7) + b"{").__add__))
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^lora\.safetensors is (truncated|no safe|a pickle|damaged)"):
        read_tensors(path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": "07"}},
        {"a": 3, "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {"__metadata__": [1], "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        [1, 2],
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "lora.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ValueError, match=r"^lora\.safetensors is (no safetensors|damaged)"):
        read_tensors(path)


class Trap:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (self.path, "w"))


def test_pickles_are_refused_unread_whatever_they_are_called(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for name in ("lora.safetensors", "lora.pt", "lora.ckpt"):
        path = tmp_path / name
        contents = [pickle.dumps(Trap(str(sprung)), protocol) for protocol in (2, 3, 4, 5)]
        torch.save({"a": torch.ones(2)}, path)
        for content in [path.read_bytes(), *contents]:
            path.write_bytes(content)
            with pytest.raises(ValueError, match=rf"{name} is a pickle, which can run programs"):
                load_lora(path, MODEL)
    assert not sprung.exists()


def test_headers_whose_length_looks_like_a_pickle_are_read(tmp_path: Path) -> None:
    lengths = set()
    for padding in range(500, 1400, 8):
        path = tmp_path / "lora.safetensors"
        write_tensors(path, {"a": torch.ones(2)}, {"text": "x" * padding}, overwrite=True)
        lengths.add(path.read_bytes()[:2])
        assert torch.equal(read_tensors(path)[0]["a"], torch.ones(2))
    assert {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"} <= lengths


def test_foreign_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    with pytest.raises(FileNotFoundError, match=r"lora\.safetensors is not there"):
        load_lora(path, MODEL)
    write_tensors(path, {"model.diffusion_model.out.2.weight": torch.ones(4, 4)}, {})
    with pytest.raises(ValueError, match=r"^lora\.safetensors: model\.diffusion_model\.out\.2\.weight is no"):
        load_lora(path, MODEL)
    save_lora(path, state(), "kohya", MODEL, {}, overwrite=True)
    with pytest.raises(ValueError, match=r"^lora\.safetensors: the model has no layer lora_unet_double"):
        load_lora(path, MODELS["sd3"]())


def test_the_metadata_has_kohyas_keys_and_ours() -> None:
    metadata = RECORD.to_metadata()
    wanted = {
        "ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_network_alpha": "2.0",
        "ss_base_model_version": "flux1", "ss_sd_model_name": "flux1-dev.safetensors", "ss_steps": "90",
        "ss_max_train_steps": "100", "ss_learning_rate": "0.0001", "ss_seed": "7",
        "ss_num_train_images": "12", "ss_min_snr_gamma": "5.0", "realism.objective": '"flow"',
        "realism.pack_version": f'"{__version__}"', "realism.dataset_sha256": json.dumps("ab" * 32),
    }  # fmt: skip
    assert wanted.items() <= metadata.items()
    assert json.loads(metadata["realism.weighting"])["numbers"] == {"gamma": 5.0}
    assert "ss_optimizer" not in metadata and "realism.optimiser" not in metadata
    assert TrainingRecord().to_metadata()["ss_network_dim"] == "Dynamic"


NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@given(TEXTS, NUMBERS, NUMBERS, st.dictionaries(TEXTS, NUMBERS | TEXTS, max_size=3))
def test_a_record_survives_the_metadata(text: str, alpha: float, rate: float, extra: dict) -> None:
    weighting = {"kind": "p2", "numbers": extra}
    record = TrainingRecord(
        base_model=text, alpha=alpha, learning_rate=rate, weighting=weighting, extra=extra
    )
    assert read_record({"other": "program", **record.to_metadata()}) == record


def test_records_of_others_and_damaged_ones(tmp_path: Path) -> None:
    assert read_record({"ss_network_dim": "4"}) is None
    newer = read_record({**RECORD.to_metadata(), "realism.mood": '"blue"'})
    assert newer is not None and newer.extra == {"mood": "blue"}
    with pytest.raises(ValueError, match=r"the metadata realism\.steps is no JSON"):
        read_record({**RECORD.to_metadata(), "realism.steps": "9 0"})
    for value in (float("nan"), torch.ones(1)):
        with pytest.raises(ValueError, match="cannot hold learning_rate"):
            TrainingRecord(learning_rate=value).to_metadata()  # type: ignore[arg-type]
    path = tmp_path / "lora.safetensors"
    save_lora(path, state(), "kohya", MODEL, RECORD.to_metadata())
    with safe_open(path, "pt") as file:
        assert file.metadata()["ss_network_dim"] == "4" and file.metadata()["realism.layout"] == '"kohya"'
