"""Names as text of a figure: a `$` in one begins no mathematics, and its letters are of whatever font has them.

matplotlib is imported where it is used, as it takes a while.
"""

import functools
import unicodedata

from data import photographs

# Sought first where the usual font lacks a letter: families of Chinese, Japanese and Korean, and of many scripts.
PREFERRED = (
    "Noto Sans CJK",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans",
    "PingFang",
    "Hiragino Sans",
    "Apple SD Gothic",
    "Microsoft YaHei",
    "Yu Gothic",
    "Meiryo",
    "Malgun Gothic",
    "SimHei",
    "MS Gothic",
    "WenQuanYi",
    "Droid Sans Fallback",
    "Nanum",
    "IPAGothic",
    "Noto Sans",
    "Arial Unicode",
)
PLACEHOLDERS = (
    "last resort",
    "lastresort",
    ".lastresort",
)  # a font that has every letter, and all of them are boxes


def text(name):
    """A name as a figure can show it: its letters composed, and a box for each that no font here has."""
    return "".join(drawable(c) for c in unicodedata.normalize("NFC", photographs.show_name(name)))


def style(*texts):
    """What matplotlib should know to draw text(name) of some names: a dict of properties of its Text."""
    import matplotlib

    families = {
        family: None
        for c in sorted(set("".join(texts)))
        if not usual(c)
        for family in [family_with(c)]
        if family
    }
    fonts = {"fontfamily": [*matplotlib.rcParams["font.family"], *families]} if families else {}
    return {"parse_math": False, "usetex": False, **fonts}


def drawable(c):
    """A character, or what can stand for it."""
    if usual(c) or family_with(c):
        return c
    simple = unicodedata.normalize("NFKC", c)
    return simple if all(map(usual, simple)) else "\u25a1" if usual("\u25a1") else "?"


def usual(c):
    """Whether the font that figures are lettered in has a character."""
    from matplotlib import font_manager

    return ord(c) in letters(font_manager.findfont(font_manager.FontProperties()))


@functools.cache
def family_with(c):
    """The family of another font that has a character, or None."""
    from matplotlib import font_manager

    def rank(font):
        return next(
            (k for k, name in enumerate(PREFERRED) if font.name.startswith(name)), len(PREFERRED)
        ), font.name

    upright = [
        font
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and not font.name.lower().startswith(PLACEHOLDERS)
    ]
    return next(
        (font.name for font in sorted(upright, key=rank) if ord(c) in letters(font.fname)), None
    )


@functools.cache
def letters(path):
    """The characters of a font file as numbers; none of one that cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # it has gone since matplotlib listed it, or is damaged
        return frozenset()
