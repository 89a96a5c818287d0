"""Errors that a user can correct, and text that is safe to print."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pickle import UnpicklingError

# As SQLAlchemy reads an address, but up to the last @. An interpolation is no password.
PASSWORD = re.compile(
    r"(?P<before>://[^:/@\s]*:)(?!\$\{).*(?=@)|(?P<name>\b\w*(?:password|passwd|pwd)=)[^&\s'\"]+",
    re.IGNORECASE,
)


class UserError(ValueError):
    """Input that cannot be used: what came, what was expected, what to do, in three lines at most.

    The program ends with exit code 2 and prints no traceback.
    """


class RunFailed(RuntimeError):
    """A run that cannot go on though its input can be used: what happened, what to try.

    The program ends with exit code 1 and prints no traceback.
    """


def closest_matches(word: str, words: Iterable[str], n: int = 3) -> str:
    """The `n` words most like it, for a message."""
    return ", ".join(get_close_matches(word, list(words), n, cutoff=0))


def sanitize_text(text: str) -> str:
    """The text with a mark in place of each control character, which a terminal would obey."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text
    )


def mask_password(text: str) -> str:
    """The text with *** in place of the passwords of databases' addresses."""
    return PASSWORD.sub(lambda match: (match["before"] or match["name"]) + "***", text)


def summarize_error(error: BaseException) -> str:
    """An exception's message in one line, without torch's advice to load pickled code."""
    if isinstance(error, UnpicklingError):
        return "it holds more than tensors, or is damaged"
    return (str(error) or type(error).__name__).splitlines()[0][:200]
