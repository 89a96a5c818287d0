"""Run folders and disks that fail or lie: one clear message, and no result is lost."""

import errno
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.same_run import run_folder
from tests.tiny import TARGETS, StartRun
from triptych.cli import ScreenHandler, print_error
from triptych.errors import RunFailed, UserError, sanitize_text
from triptych.models.weight_content import check_checkpoint, read_content
from triptych.runs.checkpoint_files import load_checkpoint
from triptych.runs.lifecycle import run_lifecycle
from triptych.runs.reader import is_locked, read_finished
from triptych.runs.record import COLUMNS, Record
from triptych.runs.resume import (
    CheckedState,
    ResumedCheckpointIO,
    read_step,
    reopen_run,
    truncate_events,
    truncate_metrics,
)
from triptych.runs.storage import lock_run

OFTEN = "checkpoint.every_n_steps=1"


@pytest.fixture(scope="module")
def stopped(start_run: StartRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its last epoch."""
    log_dir = tmp_path_factory.mktemp("stopped")
    start_run(f"log_dir={log_dir}", OFTEN, at="validation", nth=6)
    return run_folder(log_dir)


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


@pytest.fixture(scope="module")
def undisturbed(start_run: StartRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    log_dir = tmp_path_factory.mktemp("undisturbed")
    assert start_run(f"log_dir={log_dir}", OFTEN)["code"] == 0
    return run_folder(log_dir)


def reopen(folder: Path) -> Record:
    config = {"resume": str(folder), "trusted_targets": list(TARGETS)}
    return reopen_run(config | {"data": {"source": {}}, "model": {}}, [])


def message(answer: dict[str, Any], code: int = 2) -> str:
    """The last three lines of a run that ended with this code."""
    output: str = answer["output"]
    assert answer["code"] == code, output
    assert "Traceback" not in output
    assert "Logging error" not in output
    return "\n".join(output.splitlines()[-3:])


def assert_nothing_lost(folder: Path, undisturbed: Path) -> None:
    """The run has the weights and the scores of one that met no fault."""
    metadata, expected = (Record.open(f).metadata for f in (folder, undisturbed))
    assert metadata["status"] == "finished"
    assert metadata["metrics"] == expected["metrics"]
    weights, same = (
        load_checkpoint(f / "checkpoints" / "best.ckpt")["state_dict"]
        for f in (folder, undisturbed)
    )
    assert [name for name in same if not torch.equal(weights[name], same[name])] == []


def test_a_disk_that_fills_up_at_any_write_loses_nothing(
    start_run: StartRun, undisturbed: Path, tmp_path: Path
) -> None:
    answer = start_run(f"log_dir={tmp_path}", at="before config.yaml", errno=errno.ENOSPC)
    assert f"log_dir={tmp_path}: cannot be written to" in message(answer)
    overrides = [f"log_dir={tmp_path}", OFTEN]
    for name in ("run.json", "best.ckpt", "last.ckpt", "val.npz", "metrics.csv", "test.npz"):
        nth = 2 if name == "run.json" else 1
        answer = start_run(*overrides, at=f"before {name}", nth=nth, errno=errno.ENOSPC)
        assert "No space left on device" in message(answer, 2 if name == "metrics.csv" else 1)
        folder = run_folder(tmp_path)
        overrides = [f"resume={folder}"]
        assert Record.open(folder).metadata["status"] == "failed"
        for path in (folder / "checkpoints").glob("*.ckpt"):
            assert load_checkpoint(path)
    assert start_run(*overrides)["code"] == 0
    assert_nothing_lost(folder, undisturbed)


def test_files_that_may_grow_no_further_end_a_run_with_one_message(
    start_run: StartRun, undisturbed: Path, tmp_path: Path
) -> None:
    said = message(start_run(f"log_dir={tmp_path}", OFTEN, fsize=20_000), 1)
    assert "File too large" in said or "disk full" in said
    folder = run_folder(tmp_path)
    assert start_run(f"resume={folder}")["code"] == 0
    assert_nothing_lost(folder, undisturbed)


@pytest.mark.parametrize(
    ("error", "status"), [(RunFailed("words " * 1000), "failed"), (SystemExit(143), "interrupted")]
)
def test_a_run_that_ends_on_a_disk_without_space_for_another_file_is_recorded_as_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    def refuse(*_: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def work() -> None:
        with run_lifecycle(record, resumed=True):
            record.begin(record.config)
            monkeypatch.setattr(Path, "touch", refuse)
            raise error

    record = reopen(folder)
    before = record.metadata
    with pytest.raises(SystemExit):
        work()
    ended = Record.open(folder).metadata
    assert ended["status"] == status
    assert ended["finished_at"] >= before["started_at"]
    assert len(ended["error"] or "") <= 200
    assert ended == before | {name: ended[name] for name in ("status", "finished_at", "error")}


def test_a_folder_deleted_under_a_running_job_is_named(start_run: StartRun, tmp_path: Path) -> None:
    log_dir = tmp_path / "logs"
    answer = start_run(f"log_dir={log_dir}", at="step", nth=3, removed=str(log_dir))
    assert "the run's folder is gone" in message(answer, 1)


def test_a_run_that_another_process_works_on_or_finished_meanwhile_is_left_alone(
    folder: Path,
) -> None:
    with lock_run(folder), pytest.raises(UserError, match=f"process {os.getpid()} on "):
        reopen(folder)
    late = Record.open(folder)
    Record.open(folder).end("finished")
    with pytest.raises(UserError, match="another process has resumed"), run_lifecycle(late):
        pass
    assert Record.open(folder).metadata["status"] == "finished"


class Code:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_checkpoint_that_carries_code_is_named_and_the_code_does_not_run(
    start_run: StartRun, folder: Path
) -> None:
    ran, last = folder.parent / "ran", folder / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": {}, "global_step": Code(ran)}, last)
    before = (folder / "run.json").read_bytes()
    said = message(start_run(f"resume={folder}"))
    assert f"{last}: no checkpoint, or damaged; nothing of it was run" in said
    assert "delete it, and resume" in said
    assert not ran.exists()
    assert (folder / "run.json").read_bytes() == before, "the run stays as it was"


def test_best_weights_that_are_none_of_the_run_are_named(
    start_run: StartRun, undisturbed: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    Record.open(folder).end("interrupted")
    best = folder / "checkpoints" / "best.ckpt"
    good = best.read_bytes()
    torch.save({"state_dict": Code(tmp_path / "ran")}, best)
    assert f"{best}: no checkpoint, or damaged" in message(start_run(f"resume={folder}"))
    torch.save({"state_dict": {"0.weight": torch.zeros(1)}}, best)
    assert f"{best}: of another network" in message(start_run(f"resume={folder}"))
    assert not (tmp_path / "ran").exists()
    best.write_bytes(good)
    assert start_run(f"resume={folder}")["code"] == 0
    assert_nothing_lost(folder, undisturbed)


Change = Callable[[dict[str, Any]], Any]


def change_checkpoint(folder: Path, change: Change) -> Path:
    last = folder / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    change(content)
    torch.save(content, last)
    return last


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["state_dict"].update({"backbone.network.5.bias": torch.zeros(7)}),
        lambda content: content["optimizer_states"][0].update(param_groups=[]),
        lambda content: content.update(generators=[3]),
    ],
)
def test_a_checkpoint_of_another_run_is_named(
    start_run: StartRun, folder: Path, change: Change
) -> None:
    last = change_checkpoint(folder, change)
    assert str(last) in message(start_run(f"resume={folder}"))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("global_step"),
        lambda content: content.update(global_step=float("inf")),
        lambda content: content.update(callbacks={"RunRecorder": 3}),
        lambda content: content["callbacks"]["RunRecorder"].update(train_seconds="long"),
        lambda content: content.update(optimizer_states=[]),
        lambda content: content["ImageDataModule"].update(epoch="a", batch=-5),
    ],
)
def test_a_checkpoint_that_names_no_step_of_a_training_is_refused(
    folder: Path, change: Change
) -> None:
    last = change_checkpoint(folder, change)
    with pytest.raises(UserError, match=f"^{last}: no checkpoint"):
        read_step(last)


def test_a_checkpoint_with_one_byte_changed_is_refused(folder: Path) -> None:
    last = folder / "checkpoints" / "last.ckpt"
    name = "backbone.network.0.bias"
    bias = torch.load(last, weights_only=True)["state_dict"][name]
    content = bytearray(last.read_bytes())
    content[content.index(bias.numpy().tobytes())] ^= 1
    last.write_bytes(content)
    taken = torch.load(last, weights_only=True)["state_dict"][name]
    assert not torch.equal(taken, bias), "torch itself does not see it"
    with pytest.raises(UserError, match="no checkpoint, or damaged"):
        read_step(last)


def test_a_checkpoint_is_read_in_a_folder_whose_name_is_no_text(folder: Path) -> None:
    best = folder / "checkpoints" / "best.ckpt"
    expected = load_checkpoint(best)["state_dict"]
    moved = folder.rename(folder.with_name(os.fsdecode(b"caf\xe9"))) / "checkpoints" / "best.ckpt"
    check_checkpoint(moved)
    for read in (load_checkpoint, read_content):
        weights = read(moved)["state_dict"]
        assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_a_run_whose_checkpoint_is_deleted_starts_from_its_beginning(
    start_run: StartRun, folder: Path, undisturbed: Path
) -> None:
    (folder / "checkpoints" / "last.ckpt").unlink()
    (folder / "checkpoints" / ".last.ckpt.123").write_bytes(b"half of a killed write")
    assert start_run(f"resume={folder}")["code"] == 0
    assert_nothing_lost(folder, undisturbed)
    assert not list(folder.rglob(".*"))
    lines = [(f / "metrics.csv").read_text().count("\n") for f in (folder, undisturbed)]
    assert lines[0] == lines[1]


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    "content",
    [
        *(BOMB, "a: !!python/object/apply:os.system [true]", "a: " + "[" * 5000),
        *("a: !!binary aGk=", "a: !!timestamp 2001-01-01", "!!set {a, b}", "? [a]\n: b"),
        *("a: 1" + ":1" * 50_000, "a: " + "9" * 5000, "a: 0x" + "f" * 5000, "a: b\n" * 50_000),
    ],
    ids=lambda content: content[:20],
)
def test_a_config_with_more_than_data_in_it_is_refused(folder: Path, content: str) -> None:
    (folder / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read") as refused:
        _ = Record.open(folder).config
    assert len(str(refused.value)) < 1000


def test_a_planted_target_is_refused_before_anything_is_built(folder: Path) -> None:
    config = OmegaConf.load(folder / "config.yaml")
    nested = [[{"_target_": "pathlib.Path.unlink"}]]
    config.trainer.callbacks = [{"_target_": "lightning.pytorch.callbacks.Timer", "x": nested}]
    OmegaConf.save(config, folder / "config.yaml")
    with pytest.raises(UserError, match=r"pathlib\.Path\.unlink"):
        reopen(folder)


def test_a_logger_that_would_write_elsewhere_is_refused(start_run: StartRun, folder: Path) -> None:
    config = OmegaConf.load(folder / "config.yaml")
    config.trainer.logger[0].name = "../precious"
    OmegaConf.save(config, folder / "config.yaml")
    trusted = ["lightning.pytorch.loggers.TensorBoardLogger"]
    answer = start_run(f"resume={folder}", trusted=trusted)
    assert "not in the run's folder" in message(answer)
    assert not (folder.parent / "precious").exists()


@pytest.mark.parametrize(
    "name",
    ["run.json", "train.log", "predictions/test.npz", "figures", "export", "earlier", "external/a"],
)
def test_a_link_in_a_run_folder_is_followed_by_no_command(folder: Path, name: str) -> None:
    elsewhere = shutil.copytree(folder, folder.parent / "precious")
    path, target = folder / name, elsewhere / name
    path.parent.mkdir(exist_ok=True)
    path.rename(path.with_suffix(".before")) if path.exists() else None
    for link in (target, path, elsewhere / "not there"):  # also to itself, and to nowhere
        path.symlink_to(link)
        for command in (reopen, read_finished):
            with pytest.raises(UserError, match=f"{path} is a link"):
                command(folder)
        path.unlink()
    assert not (elsewhere / "not there").exists()


@pytest.mark.parametrize("name", ["csv", "fit-profile.txt", "csv/version_0/hparams.yaml"])
def test_a_link_of_a_logger_is_refused_where_it_leads_out_of_a_resumed_run(
    folder: Path, name: str
) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(folder / "config.yaml")
    (folder / "wandb").mkdir()
    (folder / "wandb" / "debug.log").symlink_to("/nowhere/at/all")
    assert reopen(folder)
    path.unlink()
    path.symlink_to(folder.parent / "precious")
    with pytest.raises(UserError, match=f"{path}: a link"):
        reopen(folder)


def test_a_second_name_of_a_file_elsewhere_changes_nothing_there(folder: Path) -> None:
    precious, half = folder.parent / "precious", f".run.json.{os.getpid()}"
    precious.write_text("words")
    for name in (".lock", "train.log", "metrics.csv", half):
        (folder / name).unlink(missing_ok=True)
        (folder / name).hardlink_to(precious)
    with pytest.raises(UserError, match=r"\.lock is a hard link"):
        reopen(folder)
    (folder / ".lock").unlink()
    record = reopen(folder)
    (folder / half).unlink()
    (folder / half).symlink_to(precious)  # made after the check
    with run_lifecycle(record, resumed=True):
        record.begin(record.config)
        record.add_metrics({"epoch": 1})
        logging.getLogger("triptych").warning("other words")
    assert precious.read_text() == "words"
    assert "other words" in (folder / "train.log").read_text()


@pytest.mark.parametrize("name", ["run.json", "checkpoints/last.ckpt", ".lock"])
def test_a_fifo_in_a_run_folder_keeps_nobody_waiting(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=r"no regular file|not seekable"):
        reopen(folder)
    assert not is_locked(folder)


@pytest.mark.parametrize("name", ["run.json", "cost.json"])
def test_a_text_longer_than_memory_is_not_read(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.truncate(10**12)  # which takes no disk
    with pytest.raises(UserError, match=rf"{name}.*longer than"):
        reopen(folder)


def test_a_fifo_in_a_finished_run_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    (folder / "predictions" / "test.npz").unlink()
    os.mkfifo(folder / "predictions" / "test.npz")
    with pytest.raises(UserError, match=r"test\.npz is no regular file"):
        read_finished(folder)


def test_a_setting_that_is_refused_on_resuming_leaves_the_run_as_it_was(
    start_run: StartRun, folder: Path
) -> None:
    before = [(folder / name).read_bytes() for name in ("run.json", "config.yaml")]
    assert "trainer: " in message(start_run(f"resume={folder}", "trainer.accelerator=gpu"))
    assert [(folder / name).read_bytes() for name in ("run.json", "config.yaml")] == before


def test_a_folder_in_a_file_s_place_is_named(folder: Path) -> None:
    (folder / "train.log").unlink()
    (folder / "train.log").mkdir()
    before = (folder / "run.json").read_bytes()
    record = reopen(folder)
    with (
        pytest.raises(UserError, match=f"^{folder}: cannot be written to"),
        run_lifecycle(record, resumed=True),
    ):
        pass
    assert (folder / "run.json").read_bytes() == before


@pytest.mark.parametrize("garbage", [b"\x00\xff\xfe", b"\n\n,,,\n", b'"'])
def test_metrics_that_are_garbage_are_cut(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"epoch,step\n" + garbage)
    truncate_metrics(path, 100, COLUMNS)
    assert path.read_text().splitlines() == [",".join(COLUMNS)]


def test_curves_whose_cutting_was_cut_off_have_no_doubled_point_and_no_garbage(
    folder: Path,
) -> None:
    place = folder / "tensorboard"
    files = {path.name: path.read_bytes() for path in place.glob("events*")}
    truncate_events(place, 10)
    [merged] = place.glob("events*")
    once = merged.read_bytes()
    assert len(once) > 100
    files["events.out.tfevents.9999999999.x"] = random.Random(0).randbytes(500)
    for name, content in files.items():
        (place / name).write_bytes(content)  # as if killed before they were deleted
    truncate_events(place, 10)
    assert [path.read_bytes() for path in place.glob("events*")] == [once]


def test_events_that_are_no_plain_file_or_would_fill_memory_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").touch()
    (place := tmp_path / "tensorboard").mkdir()
    monkeypatch.setattr("triptych.runs.resume.MAX_EVENT_BYTES", 10)
    others = [place / f"events.out.tfevents.{n}" for n in range(3)]
    os.mkfifo(others[0])
    others[1].symlink_to(tmp_path / "mine")
    others[2].write_bytes(bytes(11))
    truncate_events(place, 10)
    (place / "events.out.tfevents.3").touch()
    truncate_events(place, 10)
    assert {*place.iterdir()} == {*others, place / "events.out.tfevents.0000000000.before"}


def test_a_terminal_is_shown_no_control_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert sanitize_text("ü 日本 a\x1b[31mred\x07\r") == "ü 日本 a\ufffd[31mred\ufffd\ufffd"
    print_error(UserError("one\x1b]0;title\x07\ntwo\x9b31m\nthree\u202e\nfour"))
    ScreenHandler().emit(logging.makeLogRecord({"msg": "logs/%s:\nx", "args": ("\x1b]0;a\x07",)}))
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["logs/\ufffd]0;a\ufffd:", "x"]
    said = shown.err
    assert len(said.splitlines()) == 3
    assert all(character.isprintable() or character == "\n" for character in said)


@pytest.mark.parametrize(
    "short", [torch.zeros(1), torch.zeros(1).expand(6), torch.zeros(4).as_strided((3, 2), (1, 1))]
)
@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "step"])
def test_an_optimizer_whose_kernel_would_leave_its_memory_makes_no_step(
    short: torch.Tensor, name: str
) -> None:
    weight = torch.nn.Parameter(torch.ones(3, 2))
    weight.grad = torch.ones(3, 2)
    optimizer = torch.optim.Adam([weight], fused=True)
    optimizer.step()
    trainer: Any = SimpleNamespace(optimizers=[optimizer])
    CheckedState().on_train_start(trainer, None)
    optimizer.state[weight][name] = torch.zeros(0) if name == "step" else short
    with pytest.raises(ValueError, match=name):
        CheckedState().on_train_start(trainer, None)


@pytest.mark.parametrize("before", ["local://{}", "x::{}", "{}/../outside"])
def test_a_checkpoint_of_before_that_lies_elsewhere_is_not_deleted(
    tmp_path: Path, before: str
) -> None:
    outside = tmp_path / "outside"
    outside.touch()
    ResumedCheckpointIO().remove_checkpoint(before.format(outside))
    assert outside.exists()
    ResumedCheckpointIO().remove_checkpoint(outside)
    assert not outside.exists()


def test_a_number_of_epochs_that_is_a_path_names_no_folder(
    undisturbed: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    Record.open(folder).update(num_epochs="../../outside")
    with pytest.raises(UserError, match="num_epochs="):
        reopen(folder)
