"""Runs that are killed and resumed end as if nothing had been: to the last bit, curve and all."""

import csv
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.tiny import StartRun
from triptych.runs.storage import is_locked

EMA = "{_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.5}"
RICH = [
    *("data.mix=mixup", "optim.schedule=onecycle", "checkpoint.every_n_steps=2"),
    *("++trainer.accumulate_grad_batches=2", f"++trainer.callbacks=[{EMA}]"),
]
WITHIN = [
    *("checkpoint.every_n_steps=1", "++trainer.val_check_interval=2", "++trainer.max_epochs=2"),
    *("++trainer.accumulate_grad_batches=3", "++trainer.log_every_n_steps=1"),
    f"++trainer.callbacks=[{EMA}]",
]
OFTEN = ["checkpoint.every_n_steps=1", "++trainer.val_check_interval=0.4"]
TIMES = {"train/images_per_second"}
KINDS = ("scalars", "images", "tensors")


def run_folder(log_dir: Path) -> Path:
    [path] = log_dir.rglob("config.yaml")
    return path.parent


def survive(
    start_run: StartRun, log_dir: Path, overrides: list[str], faults: list[dict[str, Any]]
) -> Path:
    """The folder of a run that met each fault in turn, and was then left in peace."""
    asked = [*overrides, f"log_dir={log_dir}"]
    for fault in faults:
        answer = start_run(*asked, **fault)
        ends_as = {-signal.SIGKILL, 0} if "after" in fault else {-signal.SIGKILL}
        assert answer["code"] in ends_as, (fault, answer)
        if answer["code"] == 0:
            return run_folder(log_dir)
        if list(log_dir.rglob("run.json")):  # else it was killed before it had a folder
            asked = [f"resume={run_folder(log_dir)}"]
            assert not is_locked(run_folder(log_dir))
    answer = start_run(*asked)
    assert answer["code"] == 0, answer["output"]
    return run_folder(log_dir)


