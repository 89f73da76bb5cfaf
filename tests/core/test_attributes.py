"""Face attributes: the vocabulary, what people write, and what is refused."""

from __future__ import annotations

import math
import re
import unicodedata
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from realism_core.conditioning.attributes import (
    MAX_STRENGTH,
    FaceAttributes,
    find,
    from_states,
    parse_attributes,
)
from realism_core.conditioning.spellings import KNOWN, OPPOSITES, SPELLINGS, look_up, nearest, plain
from realism_core.conditioning.vocabulary import (
    ATTRIBUTES,
    BY_NAME,
    CLASS_NAMES,
    GROUPS,
    MASK_CLASSES,
    MIRRORED,
    NAMES,
)

ROOT = Path(__file__).resolve().parents[2]
# the line of names of list_attr_celeba.txt
FILE_ORDER = """
5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair
Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin
Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings
Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
"""
CLASS_ORDER = """
background skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair hat ear_r neck_l
neck cloth
"""
STRENGTH = st.one_of(st.sampled_from([1.0, 0.5, 2.0]), st.floats(0, MAX_STRENGTH, exclude_min=True))
SIGNED = st.tuples(STRENGTH, st.sampled_from([1, -1])).map(lambda pair: pair[0] * pair[1])
ANY = st.dictionaries(st.sampled_from(NAMES), SIGNED)
WORDS = [
    (word, name, sign)
    for table, sign in ((SPELLINGS, 1), (OPPOSITES, -1))
    for name, languages in table.items()
    for word in filter(None, "|".join(languages).split("|"))
]


def refused(text: str) -> str:
    with pytest.raises(ValueError) as caught:
        parse_attributes(text)
    return str(caught.value)


def test_names_and_orders_are_those_of_the_data_sets() -> None:
    assert list(NAMES) == FILE_ORDER.split() and len(NAMES) == 40
    assert list(CLASS_NAMES) == CLASS_ORDER.split() and len(MASK_CLASSES) == 19
    assert len({entry.colour for entry in MASK_CLASSES}) == 19
    assert len({entry.title for entry in MASK_CLASSES}) == 19
    known = set(CLASS_NAMES)
    assert all(attribute.regions and set(attribute.regions) <= known for attribute in ATTRIBUTES)
    assert all(set(names) <= known for names in GROUPS.values())


def test_left_and_right_change_sides_and_all_else_stays() -> None:
    for label, name in enumerate(CLASS_NAMES):
        other = CLASS_NAMES[MIRRORED[label]]
        side = re.fullmatch("[lr](_eye|_brow|_ear)", name)
        assert other == ({"l": "r", "r": "l"}[name[0]] + side[1] if side else name)


def test_no_word_means_two_things() -> None:
    assert set(SPELLINGS) == set(NAMES) and set(OPPOSITES) <= set(NAMES)
    meanings: dict[str, set] = {plain(name): {(name, 1)} for name in NAMES}
    for word, name, sign in WORDS:
        meanings.setdefault(plain(word), set()).add((name, sign))
    assert all(len(meaning) == 1 for meaning in meanings.values())
    assert set(KNOWN) == set(meanings)


def test_every_attribute_has_a_word_in_each_language() -> None:
    kana = re.compile("[\u3040-\u30ff]")
    for name, (english, japanese, chinese) in SPELLINGS.items():
        assert english.isascii() and japanese and chinese, name
        assert not kana.search(chinese), "kana are not Chinese"
        for word in (japanese + "|" + chinese).split("|"):
            assert not word.isascii() and word == unicodedata.normalize("NFKC", word)


def test_every_word_is_understood() -> None:
    assert len(WORDS) > 200
    for word, name, sign in WORDS:
        for written in (word, word.upper(), f" {word} ", word.replace(" ", "_")):
            assert parse_attributes(written).strengths == {name: sign}
            assert parse_attributes(f"-{written}:0.5").strengths == {name: -0.5 * sign}


def test_what_a_prompt_says() -> None:
    """No negations, which models overlook, and no opposite that names what is unwanted."""
    negations = re.compile(r"\b(no|not|non|without|free)\b")
    for attribute in ATTRIBUTES:
        assert attribute.yes and not negations.search(f"{attribute.yes} {attribute.no}")
        assert f" {attribute.yes} " not in f" {attribute.no} "
    for name in ("Eyeglasses", "Wearing_Necklace", "Wearing_Necktie", "Goatee", "Mustache", "Bangs", "Bald"):
        noun = re.sub("Wearing_|es$|s$", "", name).lower()
        assert noun not in BY_NAME[name].no
    assert "beard" not in BY_NAME["No_Beard"].yes


@settings(deadline=None)
@given(ANY)
@example({})
@example({"Smiling": 5e-324, "Bald": -1.9999999999999998})
def test_text_and_back(strengths: dict[str, float]) -> None:
    attributes = FaceAttributes(strengths)
    back = parse_attributes(attributes.to_text())
    assert back == attributes and hash(back) == hash(attributes)
    assert list(back.strengths) == [name for name in NAMES if name in strengths]
    assert from_states(strengths) == attributes
    assert parse_attributes(back.to_text()).to_text() == attributes.to_text()


