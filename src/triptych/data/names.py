"""Names of files as text that every system writes alike and a reader can tell apart.

A name is bytes on most disks, and Python's text of them depends on the locale. `decode_name` gives
UTF-8's text under any locale, with a lone surrogate for each byte that is none; `encode_name` is
its inverse; `escape_name` is what people, records and pages get to see.
"""

import os
import re
import unicodedata

# What shows nothing though Unicode counts it as a letter, a mark or a symbol. The selector U+FE0F
# is left where it has a symbol drawn in colours.
BLANKS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\ufe00-\ufe0e"
    "\U000e0100-\U000e01ef]|(?<![\u203c-\u3299\U0001f000-\U0001faff])\ufe0f"
)
ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


def decode_name(name: str) -> str:
    """The text of a name that `os` gave, the same under every locale."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def encode_name(text: str) -> str:
    """The name for `os` of a text of `decode_name`."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def escape_name(text: str) -> str:
    r"""The text with an escape for each byte or character that cannot be shown.

    A byte that is not UTF-8 becomes `\xb9`, a character such as the zero-width space `\u200b`.
    Different texts stay different: where a text has such an escape of its own, its backslashes
    are doubled.
    """
    if is_shown(text) and not ESCAPE.search(text):
        return text
    return "".join(escape_letter(letter) for letter in text)


def is_shown(text: str) -> bool:
    return text.isprintable() and not BLANKS.search(text)


def escape_letter(letter: str) -> str:
    if letter == "\\":
        return r"\\"
    if is_shown(letter):
        return letter
    code = ord(letter)
    if code < 0x80 or 0xDC80 <= code <= 0xDCFF:  # ASCII, or a byte that is not UTF-8
        return f"\\x{code & 0xFF:02x}"
    return f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"


def class_name(folder: str) -> str:
    """The name of the class of a folder or a label: composed (NFC) and escaped.

    Spaces at an end, which cannot be seen, are escaped, too.
    """
    text = escape_name(unicodedata.normalize("NFC", folder))
    return re.sub("^ +| +$", lambda spaces: r"\x20" * len(spaces[0]), text)


INVISIBLE = re.compile(r"\\(x[0-7][0-9a-f]|u[0-9a-f]{4}|U[0-9a-f]{8})")  # escapes, less of bytes


def visible_part(name: str) -> str:
    """What a reader would see of a class without escapes; classes that share it look alike."""
    return " ".join(INVISIBLE.sub("", name).replace("\ufe0f", "").split())
