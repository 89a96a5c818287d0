"""One process at a time in a run folder."""

import errno
import fcntl
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from triptych.errors import UserError
from triptych.runs.reader import is_locked
from triptych.runs.storage import acquire_lock, lock_run, release_lock

HOLDING = """
import pathlib, sys, time
from triptych.runs.storage import lock_run
with lock_run(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder."""
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_by_the_holder_s_name_until_that_is_killed(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert is_locked(tmp_path)
    named = f"process {holder.pid} on {socket.gethostname()} is at work"
    for _ in range(2):
        with pytest.raises(UserError, match=named), lock_run(tmp_path):
            pass
    holder.kill()
    holder.wait()
    assert not is_locked(tmp_path)
    with lock_run(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_lock_that_its_holder_deletes_meanwhile_is_acquired_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, path = fcntl.flock, tmp_path / "lock"
    earlier = acquire_lock(path)

    def released_at_the_last_moment(file: Any, how: int) -> None:
        release_lock(earlier)
        monkeypatch.setattr(fcntl, "flock", flock)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", released_at_the_last_moment)
    file = acquire_lock(path)
    with pytest.raises(BlockingIOError):
        acquire_lock(path)
    release_lock(file)


def test_a_file_system_without_locks_grants_them_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), lock_run(tmp_path):
        assert not is_locked(tmp_path)
    assert "no locks" in caplog.text


def test_a_lock_is_released_on_a_disk_that_has_become_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", path)

    monkeypatch.setattr(os, "unlink", refuse)
    with lock_run(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("words")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(precious)
    with pytest.raises(UserError, match="cannot be written to"), lock_run(tmp_path / "run"):
        pass
    assert not is_locked(tmp_path / "run")
    assert precious.read_text() == "words"
