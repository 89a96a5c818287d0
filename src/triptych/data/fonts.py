"""Fonts of the system for letters that matplotlib's own font has not."""

import logging
from functools import cache

from matplotlib.font_manager import findfont, findSystemFonts, fontManager, get_font

log = logging.getLogger(__name__)


@cache
def find_fonts(letters: frozenset[str]) -> tuple[str, ...]:
    """Families of installed fonts that together have the letters which the default has not.

    Says which letters no font has, once for each set of letters.
    """
    own = get_font(findfont("DejaVu Sans")).get_charmap()
    missing = {ord(letter) for letter in letters if letter.isprintable()} - own.keys()
    has = {
        path: missing & read_letters(path)
        for path in sorted(findSystemFonts())
        if "LastResort" not in path
    }
    families: list[str] = []
    while missing and (best := max(has, key=lambda path: len(has[path] & missing), default="")):
        if not has[best] & missing:
            break
        fontManager.addfont(best)
        families.append(get_font(best).family_name)
        missing -= has[best]
    if missing:
        some = "".join(map(chr, sorted(missing)[:10]))
        log.warning("no font here has %s: figures show boxes for them until one is installed", some)
    return tuple(families)


@cache
def read_letters(path: str) -> frozenset[int]:
    """The code points of a font; none of one that matplotlib cannot draw."""
    try:
        font = get_font(path)
        font.set_size(10, 100)  # refused by fonts of pictures in one size
        return frozenset(font.get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()
