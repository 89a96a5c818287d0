"""Files, disks and clocks that lie: a clear message, and nothing that was finished is lost."""

import errno
import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.summary.writer.record_writer import masked_crc32c

from tests.tiny import StartRun
from triptych.callbacks import checkpoint
from triptych.cli import print_error
from triptych.errors import UserError, sanitize_text
from triptych.runs.lifecycle import run_lifecycle
from triptych.runs.reader import read_finished
from triptych.runs.record import COLUMNS, Record
from triptych.runs.resume import (
    reopen_run,
    truncate_events,
    truncate_metrics,
    truncate_to_checkpoint,
)
from triptych.runs.storage import is_locked, lock_run


def run_folder(log_dir: Path) -> Path:
    [path] = log_dir.rglob("config.yaml")
    return path.parent


@pytest.fixture(scope="module")
def stopped(start_run: StartRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its last epoch."""
    log_dir = tmp_path_factory.mktemp("stopped")
    start_run(f"log_dir={log_dir}", "checkpoint.every_n_steps=1", at="validation", nth=6)
    return run_folder(log_dir)


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(start_run: StartRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    log_dir = tmp_path_factory.mktemp("whole")
    assert start_run(f"log_dir={log_dir}", "checkpoint.every_n_steps=1")["code"] == 0
    return run_folder(log_dir)


def metadata(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return read


def told(answer: dict[str, Any], code: int = 2) -> str:
    """The one message of a run that was refused, or that failed."""
    output: str = answer["output"]
    assert answer["code"] == code, output
    assert "Traceback" not in output
    assert "Logging error" not in output
    said = output.rstrip("\n").splitlines()
    if code == 2:
        assert 1 <= len(said) <= 3, output
    return "\n".join(said[-3:])


def assert_nothing_lost(folder: Path, whole: Path) -> None:
    """The run has the weights and the scores of one that nothing befell."""
    assert metadata(folder)["status"] == "finished"
    assert metadata(folder)["metrics"] == metadata(whole)["metrics"]
    saved, expected = (
        checkpoint.load_checkpoint(f / "checkpoints" / "best.ckpt") for f in (folder, whole)
    )
    for name, weights in expected["state_dict"].items():
        assert torch.equal(saved["state_dict"][name], weights), name


# A full disk, a lost folder, a wrong clock.

WRITES = ["config.yaml", "run.json", "best.ckpt", "last.ckpt", "val.npz", "metrics.csv", "test.npz"]


def test_a_disk_that_fills_up_at_any_write_loses_nothing(
    start_run: StartRun, whole: Path, tmp_path: Path
) -> None:
    typed = [f"log_dir={tmp_path}", "checkpoint.every_n_steps=1"]
    for name in WRITES:
        answer = start_run(
            *typed, at=f"before {name}", nth=2 if name == "run.json" else 1, errno=errno.ENOSPC
        )
        if name == "config.yaml":
            assert "log_dir" in told(answer)
            continue
        said = told(answer, 2 if name == "metrics.csv" else 1)
        assert "No space left on device" in said
        folder = run_folder(tmp_path)
        typed = [f"resume={folder}"]
        assert metadata(folder)["status"] == "failed"
        for path in (folder / "checkpoints").glob("*.ckpt"):
            assert checkpoint.load_checkpoint(path)
    assert start_run(*typed)["code"] == 0
    assert_nothing_lost(folder, whole)


@pytest.mark.parametrize("num_bytes", [1000, 1500, 20_000])
def test_files_that_may_grow_no_further_end_a_run_with_one_message(
    start_run: StartRun, whole: Path, tmp_path: Path, num_bytes: int
) -> None:
    typed = [f"log_dir={tmp_path}", "checkpoint.every_n_steps=1"]
    answer = start_run(*typed, fsize=num_bytes)
    said = told(answer, 2 if num_bytes == 1000 else 1)
    assert "File too large" in said or "disk full" in said
    if num_bytes == 1000:
        return
    folder = run_folder(tmp_path)
    assert start_run(f"resume={folder}")["code"] == 0
    assert_nothing_lost(folder, whole)


@pytest.mark.parametrize("moment", ["step", "validation", "test"])
def test_a_folder_deleted_under_a_running_job_is_told(
    start_run: StartRun, tmp_path: Path, moment: str
) -> None:
    said = told(
        start_run(f"log_dir={tmp_path / 'logs'}", at=moment, nth=2, removed=str(tmp_path)), 1
    )
    assert "the run's folder is gone" in said


# Two processes, a folder that cannot be written.


def test_the_second_process_that_resumes_a_run_is_told(start_run: StartRun, folder: Path) -> None:
    before = (folder / "run.json").read_bytes()
    with lock_run(folder):
        said = told(start_run(f"resume={folder}"))
    assert f"process {os.getpid()} on " in said
    assert "at work on this run" in said
    assert (folder / "run.json").read_bytes() == before


def test_a_run_that_another_process_finished_meanwhile_is_left_alone(folder: Path) -> None:
    late = Record.open(folder)
    Record.open(folder).end("finished")
    with pytest.raises(UserError, match="another process has resumed"), run_lifecycle(late):
        pass
    assert metadata(folder)["status"] == "finished"


# Files in the folder that are not what a run writes.


class Code:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_checkpoint_that_carries_code_is_named_and_the_code_does_not_run(
    start_run: StartRun, folder: Path, form: str
) -> None:
    ran, last = folder.parent / "ran", folder / "checkpoints" / "last.ckpt"
    content = {"state_dict": {}, "global_step": Code(ran)}
    last.write_bytes(pickle.dumps(content)) if form == "pickle" else torch.save(content, last)
    before = (folder / "run.json").read_bytes()
    said = told(start_run(f"resume={folder}"))
    assert f"{last}: no checkpoint, or damaged; nothing of it was run" in said
    assert not ran.exists()
    assert (folder / "run.json").read_bytes() == before, "the run stays as it was"


def test_best_weights_that_carry_code_are_named(
    start_run: StartRun, whole: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    Record.open(folder).end("interrupted")
    best = folder / "checkpoints" / "best.ckpt"
    good = best.read_bytes()
    torch.save({"state_dict": Code(tmp_path / "ran")}, best)
    assert f"{best}: no checkpoint, or damaged" in told_last(start_run(f"resume={folder}"))
    torch.save({"state_dict": {"0.weight": torch.zeros(1)}}, best)
    assert f"{best}: of another network" in told_last(start_run(f"resume={folder}"))
    assert not (tmp_path / "ran").exists()
    best.write_bytes(good)
    assert start_run(f"resume={folder}")["code"] == 0
    assert_nothing_lost(folder, whole)


def told_last(answer: dict[str, Any]) -> str:
    """The message of a run that was refused after it had begun to tell what it does."""
    assert answer["code"] == 2, answer["output"]
    assert "Traceback" not in answer["output"]
    return "\n".join(answer["output"].splitlines()[-3:])


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.pop(key)


def other_shape(content: dict[str, Any]) -> None:
    content["state_dict"]["backbone.network.5.bias"] = torch.zeros(7)


def other_network(content: dict[str, Any]) -> None:
    content["state_dict"] = {"layer.weight": torch.zeros(3)}


def other_optimizer(content: dict[str, Any]) -> None:
    content["optimizer_states"][0]["param_groups"] = []


@pytest.mark.parametrize(
    "change",
    [
        *(without(k) for k in ("state_dict", "global_step", "loops", "generators", "epoch_loss")),
        *(other_shape, other_network, other_optimizer),
        lambda content: content.update(generators=[3]),
        lambda content: content.update(global_step="three"),
        lambda content: content.update(callbacks={"RunRecorder": 3}),
        lambda content: content.update(callbacks={}),
        lambda content: content.update(epoch_loss=["x", 0, 0]),
        lambda content: content["callbacks"]["RunRecorder"].update(train_seconds="long"),
        lambda content: content["callbacks"]["CheckpointCallback"].pop("epoch"),
        lambda content: content.update(global_step=float("inf")),
        lambda content: content.update(optimizer_states=[]),
        lambda content: content.update(loops={"fit_loop": {}}),
        lambda content: content["ImageDataModule"].update(epoch="a", batch=-5),
        lambda content: content.update(best={"val": 3}),
    ],
)
def test_a_checkpoint_of_another_run_is_named(
    start_run: StartRun, folder: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    last = folder / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    change(content)
    torch.save(content, last)
    assert str(last) in told_last(start_run(f"resume={folder}"))


def test_what_else_a_checkpoint_holds_is_passed_over(
    start_run: StartRun, folder: Path, whole: Path
) -> None:
    last = folder / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True) | {"extra": [torch.zeros(3)]}
    content["callbacks"]["RunRecorder"].update(record=3)
    torch.save(content, last)
    assert start_run(f"resume={folder}")["code"] == 0
    assert_nothing_lost(folder, whole)


def test_a_checkpoint_with_one_byte_changed_is_refused(start_run: StartRun, folder: Path) -> None:
    last = folder / "checkpoints" / "last.ckpt"
    bias = torch.load(last, weights_only=True)["state_dict"]["backbone.network.0.bias"]
    content = bytearray(last.read_bytes())
    content[content.index(bias.numpy().tobytes())] ^= 1
    last.write_bytes(content)
    assert not torch.equal(
        torch.load(last, weights_only=True)["state_dict"]["backbone.network.0.bias"], bias
    ), "torch takes it"
    assert f"{last}: no checkpoint, or damaged" in told(start_run(f"resume={folder}"))


def test_a_run_whose_checkpoint_is_deleted_starts_from_its_beginning(
    start_run: StartRun, folder: Path, whole: Path
) -> None:
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"cut off")
    assert "delete it, and resume" in told(start_run(f"resume={folder}"))
    (folder / "checkpoints" / "last.ckpt").unlink()
    assert start_run(f"resume={folder}")["code"] == 0
    assert_nothing_lost(folder, whole)
    assert (folder / "metrics.csv").read_text().count("\n") == (
        whole / "metrics.csv"
    ).read_text().count("\n")


@pytest.mark.parametrize(
    "content",
    [
        '{"schema": 1, "status": "running"',
        '{"schema": 1, "a": ' + "[" * 900 + "]" * 900 + "}",
        '{"schema": 1, "seed": ' + "9" * 5000 + "}",
        '{"schema": 1, "schema": 2}',
    ],
)
def test_a_record_that_cannot_be_read_is_refused(folder: Path, content: str) -> None:
    (folder / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json cannot be read") as refused:
        Record.open(folder)
    assert len(str(refused.value)) < 1000


def test_numbers_that_json_does_not_know_become_null(folder: Path) -> None:
    content = '{"schema": 1, "seed": NaN, "metrics": {"test/loss": 1e999}}'
    (folder / "run.json").write_text(content)
    assert Record.open(folder).metadata == {
        "schema": 1,
        "seed": None,
        "metrics": {"test/loss": None},
    }


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    "content",
    [
        BOMB,
        "a: !!python/object/apply:os.system [true]",
        "a: !!python/name:os.system",
        "a: " + "[" * 5000,
    ],
    ids=["aliases", "call", "name", "depth"],
)
def test_a_config_with_more_than_data_in_it_is_refused(folder: Path, content: str) -> None:
    (folder / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read") as refused:
        _ = Record.open(folder).config
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("target", ["torch.hub.load", "pathlib.Path.unlink"])
def test_a_planted_target_is_refused_before_anything_is_built(
    start_run: StartRun, folder: Path, target: str
) -> None:
    config = OmegaConf.load(folder / "config.yaml")
    planted = {"_target_": "lightning.pytorch.callbacks.Timer", "x": [[{"_target_": target}]]}
    config.trainer.callbacks = [planted]
    OmegaConf.save(config, folder / "config.yaml")
    said = told(start_run(f"resume={folder}"))
    assert target in said
    assert "not in the installed configs" in said


def test_a_logger_that_would_write_elsewhere_is_refused(start_run: StartRun, folder: Path) -> None:
    elsewhere = folder.parent / "precious"
    config = OmegaConf.load(folder / "config.yaml")
    config.trainer.logger[0].name = "../precious"
    OmegaConf.save(config, folder / "config.yaml")
    assert "not in the run's folder" in told(start_run(f"resume={folder}"))
    assert not elsewhere.exists()


@pytest.mark.parametrize("name", ["train.log", "metrics.csv", "tensorboard", "figures"])
def test_a_link_in_a_run_folder_is_not_followed(
    start_run: StartRun, folder: Path, name: str
) -> None:
    elsewhere = folder.parent / "precious"
    elsewhere.write_text("words")
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(elsewhere)
    assert f"{folder / name}: a link" in told(start_run(f"resume={folder}"))
    assert elsewhere.read_text() == "words"


@pytest.mark.parametrize(
    "name",
    ["run.json", "config.yaml", "checkpoints/last.ckpt", "metrics.csv", "train.log", ".lock"],
)
def test_a_fifo_in_a_run_folder_keeps_nobody_waiting(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=r"no regular file|not seekable"):
        reopen_run({"resume": str(folder), "trusted_targets": []}, [])
    assert not is_locked(folder)


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "metrics.csv", "cost.json"])
def test_a_text_longer_than_memory_is_not_read(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.truncate(10**12)  # which takes no disk
    with pytest.raises(UserError, match=rf"{name}.*longer than 64\.0 MB"):
        reopen_run({"resume": str(folder), "trusted_targets": []}, [])


@pytest.mark.parametrize("name", ["predictions/test.npz", "config.yaml", "checkpoints/best.ckpt"])
def test_a_fifo_in_a_finished_run_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=f"{name} is no regular file"):
        read_finished(folder)


def test_what_was_refused_on_resuming_leaves_the_run_as_it_was(
    start_run: StartRun, folder: Path
) -> None:
    before = [(folder / name).read_bytes() for name in ("run.json", "config.yaml")]
    said = told(start_run(f"resume={folder}", "trainer.accelerator=gpu"))
    assert "trainer: " in said
    assert [(folder / name).read_bytes() for name in ("run.json", "config.yaml")] == before
    assert start_run(f"resume={folder}")["code"] == 0


@pytest.mark.parametrize("name", ["train.log", ".run.json.77", "checkpoints/.last.ckpt.77"])
def test_a_folder_in_a_files_place_is_said_in_a_line(
    start_run: StartRun, folder: Path, name: str
) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    before = (folder / "run.json").read_bytes()
    assert f"{folder}: cannot be written to" in told(start_run(f"resume={folder}"))
    assert (folder / "run.json").read_bytes() == before


@pytest.mark.parametrize("garbage", [b"\x00\xff\xfe", b"\n\n,,,\n", b"a" * 200_000, b'"', b""])
def test_metrics_that_are_garbage_are_cut_or_refused(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"epoch,step\n" + garbage)
    if len(garbage) > 100_000:
        with pytest.raises(UserError, match=f"{path}: cannot be read"):
            truncate_metrics(path, 100)
        return
    truncate_metrics(path, 100)
    assert path.read_text().splitlines() == [",".join(COLUMNS)]


def endless(length: int) -> bytes:
    """The head of a record that promises so many bytes."""
    head = struct.pack("<Q", length)
    return head + struct.pack("<I", masked_crc32c(head)) + b"few"


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\x00" * 100, random.Random(0).randbytes(500), endless(2**62), endless(2**64 - 1)],
)
def test_event_files_that_are_garbage_are_passed_over(folder: Path, garbage: bytes) -> None:
    place = folder / "tensorboard"
    truncate_events(place, 10)
    [merged] = place.glob("events*")
    events = merged.read_bytes()
    assert len(events) > 100
    (place / "events.out.tfevents.9999999999.x").write_bytes(garbage)
    truncate_events(place, 10)
    [merged] = place.glob("events*")
    assert merged.read_bytes() == events


def test_curves_whose_cutting_was_cut_off_have_no_doubled_point(folder: Path) -> None:
    place = folder / "tensorboard"
    files = {path.name: path.read_bytes() for path in place.glob("events*")}
    truncate_events(place, 10)
    [merged] = place.glob("events*")
    once = merged.read_bytes()
    for name, content in files.items():
        (place / name).write_bytes(content)  # as if killed before they were deleted
    truncate_events(place, 10)
    assert [path.read_bytes() for path in place.glob("events*")] == [once]


def test_halves_of_killed_writes_are_cleared_away(folder: Path) -> None:
    half = folder / "checkpoints" / ".last.ckpt.123"
    half.write_bytes(b"half")
    truncate_to_checkpoint(Record.open(folder))
    assert not half.exists()


def test_a_terminal_is_shown_no_control_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert sanitize_text("ü 日本 a\x1b[31mred\x07\r") == "ü 日本 a\ufffd[31mred\ufffd\ufffd"
    print_error(UserError("one\x1b]0;title\x07\ntwo\x9b31m\nthree\u202e\nfour"))
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 3
    assert all(character.isprintable() or character == "\n" for character in said)
