"""Image backbones side by side: fine-tune, compare, and say what holds."""

from collections.abc import Iterable
from difflib import get_close_matches


class Refused(ValueError):
    """Input that cannot be used: what came, what was expected, what to do, in three lines at most.

    The program ends with exit code 2 and prints no traceback.
    """


def nearest(word: str, words: Iterable[str], n: int = 3) -> str:
    """The `n` words most alike, for a refusal to offer."""
    return ", ".join(get_close_matches(word, list(words), n, cutoff=0))


def legible(text: str) -> str:
    """The text, with a mark for each letter that a terminal would obey; lines stay lines."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text
    )
