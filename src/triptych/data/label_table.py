"""Labels of photos in a CSV file: a row a photo, with its file, its label and perhaps its split."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from triptych.data.names import class_name, decode_name, encode_name, escape_name
from triptych.data.split_folders import SPLIT_NAMES, SPLITS, is_photo, walk_files
from triptych.data.squares import Photo, file_state
from triptych.errors import UserError

# By what names a column goes; the first of them that there is.
COLUMNS = {
    "file": "file filename file_name filepath path image image_path image_id img id name".split(),
    "label": "label labels class class_name category target".split(),
    "split": "split set subset part".split(),
}
SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".tif", ".JPG")  # of files named without theirs


def read_labels(root: Path, labels: str) -> tuple[list[Photo], list[str]]:
    """The photos that a table names, by split, class and name, and notes on what it leaves out.

    The table lies where `labels` says, else below the root. Raises UserError, with the line of the
    table, where it cannot be used.
    """
    typed = Path(os.path.expanduser(labels))
    table = next((p for p in (typed, root / typed, root / typed.name) if p.is_file()), None)
    if table is None:
        raise UserError(f"data.labels={labels}: no such file, here or in {root}")
    files: dict[str, Photo] = {}
    missing = []
    for number, (file, label, split) in enumerate(read_rows(table), 2):
        place = f"data.labels={table}: line {number}"
        if not file or not label:
            raise UserError(f"{place}: no {'label' if file else 'file'}")
        if split.lower() not in SPLIT_NAMES:
            raise UserError(f"{place}: {split or 'nothing'} is no split; train, val or test")
        below = relative_name(file, root, place)
        names = (f"{below}{suffix}" for suffix in SUFFIXES)
        found = next((name for name in names if os.path.isfile(root / encode_name(name))), None)
        if found is None:
            missing.append(file)
            continue
        state = file_state(root / encode_name(found))
        photo = Photo(found, state, SPLIT_NAMES[split.lower()], class_name(label))
        if (before := files.setdefault(found, photo)) != photo:
            raise UserError(
                f"{place}: {escape_name(file)} is {photo.class_name} ({photo.split}), "
                f"and in a line before {before.class_name} ({before.split})"
            )
    if not any(photo.split == "train" for photo in files.values()):
        raise UserError(f"data.labels={table}: no training photo of it lies in data.root={root}")
    photos = sorted(files.values(), key=lambda p: (SPLITS.index(p.split), p.class_name, p.name))
    return photos, describe_difference(root, files, missing)


def relative_name(file: str, root: Path, place: str) -> str:
    """One name for a file, however a table spells it: its path from the root.

    Raises UserError, which begins with `place`, where it lies elsewhere.
    """
    path = os.path.normpath(file)
    below = os.path.relpath(path, root) if os.path.isabs(path) else path
    if below.partition("/")[0] == "..":
        raise UserError(f"{place}: {escape_name(file)} is not below data.root={root}")
    return below


def read_rows(table: Path) -> list[tuple[str, str, str]]:
    """File, label and split of every row; the split is `train` where there is no such column."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"data.labels={table}: not UTF-8; save it as CSV UTF-8") from error
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    columns = {(name or "").strip().lower(): name for name in reader.fieldnames or []}
    chosen = {
        use: next((columns[name] for name in names if name in columns), None)
        for use, names in COLUMNS.items()
    }
    for use in ("file", "label"):
        if chosen[use] is None:
            raise UserError(f"data.labels={table}: no column {use}, but {', '.join(columns)}")
    has_split = chosen["split"] is not None
    try:
        rows = list(reader)
    except csv.Error as error:  # a quote that is not closed, in a long table
        raise UserError(f"data.labels={table}: no CSV, {error}") from error
    return [
        (
            (row[chosen["file"]] or "").strip().replace("\\", "/"),
            (row[chosen["label"]] or "").strip(),
            (row[chosen["split"]] or "").strip() if has_split else "train",
        )
        for row in rows
    ]


def describe_difference(root: Path, files: dict[str, Photo], missing: list[str]) -> list[str]:
    """Lines on rows without a file, and on photos without a row."""
    notes = []
    if missing:
        some = ", ".join(map(escape_name, missing[:5]))
        notes.append(f"{len(missing)} rows of data.labels have no file and are left out: {some}")
    paths = (decode_name(p.relative_to(root).as_posix()) for p in walk_files(root) if is_photo(p))
    if num := sum(path not in files for path in paths):
        notes.append(f"{num} photos have no row in data.labels and are left out")
    return notes


def sort_labels(labels: Sequence[str]) -> list[str]:
    """Each label once, by its text, or by its number where all of them are whole numbers."""
    unique = {*labels}
    if all(label.isdecimal() for label in unique):
        return sorted(unique, key=lambda label: (int(label), label))
    return sorted(unique)