def metadata(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return read


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def curves(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Every point, picture and text of the event files, by tag."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance=dict.fromkeys(KINDS, 0))
    events.Reload()
    tags = events.Tags()
    read = {t: [(e.step, e.value) for e in events.Scalars(t)] for t in tags["scalars"]}
    read |= {t: [(e.step, None) for e in events.Images(t)] for t in tags["images"]}
    read |= {t: [(e.step, None) for e in events.Tensors(t)] for t in tags["tensors"]}
    return {tag: points for tag, points in read.items() if tag not in TIMES}


def assert_equal(left: Any, right: Any, where: str = "") -> None:
    """Equal to the last bit, through nested containers."""
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_equal(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for n, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_equal(one, other, f"{where}/{n}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    else:
        assert left == right, where


def state(folder: Path, name: str) -> dict[str, Any]:
    """A checkpoint, less what tells the time."""
    content: dict[str, Any] = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
    content.pop("config", None)
    for callback in content.get("callbacks", {}).values():
        callback.pop("train_seconds", None)
    return content


def assert_same_run(survivor: Path, whole: Path) -> None:
    for name in ("best", "last"):
        assert_equal(state(survivor, name), state(whole, name), name)
    for name in ("val", "test", "test_images"):
        saved, expected = (np.load(f / "predictions" / f"{name}.npz") for f in (survivor, whole))
        assert_equal(
            {k: saved[k].tolist() for k in saved}, {k: expected[k].tolist() for k in saved}
        )
    told = ("status", "metrics", "best_epoch", "num_epochs", "config_hash", "split_hash", "error")
    assert [metadata(survivor)[name] for name in told] == [metadata(whole)[name] for name in told]
    assert table(survivor) == table(whole)
    assert_equal(curves(survivor), curves(whole), "curves")
    hidden = [p.name for p in survivor.rglob(".*")]
    assert hidden == [], "neither a lock nor a killed write's half is left"


CHOSEN = [
    {"at": "step", "nth": 2},
    {"at": "validation"},
    {"at": "epoch over"},
    {"at": "before last.ckpt"},
    {"at": "after last.ckpt"},  # between last and best
    {"at": "before best.ckpt"},
    {"at": "after best.ckpt"},
    {"at": "after val.npz"},
    {"at": "after last.ckpt", "nth": 2},
    {"at": "step", "nth": 3},
    {"at": "scored"},
    {"at": "validation"},
    {"at": "fitted"},
    {"at": "test", "nth": 2},
    {"at": "after test.npz"},
    {"at": "end"},
]


@pytest.fixture(scope="module")
def whole(start_run: StartRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return survive(start_run, tmp_path_factory.mktemp("whole"), RICH, [])


def test_a_run_killed_at_every_kind_of_moment_ends_as_if_it_had_not_been(
    start_run: StartRun, whole: Path, tmp_path: Path
) -> None:
    assert_same_run(survive(start_run, tmp_path, RICH, CHOSEN), whole)


def test_the_comparison_sees_a_single_changed_bit(whole: Path) -> None:
    one, other = state(whole, "last"), state(whole, "last")
    assert_equal(one, other)
    other["state_dict"]["backbone.network.0.bias"].view(torch.int32)[0] ^= 1
    with pytest.raises(AssertionError, match=r"state_dict/backbone\.network\.0\.bias"):
        assert_equal(one, other)
    assert len(curves(whole)) >= 20
    assert {points[0][0] for tag, points in curves(whole).items() if tag == "images"} == {3}
    assert metadata(whole)["best_epoch"] > 1, "or the choice of the best epoch was not tried"


def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    start_run: StartRun, whole: Path, tmp_path: Path
) -> None:
    chance = random.Random(0)
    faults = [{"after": chance.uniform(0.05, 1.5)} for _ in range(6)]
    assert_same_run(survive(start_run, tmp_path, RICH, faults), whole)


def test_a_run_that_validates_within_the_epoch_skips_no_validation_when_killed_in_one(
    start_run: StartRun, tmp_path: Path
) -> None:
    faults = [{"at": "validation", "nth": 2}, {"at": "scored"}, {"at": "after val.npz"}]
    faults += [{"at": "validation", "nth": 4}, {"at": "step", "nth": 3}]
    survivor = survive(start_run, tmp_path / "survivor", OFTEN, faults)
    assert_same_run(survivor, survive(start_run, tmp_path / "whole", OFTEN, []))
    assert len([row for row in table(survivor) if row["val/accuracy"]]) == 6


@pytest.mark.parametrize(
    "fault",
    [{"at": "step", "nth": 3}, {"at": "validation", "nth": 4}, {"at": "scored", "nth": 2}],
)
def test_a_run_that_validates_within_a_step_goes_on_from_a_whole_one(
    start_run: StartRun, whole_within: Path, tmp_path: Path, fault: dict[str, Any]
) -> None:
    assert_same_run(survive(start_run, tmp_path, WITHIN, [fault]), whole_within)


@pytest.fixture(scope="module")
def whole_within(start_run: StartRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return survive(start_run, tmp_path_factory.mktemp("whole"), WITHIN, [])


def test_a_loss_is_logged_once_a_step(whole_within: Path) -> None:
    steps = [row["step"] for row in table(whole_within) if row["train/loss"]]
    assert len(steps) == len(set(steps)) > 3
    assert len([row for row in table(whole_within) if row["val/accuracy"]]) == 4


def test_best_files_belong_to_the_epoch_of_the_record_whatever_the_resumed_run_comes_to(
    start_run: StartRun, tmp_path: Path
) -> None:
    typed = ["checkpoint.score=last", f"log_dir={tmp_path}"]
    start_run(*typed, at="before last.ckpt", nth=2)
    folder = run_folder(tmp_path)
    start_run(f"resume={folder}", at="scored")
    saved = np.load(folder / "predictions" / "val.npz")
    [row] = [row for row in table(folder) if row["val/accuracy"] and row["epoch"] == "1"]
    accuracy = (saved["logits"].argmax(1) == saved["labels"]).mean()
    assert float(row["val/accuracy"]) == pytest.approx(accuracy)
    last, best = state(folder, "last"), state(folder, "best")
    named = {f"backbone.network.{name}": value for name, value in best["state_dict"].items()}
    assert_equal(dict(last["state_dict"]), named)


def test_a_run_that_stopped_early_is_not_trained_further(
    start_run: StartRun, tmp_path: Path
) -> None:
    stopping = [
        "++trainer.callbacks=[{_target_: lightning.pytorch.callbacks.EarlyStopping, "
        "monitor: val/accuracy, mode: max, patience: 1, min_delta: 1}]",
        "++trainer.max_epochs=5",
    ]
    whole = survive(start_run, tmp_path / "whole", stopping, [])
    assert metadata(whole)["num_epochs"] == 2
    asked = [*stopping, f"log_dir={tmp_path / 'killed'}"]
    assert start_run(*asked, at="fitted")["code"] == -signal.SIGKILL
    killed = run_folder(tmp_path / "killed")
    trusted = ["lightning.pytorch.callbacks.EarlyStopping"]
    assert start_run(f"resume={killed}", trusted=trusted)["code"] == 0
    assert_same_run(killed, whole)


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [
        (signal.SIGTERM, 143, "step"),
        (signal.SIGINT, 130, "validation"),
        (signal.SIGUSR1, 143, "test"),
        (signal.SIGTERM, 143, "before last.ckpt"),
    ],
)
def test_a_signal_leaves_a_run_interrupted_and_the_command_that_resumes_it(
    start_run: StartRun, whole: Path, tmp_path: Path, number: int, code: int, moment: str
) -> None:
    answer = start_run(*RICH, f"log_dir={tmp_path}", at=moment, signal=number)
    folder = run_folder(tmp_path)
    assert answer["code"] == code, answer["output"]
    assert metadata(folder)["status"] == "interrupted"
    assert f"to go on: python train.py resume={folder} 'trusted" in answer["output"]
    assert "Traceback" not in answer["output"]
    assert start_run(f"resume={folder}")["code"] == 0
    assert_same_run(folder, whole)


def as_slurm_task(bin_: Path, **more: str) -> dict[str, str]:
    """The environment of the only task of a job; `bin_` gets a `scontrol` that notes its words."""
    bin_.mkdir(exist_ok=True)
    (bin_ / "scontrol").write_text('#!/bin/sh\necho "$@" >> "$0.asked"\n')
    (bin_ / "scontrol").chmod(0o755)
    task = {"PROCID": "0", "LOCALID": "0", "NODEID": "0", "NTASKS": "1", "JOB_NAME": "train"}
    named = {f"SLURM_{name}": value for name, value in (task | {"JOB_ID": "77"} | more).items()}
    return named | {"PATH": f"{bin_}:{os.environ['PATH']}"}


def test_a_job_that_slurm_requeues_goes_on_in_its_folder(
    start_run: StartRun, whole: Path, tmp_path: Path
) -> None:
    typed = [*RICH, f"log_dir={tmp_path / 'logs'}"]
    announced = start_run(
        *typed, at="step", nth=4, signal=signal.SIGUSR1, env=as_slurm_task(tmp_path)
    )
    assert announced["code"] == 143, announced["output"]
    assert (tmp_path / "scontrol.asked").read_text() == "requeue 77\n"
    folder = run_folder(tmp_path / "logs")
    assert metadata(folder)["status"] == "interrupted"
    assert [path.name for path in folder.glob("hpc*")] == ["hpc_ckpt_1.ckpt"], "Lightning's own"
    assert state(folder, "last")["global_step"] == 2

    again = as_slurm_task(tmp_path, RESTART_COUNT="1")
    assert start_run(*typed, at="validation", nth=3, env=again)["code"] == -signal.SIGKILL
    again = as_slurm_task(tmp_path, RESTART_COUNT="2")
    answer = start_run(*typed, env=again)
    assert answer["code"] == 0, answer["output"]
    assert_same_run(run_folder(tmp_path / "logs"), whole)
    assert not list(folder.glob("hpc*"))
    assert "finished before" in start_run(*typed, env=again)["output"]
    assert_same_run(run_folder(tmp_path / "logs"), whole)


def test_minutes_make_checkpoints_that_change_nothing(
    start_run: StartRun, whole: Path, tmp_path: Path
) -> None:
    timed = [o for o in RICH if "every_n_steps" not in o] + ["checkpoint.every_minutes=1e-9"]
    survivor = survive(
        start_run, tmp_path, timed, [{"at": "after last.ckpt"}, {"at": "step", "nth": 3}]
    )
    assert metadata(survivor)["config_hash"] == metadata(whole)["config_hash"]
    assert table(survivor) == table(whole)
    assert_equal(state(survivor, "best"), state(whole, "best"))


def test_a_run_may_go_on_with_data_and_settings_that_lie_elsewhere(
    start_run: StartRun, whole: Path, tmp_path: Path
) -> None:
    assert start_run(*RICH, f"log_dir={tmp_path}", at="epoch over")["code"] == -signal.SIGKILL
    moved = tmp_path / "moved"
    run_folder(tmp_path).rename(moved)
    typed = ["data.num_workers=1", f"data.root={tmp_path}", "checkpoint.keep_last=false"]
    answer = start_run(f"resume={moved}", *typed)
    assert answer["code"] == 0, answer["output"]
    assert_equal(state(moved, "best"), state(whole, "best"))
    assert not (moved / "checkpoints" / "last.ckpt").exists()
    assert f"root: {tmp_path}" in (moved / "config.yaml").read_text()
    assert "kB)" in answer["output"].splitlines()[-1], "the folder's size"
