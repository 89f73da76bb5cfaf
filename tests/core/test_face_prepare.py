"""Reading, encoding and keeping faces: every defect, kills, changed files, workers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from realism_core.conditioning.masks import SemanticMask
from realism_core.training import faces_prepare
from realism_core.training.faces_attributes import to_attributes
from realism_core.training.faces_cache import Entry, FaceCache
from realism_core.training.faces_files import find_faces
from realism_core.training.faces_prepare import FaceProblems, FaceSettings, PreparedFaces, prepare_faces
from realism_core.training.faces_read import Task, read_face
from tests.core import face_trees as trees

SETTINGS = FaceSettings(trees.SIDE, trees.MASK_SIDE)


def encode(picture: Tensor) -> Tensor:
    """Return a latent [4,4,4] that follows from the picture."""
    assert picture.dtype == torch.uint8
    return torch.nn.functional.avg_pool2d(picture.float().movedim(-1, 0), 8).repeat(2, 1, 1)[:4] / 255


def prepare(
    root: Path, cache: Path, settings: FaceSettings = SETTINGS, kind: str = "celebamask-hq",
    vae: str = "a", step: Callable[[], None] = lambda: None,
) -> PreparedFaces:  # fmt: skip
    source = find_faces(root, kind)
    return prepare_faces(source, source.faces, encode, vae, cache, settings, step)


def shards(cache: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(cache.rglob("*")) if path.is_file()]


def kinds(made: PreparedFaces) -> dict[str, int]:
    return dict(made.problems.counts)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces_prepare, "PER_SHARD", 4)


def test_faces_come_back_as_they_lie_on_disk(tmp_path: Path) -> None:
    root = trees.celebamask(tmp_path / "a", [0, 2, 70])
    made = prepare(root, tmp_path / "cache")
    assert len(made) == 3 and made.encoded == 3 and made.found == 0
    assert len(shards(tmp_path / "cache")) == 2
    faces = list(made)
    assert [face.name for face in faces] == ["0.jpg", "2.jpg", "70.jpg"]
    for face, number in zip(faces, (0, 2, 70), strict=True):
        picture = np.array(Image.open(root / trees.IMAGES / f"{number}.jpg"))
        assert torch.equal(face.latent, encode(torch.from_numpy(picture)))
        assert face.attributes == to_attributes(trees.states(number))
        assert torch.equal(face.mask.labels[0], torch.from_numpy(trees.LABELS))
    assert "3 faces: 3 encoded now, 0 from" in made.report() and "problem  " not in made.report()


@pytest.mark.parametrize("apart", [False, True])
def test_folders_of_ones_own(tmp_path: Path, apart: bool) -> None:
    made = prepare(trees.own(tmp_path / "own", 2, apart), tmp_path / "cache", kind="folder")
    one, other = made
    assert one.attributes.strengths == {"Eyeglasses": 0.8, "Smiling": 1.0}
    assert other.attributes.strengths == {"Eyeglasses": 0.8, "Smiling": -1.0}
    assert torch.equal(one.mask.labels[0], torch.from_numpy(trees.LABELS))


def test_a_list_of_attributes_has_no_masks(tmp_path: Path) -> None:
    root = trees.listed(tmp_path / "c", 3, "image,Bald\nf0.png,1\nf1.png,0\n")
    made = prepare(root, tmp_path / "cache", kind="csv")
    assert [(face.attributes.to_text(), face.mask) for face in made] == [("Bald", None), ("-Bald", None)]
    assert kinds(made) == {"missing attributes": 1}


def test_pictures_are_cut_to_a_square_and_masks_with_them(tmp_path: Path) -> None:
    """A picture of 2:1 keeps its middle, and the mask the same middle."""
    root = trees.own(tmp_path / "own", 1, apart=False)
    wide = np.concatenate([np.zeros((32, 16, 3)), trees.pixels(0), np.zeros((32, 16, 3))], 1)
    Image.fromarray(wide.astype(np.uint8)).save(root / "p0.png")
    labels = np.pad(trees.LABELS, ((0, 0), (8, 8)))
    Image.fromarray(labels).save(root / "p0.mask.png")
    face = find_faces(root, "folder").faces[0]
    reading = read_face(Task(face, 32, 8))
    assert not reading.problems
    assert np.array_equal(reading.picture, trees.pixels(0))
    expected = SemanticMask.from_labels(torch.from_numpy(trees.LABELS)[None]).resized(8, 8)
    assert np.array_equal(reading.labels, expected.labels[0].numpy())


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resized(path: Path, size: tuple[int, int]) -> None:
    Image.open(path).resize(size).save(path)


DEFECTS: dict[str, Callable[[Path, Path], object]] = {
    "broken picture": lambda images, parts: cut_short(images / "1.jpg"),
    "missing mask": lambda images, parts: [file.unlink() for file in parts.glob("00001_*")],
    "missing part": lambda images, parts: (parts / "00001_skin.png").unlink(),
    "broken mask": lambda images, parts: cut_short(parts / "00001_hair.png"),
    "wrong size": lambda images, parts: resized(parts / "00001_hair.png", (8, 8)),
}


@pytest.mark.parametrize("kind", DEFECTS)
def test_each_defect_of_celebamask_is_told_and_the_face_left_out(tmp_path: Path, kind: str) -> None:
    root = trees.celebamask(tmp_path / "a", range(3))
    DEFECTS[kind](root / trees.IMAGES, root / trees.PARTS / "0")
    made = prepare(root, tmp_path / "cache")
    assert kinds(made) == {kind: 1}
    assert [face.name for face in made] == ["0.jpg", "2.jpg"]
    (problem,) = made.problems.examples(kind)
    assert "1.jpg" in problem.file or problem.file == "00001_skin.png"
    assert f"{problem.file}: {problem.about}" in made.report()


def test_more_defects_of_celebamask(tmp_path: Path) -> None:
    root = trees.celebamask(tmp_path / "a", range(8))
    rows = {f"{number}.jpg": trees.states(number) for number in range(7)}
    trees.write_list(root / trees.ATTRIBUTES, rows)  # 7 has no row
    (root / trees.IMAGES / "0.jpg").write_bytes(b"")
    (root / trees.PARTS / "0" / "00001_nose.png").write_text("<html>not found</html>")
    resized(root / trees.IMAGES / "2.jpg", (31, 31))
    resized(root / trees.IMAGES / "3.jpg", (96, 32))
    (root / trees.IMAGES / "4.jpg").unlink()
    (root / trees.IMAGES / "4.jpg").mkdir()
    (root / trees.PARTS / "0" / "00005_beard.png").write_bytes(b"")
    made = prepare(root, tmp_path / "cache")
    assert kinds(made) == {
        "broken picture": 2, "broken mask": 1, "wrong size": 2, "missing attributes": 1, "extra file": 1,
    }  # fmt: skip
    assert [face.name for face in made] == ["5.jpg", "6.jpg"]
    assert made.problems.serious == 6
    again = prepare(root, tmp_path / "cache")
    assert again.problems.text() == made.problems.text() and (again.encoded, again.found) == (0, 2)


def test_defects_of_folders_of_ones_own(tmp_path: Path) -> None:
    root = trees.own(tmp_path / "own", 7, apart=False)
    (root / "p0.mask.png").unlink()
    cut_short(root / "p1.mask.png")
    Image.fromarray(np.full((16, 16), 33, np.uint8)).save(root / "p2.mask.png")
    (root / "p3.json").write_text("{")
    (root / "p4.json").unlink()
    (root / "p5.json").write_text('{"Smilling": 1}')
    made = prepare(root, tmp_path / "cache", kind="folder")
    assert kinds(made) == {
        "missing mask": 1, "broken mask": 1, "unknown label": 1, "wrong attributes": 2,
        "missing attributes": 1,
    }  # fmt: skip
    assert [face.name for face in made] == ["p6.png"]
    assert "256 with the label 33" in made.report() and "Did you mean Smiling" in made.report()


def test_refusing_tells_all_and_keeps_what_is_encoded(tmp_path: Path) -> None:
    root = trees.celebamask(tmp_path / "a", range(4))
    cut_short(root / trees.IMAGES / "1.jpg")
    (root / trees.PARTS / "0" / "00002_skin.png").unlink()
    refuse = FaceSettings(32, 16, on_problem="refuse")
    with pytest.raises(FaceProblems, match="has 2 problems") as told:
        prepare(root, tmp_path / "cache", refuse)
    assert "1.jpg: is damaged" in str(told.value) and "00002_skin.png" in str(told.value)
    trees.celebamask(tmp_path / "b", range(4))
    shutil.copy2(tmp_path / "b" / trees.IMAGES / "1.jpg", root / trees.IMAGES)
    shutil.copy2(tmp_path / "b" / trees.PARTS / "0" / "00002_skin.png", root / trees.PARTS / "0")
    made = prepare(root, tmp_path / "cache", refuse)
    assert (made.encoded, made.found) == (2, 2)


def test_nothing_left_is_an_error_with_the_table(tmp_path: Path) -> None:
    root = trees.celebamask(tmp_path / "a", [0])
    (root / trees.IMAGES / "0.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="no face of the data set can be used(.|\n)*broken picture"):
        prepare(root, tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "text"),
    [({"side": 0}, "side is 0"), ({"workers": -1}, "workers is -1"), ({"on_problem": ""}, "skip, refuse")],
)  # fmt: skip
def test_bad_settings_are_refused(options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        FaceSettings(**options)


@pytest.mark.usefixtures("small_shards")
def test_a_change_of_a_file_is_noticed(tmp_path: Path) -> None:
    root, cache = trees.celebamask(tmp_path / "a", range(6)), tmp_path / "cache"
    prepare(root, cache)
    Image.fromarray(trees.pixels(77)).save(root / trees.IMAGES / "1.jpg", quality=95)
    (root / trees.PARTS / "0" / "00004_r_ear.png").unlink()
    rows = {f"{number}.jpg": trees.states(number + (number == 5)) for number in range(6)}
    trees.write_list(root / trees.ATTRIBUTES, rows)
    made = prepare(root, cache)
    assert (made.encoded, made.found) == (3, 3)
    faces = list(made)
    assert [face.name for face in faces] == [f"{number}.jpg" for number in range(6)]
    changed = np.array(Image.open(root / trees.IMAGES / "1.jpg"))
    assert torch.equal(faces[1].latent, encode(torch.from_numpy(changed)))
    assert faces[5].attributes == to_attributes(trees.states(6))
    assert shards(cache) == shards(prepare(root, tmp_path / "fresh").cache.folder)


@pytest.mark.usefixtures("small_shards")
def test_other_settings_and_another_vae_have_shards_of_their_own(tmp_path: Path) -> None:
    root, cache = trees.celebamask(tmp_path / "a", range(3)), tmp_path / "cache"
    prepare(root, cache)
    assert prepare(root, cache, vae="b").encoded == 3
    assert prepare(root, cache, FaceSettings(16, 16)).encoded == 3
    assert prepare(root, cache, FaceSettings(32, 8)).encoded == 3
    assert prepare(root, cache, FaceSettings(32, 16, on_problem="refuse")).encoded == 0
    assert prepare(root, cache).found == 3
    assert len(shards(cache)) == 4


def damaged(path: Path, change: Callable[[bytearray], object]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("how", ["bit", "half", "empty", "foreign", "moved"])
def test_a_damaged_shard_is_noticed_and_made_again(tmp_path: Path, how: str) -> None:
    root, cache = trees.celebamask(tmp_path / "a", range(8)), tmp_path / "cache"
    made = prepare(root, cache)
    whole, first = shards(cache), sorted(made.cache.folder.iterdir())[0]
    if how == "bit":
        damaged(first, lambda content: content.__setitem__(-9, content[-9] ^ 1))
    elif how == "half":
        damaged(first, lambda content: content.__delitem__(slice(len(content) // 2, None)))
    elif how == "empty":
        first.write_bytes(b"")
    elif how == "foreign":
        from safetensors.torch import save_file

        save_file({"latents": torch.zeros(4, 4)}, first)
    else:
        other = prepare(root, tmp_path / "other", vae="b")
        shutil.copy(sorted(other.cache.folder.iterdir())[0], first)
    again = prepare(root, cache)
    assert (again.encoded, again.found) == (4, 4)
    assert kinds(again) == {"cache": 1} and first.name in again.report()
    assert shards(cache) == whole


def test_a_damaged_shard_is_not_given_out(tmp_path: Path) -> None:
    made = prepare(trees.celebamask(tmp_path / "a", range(2)), tmp_path / "cache")
    (shard,) = made.cache.folder.iterdir()
    damaged(shard, lambda content: content.__setitem__(-9, content[-9] ^ 1))
    with pytest.raises(ValueError, match="is not as it was written"):
        list(made)


def test_a_cache_gives_back_what_was_written(tmp_path: Path) -> None:
    cache = FaceCache(tmp_path, {"vae": "a"})
    entries = [Entry(n, f"{n}", "m", torch.randn(2, 3, 3), torch.randn(40), None) for n in (5, 3)]
    cache.write(1, entries)
    back = cache.read(1)
    assert [entry.name for entry in back] == ["3", "5"] and back[0].labels is None
    assert torch.equal(back[1].latent, entries[0].latent)
    assert torch.equal(back[0].attributes, entries[1].attributes)
    assert cache.read(2) == []
    with pytest.raises(ValueError, match="latents"):
        cache.write(1, [entries[0]._replace(latent=torch.full((2, 3, 3), torch.nan))])
    assert len(cache.read(1)) == 2


@pytest.mark.usefixtures("small_shards")
def test_what_is_encoded_before_a_cancel_is_kept(tmp_path: Path) -> None:
    root, cache = trees.celebamask(tmp_path / "a", range(10)), tmp_path / "cache"
    seen = []

    def cancel() -> None:
        seen.append(1)
        if len(seen) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(root, cache, step=cancel)
    made = prepare(root, cache)
    assert (made.encoded, made.found) == (4, 6)
    assert shards(cache) == shards(prepare(root, tmp_path / "fresh").cache.folder)
