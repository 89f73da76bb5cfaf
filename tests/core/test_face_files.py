"""Finding the faces of a data set, their attributes, and the parts of the split."""

from __future__ import annotations

from pathlib import Path

import pytest

from realism_core.conditioning.vocabulary import NAMES
from realism_core.training.faces_attributes import read_attribute_file, to_attributes, to_strengths
from realism_core.training.faces_entry import mark_of
from realism_core.training.faces_files import find_faces
from realism_core.training.faces_problems import FIXES, Problem, ProblemTable
from realism_core.training.faces_split import describe_split, split
from tests.core import face_trees as trees


def table(path: Path, text: str) -> dict[str, dict[str, float]]:
    """Return the strengths of each row of a CSV that has no problem."""
    path.write_text(text, encoding="utf-8")
    rows, problems = read_attribute_file(path)
    assert not problems
    return {name: dict(to_attributes(to_strengths(row)).strengths) for name, row in rows.items()}


def test_celebamask_is_found_by_number(tmp_path: Path) -> None:
    root = trees.celebamask(tmp_path / "a", [0, 3, 1999, 2000, 27000])
    found = find_faces(root, "celebamask-hq")
    assert [face.place for face in found.faces] == [0, 3, 1999, 2000, 27000]
    assert not found.problems and found.has_masks
    for face in found.faces:
        assert to_strengths(face.attributes) == trees.states(face.place)
        assert Path(face.picture).is_file()
        assert (Path(face.mask) / f"{face.number:05d}_skin.png").is_file()


def test_the_split_is_by_number_or_by_a_list(tmp_path: Path) -> None:
    found = find_faces(trees.celebamask(tmp_path / "a", [5, 26999, 27000, 29999]), "celebamask-hq")
    assert [face.place for face in split(found, "training")] == [5, 26999]
    assert [face.place for face in split(found, "held out")] == [27000, 29999]
    assert len(split(found, "all")) == 4
    assert "26999" in describe_split(found, "training")
    chosen = tmp_path / "test.txt"
    chosen.write_text("5.jpg\n29999\n\n")
    assert [face.place for face in split(found, "held out", chosen)] == [5, 29999]
    assert [face.place for face in split(found, "training", chosen)] == [26999, 27000]
    assert "test.txt" in describe_split(found, "training", chosen)
    chosen.write_text("5.jpg\n77.jpg\n")
    with pytest.raises(ValueError, match=r"1 names of no face, the first '77\.jpg'"):
        split(found, "all", chosen)
    with pytest.raises(ValueError, match="cannot be read"):
        split(found, "held out", tmp_path / "none.txt")


def test_an_empty_part_is_refused_and_small_sets_hold_out_a_tenth(tmp_path: Path) -> None:
    found = find_faces(trees.celebamask(tmp_path / "a", [1, 2]), "celebamask-hq")
    with pytest.raises(ValueError, match="none of the 2 faces"):
        split(found, "held out")
    with pytest.raises(ValueError, match="split is 'test'"):
        split(found, "test")
    found = find_faces(trees.own(tmp_path / "b", 20, apart=False), "folder")
    held = split(found, "held out")
    assert [face.place for face in held] == [18, 19]
    assert split(found, "training") == found.faces[:18]


@pytest.mark.parametrize("apart", [False, True])
def test_folders_of_ones_own(tmp_path: Path, apart: bool) -> None:
    root = trees.own(tmp_path / "own", 3, apart)
    found = find_faces(root, "folder")
    assert [face.name for face in found.faces] == ["p0.png", "p1.png", "p2.png"]
    assert not found.problems
    for face in found.faces:
        assert Path(face.mask).is_file() and Path(face.attributes).is_file()


@pytest.mark.parametrize("apart", [False, True])
def test_extra_files_in_folders_of_ones_own(tmp_path: Path, apart: bool) -> None:
    root = trees.own(tmp_path / "own", 2, apart)
    masks = root / "masks" if apart else root
    (masks / ("p9.png" if apart else "p9.mask.png")).write_bytes(b"")
    (root / ("attributes/p8.json" if apart else "p8.json")).write_text("{}")
    (masks / "notes.doc").write_text("x")
    (root / ("images" if apart else "") / "p1.jpg").write_bytes(b"")
    found = find_faces(root, "folder")
    assert len(found.faces) == 2
    assert sorted(problem.file for problem in found.problems) == [
        "notes.doc", "p1.png", "p8.json", "p9.png" if apart else "p9.mask.png",
    ]  # fmt: skip
    assert {problem.kind for problem in found.problems} == {"extra file"}


