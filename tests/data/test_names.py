"""Names of classes and files: the same text under every locale, and each a text of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.test_folder import photo, read
from triptych.data.names import class_name, decode_name, encode_name, escape_name

# What `photos` holds, in the order of the bytes; the last two are one class, written two ways.
FOLDERS = (
    *(b"a\nb", b"cat", b"cat ", "cat\u200b".encode(), "cat\ufe0f".encode(), rb"\xb9"),
    *("\u732b".encode(), b"\xb9\xb7", b"\xc4\xf1", b"caf\xe9", "ok\u00e9".encode(), b"oke\xcc\x81"),
)
CLASSES = [
    *(r"a\x0ab", "cat", r"cat\x20", r"cat\u200b", r"cat\ufe0f", r"\\xb9"),
    *("猫", r"\xb9\xb7", r"\xc4\xf1", r"caf\xe9", "oké", "oké"),
]


@pytest.mark.parametrize(("raw", "shown"), [*zip(FOLDERS, CLASSES, strict=True)])
def test_a_class_is_shown_with_escapes_for_what_cannot_be_shown(raw: bytes, shown: str) -> None:
    assert class_name(decode_name(os.fsdecode(raw))) == shown


@given(st.binary(min_size=1), st.binary(min_size=1))
def test_names_of_files_differ_as_their_bytes_do_and_are_utf_8(one: bytes, other: bytes) -> None:
    names = [escape_name(decode_name(os.fsdecode(raw))) for raw in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    assert "".join(names).encode().decode().isprintable()
    assert os.fsencode(encode_name(decode_name(os.fsdecode(one)))) == one


@given(st.text(r"\xub9 0a\u200b", min_size=1), st.text(r"\xub9 0a\u200b", min_size=1))
def test_a_name_that_has_a_backslash_is_no_escape(one: str, other: str) -> None:
    assert (class_name(one) == class_name(other)) == (one == other)


LIST_CLASSES = (
    "import sys; from triptych.data.folder import Folder; data = Folder(sys.argv[1], 8).read(); "
    "print(ascii((data.classes, list(data.files), data.train.labels.tolist())))"
)


def test_every_locale_gives_the_same_classes_files_and_labels(tmp_path: Path) -> None:
    for i, name in enumerate(FOLDERS):
        photo(tmp_path / os.fsdecode(name) / os.fsdecode(name + b".png"), grey=i)
    data = read(tmp_path, 8)
    assert data.classes == tuple(sorted({*CLASSES}))
    lines = [
        next(note for note in data.notes if words in note)
        for words in ("class names that cannot be shown", "look alike", "two spellings of Unicode")
    ]
    assert [line.partition(": ")[2].rpartition(": ")[2] for line in lines[1:]] == [
        r"cat, cat\u200b, cat\ufe0f, cat\x20",
        "oké",
    ]
    assert r"\xb9\xb7, \xc4\xf1" in lines[0]
    assert data.files is not None
    assert len({*data.files}) == len(FOLDERS)
    here = ascii((data.classes, [*data.files], data.train.labels.tolist()))
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", LIST_CLASSES, str(tmp_path)]
    there = subprocess.run(command, env=os.environ | ascii_only, capture_output=True, text=True)
    assert there.stdout.strip() == here, there.stderr
