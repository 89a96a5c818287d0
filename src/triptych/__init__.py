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


def printable(line: str) -> str:
    """A line as a terminal may show it: no control codes out of somebody's files."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
