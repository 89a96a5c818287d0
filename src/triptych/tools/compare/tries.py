"""The log that counts tries of claims, so that trying again and again proves nothing wrong.

The k-th try is tested at the level 0.05 * 6 / (pi² k²). These sum to 0.05 however many follow: so
much, at most, is the chance that the log ever lets a wrong claim pass. A line is the JSON of a try,
with a digest of itself and that of the line before: what was edited, or deleted before the end, is
seen. What was deleted from the end is not.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

from triptych.errors import UserError
from triptych.runs.storage import acquire_lock, check_regular_file, translate_write_errors
from triptych.tools.statistics.inference import LEVEL


class Try(NamedTuple):
    p: float  # two-sided
    level: float
    holds: bool
    number: int | None = None  # from 1
    is_repeated: bool = False  # the log had it already: its answer again, at no further cost


def level_of_try(number: int) -> float:
    """Of the k-th, from 1."""
    return (1 - LEVEL) * 6 / (math.pi * number) ** 2


@contextmanager
def open_tries(path: Path) -> Iterator["Tries"]:
    """The log while no other process has it; raises UserError where it is not as it was written, or
    cannot be written to."""
    with translate_write_errors(f"require_log={path}"):
        check_regular_file(path)
        with closing(acquire_lock(path, wait=True)) as file:
            yield Tries(file, read_lines(file, path))


class Tries(NamedTuple):
    file: IO[str]
    lines: list[dict[str, Any]]

    def test(self, claim: str, key: dict[str, Any], p: float) -> Try:
        """The next try, or that of the same key again. `key`: what is claimed of which data."""
        for line in self.lines:
            if key == {name: line.get(name) for name in key}:
                return Try(line["p"], line["level"], line["holds"], line["k"], True)
        number = len(self.lines) + 1
        level = level_of_try(number)
        line = {"k": number, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        line |= {"claim": claim, **key, "level": level, "p": p, "holds": p < level}
        line["previous"] = self.lines[-1]["digest"] if self.lines else ""
        line["digest"] = digest_line(line)
        self.append(json.dumps(line) + "\n")  # spent before anybody knows the answer
        self.lines.append(line)
        return Try(p, level, p < level, number)

    def append(self, text: str) -> None:
        """Whole and on disk, or not at all: half a line would end the log."""
        number, data = self.file.fileno(), text.encode()
        end = os.fstat(number).st_size
        try:
            while data:
                data = data[os.write(number, data) :]
            os.fsync(number)
        except OSError:
            os.ftruncate(number, end)
            raise


def read_lines(file: IO[str], path: Path) -> list[dict[str, Any]]:
    file.seek(0)
    lines: list[dict[str, Any]] = []
    while True:
        try:
            if not (text := file.readline()):
                return lines
            line = json.loads(text)
            follows = line["previous"] == (lines[-1]["digest"] if lines else "")
            is_whole = follows and text.endswith("\n") and line["digest"] == digest_line(line)
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            RecursionError,
        ):  # of no such line at all
            is_whole = False
        if not is_whole:
            raise UserError(
                f"require_log={path}: line {len(lines) + 1} is not as it was written, or follows "
                "another one\nput back the file as it was; a new log counts from 1, and must say so"
            )
        lines.append(line)


def digest_line(line: dict[str, Any]) -> str:
    """SHA-256 of all else in it."""
    content = {name: value for name, value in line.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
