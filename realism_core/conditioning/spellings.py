"""What people write for the 40 attributes of CelebA in English, Japanese and Chinese, and its look-up.

CelebA's own names need no entry. Katakana is read as hiragana, and case, width, spaces, underscores and
hyphens do not count, so that one spelling of each is enough.
"""

from __future__ import annotations

import unicodedata
from difflib import SequenceMatcher

from .vocabulary import NAMES

# by attribute: English, Japanese, Chinese (simplified, then traditional where it differs), the usual first
SPELLINGS = {
    "5_o_Clock_Shadow": ("five o'clock shadow|stubble", "無精ひげ|無精髭|不精ひげ", "胡茬|胡渣|鬍渣"),
    "Arched_Eyebrows": ("arched brows", "アーチ眉|弓なりの眉|弓形の眉", "弯眉|弯眉毛|拱形眉|彎眉"),
    "Attractive": ("attractive face", "魅力的|魅力的な顔", "有魅力|迷人"),
    "Bags_Under_Eyes": ("eye bags|bags under the eyes", "目の下のたるみ|目の下のふくらみ", "眼袋"),
    "Bald": ("bald head|baldness", "禿頭|はげ|禿げ|スキンヘッド", "秃头|光头|秃顶|光頭"),
    "Bangs": ("fringe", "前髪", "刘海|劉海|瀏海"),
    "Big_Lips": ("full lips|thick lips", "厚い唇|分厚い唇|大きな唇|大きい唇", "厚嘴唇|大嘴唇|厚唇"),
    "Big_Nose": ("large nose", "大きな鼻|大きい鼻", "大鼻子"),
    "Black_Hair": ("", "黒髪|黒い髪", "黑发|黑头发|黑色头发|黑髮|黑頭髮"),
    "Blond_Hair": ("blonde hair|blond|blonde", "金髪|ブロンド|ブロンドヘア", "金发|金色头发|金髮"),
    "Blurry": ("blurred|out of focus", "ぼやけ|ぼやけた|ピンぼけ", "模糊"),
    "Brown_Hair": ("brunette", "茶髪|茶色い髪|茶色の髪", "棕发|棕色头发|褐色头发|棕髮|褐髮"),
    "Bushy_Eyebrows": ("bushy brows|thick eyebrows", "太い眉|濃い眉|太眉", "浓眉|濃眉"),
    "Chubby": ("chubby face", "ふっくら|ぽっちゃり", "圆胖|胖|胖乎乎|圓胖"),
    "Double_Chin": ("", "二重あご|二重顎", "双下巴|雙下巴"),
    "Eyeglasses": (
        "glasses|spectacles|wearing glasses|wearing eyeglasses",
        "眼鏡|めがね",
        "眼镜|戴眼镜|戴眼鏡",
    ),
    "Goatee": ("goatee beard", "やぎひげ|山羊ひげ|山羊髭", "山羊胡|山羊胡子|山羊鬍"),
    "Gray_Hair": ("grey hair", "白髪|灰色の髪|グレーヘア", "白发|灰发|花白头发|灰白头发|白髮|灰髮"),
    "Heavy_Makeup": ("", "濃い化粧|厚化粧|濃いメイク", "浓妆|濃妝"),
    "High_Cheekbones": ("", "高い頬骨", "高颧骨|颧骨高|高顴骨"),
    "Male": ("man", "男性", "男|男人"),
    "Mouth_Slightly_Open": (
        "slightly open mouth|open mouth",
        "少し開いた口|口が少し開いている|半開きの口",
        "嘴微张|嘴巴微张|微微张嘴|嘴微張",
    ),
    "Mustache": ("moustache", "口ひげ|口髭", "小胡子|八字胡|小鬍子|八字鬍"),
    "Narrow_Eyes": ("", "細い目", "细眼|细长眼|眯眯眼|細眼|瞇瞇眼"),
    "No_Beard": ("beardless", "ひげなし|髭なし", "无胡须|没有胡子|没胡子|無鬍鬚|沒有鬍子"),
    "Oval_Face": ("", "卵形の顔|卵型の顔|うりざね顔", "鹅蛋脸|椭圆脸|椭圆形脸|鵝蛋臉|橢圓臉"),
    "Pale_Skin": ("", "色白|白い肌", "白皙皮肤|皮肤白皙|白皮肤|苍白皮肤|白皙皮膚|蒼白皮膚"),
    "Pointy_Nose": ("pointed nose", "とがった鼻|尖った鼻", "尖鼻子|尖鼻"),
    "Receding_Hairline": ("", "後退した生え際|生え際の後退", "发际线后移|后移的发际线|髮際線後移"),
    "Rosy_Cheeks": ("", "赤い頬|ばら色の頬", "红润脸颊|脸颊红润|红脸颊|紅潤臉頰"),
    "Sideburns": ("", "もみあげ", "鬓角|鬢角"),
    "Smiling": ("smile", "笑顔|微笑み", "微笑|笑容|笑"),
    "Straight_Hair": ("", "直毛|ストレートヘア", "直发|直髮"),
    "Wavy_Hair": (
        "",
        "ウェーブヘア|ウェーブのかかった髪|波打つ髪",
        "波浪发|波浪卷发|卷发|波浪捲髮|捲髮",
    ),
    "Wearing_Earrings": ("earrings|earring", "イヤリング|ピアス|耳飾り", "耳环|戴耳环|耳環|戴耳環"),
    "Wearing_Hat": ("hat|wearing a hat", "帽子", "戴帽子"),
    "Wearing_Lipstick": ("lipstick", "口紅", "口红|涂口红|塗口紅"),
    "Wearing_Necklace": ("necklace|wearing a necklace", "ネックレス|首飾り", "项链|戴项链|項鍊|戴項鍊"),
    "Wearing_Necktie": (
        "necktie|tie|wearing a necktie|wearing a tie",
        "ネクタイ",
        "领带|戴领带|打领带|領帶|打領帶",
    ),
    "Young": ("young face", "若い", "年轻|年輕"),
}  # fmt: skip
# these say no to the attribute
OPPOSITES = {
    "Blurry": ("sharp|in focus", "くっきり", "清晰"),
    "Male": ("female|woman", "女性", "女|女人"),
    "Mouth_Slightly_Open": ("closed mouth", "閉じた口", "闭嘴|閉嘴"),
    "No_Beard": ("beard|bearded", "あごひげ|顎ひげ|顎髭", "胡须|胡子|鬍子|鬍鬚"),
    "Young": ("old|elderly", "年配|高齢", "年老|老"),
}
_DROPPED = " _-‐‑’'`・·"
# in front of or behind a name, for no
_BEFORE = ("no", "not", "without a", "without", "没有", "沒有", "无", "無", "不")
_BEHIND = ("なし", "無し", "ではない")
_HIRAGANA = {katakana: katakana - 0x60 for katakana in range(0x30A1, 0x30F7)}
# how alike a name must be to be suggested, and how much less than the most alike one
_CLOSE, _BEHIND_BEST = 0.5, 0.12
_LONGEST = 40


