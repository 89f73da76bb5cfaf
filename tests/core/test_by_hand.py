"""Choices by hand: codes that follow the pixels, texts that name them, decisions changed by them."""

from __future__ import annotations

import hashlib
import io
import math
import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from realism_core.gate import Choices, PictureCodes, apply, by_hand, decide, picture_codes, read_choices
from realism_core.gate.by_hand import _letters

SIDES = ("passed", "rejected", "blocked")


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(3, 20), st.integers(3, 20))
def test_a_digest_is_that_of_the_picture_as_a_ppm_file(seed: int, count: int, high: int, wide: int) -> None:
    images = noise(seed, count, high, wide, 3)
    expected = []
    for picture in images.numpy():
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PPM")
        expected.append(hashlib.sha256(file.getvalue()).hexdigest())
    assert picture_codes([images]).digests == expected
    assert picture_codes([images.float() / 255]).digests == expected
    assert picture_codes([picture[None] for picture in images]) == picture_codes([images])


def test_codes_follow_pixels_and_shape_and_nothing_else() -> None:
    flat = torch.zeros(1, 4, 6, 3)
    one_off = flat.clone()
    one_off[0, 3, 5, 2] = 1 / 255
    below_a_level = flat + 0.4 / 255
    grey, alpha = flat[..., :1], flat[..., [0, 1, 2, 0]]
    batches = [flat, flat.reshape(1, 6, 4, 3), one_off, below_a_level, grey, alpha]
    codes = picture_codes(batches).codes
    assert codes[0] == codes[3] == codes[4] == codes[5] and len(set(codes[:3])) == 3
    assert picture_codes([torch.cat([flat, one_off])]).codes == [codes[0], codes[2]]
    for code in codes:
        assert re.fullmatch("([bdfghjklmnprstvwyz][aeiou]){4}", code)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="images has shape 4x4x3"):
        picture_codes([torch.zeros(4, 4, 3)])
    with pytest.raises(ValueError, match="picture 1 contains NaN"):
        picture_codes([torch.stack([torch.zeros(4, 4, 3), torch.full((4, 4, 3), math.nan)])])


