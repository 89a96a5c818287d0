"""Errors that a user can correct, and text that is safe to print."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pickle import UnpicklingError

MAX_PATH = 1000  # letters that a message shows of a single word
HIDDEN = "(hidden)"  # in place of a key or password
# Of code that is not given what it expects.
CODE_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
SECRET = re.compile(
    r"((?<!experiment_)key|token|password|secret)(=.+|['\"]?: *[^,}]+)|//[^/@\s]+:[^/@\s]+@",
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


def closest_matches(word: str, words: Iterable[str], n: int = 3, cutoff: float = 0) -> str:
    """The `n` words most like it, for a message; from a `cutoff` in [0, 1] on."""
    return ", ".join(get_close_matches(word, list(words), n, cutoff))


def sanitize_text(text: str) -> str:
    """The text with a mark in place of each control character, which a terminal would obey."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)


def hide_secrets(typed: str) -> str:
    """A setting as it was typed, without the keys and passwords of loggers."""
    is_logger = typed.lstrip("+").startswith(("logger.", "trainer.logger"))

    def hide(found: re.Match[str]) -> str:
        return f"{found[1]}{found[2][0]}{HIDDEN}" if found[1] else f"//{HIDDEN}@"

    return SECRET.sub(hide, typed) if is_logger else typed


def summarize_error(error: BaseException) -> str:
    """An exception's message in one line, without torch's advice to load pickled code."""
    if isinstance(error, UnpicklingError):
        return "it holds more than tensors, or is damaged"
    lines = str(error).split("\n")
    return shorten(next((line for line in lines if line.strip()), type(error).__name__), 300)


def shorten(text: str, length: int) -> str:
    """The text on one line, cut after a word; only a word longer than any path is cut in itself."""
    line = " ".join(text.split()) if "\n" in text or len(text) > length else text
    if len(line) <= length:
        return line
    end = line.rfind(" ", 0, length + 1)
    kept = line[:end] if end > 0 else line.partition(" ")[0][:MAX_PATH]
    return kept if kept == line else f"{kept} ..."


def list_first(names: Sequence[str], most: int = 3) -> str:
    """The first names of a list, and that there are more."""
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])