def plain(name: str) -> str:
    """Return a name without what people write differently: case, width, kana, spaces, hyphens."""
    folded = unicodedata.normalize("NFKC", name).casefold().translate(_HIRAGANA)
    return "".join(
        letter
        for letter in folded
        if letter not in _DROPPED and unicodedata.category(letter) not in ("Cf", "Zs")
    )


def look_up(name: str) -> tuple[str, int] | None:
    """Return (CelebA's name, 1) for a name of an attribute, -1 for one of its opposite; None for neither."""
    key = plain(name)
    if key in KNOWN:
        return KNOWN[key]
    stripped = name.strip()
    for word in _BEFORE:
        rest = stripped[len(word) :]
        # an English word ends at a space: "nose" does not begin with "no"
        ends = not word.isascii() or rest[:1] in (" ", "_")
        if stripped.casefold().startswith(word) and ends:
            return _negated(rest)
    for word in _BEHIND:
        if stripped.endswith(word):
            return _negated(stripped.removesuffix(word).removesuffix("の"))
    return None


def _negated(name: str) -> tuple[str, int] | None:
    found = KNOWN.get(plain(name))
    return found and (found[0], -found[1])


def nearest(name: str) -> list[str]:
    """Return up to three of CelebA's names that are spelled like a name, the nearest first; a - is no."""
    key = plain(name)
    if len(key) > _LONGEST:
        return []
    matcher = SequenceMatcher(b=key)
    ratios: dict[str, float] = {}
    for spelling, (known, sign) in KNOWN.items():
        matcher.set_seq1(spelling)
        signed = f"-{known}" if sign < 0 else known
        ratios[signed] = max(ratios.get(signed, 0.0), matcher.ratio())
    least = max(_CLOSE, max(ratios.values()) - _BEHIND_BEST)
    near = [signed for signed, ratio in ratios.items() if ratio >= least]
    return sorted(near, key=ratios.__getitem__, reverse=True)[:3]


def _known() -> dict[str, tuple[str, int]]:
    known = {plain(name): (name, 1) for name in NAMES}
    for table, sign in ((SPELLINGS, 1), (OPPOSITES, -1)):
        for name, languages in table.items():
            spellings = filter(None, "|".join(languages).split("|"))
            known |= {plain(spelling): (name, sign) for spelling in spellings}
    return known


KNOWN = _known()
