"""Attention coupling against attention computed in float64, token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from realism_core.conditioning.attributes import parse_attributes
from realism_core.conditioning.coupling import (
    Coupling,
    Part,
    Phrase,
    at_grid,
    cross_bias,
    joint_bias,
    place,
)
from realism_core.conditioning.masks import SemanticMask
from realism_core.conditioning.tokens import lengthened, word_places
from realism_core.conditioning.vocabulary import LABELS
from realism_core.conditioning.wording import word
from tests.core.faces import face

FACE = SemanticMask.from_labels(face(32, 24)[None])
WIDTH = 4


def soft_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Attention [Q,C] in which query i counts key j shares[i,j] times."""
    logits = q @ k.T / np.sqrt(q.shape[1])
    weights = np.exp(logits - logits.max(1, keepdims=True)) * shares
    return weights / weights.sum(1, keepdims=True) @ v


def cell_means(plane: np.ndarray, step: int) -> np.ndarray:
    """Means over cells of step x step pixels, fewer at the far edges, one after the other."""
    tall, wide = plane.shape
    return np.array([
        plane[top : top + step, left : left + step].mean()
        for top in range(0, tall, step)
        for left in range(0, wide, step)
    ])


@st.composite
def cases(draw) -> dict:
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(2, 7)), draw(st.integers(2, 7))
    step = draw(st.sampled_from([1, 2, 4]))
    masks = draw(st.integers(1, 2))
    labels = torch.from_numpy(random.choice([0, 1, 4, 13], (masks, *size)).astype(np.uint8))
    mask = SemanticMask.from_labels(labels)
    phrases = []
    for _ in range(draw(st.integers(1, 3))):
        wanted = tuple(sorted({LABELS[name] for name in random.choice(["skin", "hair", "l_eye"], 2)}))
        phrases.append(
            Phrase(
                tokens=draw(st.integers(1, 3)),
                weight=draw(st.sampled_from([1.0, 0.4, 2.0, 0.0])),
                mask=draw(st.sampled_from([mask, None])),
                labels=wanted,
                floor=draw(st.sampled_from([0.0, 0.3, 1.0])),
            )
        )
    base, behind = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    coupling = Coupling(base, tuple(phrases))
    return {
        "random": random, "size": size, "step": step, "coupling": coupling, "behind": behind,
        "repeats": draw(st.integers(1, 2)), "rows": masks * draw(st.integers(1, 2)),
        "rest": draw(st.integers(0, 2)), "mask": mask,
    }  # fmt: skip


def cover(phrase: Phrase, row: int, step: int, pixels: int) -> np.ndarray:
    """How far each cell of the grid belongs to a phrase, worked out pixel by pixel."""
    if phrase.weight == 0:
        return np.zeros(pixels)
    if phrase.mask is None:
        return np.ones(pixels)
    labels = phrase.mask.labels[row % len(phrase.mask)].numpy()
    inside = np.isin(labels, phrase.labels).astype(float)
    return cell_means(phrase.floor + (1 - phrase.floor) * inside, step)