@pytest.fixture
def short_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes of six letters, of which four are enough: so short that 3,000 pictures share some."""
    monkeypatch.setattr(by_hand, "SHOWN", 6)
    monkeypatch.setattr(by_hand, "SHORTEST", 4)


def test_all_codes_grow_until_different_pictures_have_different_ones(short_codes: None) -> None:
    """Among 3,000 pictures two share six letters more often than not; the seed is one where they do."""
    images = noise(0, 3000, 3, 3, 3)
    images[1] = images[0]
    codes, digests = picture_codes([images])
    assert len(set(map(len, codes))) == 1 and len(codes[0]) > 6
    assert len(set(codes)) == len(set(digests)) == 2999 and codes[0] == codes[1]
    assert len({code[:-2] for code in codes}) < 2999, "and not a syllable longer than needed"
    assert [code[:6] for code in codes[:9]] == picture_codes([images[:9]]).codes


def test_letters_are_spread_evenly_and_never_shared_by_two_digests() -> None:
    source = random.Random(1)
    numbers = [source.getrandbits(256) for _ in range(4000)]
    letters = [_letters(f"{number:064x}") for number in numbers]
    assert len({_letters(f"{number:064x}") for number in (0, 1, 90, 90**39, 2**256 - 1)}) == 5
    for place in range(3):
        counts = np.unique([code[2 * place : 2 * place + 2] for code in letters], return_counts=True)[1]
        # 90 syllables, 44.4 each: the chi-squared statistic has mean 89 and deviation 13.3
        assert len(counts) == 90 and ((counts - 4000 / 90) ** 2 / (4000 / 90)).sum() < 89 + 5 * 13.3
    for number, code in zip(numbers[:50], letters, strict=False):
        syllables = [code[i : i + 2] for i in range(0, 80, 2)]
        digits = ["bdfghjklmnprstvwyz".index(a) * 5 + "aeiou".index(b) for a, b in syllables]
        assert sum(digit * 90**power for power, digit in enumerate(digits)) == number


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_what_is_written_is_what_is_chosen(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    pictures = picture_codes([noise(data.draw(st.integers(0, 99)), count, 3, 3, 3)])
    others = picture_codes([noise(1000, 5, 4, 4, 3)]).codes
    hands = data.draw(st.lists(st.sampled_from(["", "keep", "reject"]), min_size=count, max_size=count))
    stale = data.draw(st.lists(st.sampled_from(others), unique=True))
    texts = {}
    for side, more in (("keep", stale[::2]), ("reject", stale[1::2])):
        words = [code for code, hand in zip(pictures.codes, hands, strict=True) if hand == side] + more
        words = data.draw(st.permutations(words))
        words = [word.upper() if data.draw(st.booleans()) else word for word in words]
        between = st.sampled_from([",", " ", "\n", ", ", ";\t"])
        texts[side] = "".join(word + data.draw(between) for word in words)
    choices = read_choices(texts["keep"], texts["reject"], pictures)
    assert choices.keep == tuple(i for i, hand in enumerate(hands) if hand == "keep")
    assert choices.reject == tuple(i for i, hand in enumerate(hands) if hand == "reject")
    assert sorted(choices.unused) == sorted(stale)


def test_the_first_letters_are_enough_if_they_fit_one_picture_only(short_codes: None) -> None:
    pictures = picture_codes([noise(0, 3000, 3, 3, 3)])
    starts = [code[:4] for code in pictures.codes]
    single = next(i for i, start in enumerate(starts) if starts.count(start) == 1)
    shared = next(i for i, start in enumerate(starts) if starts.count(start) == 2)
    twin = starts.index(starts[shared], shared + 1)
    assert read_choices(starts[single], "", pictures).keep == (single,)
    # what was copied where fewer letters were shown, and where more were
    assert read_choices(pictures.codes[single][:6], "", pictures).keep == (single,)
    few = PictureCodes([pictures.codes[single][:6]], [pictures.digests[single]])
    assert read_choices("", pictures.codes[single], few).reject == (0,)
    with pytest.raises(ValueError) as caught:
        read_choices("", f"{pictures.codes[single]}, {starts[shared].upper()}", pictures)
    both = f"{pictures.codes[shared]}, {pictures.codes[twin]}"
    assert str(caught.value) == (
        f"reject_by_hand: {starts[shared]!r} fits {both}: write more letters of one."
    )


def test_a_longer_code_of_another_picture_is_never_taken_for_a_shorter_one() -> None:
    """Where eight letters agree and the rest does not, the choice was made for a picture that is not here."""
    pictures = picture_codes([noise(3, 1, 5, 5, 3)])
    letters = _letters(pictures.digests[0])
    other = letters[:8] + ("ba" if letters[8:10] != "ba" else "be")
    assert read_choices(other, letters[:10], pictures) == Choices((), (0,), (other,))
    assert read_choices(other, other, pictures).unused == (other,)


def test_equal_pictures_are_chosen_together() -> None:
    images = noise(4, 3, 5, 5, 3)[[0, 1, 0, 2, 0]]
    pictures = picture_codes([images[:3], images[3:]])
    assert read_choices(pictures.codes[0], pictures.codes[1], pictures) == Choices((0, 2, 4), (1,), ())


def test_choices_that_cannot_be_read_are_refused() -> None:
    pictures = picture_codes([noise(4, 2, 5, 5, 3)])
    code = pictures.codes[1]
    with pytest.raises(ValueError, match="keep_by_hand: 'kob' is too short: write at least 6 letters"):
        read_choices("kob", "", pictures)
    with pytest.raises(ValueError, match="reject_by_hand: '3' is too short"):
        read_choices("", "3", pictures)
    with pytest.raises(
        ValueError, match=f"{code} is in keep_by_hand and in reject_by_hand: take it out of one"
    ):
        read_choices(f"{pictures.codes[0]} {code}", code[:6].upper(), pictures)
    assert read_choices("", " ,;\n", pictures) == Choices()


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 1.0, 2.0, math.nan]),
            st.sampled_from(["", "keep", "reject"]),
        ),
        min_size=1,
        max_size=10,
    ),
    st.sampled_from(["reject", "pass", "block"]),
)
def test_chosen_pictures_go_where_the_hand_put_them(pictures: list[tuple], on_unknown: str) -> None:
    scores, hands = zip(*pictures, strict=True)
    decision = decide(torch.tensor(scores), "threshold", 1.0, on_unknown=on_unknown)
    before = [side.tolist() for side in decision]
    keep, reject = (
        tuple(i for i, hand in enumerate(hands) if hand == kind) for kind in ("keep", "reject")
    )
    choices = Choices(keep, reject)
    changed = apply(decision, choices)
    for i, hand in enumerate(hands):
        side = [name for name, values in zip(SIDES, changed, strict=True) if values[i]]
        was = [name for name, values in zip(SIDES, before, strict=True) if values[i]]
        assert side == {"keep": ["passed"], "reject": ["rejected"], "": was}[hand]
    assert [side.tolist() for side in decision] == before, "the rule's decision is not touched"
