"""The short form of `make strangers`."""

import ctypes
import os
import random
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.tiny import TARGETS
from tests.trials.folders import SETTINGS, lay_out, run, try_example
from tests.trials.mutations import WAYS

EXAMPLES = 10  # of a command or two each
NAMES = [name for name in SETTINGS if name not in ("tune", "evaluate more", "weights", "serve")]


def test_a_mutated_run_folder_is_read_and_nothing_else(trained_run: Path, tmp_path: Path) -> None:
    counted, faults = set(), []
    for number in range(EXAMPLES):
        names = [NAMES[number % len(NAMES)], NAMES[(3 * number + 1) % len(NAMES)]]
        for ending, wrong in try_example(number, tmp_path / "place", trained_run, names, TARGETS):
            counted.add(ending)
            faults += wrong
    assert faults == []
    assert len(counted) > EXAMPLES


def test_every_way_to_mutate_works_on_a_whole_folder(trained_run: Path, tmp_path: Path) -> None:
    for way in {*WAYS}:
        done = []
        for number in range(3):
            place = lay_out(tmp_path / "place", trained_run)
            with suppress(Exception):  # a value that no config holds, a file that is not there
                done.append(way(random.Random(number), place.run, place.top / "outside"))
        assert done, way


def test_the_watch_sees_what_a_folder_must_not_bring_about(tmp_path: Path) -> None:
    place = lay_out(tmp_path / "place")
    secret, new = (place.top / "outside" / name for name in ("secret.txt", "new"))
    deeds: list[Callable[[], object]] = [
        lambda: secret.read_text(),
        lambda: new.write_text("x"),
        lambda: secret.rename(new),
        lambda: new.mkdir(),
        lambda: os.chmod(secret, 0),
        lambda: os.listdir(secret.parent),
        lambda: socket.create_connection(("127.0.0.1", 9)),
        lambda: subprocess.run(["id"]),
        lambda: os.system("id"),
        lambda: ctypes.CDLL(None).creat(bytes(new), 0o600),  # without Python's knowledge
    ]

    def do_all() -> None:
        for deed in deeds:
            with suppress(OSError):
                deed()

    problems = run("evaluate", place, do_all).problems
    assert len(problems) == len(deeds), problems
    assert [path.name for path in secret.parent.iterdir() if path.name.startswith("new")] == ["new"]
    assert run("evaluate", place, lambda: (place.top / "tmp" / "new").mkdir()).problems == []
