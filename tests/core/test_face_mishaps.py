"""What goes wrong while faces are encoded and given out: NaN, lost shards, folders and disks, workers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from realism_core.training import faces_prepare
from realism_core.training.faces_cache import FaceCache
from realism_core.training.faces_files import find_faces
from realism_core.training.faces_prepare import FaceProblems, FaceSettings, PreparedFaces, prepare_faces
from realism_core.training.faces_read import Task, read_faces
from tests.core import face_trees as trees
from tests.core.test_face_prepare import SETTINGS, encode, kinds, prepare


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces_prepare, "PER_SHARD", 4)


def prepare_with_nan(root: Path, cache: Path, value: float, settings: FaceSettings) -> PreparedFaces:
    """Prepare faces with a VAE that fails for picture 1."""
    source = find_faces(root, "folder")
    broken = torch.from_numpy(trees.pixels(1))

    def failing(picture: Tensor) -> Tensor:
        latent = encode(picture)
        if torch.equal(picture, broken):
            latent[0, 0, 0] = value
        return latent

    return prepare_faces(source, source.faces, failing, "a", cache, settings)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_latent_of_nan_is_a_problem_of_its_face_alone(tmp_path: Path, value: float) -> None:
    root, cache = trees.own(tmp_path / "own", 6, apart=False), tmp_path / "cache"
    made = prepare_with_nan(root, cache, value, SETTINGS)
    assert [face.name for face in made] == ["p0.png", "p2.png", "p3.png", "p4.png", "p5.png"]
    assert kinds(made) == {"broken latent": 1} and made.problems.serious == 1
    assert "p1.png: the VAE gave NaN" in made.report() and "fp32 or bf16" in made.report()
    again = prepare_with_nan(root, cache, value, SETTINGS)
    assert (again.encoded, again.found) == (0, 5) and kinds(again) == {"broken latent": 1}
    with pytest.raises(FaceProblems, match="broken latent"):
        prepare_with_nan(root, cache, value, FaceSettings(32, 16, on_problem="refuse"))
    healthy = prepare(root, cache, kind="folder")
    assert (healthy.encoded, healthy.found) == (1, 5)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("how", ["folder", "shard", "rewritten"])
def test_faces_that_are_gone_from_disk_are_told(tmp_path: Path, how: str) -> None:
    root, cache = trees.own(tmp_path / "own", 6, apart=False), tmp_path / "cache"
    made = prepare(root, cache, kind="folder")
    assert len(list(made)) == 6
    if how == "folder":
        shutil.rmtree(cache)
    elif how == "shard":
        made.cache.path(1).unlink()
    else:  # as by another program that read it before these faces were added
        made.cache.write(1, made.cache.read(1)[:1])
    count = {"folder": "4 of 4", "shard": "2 of 2", "rewritten": "1 of 2"}[how]
    with pytest.raises(ValueError, match=f"{count} encoded faces are gone from .*run this again"):
        list(made)
    again = prepare(root, cache, kind="folder")
    assert again.encoded == {"folder": 6, "shard": 2, "rewritten": 1}[how] and len(list(again)) == 6


def test_faces_keep_their_order_where_one_is_added_before_them(tmp_path: Path) -> None:
    root, cache = trees.own(tmp_path / "own", 3, apart=False), tmp_path / "cache"
    prepare(root, cache, kind="folder")
    for ending in (".png", ".mask.png", ".json"):
        shutil.copy(root / f"p0{ending}", root / f"a{ending}")
    made = prepare(root, cache, kind="folder")
    assert (made.encoded, made.found) == (1, 3)
    assert [face.name for face in made] == ["a.png", "p0.png", "p1.png", "p2.png"]


def test_faces_do_not_keep_their_shard_in_memory(tmp_path: Path) -> None:
    made = prepare(trees.own(tmp_path / "own", 9, apart=False), tmp_path / "cache", kind="folder")
    for face in made:
        assert face.latent.untyped_storage().nbytes() == face.latent.nbytes
        assert face.mask.stored.untyped_storage().nbytes() == face.mask.stored.nbytes


def test_a_cache_folder_that_cannot_be_made_is_told_before_anything_is_encoded(tmp_path: Path) -> None:
    root = trees.own(tmp_path / "own", 2, apart=False)
    (tmp_path / "cache").write_text("a file")
    source, seen = find_faces(root, "folder"), []

    def counted(picture: Tensor) -> Tensor:
        seen.append(1)
        return encode(picture)

    with pytest.raises(ValueError, match=r"the latents cannot be kept in .*cache.*: let this user write"):
        prepare_faces(source, source.faces, counted, "a", tmp_path / "cache", SETTINGS)
    assert not seen


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    cache = FaceCache(tmp_path, {"vae": "a"})
    cache.open()
    old, young, other = (
        cache.folder / name for name in ("faces-00001.safetensors.ab.part", "faces-00002.safetensors.cd.part",
                                         "mine.part")
    )  # fmt: skip
    for path in (old, young, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (0, 0))
    cache.open()
    assert not old.exists() and young.exists() and other.exists()


def test_a_cancel_is_told_even_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, tried = trees.own(tmp_path / "own", 3, apart=False), []

    def full(*args: object) -> None:
        tried.append(args)
        raise OSError(28, "No space left on device")

    def cancel() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FaceCache, "write", full)
    with pytest.raises(KeyboardInterrupt):
        prepare(root, tmp_path / "cache", kind="folder", step=cancel)
    assert len(tried) == 1
    with pytest.raises(OSError, match="No space left"):
        prepare(root, tmp_path / "cache", kind="folder")


@pytest.mark.parametrize(
    ("told", "died"),
    [("DataLoader worker (pid(s) 7) exited unexpectedly", True),
     ("DataLoader worker (pid 7) is killed by signal: Killed. ", True),
     ("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback: no worker", False)],
)  # fmt: skip
def test_what_a_worker_raises_is_told_apart_from_its_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, died: bool
) -> None:
    class Loader:
        def __init__(self, *args: object, **options: object) -> None:
            pass

        def __iter__(self) -> Iterator[tuple]:
            raise RuntimeError(told)
            yield

    monkeypatch.setattr(torch.utils.data, "DataLoader", Loader)
    (face,) = find_faces(trees.own(tmp_path / "own", 1, apart=False), "folder").faces
    with pytest.raises(RuntimeError) as error:
        list(read_faces([Task(face, 32, 16)], workers=1))
    assert ("ended by itself" in str(error.value)) == died
    assert told in str(error.value)
