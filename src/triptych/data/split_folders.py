"""Which folders of photos train, validate and test; refuses names of parts taken for classes."""

import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from triptych.data.names import decode_name, escape_name
from triptych.data.photos import IMAGE_SUFFIXES
from triptych.errors import UserError, closest_matches

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {  # names that need no setting
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
KINDS = (
    SPLIT_NAMES
    | dict.fromkeys(("trainval", "trn"), "train")
    | dict.fromkeys(("eval", "evaluation", "holdout", "tst"), "test")
)
THINGS = (
    "set sets data dataset image images img imgs photo photos picture pictures file files".split()
)
FILLERS = {*THINGS, "split", "folder", "the", "my", "new", "raw", "final", "full", "jpg", "png"}
PART = re.compile(rf"({'|'.join(KINDS)})({'|'.join(THINGS)})?")
UNLABELLED = re.compile(r"(un-?label+ed|pred(ict(ion)?s?)?)", re.IGNORECASE)
THUMBNAILS = ("__MACOSX", "@eaDir")  # folders that systems make beside photos without hiding them
# Of photos that Pillow does not decode by itself.
OTHER_SUFFIXES = {*".avif .jxl .svg .dcm .dng .cr2 .cr3 .nef .arw .raf .orf".split()}
DEPTH = 3  # folders below the root in which a set is looked for, to name it in a message


def subfolders(parent: Path) -> list[str]:
    """The names of the folders that are not hidden, sorted."""
    names = [path.name for path in parent.iterdir() if path.is_dir() and is_visible(path.name)]
    return sorted(names, key=decode_name)


def is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in THUMBNAILS


def walk_files(top: Path) -> Iterator[Path]:
    """The files in a folder and below, sorted; raises OSError where one cannot be read.

    Links are followed, but for one to a folder above itself.
    """

    def fail(error: OSError) -> NoReturn:
        raise error

    for folder, inner, files in os.walk(top, onerror=fail, followlinks=True):
        here = Path(folder).resolve()
        above = {name for name in inner if here.is_relative_to((here / name).resolve())}
        visible = [name for name in inner if is_visible(name) and name not in above]
        inner[:] = sorted(visible, key=decode_name)
        names = sorted(files, key=decode_name)
        yield from (Path(folder, name) for name in names if is_visible(name))


def is_photo(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def holds_photos(folder: Path) -> bool:
    return any(map(is_photo, walk_files(folder)))


def photos_in(folder: Path) -> list[Path]:
    """The photos that lie in a folder itself."""
    visible = (path for path in folder.iterdir() if is_visible(path.name) and is_photo(path))
    return sorted(path for path in visible if not path.is_dir())


def holds_classes(folder: Path) -> bool:
    return any(holds_photos(folder / name) for name in subfolders(folder))


def find_splits(root: Path) -> dict[str, str]:
    """The folder below `root` of each split that there is; `{"train": "."}` of a set in one.

    Raises UserError, with a line to type, where folders look like parts but have other names, lie
    deeper, or might be parts as well as classes.
    """
    names = subfolders(root)
    parts = find_parts(names)
    train = [name for name, kind in parts.items() if kind == "train"]
    if train and ({*parts.values()} > {"train"} or any(holds_classes(root / n) for n in train)):
        splits = choose_splits(root, parts)
        plain = {SPLIT_NAMES[n.lower()]: n for n in parts if n.lower() in SPLIT_NAMES}
        others = [n for n in names if n not in parts and holds_photos(root / n)]
        is_plain = splits == plain and len(parts) == len(plain) and (len(plain) > 1 or not others)
        if not is_plain or not holds_classes(root / splits["train"]):
            line = format_splits(splits) if holds_classes(root / splits["train"]) else ""
            refuse(root, [*parts, *(others if len(parts) == 1 else [])], line)
        refuse_inner_parts(root, [splits["train"]])
        return {split: splits[split] for split in SPLITS if split in splits}
    if parts and len(parts) == len(names) and not train:
        raise UserError(f"{root}: it has {' and '.join(names)}, but no train")
    refuse_inner_parts(root, names)
    for name in parts:  # `test/cat` and `test/dog` beside `cat` and `dog`
        inner = {*subfolders(root / name)} & {*names}
        if len(inner) > 1 and name not in train:
            refuse(
                root,
                [f"{name}/{n}" for n in sorted(inner)],
                format_splits({"train": ".", parts[name]: name}),
            )
    return {"train": "."}


def refuse_inner_parts(root: Path, names: Iterable[str]) -> None:
    """Raise UserError where one of these folders of classes holds parts of a set."""
    for name in names:
        inner = find_parts(subfolders(root / name))
        if {*inner.values()} > {"train"}:
            train = choose_splits(root / name, inner)["train"]
            line = suggest(root / name) if holds_classes(root / name / train) else ""
            refuse(root, [f"{name}/{n}" for n in inner], line)


def find_parts(names: Iterable[str]) -> dict[str, str]:
    """Of each name that looks like a part's, which: `training_set`, `seg_test` beside `seg_train`.

    A word that no other part shares makes a class of it, such as `bullet_train`.
    """
    parsed = {}
    for name in names:
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
        words = re.findall(r"[^\W\d_]+", spaced)
        kinds = [KINDS[match[1]] for word in words if (match := PART.fullmatch(word))]
        rest = tuple(w for w in words if not PART.fullmatch(w) and w not in FILLERS)
        if kinds:
            parsed[name] = kinds[0], rest
    sharing = defaultdict(set)
    for kind, rest in parsed.values():
        sharing[rest].add(kind)
    return {n: kind for n, (kind, rest) in parsed.items() if not rest or len(sharing[rest]) > 1}


def choose_splits(root: Path, parts: dict[str, str]) -> dict[str, str]:
    """A folder for each kind of part, the one that holds the folders of classes."""
    splits: dict[str, str] = {}
    plain_first = sorted(parts, key=lambda name: name.lower() not in SPLIT_NAMES)
    classes: set[str] = set()
    for split in SPLITS:
        for name in (name for name in plain_first if parts[name] == split):
            folder = root / name
            while len(inner := subfolders(folder)) == 1 and classes.isdisjoint(inner):
                if photos_in(folder) or not subfolders(folder / inner[0]):
                    break
                folder = folder / inner[0]
            splits.setdefault(split, folder.relative_to(root).as_posix())
        if split == "train":
            classes = {*subfolders(root / splits["train"])}
    return splits


def format_splits(splits: dict[str, str]) -> str:
    """The setting as it is typed in a shell."""
    pairs = (f"{s}: {quote(decode_name(splits[s]))}" for s in SPLITS if s in splits)
    return shlex.quote(f"data.splits={{{', '.join(pairs)}}}")


def quote(text: str) -> str:
    """A text as Hydra's grammar takes it."""
    is_plain = re.fullmatch(r"[A-Za-z_./][\w./-]*", text, re.ASCII)
    is_word = text.lower() in ("true", "false", "null", "nan", "inf")
    return text if is_plain and not is_word else '"' + text.replace('"', '\\"') + '"'


def refuse(root: Path, names: list[str], line: str) -> NoReturn:
    """Raise UserError on folders that look like parts; `line` takes them as such, if any does."""
    listed = ", ".join(escape_name(decode_name(name)) for name in names[:5])
    lines = [f"data.root={root}: {listed}: these look like parts of a set, not like classes"]
    arrange = "arrange photos as train/<class>/, test/<class>/, or give data.labels=<a CSV file>"
    lines.append(f"to take them as parts, type {line}" if line else arrange)
    if len(names) > 1:
        lines.append("to take each folder in data.root as a class, type 'data.splits={train: .}'")
    raise UserError("\n".join(lines))


def describe_missing_folder(path: Path) -> str:
    """That a folder is not there, and the nearest name where its path breaks off."""
    if path.exists():
        return f"{path}: no folder"
    gone = next(p for p in (path, *path.parents) if p.parent.exists())
    names = [p.name for p in gone.parent.iterdir() if p.is_dir() and p.name[0] != "."]
    nearest = closest_matches(gone.name, names, 1, cutoff=0.6)
    near = f"; nearest: {gone.parent / nearest}" if nearest else ""
    near = near or f"; {gone} is not there" * (gone != path)
    return f"{path}: no such folder{near}"


def suggest(root: Path) -> str:
    """What to type for the nearest folder, this one or below, that looks like a set; else ''."""
    level = [root]
    for _ in range(DEPTH + 1):
        for folder in level:
            parts = find_parts(subfolders(folder))
            line = f"data.root={shlex.quote(str(folder))}"
            if {*parts.values()} > {"train"}:
                splits = choose_splits(folder, parts)
                is_plain = all(SPLIT_NAMES.get(n.lower()) == s for s, n in splits.items())
                return line if is_plain else f"{line} {format_splits(splits)}"
            if folder != root and sum(bool(photos_in(folder / n)) for n in subfolders(folder)) > 1:
                return line
        level = [folder / name for folder in level[:20] for name in subfolders(folder)]
    return ""


def describe_left_out(root: Path, splits: dict[str, str], files: Iterable[Path]) -> Iterator[str]:
    """A line on each kind of photo that no class has; `files` are those that were looked at."""
    others = Counter(path.suffix.lower() for path in files)
    others = Counter({s: n for s, n in others.items() if s in OTHER_SUFFIXES - IMAGE_SUFFIXES})
    if others:
        counts = ", ".join(f"{n} {suffix}" for suffix, n in sorted(others.items()))
        yield f"photos of formats that are not decoded here are left out: {counts}"
    loose = [path for folder in {".", *splits.values()} for path in photos_in(root / folder)]
    if loose:
        one = escape_name(decode_name(min(loose).relative_to(root).as_posix()))
        yield f"{len(loose)} photos lie in no folder of a class and are left out, such as {one}"
    used = {Path(folder).parts[:1] for folder in splits.values()}
    for name in subfolders(root) if "." not in splits.values() else ():
        num = 0 if (name,) in used else sum(map(is_photo, walk_files(root / name)))
        if num:
            yield f"{escape_name(decode_name(name))}: {num} photos, in none of the parts, left out"


def describe_shared_folders(top: Path) -> Iterator[str]:
    """A line where all classes hold folders of the same names, as the folds of a set do."""
    groups = {
        outer: [name for name in subfolders(top / outer) if photos_in(top / outer / name)]
        for outer in subfolders(top)
    }
    first = next(iter(groups.values()), [])
    if len(groups) > 1 and len(first) > 1 and all(group == first for group in groups.values()):
        classes, inner = (
            ", ".join(escape_name(decode_name(name)) for name in [*names][:5])
            for names in (groups, first)
        )
        yield f"{classes}: each holds the folders {inner}, which are not taken as classes"
