"""Passwords of databases: for the database alone, never for a screen or a file."""

import os
import re

STORAGE = "TRIPTYCH_STORAGE"  # the environment's address of a database
# As SQLAlchemy reads an address, but up to the last @. An interpolation is no password.
PASSWORD = re.compile(
    r"(?P<before>://[^:/@\s]*:)(?!\$\{).*(?=@)|(?P<name>\b\w*(?:password|passwd|pwd)=)[^&\s'\"]+",
    re.IGNORECASE,
)


def hidden(text: str) -> str:
    """The text with *** for passwords of addresses."""
    return PASSWORD.sub(lambda found: (found["before"] or found["name"]) + "***", text)


def reveals(text: str, url: str) -> bool:
    """Whether a text has a word of an address's password: a driver may split it elsewhere."""
    shown = words(hidden(url))
    return bool((words(url) - shown) & words(text))


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def put_away(argument: str) -> str:
    """What was typed, without the password of `storage=`, which the environment keeps instead."""
    key, _, value = argument.lstrip("+").partition("=")
    if key != "storage" or hidden(value) == value:
        return argument
    os.environ[STORAGE] = value.strip("'\"")
    return hidden(argument)


def address(storage: str | None) -> str | None:
    """The address that `storage` stands for, or the environment's where it is null."""
    is_hidden = storage is not None and hidden(storage) == storage and "***" in storage
    if storage is None or is_hidden:
        return os.environ.get(STORAGE) or storage
    return storage
