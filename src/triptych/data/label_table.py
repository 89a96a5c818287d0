"""Labels of photos in a CSV file: a row a photo, with its file, its label and perhaps its split."""

import csv
import io
import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from triptych.data.names import class_name, decode_name, encode_name, escape_name
from triptych.data.split_folders import SPLIT_NAMES, SPLITS, is_photo, walk_files
from triptych.data.squares import Photo, file_state
from triptych.errors import UserError, list_first

# By what names a column goes; the first of them that there is.
COLUMNS = {
    "file": "file filename file_name filepath path image image_path image_id img id name".split(),
    "label": "label labels class class_name category target".split(),
    "split": "split set subset part".split(),
}
MARKS = {"0": False, "0.0": False, "1": True, "1.0": True}  # of a column that is a label
SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".tif", ".JPG")  # of files named without theirs


class Row(NamedTuple):
    """What a line of a table says of a photo; texts, as they stand there."""

    place: str  # the table and the line, for messages
    file: str
    label: str
    split: str
    group: str = ""


def read_labels(
    root: Path, labels: str, separator: str | None, column: str | None = None
) -> tuple[list[Photo], list[str]]:
    """The photos that a table names, by split, class and name, and notes on what it leaves out.

    With a `separator`, a photo has any number of labels: in a cell, or those of the columns that
    have a 1; `class_name` has them joined, see `split_labels`. A `column` names each one's group.

    The table lies where `labels` says, else below the root. Raises UserError, with the line of the
    table, where it cannot be used.
    """
    table = find_table(root, labels)
    files: dict[str, Photo] = {}
    missing = []
    for row in read_rows(table, separator, column):
        found = find_file(root, row, needs_label=separator is None)
        if found is None:
            missing.append(f"{escape_name(row.file)} ({row.place.rpartition(': ')[2]})")
            continue
        state = file_state(root / encode_name(found))
        split = SPLIT_NAMES[row.split.lower()]
        photo = Photo(found, state, split, class_name(row.label), row.group)
        if (before := files.setdefault(found, photo)) != photo:
            raise UserError(
                f"{row.place}: {escape_name(row.file)} is {describe(photo)}, "
                f"and in a line before {describe(before)}"
            )
    if missing:
        raise UserError(
            f"data.labels={table}: {len(missing)} files are not in data.root={root}: "
            f"{list_first(missing, 5)}\nmend their names, or delete their lines"
        )
    photos = sorted(files.values(), key=lambda p: (SPLITS.index(p.split), p.class_name, p.name))
    check_trained(table, photos, separator)
    return photos, describe_unlisted(root, files)


def describe(photo: Photo) -> str:
    return f"{photo.class_name} ({' '.join(filter(None, (photo.split, photo.group)))})"


def find_table(root: Path, labels: str) -> Path:
    """The file of a table; raises UserError where there is none."""
    typed = Path(os.path.expanduser(labels))
    table = next((p for p in (typed, root / typed, root / typed.name) if p.is_file()), None)
    if table is None:
        raise UserError(f"data.labels={labels}: no such file, here or in {root}")
    return table


def split_labels(label: str, separator: str | None) -> list[str]:
    """The names in a label, each once, sorted; the label itself without a separator."""
    if separator is None:
        return [label]
    return sorted({name.strip() for name in label.split(separator)} - {""})


def find_file(root: Path, row: Row, needs_label: bool) -> str | None:
    """The name of a row's file below the root, None where it is not there.

    Raises UserError at a row that says too little, or of a file that lies elsewhere.
    """
    if not row.file or (needs_label and not row.label):
        raise UserError(f"{row.place}: no {'label' if row.file else 'file'}")
    if row.split.lower() not in SPLIT_NAMES:
        raise UserError(f"{row.place}: {row.split or 'nothing'} is no split; train, val or test")
    below = relative_name(row.file, root, row.place)
    names = (f"{below}{suffix}" for suffix in SUFFIXES)
    return next((name for name in names if os.path.isfile(root / encode_name(name))), None)


