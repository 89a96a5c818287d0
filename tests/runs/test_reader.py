"""Run folders are found wherever they lie, each once."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tests.run_folders import write_run
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders, sanitize


def test_every_run_below_is_found_once_however_it_is_named(tmp_path: Path) -> None:
    folders = {
        write_run(tmp_path, model, seed) for model in ("alexnet", "vgg11") for seed in (0, 1)
    }
    (tmp_path / "link").symlink_to(tmp_path / "shapes")
    places = [str(tmp_path), f"{tmp_path}/*", f"{tmp_path}/**/seed1/*", f"{tmp_path}/link"]
    paths = find_run_folders(places)
    assert len(paths) == 4
    assert {folder.resolve() for folder in paths} == {folder.resolve() for folder in folders}


def test_a_folder_whose_name_looks_like_a_glob_is_that_folder(tmp_path: Path) -> None:
    root = tmp_path / "logs[1]"
    with pytest.raises(UserError, match="no run there or below"):
        find_run_folders([str(root)])
    folder = write_run(root)
    assert find_run_folders([str(root)]) == [folder]


def test_every_place_without_a_run_is_named_beside_one_that_has_some(tmp_path: Path) -> None:
    write_run(tmp_path / "logs")
    (tmp_path / "empty").mkdir()
    places = [f"{tmp_path}/nope", f"{tmp_path}/logs", f"{tmp_path}/empty"]
    with pytest.raises(UserError, match=rf"^run={tmp_path}/empty,{tmp_path}/nope: no run"):
        find_run_folders(places, "run")


def test_a_folder_that_cannot_be_looked_into_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, other = write_run(tmp_path), write_run(tmp_path, seed=1)
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path) == str(other):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [find_run_folders(str(tmp_path)) for _ in range(2)] == [[run], [run]]
    assert [str(other) in message for message in caplog.messages] == [True]


def test_runs_behind_links_are_found_once_and_a_loop_ends(tmp_path: Path) -> None:
    elsewhere = write_run(tmp_path / "elsewhere")
    logs = tmp_path / "logs"
    near = write_run(logs, seed=1)
    (logs / "again").symlink_to(near.parent)
    (logs / "far").symlink_to(tmp_path / "elsewhere")
    write_run(tmp_path / "of_others", seed=2)
    (logs / "above").symlink_to(tmp_path)
    (logs / "shapes" / "loop").symlink_to(logs)
    paths = find_run_folders([str(logs)])
    assert {folder.resolve() for folder in paths} == {near.resolve(), elsewhere.resolve()}
    assert len(paths) == 2
    (logs / "far").unlink()
    assert find_run_folders([str(logs)]) == [near], "a link to what lies above is not followed"
    assert near in paths, "by its own name, not by that of a link"


def test_what_is_read_can_be_printed_and_written_as_utf8_or_is_refused() -> None:
    assert sanitize("a\ud800\x1b[31m\nb") == "a\ufffd\ufffd[31m b"
    assert sanitize({"k\0": ["v\r\n", 1, None]}) == {"k\ufffd": ["v", 1, None]}
    nested: list = []
    for _ in range(900):
        nested = [nested]
    with pytest.raises(UserError, match="nested deeper than 50"):
        sanitize({"a": nested})