@settings(deadline=None)
@given(ANY)
def test_numbers_and_phrases(strengths: dict[str, float]) -> None:
    attributes = FaceAttributes(strengths)
    values = attributes.values()
    assert values.shape == (40,) and values.dtype == torch.float32
    expected = np.array([strengths.get(name, 0.0) for name in NAMES], np.float32)
    assert np.array_equal(values.numpy(), expected)
    positive, negative = attributes.phrases(), attributes.unwanted()
    # each is said once, somewhere
    said = [attribute.name for attribute, _, _ in positive] + [attribute.name for attribute, _, _ in negative]
    assert sorted(said) == sorted(strengths)
    for attribute, phrase, strength in positive:
        signed = strengths[attribute.name]
        assert strength == abs(signed) and phrase == (attribute.yes if signed > 0 else attribute.no) != ""
    for attribute, phrase, strength in negative:
        assert strengths[attribute.name] == -strength < 0 and phrase == attribute.yes and not attribute.no


FULL = {",": "，、；;\n", ":": "：", "-": "－−–—‐", "0123456789.": "０１２３４５６７８９．"}


@settings(deadline=None)
@given(ANY, st.randoms(use_true_random=False))
def test_signs_and_digits_of_any_width(strengths: dict[str, float], random) -> None:
    attributes = FaceAttributes({name: round(value, 2) or 1.0 for name, value in strengths.items()})
    text = attributes.to_text()
    for narrow, wide in FULL.items():
        for place, sign in enumerate(narrow):
            # the hyphen of an exponent is none of ours
            choices = [sign, wide[place]] if len(narrow) > 1 else [sign, *wide]
            text = "".join(random.choice(choices) if letter == sign else letter for letter in text)
    # a hyphen inside of a name or number does not stand there: rounded to 0.01 there is no exponent
    assert parse_attributes(text) == attributes


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
    st.sampled_from(["{}", "({})", "+{}", "（{}）", " {}\u200b", "{}:1", "\ufeff{}"]),
    st.sampled_from([str.lower, str.upper, lambda name: name.replace("_", " ")]),
)
def test_ways_of_writing_a_name(names: list[str], form: str, case) -> None:
    text = ", ".join(form.format(case(name)) for name in names)
    assert parse_attributes(text).strengths == {name: 1.0 for name in NAMES if name in names}


@pytest.mark.parametrize(("text", "expected"), [
    ("笑顔、メガネ：０．８、－ハゲ", {"Smiling": 1, "Eyeglasses": 0.8, "Bald": -1}),
    ("微笑，没有眼镜；不戴眼镜", {"Smiling": 1, "Eyeglasses": -1}),
    ("眼鏡なし、女性", {"Eyeglasses": -1, "Male": -1}),
    ("戴眼镜，女：０．５，年轻", {"Eyeglasses": 1, "Male": -0.5, "Young": 1}),
    ("woman, no hat, without a necklace, not smiling, old",
     {"Male": -1, "Wearing_Hat": -1, "Wearing_Necklace": -1, "Smiling": -1, "Young": -1}),
    ("no beard", {"No_Beard": 1}),
    ("without beard", {"No_Beard": 1}),
    ("ひげなし", {"No_Beard": 1}),
    ("无胡子", {"No_Beard": 1}),
    ("-No_Beard", {"No_Beard": -1}),
    ("beard", {"No_Beard": -1}),
    ("5 o'clock shadow", {"5_o_Clock_Shadow": 1}),
    ("5 o’clock shadow:.5", {"5_o_Clock_Shadow": 0.5}),
    ("（微笑：1.2）", {"Smiling": 1.2}),
    ("ﾒｶﾞﾈ", {"Eyeglasses": 1}),
    ("Smiling,,\n;  , Smiling", {"Smiling": 1}),
    ("Smiling:0, -Bald:0", {}),
    ("", {}), (" \n\t", {}), (",，、;", {}),
])  # fmt: skip
def test_examples(text: str, expected: dict[str, float]) -> None:
    assert parse_attributes(text).strengths == expected


@pytest.mark.parametrize(("typo", "meant"), [
    ("Smilling", "Smiling"), ("Eyglases", "Eyeglasses"), ("bushy eyebrow", "Bushy_Eyebrows"),
    ("beerd", "-No_Beard"), ("wommann", "-Male"), ("necklase", "Wearing_Necklace"), ("眼鎮", "Eyeglasses"),
    ("微萧", "Smiling"), ("ネックレ", "Wearing_Necklace"), ("金发女郎", "Blond_Hair"),
    ("!Smiling", "Smiling"), ("Smiling 😀", "Smiling"), ("WearingHat.", "Wearing_Hat"),
])  # fmt: skip
def test_a_typo_names_the_nearest(typo: str, meant: str) -> None:
    message = refused(f"Young, {typo}")
    assert typo in message and "is none of the 40 attributes" in message
    assert meant in nearest(typo)
    assert meant in message.split("Did you mean")[1]