def check_trained(table: Path, photos: Sequence[Photo], separator: str | None = None) -> None:
    """Raise UserError where no photo trains, or not one of a class that others have."""
    each = [(name, p) for p in photos for name in split_labels(p.class_name, separator)]
    trained = {name for name, photo in each if photo.split == "train"}
    if not trained:
        raise UserError(f"data.labels={table}: no training photo in it")
    for name, photo in each:
        if name not in trained:
            raise UserError(
                f"data.labels={table}: {name}: the label of no training photo, but of "
                f"{escape_name(photo.name)} ({photo.split})"
            )


def relative_name(file: str, root: Path, place: str) -> str:
    """One name for a file, however a table spells it: its path from the root.

    Raises UserError, which begins with `place`, where it lies elsewhere.
    """
    path = os.path.normpath(file)
    below = os.path.relpath(path, root) if os.path.isabs(path) else path
    if below.partition("/")[0] == "..":
        raise UserError(f"{place}: {escape_name(file)} is not below data.root={root}")
    return below


def read_rows(table: Path, separator: str | None = None, column: str | None = None) -> list[Row]:
    """Every row; the split is `train` where there is no such column."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"data.labels={table}: not UTF-8; save it as CSV UTF-8") from error
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    columns = find_columns(table, reader.fieldnames or [], bool(separator), column)
    rows = []
    try:
        for cells in reader:
            place = f"data.labels={table}: line {reader.line_num}"
            surplus: Any = cells.pop(None, ())
            if any(surplus):
                raise UserError(
                    f"{place}: more cells than the first line; put a text with , in quotes"
                )
            values = {use: (cells[name] or "").strip() for use, name in columns.items()}
            values = {"split": "train", "place": place} | values
            if separator:
                marks = {n: v for n, v in cells.items() if n not in columns.values()}
                is_cell = "label" in values
                label = values["label"] if is_cell else find_marked(marks, separator, place)
                values["label"] = separator.join(split_labels(label, separator))
            rows.append(Row(**values | {"file": values["file"].replace("\\", "/")}))
    except csv.Error as error:  # a quote that is not closed, in a long table
        raise UserError(f"data.labels={table}: no CSV, {error}") from error
    return rows


def find_marked(marks: dict[str, str | None], separator: str, place: str) -> str:
    """The columns that have a 1, joined; raises UserError where one has neither 0 nor 1."""
    for name, mark in marks.items():
        if (mark or "").strip() not in MARKS:
            raise UserError(f"{place}: {name} is {mark}: a column of a label has 0 or 1 everywhere")
        if separator in name:
            raise UserError(f"{place}: {name}: holds data.separator={separator}; choose another")
    return separator.join(name for name, mark in marks.items() if MARKS[(mark or "").strip()])


def find_columns(
    table: Path, header: Sequence[str], may_be_marked: bool = False, group: str | None = None
) -> dict[str, str]:
    """The column of each use that there is; raises UserError without one of files or of labels.

    Labels `may_be_marked`, in all columns of no other use. `group` is the name of one more.
    """
    columns = {(name or "").strip().lower(): name for name in header}
    uses = COLUMNS | ({"group": [group.strip().lower()]} if group else {})
    chosen = {
        use: columns[next(name for name in names if name in columns)]
        for use, names in uses.items()
        if columns.keys() & names
    }
    if group and "group" not in chosen:
        raise UserError(f"data.groups={group}: no such column in {table}, but {', '.join(columns)}")
    are_marked = may_be_marked and len(header) > len(chosen)
    for use in ("file",) if are_marked else ("file", "label"):
        if use not in chosen:
            raise UserError(
                f"data.labels={table}: no column {use}, but {', '.join(columns) or 'nothing'}\n"
                f"call it {use} in the first line"
                + "; columns of 0 and 1, one a label, need module=multilabel"
                * (use == "label")
            )
    return chosen


def describe_unlisted(root: Path, files: Container[str]) -> list[str]:
    """A line on photos without a row, if there are any."""
    paths = (decode_name(p.relative_to(root).as_posix()) for p in walk_files(root) if is_photo(p))
    num = sum(path not in files for path in paths)
    return [f"{num} photos have no row in data.labels and are left out"] if num else []


def sort_labels(labels: Sequence[str]) -> list[str]:
    """Each label once, by its text, or by its number where all of them are whole numbers."""
    unique = {*labels}
    if all(label.isdecimal() for label in unique):
        return sorted(unique, key=lambda label: (int(label), label))
    return sorted(unique)
