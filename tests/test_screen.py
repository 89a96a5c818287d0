"""What is printed ends no command: letters a screen lacks, a reader that left, a full disk."""

import io
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rich
from rich.console import Console

from tests.composing import composed
from tests.tiny import TINY
from triptych import cli
from triptych.cli import ROOT, ScreenHandler
from triptych.config import format_value
from triptych.errors import RunFailed, UserError, summarize_error
from triptych.runs.stopping import signal_handlers
from triptych.training import train

PRINTS = """
import logging, sys
from triptych import cli
cli.open_screen(is_result="result" in sys.argv)
assert ("closed" in sys.argv) == (sys.__stdout__ is None)
cli.configure_logging()
for _ in range(3):
    print("žaba 写真 " * 2000)
    logging.getLogger("triptych").info("kočka")
with open(sys.argv[0] + ".txt", "w") as file:
    print("写真", file=file)
"""


@pytest.fixture
def prints(tmp_path: Path) -> Path:
    """A program that prints what a screen may lack, and writes a file beside itself."""
    path = tmp_path / "prints.py"
    path.write_text(PRINTS, encoding="utf-8")
    return path


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PY": sys.executable, **environment}
    command = ["bash", "-c", f"set -o pipefail; {line}"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    "ends",
    [
        *("| head -c 9", "closed >&-", "result closed >&-", "closed >&- 2>&- <&-", "2>&-"),
        *("> /dev/full 2>&1", "2>&1 | true", "1< /dev/null 2<&1"),
    ],
)
def test_output_that_goes_nowhere_ends_no_program(ends: str, prints: Path) -> None:
    ended = shell(f'"$PY" {prints} {ends}')
    assert (ended.returncode, ended.stderr) == (0, "")
    assert prints.with_suffix(".py.txt").read_text(encoding="utf-8") == "写真\n"


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_screen_shows_what_it_can_and_files_are_utf8(
    environment: dict[str, str], prints: Path
) -> None:
    ended = shell(f'"$PY" {prints} | tail -c 40 | tr -d "\\200-\\377"', **environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "ko" in ended.stdout
    assert prints.with_suffix(".py.txt").read_text(encoding="utf-8") == "写真\n"


def test_a_line_that_a_signal_interrupts_with_another_is_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[bytes] = []

    class Signalled(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if not written:
                signal.raise_signal(signal.SIGTERM)
            written.append(bytes(data))
            return len(data)

    def log(text: str) -> None:
        ScreenHandler().emit(logging.makeLogRecord({"msg": text}))

    console = Console(file=io.TextIOWrapper(io.BufferedWriter(Signalled())))
    monkeypatch.setattr(rich, "get_console", lambda: console)
    with signal_handlers(lambda number, frame: log("stopping"), [signal.SIGTERM]):
        log("epoch 1")
        log("epoch 2")
    assert b"".join(written).splitlines().count(b"epoch 1") == 1
    assert b"epoch 2" in b"".join(written)


def test_a_program_whose_locale_python_may_not_change_starts_once(prints: Path) -> None:
    ended = shell(f'timeout 20 "$PY" -E -X utf8=0 {prints}', LC_ALL="C", PYTHONCOERCECLOCALE="0")
    assert ended.returncode == 1
    assert "UnicodeEncodeError" in ended.stderr, "at its own file; the screen takes what it can"


LONG = "/tmp/" + "a" * 300


@pytest.mark.parametrize(
    ("command", "typed"),
    [
        ("train", [f"resume={LONG}"]),
        ("train", ["data=folder", f"data.root={LONG}", "model.weights=null"]),
        ("train", ["data=shapes", f"model.weights={LONG}/x.pth"]),
        ("train", [f"log_dir={LONG}", *TINY]),
        ("train", [f"log_dir=/tmp/{'aaaa/' * 780}", *TINY]),
        ("runs", [f"runs={LONG}"]),
        ("train", ["resume=~/run"]),
        ("train", ["data=folder", "data.root=~/photos", "model.weights=null"]),
        ("train", ["data=shapes", "model.weights=~/x.pth"]),
    ],
)
def test_a_name_that_is_too_long_and_a_home_that_nobody_has_are_refused(
    command: str,
    typed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)  # without an entry in the list of users
    for name in ("HYDRA_FULL_ERROR", "TRIPTYCH_COMMAND"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "argv", [f"{command}.py", *typed])
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) <= 3
    assert [*tmp_path.iterdir()] == []


def test_help_into_a_closed_pipe_prints_no_traceback() -> None:
    for line in ('"$PY" train.py -h | true', '"$PY" -m triptych --help | true'):
        assert shell(line).stderr == ""


@pytest.mark.parametrize(
    "settings",
    [
        {"trainer": {"limit_train_batches": 1.5}},
        {"optim": {"optimizer": {"_target_": "torch.optim.Adam", "amsgrad": "no"}}},
        {"optim": {"optimizer": {"_target_": "nope.Adam"}}},
        {"trainer": {"callbacks": [{"_target_": "torch.optim.Adam"}]}},
        {"trainer": {"overfit_batches": -1}},
    ],
)
def test_a_run_that_is_refused_leaves_no_folder(settings: dict[str, Any], tmp_path: Path) -> None:
    config = composed("train", *TINY, log_dir=str(tmp_path))
    for group, values in settings.items():
        config[group] |= values
    with pytest.raises(UserError):
        train(config)
    assert list(tmp_path.iterdir()) == []


def test_messages_are_cut_between_words_and_paths_not_at_all() -> None:
    path = "/".join(["folder"] * 60)
    assert format_value(path) == path
    words = " ".join(f"word{number}" for number in range(100))
    for shown in (format_value(words), summarize_error(RunFailed(words))):
        assert set(shown.removesuffix(" ...").split()) <= set(words.split())
    assert summarize_error(RunFailed(f"\n  {path}: {words}")).startswith(path)
