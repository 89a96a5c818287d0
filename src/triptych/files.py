"""Files that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path`, whole and on disk, when the block ends."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(parent: Path, name: str) -> Path:
    """A new folder of that name, with a number behind it where two collide."""
    parent.mkdir(parents=True, exist_ok=True)
    for suffix in ["", *(f"_{n}" for n in range(2, 1000))]:
        try:
            (parent / f"{name}{suffix}").mkdir()
        except FileExistsError:
            continue
        return parent / f"{name}{suffix}"
    raise FileExistsError(parent / name)
