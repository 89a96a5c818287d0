"""Runs that are killed and resumed equal undisturbed ones to the last bit, curves included."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.same_run import (
    assert_equal,
    assert_same_run,
    curves,
    metadata,
    run_folder,
    state,
    survive,
    table,
)
from tests.tiny import StartRun

EMA = "{_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.5}"
RICH = [
    *("data.mix=mixup", "optim.schedule=onecycle", "checkpoint.every_n_steps=2"),
    *("++trainer.accumulate_grad_batches=2", f"++trainer.callbacks=[{EMA}]"),
]
WITHIN = [
    *("checkpoint.every_n_steps=1", "++trainer.val_check_interval=2", "++trainer.max_epochs=2"),
    *("++trainer.accumulate_grad_batches=3", "++trainer.log_every_n_steps=1"),
    *(f"++trainer.callbacks=[{EMA}]", "data.sampler=balanced"),
    "optim.schedule={_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, patience: 0}",
]


MOMENTS = [
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
def undisturbed(start_run: StartRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return survive(start_run, tmp_path_factory.mktemp("undisturbed"), RICH)


def test_a_run_killed_at_every_kind_of_moment_ends_as_if_it_had_not_been(
    start_run: StartRun, undisturbed: Path, tmp_path: Path
) -> None:
    assert_same_run(survive(start_run, tmp_path, RICH, *MOMENTS), undisturbed)


def test_the_comparison_sees_a_single_changed_bit(undisturbed: Path) -> None:
    one, other = state(undisturbed, "last"), state(undisturbed, "last")
    assert_equal(one, other)
    other["state_dict"]["backbone.network.0.bias"].view(torch.int32)[0] ^= 1
    with pytest.raises(AssertionError, match=r"state_dict/backbone\.network\.0\.bias"):
        assert_equal(one, other)
    assert len(curves(undisturbed)) >= 18
    assert [step for step, _ in curves(undisturbed)["train/images"]] == [0]
    assert metadata(undisturbed)["best_epoch"] > 1, "or the choice of the best epoch was not tried"


def test_a_run_that_validates_within_a_step_goes_on_from_a_whole_one(
    start_run: StartRun, tmp_path: Path
) -> None:
    faults = [{"at": "step", "nth": 3}, {"at": "validation", "nth": 4}, {"at": "after val.npz"}]
    survivor = survive(start_run, tmp_path / "survivor", WITHIN, *faults)
    assert_same_run(survivor, survive(start_run, tmp_path / "undisturbed", WITHIN))
    rows = table(survivor)
    steps = [row["step"] for row in rows if row["train/loss"]]
    assert len(steps) == len(set(steps)) > 3, "a loss is logged once a step"
    assert len([row for row in rows if row["val/accuracy"]]) == 4


def test_best_files_belong_to_the_epoch_of_the_record_whatever_the_resumed_run_comes_to(
    start_run: StartRun, tmp_path: Path
) -> None:
    overrides = ["checkpoint.score=last", f"log_dir={tmp_path}"]
    start_run(*overrides, at="before last.ckpt", nth=2)
    folder = run_folder(tmp_path)
    start_run(f"resume={folder}", at="scored")
    saved = np.load(folder / "predictions" / "val.npz")
    [row] = [row for row in table(folder) if row["val/accuracy"] and row["epoch"] == "1"]
    accuracy = (saved["logits"].argmax(1) == saved["labels"]).mean()
    assert float(row["val/accuracy"]) == pytest.approx(accuracy)
    last, best = state(folder, "last"), state(folder, "best")
    weights = {f"backbone.network.{name}": w for name, w in best["state_dict"].items()}
    assert_equal(dict(last["state_dict"]), weights)


def test_a_run_that_stopped_early_is_not_trained_further(
    start_run: StartRun, tmp_path: Path
) -> None:
    stopping = [
        "++trainer.callbacks=[{_target_: lightning.pytorch.callbacks.EarlyStopping, "
        "monitor: val/accuracy, mode: max, patience: 1, min_delta: 1}]",
        "++trainer.max_epochs=5",
    ]
    undisturbed = survive(start_run, tmp_path / "undisturbed", stopping)
    assert metadata(undisturbed)["num_epochs"] == 2
    killed = survive(start_run, tmp_path / "killed", stopping, {"at": "fitted"})
    assert_same_run(killed, undisturbed)


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [(signal.SIGTERM, 143, "step"), (signal.SIGINT, 130, "validation")],
)
def test_a_signal_leaves_a_run_interrupted_and_the_command_that_resumes_it(
    start_run: StartRun, undisturbed: Path, tmp_path: Path, number: int, code: int, moment: str
) -> None:
    answer = start_run(*RICH, f"log_dir={tmp_path}", at=moment, signal=number)
    folder = run_folder(tmp_path)
    assert answer["code"] == code, answer["output"]
    assert metadata(folder)["status"] == "interrupted"
    assert f"to go on: python train.py resume={folder}\n" in answer["output"]
    assert "Traceback" not in answer["output"]
    assert start_run(f"resume={folder}")["code"] == 0
    assert_same_run(folder, undisturbed)


def as_slurm_task(bin_: Path, **more: str) -> dict[str, str]:
    """The environment of a job's only task; `bin_` gets a `scontrol` that notes its arguments."""
    bin_.mkdir(exist_ok=True)
    (bin_ / "scontrol").write_text('#!/bin/sh\necho "$@" >> "$0.calls"\n')
    (bin_ / "scontrol").chmod(0o755)
    task = {"PROCID": "0", "LOCALID": "0", "NODEID": "0", "NTASKS": "1", "JOB_NAME": "train"}
    slurm = {f"SLURM_{name}": value for name, value in (task | {"JOB_ID": "77"} | more).items()}
    return slurm | {"PATH": f"{bin_}:{os.environ['PATH']}"}


