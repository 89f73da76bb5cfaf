"""Finding and reading picture files: order, every odd file kind, damage, memory."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realism_core import pictures
from realism_core.pictures import PictureError, find_pictures, read_batches, read_picture

# Pillow's own remarks on damaged files are not what is tested here
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def noise(height: int = 12, width: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def put(path: Path, array: np.ndarray | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if array is None else array).save(path, **options)
    return path


def below(folder: Path, *paths, **options) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_pictures(paths or [folder], **options)]


# finding


def test_a_folder_gives_its_pictures_in_natural_order(tmp_path: Path) -> None:
    names = [
        "img10.png",
        "img2.PNG",
        "img1.jpg",
        "b/z.webp",
        "B2/x.tif",
        "a10/1.gif",
        "a9/1.bmp",
        "img2b.jpeg",
    ]
    for name in [*names, "notes.txt", ".hidden.png", ".git/x.png", "x.png.realism.part"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    files = ["img1.jpg", "img2.PNG", "img2b.jpeg", "img10.png"]
    assert below(tmp_path) == [*files, "a9/1.bmp", "a10/1.gif", "b/z.webp", "B2/x.tif"]
    assert below(tmp_path, recursive=False) == files


def test_files_folders_and_patterns_mix_and_nothing_comes_twice(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/c/4.png", "odd.dat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    named = [tmp_path / "odd.dat", tmp_path / "a/2.png", tmp_path / "a", f"{tmp_path}/*/[13].png"]
    assert below(tmp_path, *named) == ["odd.dat", "a/2.png", "a/1.png", "b/3.png"]
    assert below(tmp_path, f"{tmp_path}/b*") == ["b/3.png", "b/c/4.png"]
    assert below(tmp_path, f"{tmp_path}/**/*.png") == ["a/1.png", "a/2.png", "b/3.png", "b/c/4.png"]


def test_names_with_glob_characters_and_dots_are_plain_names(tmp_path: Path) -> None:
    put(tmp_path / "a[1]" / "x?[0].png")
    assert below(tmp_path, tmp_path / "a[1]") == ["a[1]/x?[0].png"]
    found = list(find_pictures([tmp_path / "a[1]" / ".." / "a[1]" / "x?[0].png"]))
    assert read_picture(found[0]).shape == (12, 16, 3)


def test_skipped_folders_are_left_out_even_through_links(tmp_path: Path) -> None:
    for name in ("in/1.png", "in/passed/2.png", "in/passed-not/3.png"):
        put(tmp_path / name)
    (tmp_path / "in/link").symlink_to(tmp_path / "in/passed")
    assert below(tmp_path, tmp_path / "in", skip=[tmp_path / "in/passed"]) == [
        "in/1.png",
        "in/passed-not/3.png",
    ]
    assert below(tmp_path, f"{tmp_path}/in/*", skip=[tmp_path / "in/link"]) == [
        "in/1.png",
        "in/passed-not/3.png",
    ]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("empty", "empty holds no pictures"),
        ("missing.png", "does not exist"),
        ("*.png", "matches no picture"),
    ],
)
def test_nothing_found_is_said_at_once(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    good = put(tmp_path / "good.jpg")
    with pytest.raises(ValueError, match=says):
        find_pictures([good, tmp_path / name])


def test_no_path_at_all() -> None:
    with pytest.raises(ValueError, match="no pictures were named"):
        find_pictures([])


# reading


def test_rgb_comes_as_stored(tmp_path: Path) -> None:
    picture = read_picture(put(tmp_path / "a.png"))
    assert picture.dtype == torch.uint8
    assert np.array_equal(picture.numpy(), noise())
    picture[0, 0, 0] = 7  # not read-only


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = put(tmp_path / f"a.{suffix}", exif=exif, **options)
    array = noise()
    upright = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: array.transpose(1, 0, 2)[:, ::-1],
        7: array[::-1, ::-1].transpose(1, 0, 2),
        8: array.transpose(1, 0, 2)[::-1],
    }
    assert np.array_equal(read_picture(path).numpy(), upright[orientation])


def test_a_rotated_jpeg_photo_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_picture(put(tmp_path / "a.jpg", exif=exif)).shape == (16, 12, 3)


def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_picture(path).shape == (12, 16, 3)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_other_modes_become_rgb_as_pillow_does(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(noise(channels=4)).convert(mode)
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png").numpy(), np.array(image.convert("RGB")))


def test_alpha_keeps_the_colour_under_it(tmp_path: Path) -> None:
    array = noise(channels=4)
    array[..., 3] = 0
    assert np.array_equal(read_picture(put(tmp_path / "a.png", array)).numpy(), array[..., :3])


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(noise()).quantize(16)
    image.save(tmp_path / "a.png", transparency=bytes(range(16)))
    assert np.array_equal(read_picture(tmp_path / "a.png").numpy(), np.array(image.convert("RGB")))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    image = Image.fromarray(noise()).convert("CMYK")
    image.save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as stored:
        assert stored.mode == "CMYK"
        expected = np.array(stored.convert("RGB"))
    assert np.array_equal(read_picture(tmp_path / "a.jpg").numpy(), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_counts_by_its_high_byte(tmp_path: Path, suffix: str) -> None:
    cv2 = pytest.importorskip("cv2")
    deep = np.random.default_rng(1).integers(0, 65536, (12, 16, 3), dtype=np.uint16)
    high = (deep >> 8).astype(np.uint8)
    put(tmp_path / f"grey.{suffix}", deep[..., 0])
    assert np.array_equal(read_picture(tmp_path / f"grey.{suffix}").numpy(), high[..., :1].repeat(3, -1))
    assert cv2.imwrite(str(tmp_path / f"rgb.{suffix}"), deep[..., ::-1].copy())
    assert np.array_equal(read_picture(tmp_path / f"rgb.{suffix}").numpy(), high)


def test_float_and_32_bit_pixels_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "float.tif", noise(channels=1).astype(np.float32))
    put(tmp_path / "deep.tif", noise(channels=1).astype(np.int32) * 70000)
    put(tmp_path / "narrow.tif", noise(channels=1).astype(np.int32) * 256)
    with pytest.raises(PictureError, match=r"float\.tif holds floating-point pixels.*save it with"):
        read_picture(tmp_path / "float.tif")
    with pytest.raises(PictureError, match=r"deep\.tif holds 32-bit pixels"):
        read_picture(tmp_path / "deep.tif")
    assert np.array_equal(read_picture(tmp_path / "narrow.tif").numpy()[..., 0], noise(channels=1))


@pytest.mark.parametrize("suffix", ["webp", "gif", "png"])
def test_the_first_frame_of_an_animation_counts(tmp_path: Path, suffix: str) -> None:
    red, blue = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if suffix == "webp" else {}
    red.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[blue, red], duration=100, **options)
    assert read_picture(tmp_path / f"a.{suffix}").tolist() == [[[255, 0, 0]] * 8] * 6


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 7), (1, 300)])
def test_tiny_pictures_are_read_as_they_are(tmp_path: Path, height: int, width: int) -> None:
    assert read_picture(put(tmp_path / "a.png", noise(height, width))).shape == (height, width, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = put(tmp_path / f"cut.{suffix}", noise(64, 64))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(PictureError, match=rf"cut\.{suffix} is .*leave it out\.$"):
        read_picture(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp"])
def test_damage_anywhere_gives_a_picture_or_a_picture_error(tmp_path: Path, suffix: str) -> None:
    data = put(tmp_path / f"a.{suffix}", noise(24, 24)).read_bytes()
    dice = random.Random(suffix)
    path = tmp_path / f"hurt.{suffix}"
    for _ in range(60):
        hurt = bytearray(data)
        for _ in range(dice.randint(1, 6)):
            hurt[dice.randrange(min(len(hurt), 600))] = dice.randrange(256)
        path.write_bytes(hurt)
        try:
            assert read_picture(path).dtype == torch.uint8
        except PictureError as error:
            assert path.name in str(error)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "program.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name in ("text.png", "program.png"):
        with pytest.raises(PictureError, match=rf"{name} is no PNG, JPEG"):
            read_picture(tmp_path / name)
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(PictureError, match="check the name"):
            read_picture(path)


@pytest.mark.parametrize("limit", [100, 40])
def test_decompression_bombs_are_a_sentence(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    if limit == 100:  # under twice the limit Pillow only warns
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.warns(Image.DecompressionBombWarning):
            assert read_picture(path).shape == (12, 16, 3)
        return
    with pytest.raises(PictureError, match=r"big\.png has more pixels than is safe"):
        read_picture(path)


def test_max_side_scales_larger_pictures_only(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png", noise(30, 90))
    assert read_picture(path, max_side=90).shape == (30, 90, 3)
    expected = np.array(Image.fromarray(noise(30, 90)).resize((45, 15), Image.Resampling.LANCZOS))
    assert np.array_equal(read_picture(path, max_side=45).numpy(), expected)


# streams


def test_batches_come_in_order_with_errors_in_place(tmp_path: Path) -> None:
    paths = [put(tmp_path / f"{index}.png", noise(seed=index)) for index in range(20)]
    paths[7].write_bytes(b"broken")
    got = list(read_batches(paths, threads=4))
    assert [path for path, _ in got] == paths
    for index, (_, picture) in enumerate(got):
        if index == 7:
            assert isinstance(picture, PictureError)
        else:
            assert np.array_equal(picture.numpy(), noise(seed=index))


def test_only_a_window_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.png")
    asked = 0

    def paths():
        nonlocal asked
        for _ in range(100_000):
            asked += 1
            yield path

    running, most, lock = 0, 0, threading.Lock()
    read = pictures._try_read

    def counted(*args):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        try:
            return read(*args)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(pictures, "_try_read", counted)
    stream = read_batches(paths(), threads=2, ahead=5)
    for taken in range(1, 50):
        next(stream)
        assert asked <= taken + 5
    stream.close()
    assert most == 2


def test_a_large_folder_starts_at_once(tmp_path: Path) -> None:
    for index in range(20_000):
        os.close(os.open(tmp_path / f"{index}.png", os.O_CREAT))
    start = time.perf_counter()
    found = find_pictures([tmp_path])
    assert next(found).name == "0.png"
    assert time.perf_counter() - start < 5
    assert sum(1 for _ in found) == 19_999
