"""Which pictures the names in lists mean: of attributes, and of held-out faces."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from realism_core.conditioning.vocabulary import NAMES
from realism_core.training.faces_attributes import to_strengths
from realism_core.training.faces_files import FaceFolder, find_faces
from realism_core.training.faces_names import PictureNames, match_rows
from realism_core.training.faces_prepare import FaceSettings, PreparedFaces, prepare_faces
from realism_core.training.faces_problems import Problem
from realism_core.training.faces_split import split
from tests.core import face_trees as trees
from tests.core.test_face_prepare import encode, kinds, prepare

BASES = st.sampled_from(["1", "2", "f.1", "が"])
SUFFIX = st.sampled_from([".png", ".jpg", ""])
FOLDERS = st.lists(st.sampled_from(["a", "b"]), max_size=2).map(lambda parts: "".join(f"{p}/" for p in parts))
PATHS = st.builds("{}{}{}".format, FOLDERS, BASES, st.sampled_from([".png", ".jpg"]))


def bald(found: FaceFolder) -> dict[str, float | None]:
    """Return what is said of each picture: 1, -1, 0, or None for nothing."""
    return {
        face.name: to_strengths(face.attributes)[NAMES.index("Bald")] if face.attributes else None
        for face in found.faces
    }


def listed(root: Path, names: list[str], text: str) -> FaceFolder:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(trees.pixels(number)).save(root / name)
    (root / "attributes.csv").write_text(text, encoding="utf-8")
    return find_faces(root, "csv")


def prepared(
    found: FaceFolder, cache: Path, chosen: int | None = None, refuse: bool = False
) -> PreparedFaces:
    settings = FaceSettings(32, 16, on_problem="refuse" if refuse else "skip")
    return prepare_faces(found, found.faces[:chosen], encode, "a", cache, settings)


@settings(deadline=None)
@given(st.lists(PATHS, unique=True, max_size=8), st.builds("{}{}{}".format, FOLDERS, BASES, SUFFIX))
def test_a_name_means_what_fits_it_best(pictures: list[str], name: str) -> None:
    _, found = PictureNames(pictures).meant(name)
    bare = [picture.rpartition("/")[2] for picture in pictures]
    wanted: list[list[int]] = [
        [i for i, picture in enumerate(pictures) if picture == name],
        [i for i, picture in enumerate(pictures) if picture[:-4] == name],
        [i for i, base in enumerate(bare) if base == name],
        [i for i, base in enumerate(bare) if base[:-4] == name],
    ]
    assert found == next((fits for fits in wanted if fits), [])


@settings(deadline=None)
@given(PATHS, st.integers(0, 3))
def test_ways_to_write_a_path_are_one(picture: str, dots: int) -> None:
    for form in ("NFC", "NFD"):
        name = "./" * dots + unicodedata.normalize(form, picture).replace("/", "\\")
        assert PictureNames(["x.png", picture]).meant(name) == (0, [1])
        assert PictureNames([unicodedata.normalize(form, picture)]).meant(picture) == (0, [0])


@settings(deadline=None)
@given(st.lists(PATHS, unique=True, max_size=6), st.lists(PATHS | BASES, unique=True, max_size=6))
def test_a_row_serves_one_picture_and_nothing_is_silent(pictures: list[str], names: list[str]) -> None:
    rows = {name: bytes([index] * 40) for index, name in enumerate(names)}
    told = match_rows(pictures, range(len(pictures)), rows, [])
    served = defaultdict(list)
    for index, states in enumerate(told.states):
        assert states is None or told.wrong[index] is None
        if states is not None:
            served[states[0]].append(index)
    assert all(len(pictures_of) == 1 for pictures_of in served.values())
    for index, name in enumerate(names):
        if name in pictures:
            assert served[index] == [pictures.index(name)]
        elif index not in served:
            left_out = [told.wrong[picture] for picture in PictureNames(pictures).meant(name)[1]]
            assert any(left_out) or any(problem.file == name for problem in told.problems)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1.png,1\n", {"a/1.png": None, "b/1.png": None}),
        ("1,1\n", {"a/1.png": None, "b/1.png": None}),
        ("a/1.png,1\n1.png,0\n", {"a/1.png": 1, "b/1.png": None}),
        ("1.png,0\nb/1,1\n", {"a/1.png": None, "b/1.png": 1}),
    ],
)
def test_a_row_that_fits_several_pictures_serves_none(tmp_path: Path, text: str, wanted: dict) -> None:
    found = listed(tmp_path / "c", ["a/1.png", "b/1.png", "2.png"], f"image,Bald\n2.png,1\n{text}")
    assert bald(found) == {"2.png": 1, **wanted}
    made = prepared(found, tmp_path / "cache")
    left_out = sum(state is None for state in wanted.values())
    assert kinds(made) == {"wrong attributes": left_out} and made.problems.serious == left_out
    assert "fits 2 pictures, such as a/1.png and b/1.png: give each" in made.report()
    assert "b/1.png: the row 1" in made.report() or "a/1.png: the row 1" in made.report()


def test_suffixes_apart_are_several_too(tmp_path: Path) -> None:
    found = listed(tmp_path / "c", ["a.jpg", "a.png", "b.png"], "image,Bald\na,1\nb,1\n")
    assert bald(found) == {"a.jpg": None, "a.png": None, "b.png": 1}


def test_a_root_picture_has_its_bare_name_alone(tmp_path: Path) -> None:
    found = listed(tmp_path / "c", ["1.png", "a/1.png"], "image,Bald\n1.png,1\n")
    assert bald(found) == {"1.png": 1, "a/1.png": None} and not found.problems


def test_two_rows_of_one_picture_are_told(tmp_path: Path) -> None:
    found = listed(tmp_path / "c", ["1.png", "2.png"], "image,Bald\n1,0\n1.png,1\n2.png,1\n")
    assert bald(found) == {"1.png": 1, "2.png": 1}
    (problem,) = found.problems
    assert (problem.file, problem.left_out) == ("1", False) and "the row 1.png already" in problem.about


def test_names_of_other_systems_are_found(tmp_path: Path) -> None:
    names = [unicodedata.normalize("NFD", "がぞう.png"), "sub/f1.png", "ok.png"]
    text = "image,Bald\nがぞう.png,1\nsub\\f1.png,0\n./ok.png,1\n"
    found = listed(tmp_path / "c", names, text)
    assert bald(found) == dict(zip(names, (1, -1, 1), strict=True)) and not found.problems


def test_a_bad_row_is_told_once_and_only_of_a_chosen_face(tmp_path: Path) -> None:
    text = "image,Bald\nf0.png,1\nf1.png,maybe\nf2.png,1\nf2.png,0\n"
    found = listed(tmp_path / "c", ["f0.png", "f1.png", "f2.png"], text)
    made = prepared(found, tmp_path / "cache")
    assert kinds(made) == {"wrong attributes": 2} and made.problems.serious == 1
    assert "attributes.csv line 3: f1.png has 'maybe'" in made.report()
    assert "attributes.csv line 5: f2.png has a row already" in made.report()
    assert not kinds(prepared(found, tmp_path / "cache", chosen=1, refuse=True))


@pytest.mark.parametrize("kind", ["celebamask-hq", "csv"])
def test_rows_of_faces_that_are_not_chosen_refuse_nothing(tmp_path: Path, kind: str) -> None:
    numbers, rows = [0, 1, 3], {f"{n}.jpg": trees.states(n) for n in range(2000)}
    if kind == "csv":
        root = tmp_path / "c"
        root.mkdir()
        for number in numbers:
            Image.fromarray(trees.pixels(number)).save(root / f"{number}.jpg")
        trees.write_list(root / "list_attr_celeba.txt", rows)
    else:
        root = trees.celebamask(tmp_path / "c", numbers)
        trees.write_list(root / trees.ATTRIBUTES, rows)
    found = find_faces(root, kind)
    made = prepared(found, tmp_path / "cache")
    assert kinds(made) == {"missing picture": 1, "unused row": 1996} and made.problems.serious == 1
    assert made.problems.examples("missing picture")[0].file == "2.jpg"
    made = prepared(found, tmp_path / "cache", chosen=2, refuse=True)
    assert kinds(made) == {"unused row": 1997} and made.problems.serious == 0


def test_problems_of_the_file_as_a_whole_stay(tmp_path: Path) -> None:
    root = trees.celebamask(tmp_path / "a", range(2))
    text = (root / trees.ATTRIBUTES).read_text()
    (root / trees.ATTRIBUTES).write_text("9" + text[1:])
    assert kinds(prepare(root, tmp_path / "cache")) == {"wrong attributes": 1}
    assert match_rows(["a"], [0], {}, [Problem("cache", "x", "y")]).problems[0].file == "x"


def test_held_out_lists(tmp_path: Path) -> None:
    found = listed(tmp_path / "c", ["a.jpg", "a.png", "s/b.png", "c.png"], "image,Bald\nc.png,1\n")
    chosen = tmp_path / "test.txt"
    chosen.write_text("s\\b.png\n./c\na.png\n")
    assert [face.name for face in split(found, "held out", chosen)] == ["a.png", "c.png", "s/b.png"]
    assert [face.name for face in split(found, "training", chosen)] == ["a.jpg"]
    for content, told in (
        (b"a\n", r"has 'a', which fits 2 pictures, such as a\.jpg and a\.png"),
        (b"\n \n", r"names no face: write one name such as a\.jpg a line, or leave held_out_list empty"),
        (b"", "names no face"),
        ("画像.png".encode("cp932"), "no UTF-8 text: save it as UTF-8"),
    ):
        chosen.write_bytes(content)
        for part in ("training", "held out", "all"):
            with pytest.raises(ValueError, match=told):
                split(found, part, chosen)


@settings(deadline=None)
@given(st.integers(0, 99_999), st.integers(0, 4), st.sampled_from(["", ".jpg", ".png"]))
def test_numbers_may_have_zeros_before_them(number: int, zeros: int, suffix: str) -> None:
    names = PictureNames(["100000.jpg", f"{number:05d}.jpg"], by_number=True)
    assert names.meant("0" * zeros + f"{number}{suffix}") == (0, [1])
    assert names.meant("1" * 5000)[1] == [] and names.meant("².jpg")[1] == []
