"""Folders of face parsing models: names of classes, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from realism_core.conditioning.mask_pictures import _BISENET as BISENET
from realism_core.conditioning.parser_model import classes_of, load_parser
from realism_core.conditioning.vocabulary import CLASS_NAMES, LABELS
from tests.tiny_parser import write_grey_parser, write_parser

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
# as in the first version of the model on the hub, and as in FaRL
FILES = (
    "background", "skin.png", "nose.png", "r_eye.png", "l_eye.png", "r_brow.png", "l_brow.png", "r_ear.png",
    "l_ear.png", "mouth.png", "u_lip.png", "l_lip.png", "neck.png", "hair.png", "neck_l.png", "cloth.png",
    "eye_g.png", "hat.png", "ear_r.png",
)  # fmt: skip
FARL = (
    "background", "neck", "face", "cloth", "rr", "lr", "rb", "lb", "re", "le", "nose", "imouth", "llip",
    "ulip", "hair", "eyeg", "hat", "earr", "neck_l",
)  # fmt: skip


def numbered(names) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(names)}


def changed(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_parser(tmp_path / "parser")


@pytest.mark.parametrize("names", [CLASS_NAMES, FILES, FARL, BISENET])
def test_orders_of_other_models(names: tuple[str, ...]) -> None:
    found = classes_of(numbered(names), Path("config.json"))
    assert sorted(found) == list(range(19))
    for name, label in zip(names, found, strict=True):
        plain = name.removesuffix(".png")
        assert label == LABELS.get(plain, label)
    assert found[names.index("nose.png" if names is FILES else "nose")] == LABELS["nose"]


def test_names_of_classes() -> None:
    found = classes_of(
        numbered(["Background", "Left Eye", "FACE", "eyeglasses", "L_BROW", "teeth", "re", "hair", "hair"]),
        Path("config.json"),
    )
    wanted = ["background", "l_eye", "skin", "eye_g", "l_brow", "mouth", "r_eye", "hair", "hair"]
    assert found == tuple(LABELS[name] for name in wanted)
    late = {"10": "hair", **numbered(["background", *["skin"] * 9])}
    assert classes_of(late, Path("config.json"))[10] == LABELS["hair"], "numbers, not their order as text"


@pytest.mark.parametrize(("names", "words"), [
    (None, "does not name its classes: give id2label a name for each number from 0"),
    ([], "does not name its classes"),
    ({"0": "background", "2": "skin"}, "does not name its classes"),
    ({"a": "background"}, "does not name its classes"),
    (numbered(["LABEL_0", "LABEL_1"]), "names classes that none of the 19 is: 'LABEL_0', 'LABEL_1'. Give"),
    (numbered(["background", "beard"]), "none of the 19 is: 'beard'. Give them in id2label the name of the"),
    (numbered(["background", "eyes"]), "none of the 19 is: 'eyes'"),
    (numbered(["background", "hair, hat"]), "none of the 19 is: 'hair, hat'"),
    (numbered(["skin", "hair"]), "names no class background: this model cannot tell what is no face"),
])  # fmt: skip
def test_wrong_names(names, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        classes_of(names, Path("folder/config.json"))
    assert "config.json" in str(error.value)


def test_classes_follow_the_names(tmp_path: Path) -> None:
    """The same weights with the classes named the other way round give the other classes."""
    parser = load_parser(write_grey_parser(tmp_path, tuple(reversed(CLASS_NAMES))))
    assert parser.classes == tuple(reversed(range(19)))


def test_how_pictures_are_prepared(weights: Path) -> None:
    file = weights.parent / PREPROCESSOR
    changed(file, size=96)
    assert load_parser(weights).taken.size == 96
    changed(file, size={"shortest_edge": 128}, rescale_factor=1 / 127.5, image_mean=[1, 1, 1])
    taken = load_parser(weights).taken
    assert taken.size == 128 and taken.scale == pytest.approx(2) and taken.mean == (1, 1, 1)
    changed(file, do_normalize=False, do_rescale=False)
    assert load_parser(weights).taken[1:] == (255, (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(("file", "values", "words"), [
    (CONFIG, {"model_type": "bert"}, "of a model of type 'bert': only SegFormer models are read"),
    (CONFIG, {"hidden_sizes": [16, 16, 16, 32]}, "model.safetensors (cannot be loaded|does not hold)"),
    (CONFIG, {"depths": [2, 1, 1, 1]}, "does not hold the weights that its config.json speaks of, such as"),
    (CONFIG, {"depths": "many"}, "model.safetensors cannot be loaded as its config.json says"),
    (CONFIG, {"id2label": numbered(["background", "skin"])}, "model.safetensors (cannot be|does not hold)"),
    (PREPROCESSOR, {"size": 8}, "does not say how pictures are prepared: size must be 32 to 4096"),
    (PREPROCESSOR, {"size": "large"}, "does not say how pictures are prepared"),
    (PREPROCESSOR, {"image_std": [0.2, 0, 0.2]}, "does not say how pictures are prepared"),
    (PREPROCESSOR, {"image_mean": [0.5]}, "does not say how pictures are prepared"),
])  # fmt: skip
def test_wrong_settings(weights: Path, file: str, values: dict, words: str) -> None:
    changed(weights.parent / file, **values)
    with pytest.raises(ValueError, match=words) as error:
        load_parser(weights)
    assert str(weights.parent) in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", CONFIG, PREPROCESSOR])
def test_absent_and_broken_files(weights: Path, name: str) -> None:
    file = weights.parent / name
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{name} cannot be .*copy (it|both) from where the model came from"):
        load_parser(weights)
    file.unlink()
    with pytest.raises(ValueError, match=f"{name} is absent: copy it from where model.safetensors came from"):
        load_parser(weights)


def test_a_file_that_is_no_object(weights: Path) -> None:
    (weights.parent / CONFIG).write_text("[1]")
    with pytest.raises(ValueError, match="config.json cannot be read .it is no JSON object"):
        load_parser(weights)


def test_weights_that_lack_some(weights: Path) -> None:
    """transformers would go on with random numbers."""
    tensors = load_file(weights)
    tensors.pop("decode_head.classifier.bias")
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ValueError, match="does not hold the weights .* such as decode_head.classifier.bias"):
        load_parser(weights)


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("opened"),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "parser.pth", "parser.pt", "parser.ckpt"])
def test_pickles_are_not_opened(weights: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(weights.parent)
    file = weights.with_name(name)
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="is no safetensors file; .*press Download model"):
        load_parser(file)
    weights.unlink()  # nor does transformers take it instead
    with pytest.raises(ValueError, match="model.safetensors is absent"):
        load_parser(weights)
    assert not Path("opened").exists()


def test_another_name(weights: Path) -> None:
    other = weights.rename(weights.with_name("face.safetensors"))
    with pytest.raises(ValueError, match="is not called model.safetensors: give it that name, in a folder"):
        load_parser(other)


def test_nothing_else_of_a_config_is_followed(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither code in the folder nor kernels on the hub."""
    monkeypatch.chdir(weights.parent)
    (weights.parent / "evil.py").write_text("from pathlib import Path\nPath('opened').touch()\n")
    changed(
        weights.parent / CONFIG, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
        _attn_implementation="someone/kernel", attn_implementation="someone/kernel", trust_remote_code=True,
    )  # fmt: skip
    parser = load_parser(weights)
    assert not Path("opened").exists()
    assert not parser.training and not any(weight.requires_grad for weight in parser.parameters())
    assert parser(torch.rand(1, 3, 64, 96)).shape == (1, 19, 16, 24)
