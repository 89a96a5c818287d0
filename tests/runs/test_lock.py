"""One process at a time in a run folder."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from triptych.errors import UserError
from triptych.runs.storage import is_locked, lock_run

HOLDING = """
import os, sys, pathlib, time
from triptych.runs.storage import lock_run
with lock_run(pathlib.Path(sys.argv[1])):
    if os.fork() == 0:  # as a worker that outlives the run
        os.close(1)
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder, and has a child."""
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as p:
        assert p.stdout
        assert p.stdout.readline() == "held\n"
        yield p
        os.killpg(p.pid, 9)


def test_the_second_process_is_told_which_one_is_at_work(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert is_locked(tmp_path)
    named = f"process {holder.pid} on {socket.gethostname()} is at work"
    with pytest.raises(UserError, match=named), lock_run(tmp_path):
        pass
    assert is_locked(tmp_path), "a refusal leaves the holder its lock"


def test_a_killed_process_holds_nothing_though_its_child_lives(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    holder.kill()
    holder.wait()
    assert not is_locked(tmp_path)
    with lock_run(tmp_path):
        assert is_locked(tmp_path)


def test_a_folder_is_free_before_and_after_and_keeps_no_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    for _ in range(2):
        with lock_run(tmp_path):
            assert is_locked(tmp_path)
            with pytest.raises(UserError), lock_run(tmp_path):
                pass
    assert not is_locked(tmp_path)
    assert not list(tmp_path.iterdir())
    assert not is_locked(tmp_path / "nowhere")


def test_a_lock_file_that_is_replaced_under_way_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def replaced(file: Any, how: int) -> None:
        (tmp_path / ".lock").unlink()
        (tmp_path / ".lock").write_text("")
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", replaced)
    with pytest.raises(UserError, match="at work"), lock_run(tmp_path):
        pass


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)


@pytest.mark.usefixtures("no_flock")
def test_without_flock_the_name_in_the_file_counts(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    living = os.getppid()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name, is_held in {
        f"{living} on {socket.gethostname()}": True,
        f"{ended.pid} on {socket.gethostname()}": False,
        f"{ended.pid} on another-machine": True,
        "": False,
        "nobody": False,
        "-1 on here": False,
        "\x1b[31m1 on here": False,
    }.items():
        file.write_text(name)
        assert is_locked(tmp_path) == is_held, name
        if is_held:
            with pytest.raises(UserError, match=f"delete {file}"), lock_run(tmp_path):
                pass
        else:
            with lock_run(tmp_path):
                assert file.read_text() == f"{os.getpid()} on {socket.gethostname()}"


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("words")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(precious)
    with pytest.raises(UserError, match="cannot be written to"), lock_run(tmp_path / "run"):
        pass
    assert not is_locked(tmp_path / "run")
    assert precious.read_text() == "words"