def test_a_job_that_slurm_requeues_goes_on_in_its_folder(
    start_run: StartRun, undisturbed: Path, tmp_path: Path
) -> None:
    overrides = [*RICH, f"log_dir={tmp_path / 'logs'}"]
    stopped = start_run(
        *overrides, at="step", nth=4, signal=signal.SIGUSR1, env=as_slurm_task(tmp_path)
    )
    assert stopped["code"] == 143, stopped["output"]
    assert (tmp_path / "scontrol.calls").read_text() == "requeue 77\n"
    folder = run_folder(tmp_path / "logs")
    assert metadata(folder)["status"] == "interrupted"
    assert [path.name for path in folder.glob("hpc*")] == ["hpc_ckpt_1.ckpt"], "Lightning's own"
    assert state(folder, "last")["global_step"] == 2

    again = as_slurm_task(tmp_path, RESTART_COUNT="1")
    assert start_run(*overrides, at="validation", nth=3, env=again)["code"] == -signal.SIGKILL
    again = as_slurm_task(tmp_path, RESTART_COUNT="2")
    answer = start_run(*overrides, env=again)
    assert answer["code"] == 0, answer["output"]
    assert_same_run(run_folder(tmp_path / "logs"), undisturbed)
    assert not list(folder.glob("hpc*"))
    assert "finished before" in start_run(*overrides, env=again)["output"]
    assert_same_run(run_folder(tmp_path / "logs"), undisturbed)


def test_a_run_may_go_on_with_data_and_settings_that_lie_elsewhere(
    start_run: StartRun, undisturbed: Path, tmp_path: Path
) -> None:
    timed = [o for o in RICH if "every_n_steps" not in o] + ["checkpoint.every_minutes=1e-9"]
    assert start_run(*timed, f"log_dir={tmp_path}", at="epoch over")["code"] == -signal.SIGKILL
    moved = tmp_path / "moved"
    run_folder(tmp_path).rename(moved)
    overrides = ["data.num_workers=1", f"data.root={tmp_path}", "checkpoint.keep_last=false"]
    answer = start_run(f"resume={moved}", *overrides)
    assert answer["code"] == 0, answer["output"]
    assert_equal(state(moved, "best"), state(undisturbed, "best"))
    assert not (moved / "checkpoints" / "last.ckpt").exists()
    assert f"root: {tmp_path}" in (moved / "config.yaml").read_text()
    assert "kB" in answer["output"], "the folder's size"