def test_one_letter_less_still_finds_every_name() -> None:
    for name in NAMES:
        for place in (1, len(name) // 2, len(name) - 1):
            typo = name[:place] + name[place + 1 :]
            known = look_up(typo)
            assert name in nearest(typo) if known is None else known[0] == name, typo


@pytest.mark.parametrize(
    "text", ["😀", "שלום", "مبتسم", "\u202eSmiling?", "👩🏽‍🦰", "x" * 100_000, "-", "()", "(", "no"]
)
def test_foreign_text_is_refused_by_name(text: str) -> None:
    message = refused(text)
    assert "is none of the 40 attributes" in message and len(message) < 400
    # unseen marks are written out, so that they turn nothing around in the log
    assert "\u202e" not in message


def test_all_that_is_wrong_is_told_at_once() -> None:
    message = refused("Smilling, Bald, Hatt:3, Bald:nan, 髪:x")
    assert len(message.splitlines()) == 4
    assert "Smiling" in message and "'Hatt:3'" in message and "'Bald:nan'" in message and "'x'" in message
    many = refused(",".join(f"word{place}" for place in range(100)))
    assert len(many.splitlines()) == 9 and many.endswith("and 92 more.")


@pytest.mark.parametrize("number", ["2.01", "3", "-1", "nan", "inf", "-0.5", "1e999"])
def test_strengths_out_of_range(number: str) -> None:
    message = refused(f"Smiling:{number}")
    assert f"Smiling:{number}" in message and "above 0 and up to 2" in message


@pytest.mark.parametrize("number", ["", "a", "1.5x", "--1", "0x1"])
def test_strengths_that_are_no_numbers(number: str) -> None:
    assert "where a strength is expected" in refused(f"Smiling:{number}")


@pytest.mark.parametrize(
    "text", ["Smiling, -Smiling", "Smiling:0.5, 笑顔", "woman, Male", "Smiling:0, Smiling"]
)
def test_an_attribute_asked_for_twice_in_different_ways(text: str) -> None:
    assert re.search("(Smiling|Male) is asked for twice, as .* and as .*: keep one", refused(text))


def test_states() -> None:
    states = {"Smiling": True, "bald": -1, "眼鏡": np.float32(0.5), "Young": 0, "Male": None, "woman": False}
    assert from_states(states).strengths == {"Smiling": 1, "Bald": -1, "Eyeglasses": 0.5, "Male": 1}
    row = dict(zip(NAMES, [1, -1] * 20, strict=True))
    assert from_states(row).values().tolist() == [1, -1] * 20
    assert from_states({}) == FaceAttributes({})


@pytest.mark.parametrize(("states", "words"), [
    ({"Smilling": 1}, "Did you mean Smiling"), ({"Bald": "yes"}, "Bald is 'yes'"),
    ({"Bald": 2.5}, "from -2 to 2"), ({"Bald": math.nan}, "Bald is nan"),
    ({"Smiling": 1, "笑顔": -1}, "asked for twice"), ({3: 1}, "'3' is none"),
])  # fmt: skip
def test_wrong_states(states: dict, words: str) -> None:
    with pytest.raises(ValueError, match="attributes: ") as caught:
        from_states(states)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "strengths", [{"Smiling": 0.0}, {"Smiling": 2.1}, {"Smiling": math.inf}, {"smiling": 1.0}]
)
def test_attributes_check_themselves(strengths: dict) -> None:
    with pytest.raises(ValueError, match="attributes: "):
        FaceAttributes(strengths)


def test_find() -> None:
    assert find("grey hair") == "Gray_Hair" and find("５_o_clock_shadow") == "5_o_Clock_Shadow"
    for wrong in ("woman", "no hat", "grey"):
        with pytest.raises(ValueError, match="is none of the 40"):
            find(wrong)


IMPOSSIBLE = {
    frozenset(pair)
    for pair in [
        *combinations(["Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"], 2),
        ("Straight_Hair", "Wavy_Hair"), ("Bald", "Bangs"), ("Bald", "Straight_Hair"), ("Bald", "Wavy_Hair"),
        ("No_Beard", "Goatee"), ("No_Beard", "5_o_Clock_Shadow"),
    ]
}  # fmt: skip


@settings(deadline=None)
@given(ANY)
@example({name: 1.0 for name in NAMES})
def test_contradictions_are_named_once_each(strengths: dict[str, float]) -> None:
    told = FaceAttributes(strengths).contradictions()
    wanted = {name for name, strength in strengths.items() if strength > 0}
    expected = {pair for pair in IMPOSSIBLE if pair <= wanted}
    found = [frozenset(re.match(r"(\w+) and (\w+) contradict each other", line).groups()) for line in told]
    assert len(found) == len(set(found)) and set(found) == expected


def test_the_help_page_lists_what_is_understood() -> None:
    page = (ROOT / "web/docs/RealismFaceAttributes/en.md").read_text("utf-8")
    rows = re.findall(r"^\| (\w+) \| (.*?) \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    listed = {name: words for name, *words in rows if name in NAMES}
    assert list(listed) == list(NAMES)
    for name, (english, japanese, chinese) in listed.items():
        for word in [*filter(None, english.split(", ")), japanese, chinese]:
            assert find(word) == name
