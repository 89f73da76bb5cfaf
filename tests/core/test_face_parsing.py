"""Face parsing against independent references, on a SegFormer that reads classes off grey levels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from realism_core.conditioning.mask_edits import mirror
from realism_core.conditioning.masks import CLASSES, SemanticMask
from realism_core.conditioning.parser_model import FaceParser, Preparation, load_parser
from realism_core.conditioning.parsing import MOST_FACES, Options, parse
from realism_core.conditioning.vocabulary import LABELS
from tests.core.faces import face
from tests.tiny_parser import blocks, pictures, write_grey_parser, write_parser

HAIR, CLOTH, SKIN = (LABELS[name] for name in ("hair", "cloth", "skin"))


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> FaceParser:
    return load_parser(write_grey_parser(tmp_path_factory.mktemp("grey")))


@pytest.fixture(scope="module")
def random_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parser(tmp_path_factory.mktemp("random"))


def enlarged(labels: Tensor, height: int, width: int) -> Tensor:
    """Return what bilinear enlargement of certain classes [h,w] is, [H,W]."""
    shares = functional.one_hot(labels.long(), CLASSES).movedim(-1, 0)[None].double()
    return functional.interpolate(shares, (height, width), mode="bilinear")[0].argmax(0).byte()


def test_a_face(parser: FaceParser) -> None:
    small = face(64, 64)
    parsed = parse(parser, pictures(blocks(small)[None]))
    assert parsed.faces == (1,) and parsed.mask.is_hard
    assert torch.equal(parsed.mask.labels[0], enlarged(small, 256, 256))
    assert set(small.unique().tolist()) == set(parsed.mask.labels.unique().tolist())


def test_a_soft_mask_holds_the_shares_of_the_network(parser: FaceParser) -> None:
    picture = pictures(blocks(face(64, 64))[None])
    mask = parse(parser, picture, Options(soft=True)).mask
    logits = parser(picture.movedim(-1, 1))
    shares = functional.interpolate(logits, (256, 256), mode="bilinear").softmax(1)
    assert not mask.is_hard and torch.allclose(mask.stored, shares, atol=1e-5)
    assert torch.allclose(mask.stored.sum(1), torch.ones(()), atol=1e-6)


def test_it_is_the_pipeline_of_transformers(random_file: Path) -> None:
    """With the picture prepared by PIL and numpy, as SegFormer's processor does; random weights."""
    from transformers import SegformerForSemanticSegmentation

    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (90, 90, 3), dtype=np.uint8))
    small = np.asarray(picture.resize((64, 64), Image.Resampling.BILINEAR)) / 255
    given = (small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    network = SegformerForSemanticSegmentation.from_pretrained(str(random_file.parent)).eval()
    with torch.no_grad():
        logits = network(torch.from_numpy(given).float().movedim(-1, 0)[None]).logits
    shares = functional.interpolate(logits, (90, 90), mode="bilinear").softmax(1)
    images = torch.from_numpy(np.asarray(picture) / 255).float()[None]
    parser = load_parser(random_file)
    # whatever random weights take for a face
    parsed = parse(parser, images, Options(soft=True))
    assert parsed.faces[0] > 0
    assert torch.allclose(parsed.mask.stored, shares, atol=0.01)


@pytest.mark.parametrize(("height", "width", "seen"), [
    (64, 128, (128, 256)), (300, 100, (256, 96)), (1500, 1000, (256, 160)), (40, 40, (256, 256)),
    (5, 900, (32, 256)),
])  # fmt: skip
def test_other_sizes_and_aspects(parser: FaceParser, height: int, width: int, seen: tuple) -> None:
    """The network sees a picture at its own aspect, in steps of 32 pixels."""
    picture = pictures(face(height, width)[None])
    given = functional.interpolate(picture.movedim(-1, 1), seen, mode="bilinear", antialias=True)
    shares = functional.interpolate(parser(given), (height, width), mode="bilinear")[0].softmax(0)
    parsed = parse(parser, picture)
    if parsed.faces == (0,):
        assert height == 5 and (parsed.mask.labels == 0).all()
    else:
        assert (parsed.mask.labels[0] == shares.argmax(0)).float().mean() > 0.999
    small = parse(parser, picture, Options(side=50)).mask
    assert max(small.size) == 50 and parsed.mask.size == (height, width)
    assert min(small.size) == max(1, round(min(height, width) * 50 / max(height, width)))


@pytest.mark.parametrize("confidence", [0.0, 0.01])
def test_a_big_mask_is_made_strip_by_strip(parser: FaceParser, confidence: float) -> None:
    """As one enlargement would have it, with and without the shares in between."""
    small = face(16, 64)
    picture = blocks(pictures(small[None])[..., 0], 4)[..., None].expand(1, 64, 256, 3)
    mask = parse(parser, picture, Options(side=2048, confidence=confidence)).mask.labels[0]
    assert (mask == enlarged(small, 512, 2048)).float().mean() > 0.9999


def test_a_batch_is_as_its_pictures(parser: FaceParser) -> None:
    batch = torch.cat([pictures(blocks(rows)[None]) for rows in (face(64, 64), face(64, 64).flip(1))])
    batch = torch.cat([batch, torch.rand(1, 256, 256, 3, generator=torch.Generator().manual_seed(1))])
    for options in (Options(), Options(soft=True), Options(each_face=True)):
        together = parse(parser, batch, options)
        alone = [parse(parser, batch[place : place + 1], options) for place in range(3)]
        assert torch.equal(together.mask.stored, torch.cat([one.mask.stored for one in alone]))
        assert together.faces == tuple(one.faces[0] for one in alone)


@pytest.mark.parametrize("soft", [False, True])
def test_no_face(parser: FaceParser, soft: bool) -> None:
    """Clothes, hair and skin without features are no face; the picture beside them is not touched."""
    labels = torch.zeros(64, 64)
    labels[40:] = CLOTH
    labels[:20, :30] = HAIR
    labels[25:35, 10:30] = SKIN
    both = torch.stack([labels, face(64, 64)])
    parsed = parse(parser, pictures(blocks(both)), Options(soft=soft))
    assert parsed.faces == (0, 1)
    assert (parsed.mask.labels[0] == 0).all() and parsed.mask.is_hard != soft
    assert parsed.mask.coverage()[0, 0] == 1 and parsed.mask.coverage()[1, HAIR] > 0.05


def crowd(places: list[tuple[int, int]], side: int = 48, whole: int = 1024) -> Tensor:
    """Return labels of a large picture with small faces at (top, left)."""
    labels = torch.zeros(whole, whole, dtype=torch.uint8)
    for top, left in places:
        labels[top : top + side, left : left + side] = face(side, side)
    return labels


def test_each_face_is_looked_at_again(parser: FaceParser) -> None:
    """Small faces of a large picture come out finer, and nothing else changes."""
    places = [(100, 100), (100, 700), (800, 400)]
    labels = crowd(places, 128)
    picture = pictures(labels[None])
    once, again = (parse(parser, picture, Options(each_face=each)) for each in (False, True))
    # greys between two classes may look like more
    assert once.faces == again.faces and once.faces[0] >= 3

    def agreement(mask: SemanticMask, names: tuple[str, ...]) -> float:
        wanted = [LABELS[name] for name in names]
        is_, was = (torch.isin(part, torch.tensor(wanted)) for part in (mask.labels[0].long(), labels.long()))
        return float((is_ & was).sum() / (is_ | was).sum())

    fine = ("l_eye", "r_eye", "nose", "u_lip", "l_lip")
    assert 1.5 * agreement(once.mask, fine) < agreement(again.mask, fine)
    away = torch.ones(1024, 1024, dtype=torch.bool)
    for top, left in places:
        away[max(0, top - 70) : top + 200, max(0, left - 70) : left + 200] = False
    assert torch.equal(once.mask.labels[0][away], again.mask.labels[0][away])


def test_faces_where_a_mask_says(parser: FaceParser) -> None:
    labels = crowd([(100, 100), (600, 700)], 128)
    mask = torch.zeros(2, 256, 256)  # of another size than the picture
    mask[0, 30:50, 30:50] = 1
    batch = pictures(labels[None]).expand(2, -1, -1, -1)
    parsed = parse(parser, batch, Options(each_face=True), mask)
    assert parsed.faces == (1, 0)
    assert (parsed.mask.labels[1] == 0).all()
    found = parsed.mask.labels[0][100:228, 100:228]
    assert (found == face(128, 128)).float().mean() > 0.85


def test_not_more_than_the_most_faces(parser: FaceParser) -> None:
    passes = []
    spots = [(row, column) for row in range(8) for column in range(8)]
    mask = torch.zeros(1, 80, 80)
    for row, column in spots:
        mask[0, row * 10 : row * 10 + 4, column * 10 : column * 10 + 4] = 1
    picture = pictures(blocks(face(64, 64))[None])
    parse(parser, picture, Options(each_face=True), mask, progress=passes.append)
    assert len(passes) == 1 + MOST_FACES


class Upright(torch.nn.Module):
    """Knows faces only if clothes are below hair."""

    def __init__(self, parser: FaceParser) -> None:
        super().__init__()
        self.network = parser.network

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        logits = self.network(pixel_values=pixel_values).logits.clone()
        shares = logits.softmax(1)
        rows = torch.linspace(0, 1, logits.shape[2])[:, None]
        low, high = ((shares[:, label] * rows).sum() / shares[:, label].sum() for label in (CLOTH, HAIR))
        if low < high + 0.1:
            logits[:, LABELS["background"]] += 30
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_turned_faces(parser: FaceParser, quarters: int) -> None:
    small = torch.rot90(face(64, 64), quarters)
    picture = pictures(blocks(small)[None])
    upright = FaceParser(Upright(parser), parser.classes, parser.taken)
    parsed = parse(upright, picture, Options(turn=True))
    assert torch.equal(parsed.mask.labels[0], enlarged(small, 256, 256))
    assert parse(upright, picture).faces == ((1,) if quarters == 0 else (0,))


def test_a_wide_picture_is_turned_with_its_aspect(parser: FaceParser) -> None:
    labels = torch.rot90(face(256, 128), 1)
    upright = FaceParser(Upright(parser), parser.classes, parser.taken)
    mask = parse(upright, pictures(labels[None].contiguous()), Options(turn=True)).mask
    assert mask.size == (128, 256) and (mask.labels[0] == labels).float().mean() > 0.9


def test_sides_are_swapped(parser: FaceParser) -> None:
    picture = pictures(blocks(face(64, 64))[None])
    plain, swapped = (parse(parser, picture, Options(swap_sides=swap)).mask for swap in (False, True))
    # the mirror image of a face swaps its sides as well
    assert torch.equal(swapped.labels, mirror(plain).labels.flip(2))
    assert not torch.equal(swapped.labels, plain.labels)


def test_confidence(parser: FaceParser) -> None:
    picture = pictures(blocks(face(64, 64))[None])
    sure, all_ = (parse(parser, picture, Options(confidence=share)).mask.labels for share in (0.95, 0.0))
    assert torch.equal(sure[sure > 0], all_[sure > 0])
    shares = parse(parser, picture, Options(soft=True)).mask.stored
    assert torch.equal(sure > 0, (all_ > 0) & (shares.amax(1) >= 0.95))
    soft = parse(parser, picture, Options(confidence=0.95, soft=True)).mask
    assert torch.equal(soft.stored[:, 0] == 1, (sure == 0) & (soft.stored[:, 0] == 1))
    assert torch.equal(soft.labels, sure)


def test_what_pictures_may_be(parser: FaceParser) -> None:
    picture = pictures(blocks(face(64, 64))[None])
    plain = parse(parser, picture).mask.labels
    for same in (picture[..., :1], torch.cat([picture, torch.zeros_like(picture[..., :1])], -1)):
        assert torch.equal(parse(parser, same).mask.labels, plain)
    whole = (picture * 255).round().to(torch.uint8)
    assert (parse(parser, whole).mask.labels == plain).float().mean() > 0.99


@pytest.mark.parametrize(("change", "words"), [
    ({"images": torch.zeros(8, 8, 3)}, "images has shape 8x8x3"),
    ({"images": torch.full((1, 8, 8, 3), torch.nan)}, "images: picture 1 contains NaN"),
    ({"options": Options(confidence=2)}, "confidence is 2: use 0 to 1"),
    ({"options": Options(soft=True, side=16384)}, "a soft mask of 1 pictures of 16384 x 16384 pixels takes"),
    ({"faces": torch.ones(1, 8, 8)}, "each_face is off: switch each_face on, or disconnect it"),
    ({"faces": torch.ones(3, 8, 8), "options": Options(each_face=True)}, "faces holds 3 masks but images"),
    ({"faces": torch.ones(1, 1, 8, 8), "options": Options(each_face=True)}, "faces is no mask"),
])  # fmt: skip
def test_bad_inputs(parser: FaceParser, change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        parse(parser, **{"images": torch.zeros(1, 8, 8, 3), **change})


def test_a_network_that_overflows() -> None:
    broken = FaceParser(
        Broken(), tuple(range(CLASSES)), Preparation(64, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    )
    with pytest.raises(ValueError, match="the model gave NaN or infinite numbers"):
        parse(broken, torch.zeros(1, 8, 8, 3))


class Broken(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.full((1, CLASSES, 4, 4), torch.nan))


def test_it_can_be_stopped(parser: FaceParser) -> None:
    def stop(done: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parse(parser, torch.zeros(3, 8, 8, 3), progress=stop)
    assert parse(parser, torch.zeros(1, 8, 8, 3), progress=stop).faces == (0,)