def test_extra_files_and_rows_of_celebamask(tmp_path: Path) -> None:
    root = trees.celebamask(tmp_path / "a", [0, 1])
    parts = root / trees.PARTS / "0"
    for name in ("00000_beard.png", "00007_skin.png", "02001_skin.png", "0_skin.png", "mask.txt"):
        (parts / name).write_bytes(b"")
    (root / trees.PARTS / "list.txt").write_text("")
    (root / trees.IMAGES / "cover.jpg").write_bytes(b"")
    (root / trees.IMAGES / ".DS_Store").write_bytes(b"")
    rows = {f"{number}.jpg": trees.states(number) for number in (0, 1, 5)}
    trees.write_list(root / trees.ATTRIBUTES, rows)
    problems = find_faces(root, "celebamask-hq").problems
    told = {problem.file: problem for problem in problems}
    assert sorted(told) == [
        "00000_beard.png", "00007_skin.png", "02001_skin.png", "0_skin.png", "5.jpg", "cover.jpg",
        "list.txt", "mask.txt",
    ]  # fmt: skip
    assert told["5.jpg"].kind == "missing picture" and told["5.jpg"].left_out
    assert "belongs into 1" in told["02001_skin.png"].about
    assert "beard" in told["00000_beard.png"].about
    assert {problem.kind for name, problem in told.items() if name != "5.jpg"} == {"extra file"}


def test_names_of_celebamask_pictures_are_taken_as_they_are(tmp_path: Path) -> None:
    root = trees.celebamask(tmp_path / "a", range(4))
    images = root / trees.IMAGES
    for number, name in enumerate(("00000.jpg", "1.JPG", "002.png")):
        (images / f"{number}.jpg").rename(images / name)
    (images / "3.png").write_bytes(b"")
    rows = {f"{number:05d}.jpg": trees.states(number) for number in range(4)}
    trees.write_list(root / trees.ATTRIBUTES, rows)
    found = find_faces(root, "celebamask-hq")
    assert [(face.place, face.name) for face in found.faces] == [
        (0, "00000.jpg"), (1, "1.JPG"), (2, "002.png"), (3, "3.jpg"),
    ]  # fmt: skip
    for face in found.faces:
        assert Path(face.picture).is_file() and to_strengths(face.attributes) == trees.states(face.place)
    (problem,) = found.problems
    assert (problem.kind, problem.file) == ("extra file", "3.png") and "3.jpg has the same" in problem.about
    chosen = tmp_path / "test.txt"
    chosen.write_text("0\n00001.jpg\n2.png\n")
    assert [face.place for face in split(found, "training", chosen)] == [3]