def tokens_of(case: dict, row: int) -> list[tuple[int, float, np.ndarray]]:
    """(group, weight, cover) of each token; group 0 all see."""
    tall, wide = case["size"]
    pixels = -(-tall // case["step"]) * -(-wide // case["step"])
    whole = (0, 1.0, np.ones(pixels))
    tokens = [whole] * case["coupling"].base
    for group, phrase in enumerate(case["coupling"].phrases, 1):
        tokens += [(group, phrase.weight, cover(phrase, row, case["step"], pixels))] * phrase.tokens
    return (tokens + [whole] * case["behind"]) * case["repeats"]


def setting(case: dict) -> tuple:
    """The parts of a batch, with an uncoupled one behind, as the node hands them over."""
    length = case["coupling"].tokens + case["behind"]
    tokens = length * case["repeats"]
    parts = [Part(case["coupling"], length, case["rows"]), Part(None, tokens, case["rows"])]
    tall, wide = case["size"]
    grid = -(-tall // case["step"]), -(-wide // case["step"])
    return parts, tokens, grid


@given(cases())
def test_cross_attention_counts_tokens_by_their_cover(case: dict) -> None:
    parts, tokens, grid = setting(case)
    placed = place(parts, tokens, case["size"])
    rows, random, pixels = case["rows"], case["random"], grid[0] * grid[1]
    q, k, v = (random.normal(size=(2 * rows, n, WIDTH)) for n in (pixels, tokens, tokens))
    bias = torch.zeros(1, 1, pixels, tokens) if placed is None else cross_bias(placed, grid, torch.float64)
    computed = scaled_dot_product_attention(
        *(torch.from_numpy(x)[:, None] for x in (q, k, v)), attn_mask=bias.double()
    )
    for row in range(2 * rows):
        shares = np.ones((pixels, tokens))
        if row < rows:
            shares = np.stack([weight * seen for _, weight, seen in tokens_of(case, row)], 1)
        expected = soft_attention(q[row], k[row], v[row], shares)
        np.testing.assert_allclose(computed[row, 0].numpy(), expected, rtol=1e-5, atol=1e-6)


@given(cases())
def test_joint_attention_counts_tokens_by_their_cover(case: dict) -> None:
    parts, tokens, grid = setting(case)
    placed = place(parts, tokens, case["size"])
    rows, random, pixels, rest = case["rows"], case["random"], grid[0] * grid[1], case["rest"]
    total = tokens + pixels + rest
    q, k, v = random.normal(size=(3, 2 * rows, total, WIDTH))
    if placed is None:
        bias = torch.zeros(1, 1, total, total)
    else:
        bias = joint_bias(placed, grid, rest, torch.float64)
    computed = scaled_dot_product_attention(
        *(torch.from_numpy(x)[:, None] for x in (q, k, v)), attn_mask=bias.double()
    )
    for row in range(2 * rows):
        shares = np.ones((total, total))
        said = tokens_of(case, row) if row < rows else []
        for one, (group, _, seen) in enumerate(said):
            for other, (another, weight, theirs) in enumerate(said):
                within = group == another or (theirs >= np.minimum(seen, 1 - 1e-6)).all()
                shares[one, other] = within * (1 if group == another else weight)
            shares[one, tokens : tokens + pixels] = seen
            shares[one, tokens + pixels :] = seen.min() > 1 - 1e-6
        for other, (_, weight, theirs) in enumerate(said):
            shares[tokens : tokens + pixels, other] = weight * theirs
            shares[tokens + pixels :, other] = weight * (theirs.min() > 1 - 1e-6)
        expected = soft_attention(q[row], k[row], v[row], shares)
        np.testing.assert_allclose(computed[row, 0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_nothing_bound_needs_no_bias() -> None:
    whole = Coupling(3, (Phrase(2), Phrase(4)))
    assert place([Part(whole, 9, 2)], 9, (8, 8)) is None
    assert place([Part(None, 9, 2)], 9, (8, 8)) is None
    assert place([Part(Coupling(3, (Phrase(2, weight=0.0),)), 5, 1)], 5, (8, 8)) is not None


def test_an_area_sees_its_part_of_the_mask() -> None:
    hair = Coupling(1, (Phrase(1, mask=FACE, labels=(LABELS["hair"],)),))
    placed = place([Part(hair, 2, 1, (16, 12, 8, 6))], 2, (32, 24))
    assert torch.equal(placed.covers[0, 1], FACE.region(["hair"])[0, 8:24, 6:18])


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_mask_of_another_size_and_aspect(fit: str) -> None:
    phrase = Phrase(1, mask=FACE, labels=(LABELS["hair"],), fit=fit)
    placed = place([Part(Coupling(1, (phrase,)), 2, 1)], 2, (20, 20))
    assert torch.equal(placed.covers[:, 1], FACE.fitted(20, 20, fit, soft=True).region(["hair"]))
    with pytest.raises(ValueError, match="24 x 32, which is another aspect than 20 x 20: set fit"):
        place([Part(Coupling(1, (phrase._replace(fit="refuse"),)), 2, 1)], 2, (20, 20))


def test_masks_serve_pictures_in_turn_if_they_come_out_even() -> None:
    pair = SemanticMask.from_labels(torch.cat([FACE.labels, FACE.labels.flip(1)]))
    hair = Coupling(1, (Phrase(1, mask=pair, labels=(LABELS["hair"],)),))
    placed = place([Part(hair, 2, 4)], 2, (32, 24))
    assert torch.equal(placed.covers[:, 1], pair.region(["hair"]).repeat(2, 1, 1))
    for rows in (1, 3):
        with pytest.raises(ValueError, match=f"mask holds 2 pictures, but {rows} are sampled at once"):
            place([Part(hair, 2, rows)], 2, (32, 24))


def test_a_context_that_was_changed_is_refused() -> None:
    hair = Coupling(4, (Phrase(3, mask=FACE, labels=(13,)),))
    with pytest.raises(ValueError, match="changed behind Realism Conditioner from 6 to 6 tokens"):
        place([Part(hair, 6, 1)], 6, (32, 24))
    with pytest.raises(ValueError, match="from 7 to 12 tokens"):
        place([Part(hair, 7, 1)], 12, (32, 24))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_hidden_tokens_have_no_share_even_where_a_row_sees_none_of_some_keys(dtype: torch.dtype) -> None:
    """Attention in chunks of keys takes each chunk's own maximum: -inf alone would give NaN."""
    hair = Coupling(2, (Phrase(6, mask=FACE, labels=(13,)),))
    bias = cross_bias(place([Part(hair, 8, 1)], 8, (32, 24)), (32, 24), dtype)
    assert bias.dtype == dtype and torch.isfinite(bias).all()
    outside = FACE.region(["hair"])[0].flatten() == 0
    weights = bias[0, 0].softmax(-1)
    assert (weights[outside, 2:] == 0).all() and (weights[~outside] > 0).all()
    assert torch.isfinite(bias[0, 0, :, 2:].softmax(-1)).all()


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8]))
def test_grids_are_means_of_cells(tall: int, wide: int, step: int) -> None:
    plane = torch.rand(1, 1, tall, wide, generator=torch.Generator().manual_seed(tall * 41 + wide))
    grid = -(-tall // step), -(-wide // step)
    found = at_grid(plane, grid)
    assert found.shape[-2:] == grid
    np.testing.assert_allclose(found.flatten(), cell_means(plane[0, 0].numpy(), step), rtol=1e-5)


def test_any_other_grid_divides_the_sides_evenly() -> None:
    plane = torch.rand(1, 1, 12, 9, generator=torch.Generator().manual_seed(0))
    found = at_grid(plane, (4, 3))
    np.testing.assert_allclose(found.flatten(), cell_means(plane[0, 0].numpy(), 3), rtol=1e-5)


CLIP_L = {"l": [49406, 49407, 49407, 49407, 49407, 49407]}


@pytest.mark.parametrize(("ids", "empty", "length", "places"), [
    # the end token sums the words up, the start token is the prompt's already
    ({"l": [49406, 7, 8, 49407, 49407, 49407]}, CLIP_L, 6, [1, 2, 3]),
    ({"l": [49406, 7, 8, 9, 10, 49407]}, CLIP_L, 6, [1, 2, 3, 4, 5]),
    ({"g": [49406, 7, 8, 49407, 0, 0]}, {"g": [49406, 49407, 0, 0, 0, 0]}, 6, [1, 2, 3]),
    # T5 has no start token, and is padded or not
    ({"l": [49406, 7, 49407], "t5xxl": [5, 6, 1, 0, 0]},
     {"l": [49406, 49407, 49407], "t5xxl": [1, 0, 0, 0, 0]}, 5, [0, 1, 2]),
    ({"t5xxl": [5, 6, 1]}, {"t5xxl": [1]}, 3, [0, 1, 2]),
    # SD3: T5's tokens behind those of the CLIPs, which share theirs
    ({"l": [49406, 7, 8, 49407], "g": [49406, 9, 49407, 0], "t5xxl": [5, 1, 0, 0, 0]},
     {"l": [49406, 49407, 49407, 49407], "g": [49406, 49407, 0, 0], "t5xxl": [1, 0, 0, 0, 0]}, 9,
     [1, 2, 3, 4, 5]),
    ({"l": [49406, 7, 49407]}, {"l": [49406, 49407, 49407]}, 40, None),
])  # fmt: skip
def test_places_of_words(ids: dict, empty: dict, length: int, places: list | None) -> None:
    assert word_places(ids, empty, length) == places


def test_contexts_grow() -> None:
    context = torch.randn(2, 3, 4)
    longer = lengthened(context, torch.ones(1, 2, 4, dtype=torch.float64), torch.zeros(1, 1, 4))
    assert torch.equal(longer[:, :3], context) and longer.shape == (2, 6, 4)
    assert (longer[:, 3:5] == 1).all() and (longer[:, 5] == 0).all()
    with pytest.raises(ValueError, match="clip gives 5 numbers a token, positive and negative have 4"):
        lengthened(context, torch.zeros(1, 1, 5))


def test_wording() -> None:
    found = word(parse_attributes("Blond_Hair:0.5, -Smiling, -Goatee, Blurry, Wearing_Hat"), FACE, 2.0)
    said = {words.attribute: words for words in found.wanted}
    assert (said["Blond_Hair"].text, said["Blond_Hair"].weight) == ("blond hair", 1.0)
    assert said["Blond_Hair"].labels == (LABELS["hair"],)
    assert said["Smiling"].text == "neutral expression" and said["Blurry"].labels == ()
    assert [words.attribute for words in found.unwanted] == ["Goatee"]
    assert found.missing() == [] and found.missing_in() == {}
    assert "not goatee (2): skin, lower lip" in found.to_text()
    assert all(not words.labels for words in word(parse_attributes("Smiling"), None).words)
    assert word(parse_attributes("Smiling"), FACE, 0.0).words == ()


def test_wording_of_regions_that_are_not_there() -> None:
    bald = SemanticMask.from_labels(torch.full((1, 32, 24), LABELS["skin"]))
    both = SemanticMask.concat([FACE, bald])
    attributes = parse_attributes("Blond_Hair, Smiling")
    found = word(attributes, bald)
    assert [words.attribute for words in found.missing()] == ["Blond_Hair"]
    assert [words.attribute for words in found.without(found.missing()).wanted] == ["Smiling"]
    spread = found.everywhere(found.missing()).wanted
    assert [bool(words.labels) for words in spread] == [False, True]
    found = word(attributes, both)
    assert found.missing() == [] and found.missing_in() == {"Blond_Hair": [2]}
