"""Names as text of a figure: a `$` in one begins no mathematics, and its letters are of any font
that has them.

matplotlib is imported where it is used, as it takes a while.
"""

import functools
import unicodedata
import warnings

from data import photographs

# Families that are searched, in this order, for letters that the usual font lacks.
FALLBACK = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Noto Sans Thai",
    "Noto Sans Arabic",
    "Noto Sans",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "SimHei",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Arial Unicode MS",
)


def text(name):
    """A name as a figure can show it, its letters composed."""
    return unicodedata.normalize("NFC", photographs.show_name(name))


def style(*texts):
    """Properties of a matplotlib Text that shows text(name)."""
    warnings.filterwarnings("ignore", r"Glyph \d+ ")  # drawn as a box where no font has it
    return {"parse_math": False, "usetex": False, "fontfamily": families()}


@functools.cache
def families():
    """The usual fonts and those of FALLBACK that are installed."""
    import matplotlib
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    found = [name for name in FALLBACK if name in installed]
    return [*matplotlib.rcParams["font.family"], *found]
