"""Face parsing: semantic masks of pictures, by a network that names the class of each pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..images import check_images
from .masks import CLASSES, SemanticMask
from .parser_model import FaceParser
from .vocabulary import FACE, LABELS, MIRRORED

BACKGROUND = LABELS["background"]
_CORE = tuple(LABELS[name] for name in FACE)
# parts that nothing but a face has; skin alone may be a hand
_FEATURES = tuple(label for label in _CORE if label != LABELS["skin"])
# a face is at least this share of what the network sees, and is looked at again with this much around it
_SMALLEST, _AROUND = 0.0005, 2.0
# nearer than this a face fills the picture, and a second look would see nothing new
_FILLS = 0.8
MOST_FACES = 32
_STEP = 32
# how many numbers a strip of the enlarged result may hold, and how many bytes all the shares
_STRIP, _LIMIT = 2**22, 2**32


class Options(NamedTuple):
    """How pictures are parsed.

    soft: shares of the classes instead of the strongest one. confidence: pixels whose strongest class has a
    smaller share become background. swap_sides: the network's left is our right. turn: try each quarter turn
    and keep the one that shows most of a face. each_face: look at each face again, enlarged. side: longer
    side of the mask in pixels, 0 for the picture's.
    """

    soft: bool = False
    confidence: float = 0.0
    swap_sides: bool = False
    turn: bool = False
    each_face: bool = False
    side: int = 0


class Parsed(NamedTuple):
    """The mask of a batch of pictures, and how many faces each has (those that touch count as one)."""

    mask: SemanticMask
    faces: tuple[int, ...]


class _View(NamedTuple):
    """A part of a picture, as shares of its sides, and the logits [L,h,w] of its pixels."""

    top: float
    left: float
    height: float
    width: float
    logits: Tensor


def parse(
    parser: FaceParser,
    images: Tensor,
    options: Options | None = None,
    faces: Tensor | None = None,
    progress: Callable[[int], object] = int,
) -> Parsed:
    """Return the semantic mask of pictures [B,H,W,C], float 0..1, on the CPU.

    A picture without a face is background everywhere. faces: masks [B,H,W] in 0..1 of where faces are, one
    for all pictures or one each, of any size; each blob is looked at by itself (with each_face). progress is
    called before each pass of the network with the number of pictures done. One picture is worked on at a
    time, so that memory does not grow with the batch but by its result. Raises ValueError, naming the input
    and the fix, for images and masks that are none, and results that are too large.
    """
    images, options = check_images(images), options or Options()
    size = _mask_size(images, options)
    if not 0 <= options.confidence <= 1:
        raise ValueError(f"confidence is {options.confidence:g}: use 0 to 1.")
    if faces is not None:
        faces = _checked_faces(faces, len(images), options)
    stored, counts = [], []
    for place in range(len(images)):
        picture = _picture(images[place], place)
        found = None if faces is None else faces[place % len(faces)]
        views, count = _views(parser, picture, options, found, lambda done=place: progress(done))
        counts.append(count)
        stored.append(_joined(parser, views, size, options, bool(count)))
    return Parsed(SemanticMask(torch.stack(stored)), tuple(counts))


def _mask_size(images: Tensor, options: Options) -> tuple[int, int]:
    height, width = images.shape[1:3]
    if options.side:
        factor = options.side / max(height, width)
        height, width = max(1, round(height * factor)), max(1, round(width * factor))
    needed = len(images) * height * width * CLASSES * 4
    if options.soft and needed > _LIMIT:
        raise ValueError(
            f"a soft mask of {len(images)} pictures of {width} x {height} pixels takes {needed / 2**30:.1f} "
            "GiB: set side to less, switch soft off, or give fewer pictures at a time."
        )
    return height, width


def _checked_faces(faces: Tensor, count: int, options: Options) -> Tensor:
    if not options.each_face:
        raise ValueError("faces is connected, but each_face is off: switch each_face on, or disconnect it.")
    faces = faces[None] if faces.ndim == 2 else faces
    if faces.ndim != 3 or 0 in faces.shape or not torch.isfinite(faces).all():
        raise ValueError("faces is no mask [B,H,W] of finite values: connect a MASK.")
    if len(faces) not in (1, count):
        raise ValueError(
            f"faces holds {len(faces)} masks but images holds {count} pictures: give one, or one a picture."
        )
    return faces


def _picture(image: Tensor, place: int) -> Tensor:
    """Return a picture [H,W,C] as [3,H,W], float32 0..1."""
    whole = image.dtype == torch.uint8
    picture = image[..., :3].to(torch.float32).movedim(-1, 0) / (255 if whole else 1)
    if not torch.isfinite(picture).all():
        raise ValueError(f"images: picture {place + 1} contains NaN or infinite values: look at its maker.")
    return picture.clamp(0, 1).expand(3, -1, -1)


def _views(
    parser: FaceParser, picture: Tensor, options: Options, given: Tensor | None, check: Callable[[], object]
) -> tuple[list[_View], int]:
    """Return a picture as the network sees it, then its faces if asked for, and how many there are."""
    whole = _View(0, 0, 1, 1, _seen(parser, picture, options, check))
    boxes = _faces(_shares(parser, whole.logits, options)) if given is None else _blobs(given > 0.5)
    if not options.each_face or not boxes:
        return [whole], len(boxes)
    views, count = [whole], 0
    tall, wide = picture.shape[1:]
    for box in boxes[:MOST_FACES]:
        top, left, bottom, right = _around(box, tall, wide)
        # what the first look has found is one, whatever the second sees
        count += given is None
        if given is None and (bottom - top) * (right - left) > _FILLS * tall * wide:
            continue
        logits = _seen(parser, picture[:, top:bottom, left:right], options, check)
        if _faces(_shares(parser, logits, options)):
            count += given is not None
            sides = ((bottom - top) / tall, (right - left) / wide)
            views.append(_View(top / tall, left / wide, *sides, logits))
    return views, count


def _seen(parser: FaceParser, picture: Tensor, options: Options, check: Callable[[], object]) -> Tensor:
    """Return the logits [L,h,w] of a picture [3,H,W], of the quarter turn that shows most of a face if asked.

    The network sees the picture at its own aspect, with the longer side that it was made for.
    """
    best, most = None, -1.0
    for quarters in range(4 if options.turn else 1):
        check()
        turned = torch.rot90(picture, quarters, (1, 2))
        factor = parser.taken.size / max(turned.shape[1:])
        sides = [max(_STEP, round(side * factor / _STEP) * _STEP) for side in turned.shape[1:]]
        # as in PIL, by which such networks are given their pictures
        seen = functional.interpolate(turned[None], sides, mode="bilinear", antialias=True).clamp(0, 1)
        logits = parser(seen)[0]
        if not torch.isfinite(logits).all():
            raise ValueError(
                "the model gave NaN or infinite numbers: its file is damaged, or it does not stand half "
                "precision; choose another model, or start ComfyUI with --force-fp32."
            )
        logits = torch.rot90(logits, -quarters, (1, 2))
        if not options.turn:
            return logits
        shown = _shares(parser, logits, options)[list(_FEATURES)].mean().item()
        if shown > most:
            best, most = logits, shown
    return best


def _labels(parser: FaceParser, options: Options) -> list[int]:
    return [MIRRORED[label] if options.swap_sides else label for label in parser.classes]


def _strongest(parser: FaceParser, logits: Tensor, options: Options) -> Tensor:
    """Return the labels of logits [L,...] of different classes; of equal ones the higher, as in masks."""
    labels = torch.tensor(_labels(parser, options), dtype=torch.uint8, device=logits.device)
    order = labels.argsort(descending=True)
    return labels[order][logits[order].argmax(0)]


def _shares(parser: FaceParser, logits: Tensor, options: Options) -> Tensor:
    """Return the shares [19,...] of logits [L,...], background where none is confident enough."""
    likely = logits.softmax(0)
    shares = likely.new_zeros(CLASSES, *likely.shape[1:])
    shares.index_add_(0, torch.tensor(_labels(parser, options), device=likely.device), likely)
    shares /= shares.sum(0)
    if options.confidence > 0:
        doubtful = shares.amax(0) < options.confidence
        shares.masked_fill_(doubtful, 0)
        shares[BACKGROUND] += doubtful
    return shares


def _faces(shares: Tensor) -> list[tuple[float, float, float, float]]:
    """Return where faces are, in shares of the sides: blobs of skin and features, not of skin alone."""
    labels = SemanticMask(shares[None]).labels[0].cpu()
    return _blobs(_are(labels, _CORE), _are(labels, _FEATURES))


def _are(labels: Tensor, wanted: Sequence[int]) -> Tensor:
    return torch.isin(labels, torch.tensor(wanted, dtype=labels.dtype))


def _blobs(area: Tensor, within: Tensor | None = None) -> list[tuple[float, float, float, float]]:
    """Return (top, left, bottom, right) in shares of the sides of an area's blobs [H,W], the largest first.

    Blobs that touch by a corner are one; those that are too small, or have nothing of `within`, are left out.
    """
    from scipy import ndimage

    area = area.cpu().numpy()
    numbered, count = ndimage.label(area, structure=[[1, 1, 1]] * 3)
    sizes = ndimage.sum_labels(area, numbered, range(1, count + 1))
    wanted = area if within is None else within.cpu().numpy()
    kept = ndimage.sum_labels(wanted, numbered, range(1, count + 1))
    tall, wide = area.shape
    blobs = []
    for size, has, (rows, columns) in zip(sizes, kept, ndimage.find_objects(numbered), strict=True):
        if has and size >= _SMALLEST * area.size:
            box = (rows.start / tall, columns.start / wide, rows.stop / tall, columns.stop / wide)
            blobs.append((size, box))
    blobs.sort(key=lambda blob: -blob[0])
    return [box for _, box in blobs]


def _around(box: tuple[float, float, float, float], tall: int, wide: int) -> tuple[int, int, int, int]:
    """Return the pixels (top, left, bottom, right) of the square around a face, within the picture."""
    top, left, bottom, right = box[0] * tall, box[1] * wide, box[2] * tall, box[3] * wide
    reach = max(bottom - top, right - left, 1) * _AROUND / 2
    row, column = (top + bottom) / 2, (left + right) / 2
    return (
        max(0, int(row - reach)), max(0, int(column - reach)),
        min(tall, int(row + reach) + 1), min(wide, int(column + reach) + 1),
    )  # fmt: skip


def _joined(
    parser: FaceParser, views: list[_View], size: tuple[int, int], options: Options, any_face: bool
) -> Tensor:
    """Return the labels [H,W] or shares [19,H,W] of a picture, strip by strip.

    A face's own view counts where it lies; where two overlap, that whose middle is nearer.
    """
    height, width = size
    made = torch.zeros(CLASSES, *size) if options.soft else torch.zeros(size, dtype=torch.uint8)
    if not any_face:
        if options.soft:
            made[BACKGROUND] = 1
        return made
    rows = max(1, _STRIP // (width * max(CLASSES, len(parser.classes))))
    device = views[0].logits.device
    across = (torch.arange(width, device=device) + 0.5) / width
    plain = len(views) == 1 and len({*parser.classes}) == len(parser.classes)
    plain = plain and not (options.soft or options.confidence)
    for start in range(0, height, rows):
        down = (torch.arange(start, min(start + rows, height), device=device) + 0.5) / height
        logits = _at(views[0].logits, down, across)
        if plain:  # the shares need not be known
            made[start : start + rows] = _strongest(parser, logits, options).cpu()
            continue
        strip = _shares(parser, logits, options)
        nearest = torch.full(strip.shape[1:], 0.5, device=device)
        for view in views[1:]:
            y, x = (down - view.top) / view.height, (across - view.left) / view.width
            distance = torch.maximum((y - 0.5).abs()[:, None], (x - 0.5).abs()[None])
            mine = distance < nearest
            if mine.any():
                nearest = torch.where(mine, distance, nearest)
                strip = torch.where(mine, _shares(parser, _at(view.logits, y, x), options), strip)
        result = strip if options.soft else SemanticMask(strip[None]).labels[0]
        made[..., start : start + rows, :] = result.cpu()
    return made


def _at(logits: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Return logits [L,h,w] at places in shares of the sides, [L,len(down),len(across)], bilinearly."""
    for places, axis in ((down, 1), (across, 2)):
        count = logits.shape[axis]
        place = (places * count - 0.5).clamp(0, count - 1)
        low = place.floor().long()
        part = (place - low)[:, None] if axis == 1 else place - low
        upper = logits.index_select(axis, (low + 1).clamp(max=count - 1))
        logits = torch.lerp(logits.index_select(axis, low), upper, part)
    return logits
