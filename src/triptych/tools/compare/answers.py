"""Reads anybody's answers for test images, or their true classes: JSON, npy, npz or CSV.

A file is data until it is checked: no pickles, and nothing is read that is larger than a bound.

Shapes: N images, C classes.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from triptych.errors import UserError, list_first, sanitize_text, shorten
from triptych.runs.predictions import MAX_LENGTH, read_array, read_npy
from triptych.runs.reader import MAX_CLASSES
from triptych.runs.storage import MAX_TEXT_BYTES

# What arrays and columns are for, by the names that people give them; in this order they are taken.
ROLES = {
    "logits": "logits logit",
    "probabilities": "probabilities probs prob proba probas softmax y_prob y_proba",
    "classes": "predictions prediction predicted preds pred classes y_pred",
    "": "scores outputs output",  # of a kind that their values tell
    "truth": "labels label targets target y_true truth class y",
    "groups": "groups group",  # of images that belong together; of the file of true classes
    "ids": "ids id index indices idx files file filenames filename image image_id path names name",
}
NO_ANSWERS = {"groups", "ids"}
ROLE_OF = {name: role for role, names in ROLES.items() for name in names.split()}
BESIDE = {"probability", "confidence", "label_probability", "split"}  # columns that are no class's
NEAR_ONE = 1e-3  # of a sum of probabilities that were rounded
ALMOST_ONE = 0.05  # beyond, they are something else
MAX_LETTERS = 1000  # of a class's name


class Answers(NamedTuple):
    """What a file says of images; `what` of 2-D values where it says so."""

    values: NDArray[Any]  # int64 (N,), names of classes (N,), or floats (N, C)
    what: str = ""  # "logits" or "probabilities"
    ids: list[str] | None = None
    truth: NDArray[Any] | None = None  # int64 (N,), or names of classes
    columns: tuple[str, ...] = ()  # their names, of a CSV file's values (N, C)
    groups: NDArray[np.int64] | None = None  # (N,)


def read_answers(path: Path) -> Answers:
    """Raises UserError in one line where the file is not one of answers."""
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise UserError(f"{path}: must end with {', '.join(READERS)}")
    try:
        if not path.is_file():
            raise ValueError("no regular file" if path.exists() else "no such file")
        if path.stat().st_size > MAX_TEXT_BYTES.get(suffix, np.inf):
            raise ValueError(f"longer than {MAX_TEXT_BYTES[suffix] // 10**6} MB; npz is shorter")
        return assemble(READERS[suffix](path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # of numpy, of zipfile, of json, of the system: many kinds
        raise UserError(f"{path}: cannot be read ({shorten(str(error), 200)})") from error


def assemble(arrays: dict[str, Any]) -> Answers:
    """Arrays by their role, checked; the first of `ROLES` that there is answers."""
    role = next((role for role in ROLES if role in arrays and role not in NO_ANSWERS), None)
    if role is None:
        raise UserError("holds no answers; name what answers prediction or label")
    values = check_values(arrays.pop(role), role)
    if "truth" in arrays:
        arrays["truth"] = check_values(arrays["truth"], "truth")
    for name in sorted({"truth", *NO_ANSWERS} & arrays.keys()):
        if (shape := np.shape(arrays[name])) != (len(values),):
            raise UserError(f"has {len(values):,} answers and {name} of shape {shape}")
    return Answers(
        values,
        role if values.ndim == 2 else "",
        check_ids(arrays["ids"]) if "ids" in arrays else None,
        arrays.get("truth"),
        tuple(arrays.get("columns", ())),
        number_groups(arrays["groups"]) if "groups" in arrays else None,
    )


def check_values(values: NDArray[Any], role: str) -> NDArray[Any]:
    """Classes int64 (N,), names (N,), or floats (N, C)."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind not in {1: "iufU", 2: "iuf"}.get(values.ndim, ""):
        raise UserError(
            f"is {values.dtype} {values.shape}; must be classes or their names (N,), or "
            "probabilities or logits (N, C)"
        )
    if not len(values) or len(values) > MAX_LENGTH:
        raise UserError(f"holds {len(values):,} images; must be from 1 to {MAX_LENGTH:,}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        place = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise UserError(f"image {place} has a value that is not finite (NaN or infinite)")
    if values.ndim == 1:
        return check_classes(values)
    if values.dtype.kind != "f" and role not in ("logits", "probabilities"):
        raise UserError(f"whole numbers {values.shape} are no probabilities; counts of votes?")
    if values.shape[1] > MAX_CLASSES:
        raise UserError(f"has {values.shape[1]:,} columns; at most {MAX_CLASSES:,} are read")
    return values.astype(np.result_type(values, np.float32), copy=False)


def check_classes(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "U":
        return values
    classes = values.astype(np.float64)  # holds every class
    wrong = (classes != np.rint(classes)) | (classes < 0) | (classes >= MAX_CLASSES)
    if wrong.any():
        place = int(wrong.argmax())
        raise UserError(f"image {place} has {values[place]}, which is no class")
    return classes.astype(np.int64)


def number_groups(names: Sequence[object]) -> NDArray[np.int64]:
    """By their sorted names."""
    texts = [str(name).strip() for name in names]
    if "" in texts:
        raise UserError(f"image {texts.index('')} has no group, and others have")
    return np.unique(as_texts(texts), return_inverse=True)[1].astype(np.int64)


def check_ids(ids: Sequence[object]) -> list[str]:
    """One of each; numbers as they are usually written."""
    texts = [each.strip() for each in map(str, ids)]
    texts = [str(int(each)) if each.isdecimal() and len(each) < 20 else each for each in texts]
    [(most, times)] = Counter(texts).most_common(1)
    if times > 1:
        raise UserError(f"has the id {sanitize_text(shorten(most, 80))} {times} times")
    return texts


def read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if content == []:
        raise UserError("is empty")
    known = (int, float, str, list)
    if not isinstance(content, list) or not all(type(each) in known for each in content):
        raise UserError("must be a list of classes, or of their names")
    if len({type(v) is str for v in content}) > 1:
        raise UserError("mixes names of classes with numbers")
    return {"": as_texts(content) if isinstance(content[0], str) else np.array(content)}


def read_single(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"": read_npy(file, path.stat().st_size)}


def read_archive(path: Path) -> dict[str, Any]:
    with ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        chosen = {ROLE_OF[name.lower()]: name for name in names if name.lower() in ROLE_OF}
        if len(names) == 1:
            chosen = chosen or {"": names[0]}
        if not chosen.keys() - NO_ANSWERS:
            known = "logits, probabilities, predictions"
            raise UserError(f"holds {list_first(names)}; name an array one of {known}")
        return {role: read_array(archive, name) for role, name in chosen.items()}


def read_csv(path: Path) -> dict[str, Any]:
    header, lines = split_csv(path)
    roles = [ROLE_OF.get(name.lower()) for name in header]
    if len(header) == 1 and roles == [None]:
        is_head = bool(lines) and is_number(lines[0][0]) and not is_number(header[0])
        return {"": parse_column(lines if is_head else [header, *lines], 0)}
    if any(map(is_number, header)) and "ids" not in roles:
        raise UserError("its first line must name the columns, as id,label")
    arrays: dict[str, Any] = {}
    for place, role in enumerate(roles):
        if role and role not in arrays:
            is_text = role in NO_ANSWERS
            texts = [line[place] for line in lines] if is_text else ()
            arrays[role] = texts if is_text else parse_column(lines, place)
    places = [n for n, role in enumerate(roles) if role is None and header[n].lower() not in BESIDE]
    if len(places) > 1 and "classes" not in arrays:
        values = [np.array([line[n] for n in places], dtype=np.float64) for line in lines]
        arrays |= {"": np.array(values), "columns": [header[n] for n in places]}
    return arrays


def split_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """The first line and the others, as long."""
    text = path.read_bytes().decode("utf-8-sig")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    lines = [[cell.strip() for cell in row] for row in rows if row]
    if not lines:
        raise UserError("is empty")
    for number, line in enumerate(lines, 1):
        if len(line) != len(lines[0]):
            raise UserError(f"row {number} has {len(line)} cells, the first has {len(lines[0])}")
    return lines[0], lines[1:]


def parse_column(lines: Iterable[Sequence[str]], place: int) -> NDArray[Any]:
    """Numbers where all are, else texts."""
    cells = [line[place] for line in lines]
    if all(map(is_number, cells)):
        return np.array(cells, dtype=np.float64)
    if "" in cells:
        raise UserError(f"image {cells.index('')} has no answer")
    return as_texts(cells)


def as_texts(texts: Sequence[str]) -> NDArray[np.str_]:
    if max(map(len, texts)) > MAX_LETTERS:  # each takes as much memory as the longest
        raise UserError(f"has a name of more than {MAX_LETTERS} letters")
    return np.array(texts, dtype=np.str_)


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".json": read_json,
    ".npy": read_single,
    ".npz": read_archive,
    ".csv": read_csv,
}


def find_logits(values: NDArray[Any], what: str) -> tuple[NDArray[Any] | None, str, str]:
    """Logits of values (N, C), None where their order alone can be trusted; what the values are;
    and what must be said of them, if anything."""
    sums = values.sum(axis=1, dtype=np.float64)
    worst = int(np.abs(sums - 1).argmax())
    off = abs(sums[worst] - 1)
    if values.min() < 0 or (what == "logits" and off > NEAR_ONE):
        is_misnamed = what == "probabilities"
        return values, "logits", "its probabilities are negative: read as logits" * is_misnamed
    where = f"those of image {worst} sum to {sums[worst]:.4g}"
    if off > ALMOST_ONE:
        note = f"holds no probabilities ({where}), and is not named logits: its classes alone count"
        return None, "classes", note
    note = ""
    if what == "logits":
        note = "its logits are probabilities, and read as such"
    elif off > NEAR_ONE:
        note = f"its probabilities do not sum to one ({where}): divided by their sums"
    with np.errstate(divide="ignore"):  # the logit of a probability of 0
        return np.log(values), "probabilities", note
