"""The token adapter: any width, strengths that scale, null where nothing is said, batches as singles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.conditioning.adapter import ATTRIBUTE_FORMS, MASK_FORMS, AdapterConfig, TokenAdapter
from realism_core.conditioning.adapter_parts import MaskTokens, region_features
from realism_core.conditioning.attributes import parse_attributes
from realism_core.conditioning.masks import SemanticMask
from realism_core.conditioning.vocabulary import LABELS, NAMES
from tests.core.faces import face, soft_masks

FORMS = [(a, m) for a in ATTRIBUTE_FORMS for m in MASK_FORMS if (a, m) != ("none", "none")]
SMALL = AdapterConfig(context=24, width=16, grid=4, patch=4)
SMILE = parse_attributes("Smiling, Eyeglasses:0.5, -Bald").values()


def faces(*labels: str) -> SemanticMask:
    """Return masks of the face, each with the skin relabelled."""
    drawn = []
    for label in labels:
        one = face(48, 32)
        one[one == LABELS["skin"]] = LABELS[label]
        drawn.append(one)
    return SemanticMask.from_labels(torch.stack(drawn))


def made(adapter: TokenAdapter, values=SMILE, mask: SemanticMask | None = None, count: int = 1, **strengths):
    planes = None if mask is None or adapter.mask is None else adapter.planes(mask)
    rows = None if values is None else values.reshape(-1, 40)
    with torch.no_grad():
        return adapter(rows, planes, count, **strengths)


@pytest.mark.parametrize(("attributes", "mask"), FORMS)
@pytest.mark.parametrize("context", [1, 64, 768])
def test_every_form_gives_tokens_as_wide_as_the_context(attributes: str, mask: str, context: int) -> None:
    config = replace(SMALL, attributes=attributes, mask=mask, context=context)
    adapter = TokenAdapter(config)
    conditions = made(adapter, mask=faces("skin", "nose"), count=2)
    wanted = {"tokens": 40, "pooled": 1, "none": 0}[attributes]
    wanted += {"tokens": 19 + 16, "pooled": 19}.get(mask, 0)
    assert sum(config.counts) == wanted
    assert conditions.tokens.shape == (2, wanted, context) and conditions.null.shape == (wanted, context)
    assert bool(torch.isfinite(conditions.tokens).all())
    if mask == "channels":
        assert conditions.channels.shape == (2, 4, 64, 64)
        assert conditions.null_channels.shape == (4, 64, 64)
    else:
        assert conditions.channels is None


def test_tokens_start_a_little_smaller_than_words() -> None:
    for scale in (1.0, 30.0):
        config = AdapterConfig(context=512, scale=scale)
        tokens = made(TokenAdapter(config), mask=faces("skin")).tokens
        for group in tokens[0].split([40, 19, 64]):
            assert 0.2 * scale < float(group.square().mean().sqrt()) < 1.5 * scale


@pytest.mark.parametrize(("attributes", "mask"), FORMS)
def test_strength_0_and_nothing_said_are_null_bit_for_bit(attributes: str, mask: str) -> None:
    adapter = TokenAdapter(replace(SMALL, attributes=attributes, mask=mask))
    if adapter.mask is not None and mask == "channels":
        torch.nn.init.normal_(adapter.mask.mix)
    both = faces("skin", "nose")
    plain = made(adapter, None, None, count=2)
    for same in (
        made(adapter, mask=both, count=2, attribute_strength=0.0, mask_strength=0.0),
        made(adapter, mask=both, count=2, attribute_strength=torch.zeros(2), mask_strength=torch.zeros(2)),
    ):
        assert torch.equal(same.tokens, plain.tokens)
        assert torch.equal(plain.tokens, plain.null.expand_as(plain.tokens))
        if mask == "channels":
            assert torch.equal(same.channels, plain.null_channels.expand_as(same.channels))
    said = made(adapter, mask=both, count=2)
    count = adapter.config.counts[0]
    assert attributes == "none" or not torch.equal(said.tokens[:, :count], plain.tokens[:, :count])
    assert mask in ("none", "channels") or not torch.equal(said.tokens[:, count:], plain.tokens[:, count:])
    assert mask != "channels" or not torch.equal(said.channels, plain.channels)


def test_yes_no_and_unknown_differ_and_strength_scales() -> None:
    adapter = TokenAdapter(SMALL)
    part = adapter.attributes
    with torch.no_grad():
        yes, no, strong, weak = (part(torch.full((1, 40), value))[0] for value in (1.0, -1.0, 2.0, 0.25))
    assert torch.equal(strong, 2 * yes) and torch.equal(weak, 0.25 * yes)
    assert bool(((yes - no).abs().amax(1) > 0.1).all()) and bool((no.abs().amax(1) > 0.1).all())
    # an attribute moves its own token and no other
    place = NAMES.index("Smiling")
    other = SMILE.clone()
    other[place] = -1
    one, two = made(adapter).tokens, made(adapter, other).tokens
    moved = (one != two).any(-1)[0]
    assert moved.nonzero().flatten().tolist() == [place]


def test_attributes_and_mask_do_not_mix_before_the_model() -> None:
    adapter = TokenAdapter(SMALL)
    one, two = made(adapter, mask=faces("skin")), made(adapter, -SMILE, mask=faces("skin"))
    assert torch.equal(one.tokens[:, 40:], two.tokens[:, 40:])
    assert not torch.equal(one.tokens[:, :40], two.tokens[:, :40])


@settings(max_examples=30, deadline=None)
@given(mask=soft_masks(), strength=st.floats(0, 2))
def test_a_batch_is_its_pictures_one_by_one(mask: SemanticMask, strength: float) -> None:
    for forms in (("tokens", "tokens"), ("pooled", "pooled"), ("none", "channels")):
        adapter = TokenAdapter(replace(SMALL, attributes=forms[0], mask=forms[1]))
        whole = made(adapter, mask=mask, count=len(mask), mask_strength=strength)
        for place in range(len(mask)):
            one = made(adapter, mask=mask[place : place + 1], mask_strength=strength)
            assert torch.allclose(one.tokens[0], whole.tokens[place], atol=1e-5)
            if whole.channels is not None:
                assert torch.allclose(one.channels[0], whole.channels[place], atol=1e-5)


def test_one_mask_and_one_face_serve_a_whole_batch() -> None:
    adapter = TokenAdapter(SMALL)
    whole = made(adapter, mask=faces("skin"), count=3).tokens
    assert whole.shape[0] == 3 and torch.equal(whole[0], whole[2])
    assert torch.allclose(whole[:1], made(adapter, mask=faces("skin")).tokens, atol=1e-6)


@pytest.mark.parametrize(("attributes", "mask"), FORMS)
def test_gradients_reach_every_parameter_of_every_group(attributes: str, mask: str) -> None:
    adapter = TokenAdapter(replace(SMALL, attributes=attributes, mask=mask))
    planes = None if adapter.mask is None else adapter.planes(faces("skin", "nose"))
    values = torch.stack([SMILE, -torch.ones(40)])
    conditions = adapter(values, planes, 2)
    loss = conditions.tokens.square().sum()
    if conditions.channels is not None:
        loss = loss + (conditions.channels + 1).square().sum()
    loss.backward()
    for name, weight in adapter.named_parameters():
        assert weight.grad is not None and bool((weight.grad != 0).any()), name


def test_the_grid_sees_where_things_are_and_pooled_attributes_see_no_absence() -> None:
    """A nose moved by a cell changes the tokens of these cells, the nose's and the skin's, and no others."""
    adapter = TokenAdapter(SMALL)
    labels = torch.zeros(2, 16, 16, dtype=torch.uint8)
    labels[0, 4:8, 4:8] = labels[1, 4:8, 8:12] = LABELS["nose"]
    one, two = made(adapter, mask=SemanticMask.from_labels(labels), count=2).tokens[:, 40:]
    regions, cells = (one != two).any(-1).split([19, 16])
    assert regions.nonzero().flatten().tolist() == [LABELS["background"], LABELS["nose"]]
    assert cells.nonzero().flatten().tolist() == [1 * 4 + 1, 1 * 4 + 2]
    pooled = TokenAdapter(replace(SMALL, attributes="pooled")).attributes
    assert torch.equal(pooled(-torch.ones(1, 40)), pooled(torch.zeros(1, 40)))


def test_cells_are_the_planes_they_cover() -> None:
    """Against a loop over cells and parts."""
    part = MaskTokens(8, 3, 2)
    planes = torch.rand(2, 19, 6, 6)
    tokens = part(planes)[:, 19:]
    for row in range(3):
        for column in range(3):
            cell = planes[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1)
            assert torch.allclose(part.cell(cell), tokens[:, 3 * row + column], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(mask=soft_masks())
def test_region_features_are_moments(mask: SemanticMask) -> None:
    """Against numpy in float64."""
    found = region_features(mask.classes)
    assert found.shape == (len(mask), 19, 69) and bool(torch.isfinite(found).all())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(region_features(mask.classes), found)
    planes = mask.classes.double().numpy()
    height, width = mask.size
    y, x = ((np.arange(n) * 2 + 1) / n - 1 for n in (height, width))
    for picture in range(len(mask)):
        for label in range(19):
            plane = planes[picture, label]
            if not plane.any():
                assert bool((found[picture, label] == 0).all())
                continue
            share = plane / plane.sum()
            mean_x, mean_y = (share.sum(0) * x).sum(), (share.sum(1) * y).sum()
            wanted = [
                plane.mean() ** 0.5, mean_x, mean_y,
                (share.sum(0) * (x - mean_x) ** 2).sum() ** 0.5,
                (share.sum(1) * (y - mean_y) ** 2).sum() ** 0.5,
            ]  # fmt: skip
            assert np.allclose(found[picture, label, :5].numpy(), wanted, atol=2e-3)


def test_pooled_masks_take_the_nearest_label() -> None:
    adapter = TokenAdapter(replace(SMALL, mask="pooled"))
    planes = adapter.planes(SemanticMask.from_labels(face(64, 64)[None]))
    assert planes.shape == (1, 19, 32, 32) and bool((planes.sum(1) == 1).all())
    assert torch.equal(planes[0].argmax(0).to(torch.uint8), face(64, 64)[1::2, 1::2])


def test_the_seed_decides_and_global_dice_stay() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = TokenAdapter(SMALL, 1), TokenAdapter(SMALL, 1), TokenAdapter(SMALL, 2)
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    assert not torch.equal(one.attributes.null, other.attributes.null)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"attributes": "words"}, "attributes is 'words'; use one of tokens, pooled, none"),
        ({"mask": "soft"}, "mask is 'soft'"),
        ({"attributes": "none", "mask": "none"}, "both none"),
        ({"context": 0}, "context is 0: it must be a whole number from 1"),
        ({"grid": 33}, "grid is 33"),
        ({"patch": 2.0}, "patch is 2.0"),
        ({"width": True}, "width is True"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": 0}, "scale is 0"),
    ],
)
def test_configurations_that_cannot_be_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError) as raised:
        replace(SMALL, **wrong)
    assert words in str(raised.value)


def test_a_mask_for_an_adapter_without_is_refused() -> None:
    with pytest.raises(ValueError, match="trained without a mask"):
        TokenAdapter(replace(SMALL, mask="none")).planes(faces("skin"))