def test_without_any_face_the_first_other_file_is_named(tmp_path: Path) -> None:
    root = trees.celebamask(tmp_path / "a", [])
    (root / trees.PARTS).mkdir()
    (root / trees.IMAGES / "cover.psd").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no faces of kind celebamask-hq \(cover\.psd: is no picture"):
        find_faces(root, "celebamask-hq")


@pytest.mark.parametrize("apart", [False, True])
def test_endings_count_in_any_case(tmp_path: Path, apart: bool) -> None:
    root = trees.own(tmp_path / "own", 2, apart)
    masks, texts = (root / "masks", root / "attributes") if apart else (root, root)
    ending = ".png" if apart else ".mask.png"
    (masks / f"p0{ending}").rename(masks / f"p0{ending.upper()}")
    (texts / "p1.json").rename(texts / "p1.JSON")
    (masks / f"p1{ending.upper()}").write_bytes(b"")
    found = find_faces(root, "folder")
    assert [face.name for face in found.faces] == ["p0.png", "p1.png"]
    for face in found.faces:
        assert Path(face.mask).is_file() and Path(face.attributes).is_file()
    assert [problem.kind for problem in found.problems] == ["extra file"]
    assert "has the same name" in found.problems[0].about


def test_other_files_and_folders_among_the_images_are_told(tmp_path: Path) -> None:
    root = trees.own(tmp_path / "own", 2, apart=True)
    (root / "images" / "notes.doc").write_text("x")
    (root / "images" / "sub").mkdir()
    found = find_faces(root, "folder")
    assert len(found.faces) == 2
    assert [(problem.kind, problem.file) for problem in found.problems] == [
        ("extra file", "notes.doc"), ("extra file", "sub"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "text"),
    [("celebamask-hq", "has no CelebA-HQ-img and no CelebAMask"), ("folder", "no faces of kind folder"),
     ("csv", "give attribute_file"), ("video", "kind is 'video'")],
)  # fmt: skip
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, kind: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        find_faces(tmp_path, kind)


def test_bad_folders_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        find_faces(tmp_path / "none", "folder")
    with pytest.raises(ValueError, match="leave it empty"):
        find_faces(tmp_path, "folder", tmp_path / "a.csv")
    with pytest.raises(ValueError, match="cannot be read"):
        find_faces(tmp_path, "csv", tmp_path / "a.csv")


def test_celebas_own_list(tmp_path: Path) -> None:
    root = trees.listed(tmp_path / "c", 2, "")
    trees.write_list(root / "list_attr_celeba.txt", {f"f{n}.png": trees.states(n) for n in range(2)})
    (root / "attributes.csv").unlink()
    found = find_faces(root, "csv")
    assert [to_strengths(face.attributes) for face in found.faces] == [trees.states(0), trees.states(1)]
    assert not found.has_masks and not found.problems and found.faces[0].mask is None


def test_tables_of_ones_own(tmp_path: Path) -> None:
    """Names in any spelling, columns in any order, opposites, and what 0 means."""
    path = tmp_path / "a.csv"
    both = {"Smiling": 1.0, "Bald": -1.0}
    assert table(path, "image,Bald,smiling\na.png,0,1\n") == {"a.png": both}
    assert table(path, "image\tsmile\tbald\na.png\tyes\tFALSE\n") == {"a.png": both}
    assert table(path, "名前;笑顔;禿頭\na.png;1;-1\nb.png;0;\n") == {"a.png": both, "b.png": {}}
    assert table(path, '"image","woman"\n"a, b.png","1"\n') == {"a, b.png": {"Male": -1.0}}
    assert table(path, "\ufeffimage,Young\r\na.png,1\r\n\r\n") == {"a.png": {"Young": 1.0}}


@pytest.mark.parametrize(
    ("text", "told"),
    [("image,Smilling\na,1\n", "Did you mean Smiling"), ("image,Smiling,smile\na,1,1\n", "two columns"),
     ("", "no columns"), ("Smiling\n", "no columns"), ("2\nSmilin Bald\n", "Did you mean Smiling"),
     ("3\n", "no attribute"), ("image,qqqqqqqqqqqq\na,1\n", "Remove the column")],
)  # fmt: skip
def test_tables_that_cannot_be_read(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=told):
        read_attribute_file(path)


def test_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"image,Smiling\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="no UTF-8"):
        read_attribute_file(path)


def test_bad_rows_are_told_and_the_others_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("image,Smiling,Bald\na,1,0\nb,1\nc,1,maybe\na,0,0\nd,0,1\n")
    rows, problems = read_attribute_file(path)
    assert list(rows) == ["a", "d"]
    assert [problem.file for problem in problems] == ["a.csv line 3", "a.csv line 4", "a.csv line 5"]
    assert "1 values for 2" in problems[0].about and "'maybe'" in problems[1].about
    path = tmp_path / "list.txt"
    path.write_text(f"5\n{' '.join(NAMES)}\n0.jpg {' '.join(['1'] * 40)}\n1.jpg 1 1\n")
    rows, problems = read_attribute_file(path)
    assert list(rows) == ["0.jpg"] and len(problems) == 2
    assert "says 5 faces, but it has 1" in problems[1].about


def test_names_of_a_table_may_lack_folder_and_suffix(tmp_path: Path) -> None:
    root = trees.listed(tmp_path / "c", 3, "image,Bald\nf0.png,1\nsub/f1.png,1\nf2,0\nf7,0\n")
    (root / "sub").mkdir()
    (root / "f1.png").rename(root / "sub" / "f1.png")
    found = find_faces(root, "csv")
    assert {face.name: to_strengths(face.attributes)[NAMES.index("Bald")] for face in found.faces} == {
        "f0.png": 1, "sub/f1.png": 1, "f2.png": -1,
    }  # fmt: skip
    assert [problem.file for problem in found.problems] == ["f7"]


def test_marks_change_with_files_and_rows(tmp_path: Path) -> None:
    root = trees.celebamask(tmp_path / "a", [0])
    face = find_faces(root, "celebamask-hq").faces[0]
    marks = {mark_of(face)}
    (root / trees.PARTS / "0" / "00000_eye_g.png").write_bytes(b"a")
    marks.add(mark_of(face))
    (root / trees.IMAGES / "0.jpg").write_bytes(b"b")
    marks.add(mark_of(face))
    marks.add(mark_of(face._replace(attributes=bytes(40))))
    marks.add(mark_of(face._replace(attributes=None)))
    (root / trees.PARTS / "0" / "00000_skin.png").unlink()
    marks.add(mark_of(face))
    assert len(marks) == 6
    assert mark_of(face) in marks


def test_the_table_counts_all_and_shows_a_few() -> None:
    table = ProblemTable()
    assert table.text() == "" and len(table) == 0
    for number in range(1000):
        table.add(Problem("broken mask", f"{number}.png", "is cut short"))
    table.add(Problem("extra file", "notes.doc", "is no picture", left_out=False))
    assert len(table) == 1001 and table.serious == 1000 and len(table.examples("broken mask")) == 3
    lines = table.text().splitlines()
    assert lines[1].split() == ["broken", "mask", "1000", "1000", *FIXES["broken mask"].split()]
    assert lines[2:6] == [*(f"  {n}.png: is cut short" for n in range(3)), "  ... and 997 more"]
    assert lines[-1] == "  notes.doc: is no picture"
    with pytest.raises(KeyError):
        table.add(Problem("odd", "a", "b"))
