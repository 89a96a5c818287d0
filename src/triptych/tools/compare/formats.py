"""How numbers and lists of words are written, on the page, in the text and on the screen.

What was not measured is a dash.
"""

import base64
import math
from collections.abc import Callable, Sequence

DASH = "–"
MAX_WORDS = 10  # in a list; beyond, a table is easier to read


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in percent, without the sign: 91.55."""
    return fixed(None if value is None else 100 * value, digits)


def rate(share: float) -> str:
    """One that was chosen, as it was written: 95 %, 97.5 %."""
    return f"{round(100 * share, 4):g} %"


def points(value: float, digits: int = 2) -> str:
    """A difference of fractions in percentage points, with its sign: +3.49, −0.05."""
    return signed(100 * value, digits)


def signed(value: float, digits: int = 4) -> str:
    """A number with its sign: +0.0210, −0.0034."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")  # no minus zero


def interval(low: float, high: float, write: Callable[..., str] = percent, digits: int = 2) -> str:
    """88.20 to 91.55, of differences −0.50 to 1.20, or a dash where there is none."""
    written = f"{write(low, digits)} to {write(high, digits)}".replace("+", "")
    return DASH if math.isnan(low) else written


def in_brackets(interval: str) -> str:
    """(88.20 to 91.55), or nothing where there is no interval."""
    return "" if interval == DASH else f"({interval})"


def thousands(value: float | None) -> str:
    """12,346."""
    return f"{value:,.0f}" if value is not None and math.isfinite(value) else DASH


def fixed(value: float | None, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if value is not None and math.isfinite(value) else DASH


def p_value(p: float) -> str:
    """0.0312, or < 0.0001."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def p_statement(p: float) -> str:
    """p = 0.0312, or p < 0.0001."""
    return f"p = {p_value(p)}".replace("= <", "<")


def chance(p: float) -> str:
    """0.94, and at the ends < 0.01 or > 0.99: what is estimated is never certain."""
    rounded = f"{p:.2f}"
    return {"0.00": "< 0.01", "1.00": "> 0.99"}.get(rounded, rounded)


def pluralize(number: int, noun: str) -> str:
    """1 seed, 10,000 images."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def count_images(num_images: int, num_groups: int | None, noun: str = "test image") -> str:
    """150 test images of 30 groups, where images belong together."""
    of = f" of {pluralize(num_groups, 'group')}" if num_groups else ""
    return f"{pluralize(num_images, noun)}{of}"


def join_words(words: Sequence[str], most: int | None = None, last: str = "and") -> str:
    """`a, b and c`; of more than `most` words the first, and how many more there are."""
    if most is not None and len(words) > most:
        words = [*words[:most], f"{len(words) - most} more"]
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def spaced(name: str) -> str:
    """The name of a type of images, as people write it."""
    return name.replace("_", " ").replace("jpeg", "JPEG")


def capitalize(words: str) -> str:
    """The first letter large, all others as they are."""
    return words[:1].upper() + words[1:]


def data_uri(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
