"""A run that is given more epochs, or steps, than it began with."""

import csv
import math
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from tests.same_run import assert_same_run, metadata, run_folder, survive
from tests.tiny import StartRun
from triptych.runs.reader import find_newest_run, read_finished
from triptych.runs.record import Record, config_hash

CALLBACKS = "++trainer.callbacks=[{_target_: lightning.pytorch.callbacks."
EMA = f"{CALLBACKS}EMAWeightAveraging, decay: 0.5}}]"
CONSTANT = ["optim.schedule=constant", "++trainer.max_epochs=2"]
STEPS = ["optim.schedule=constant", "++trainer.max_epochs=-1"]
SCHEDULE = "optim.schedule={_target_: torch.optim.lr_scheduler."
NUM_STEPS = 5  # of an epoch


def rates(folder: Path) -> dict[int, float]:
    """The rate of every step after which it was logged."""
    with (folder / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row["lr"]) for row in csv.DictReader(file) if row["lr"]}


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ([*CONSTANT, EMA, f"{SCHEDULE}StepLR, step_size: 2}}"], "++trainer.max_epochs=4"),
        ([*CONSTANT, "checkpoint.score=last", "optim.warmup_epochs=1"], "++trainer.max_epochs=3"),
        (
            [*STEPS, "++trainer.max_steps=10", f"{SCHEDULE}ReduceLROnPlateau, patience: 0}}"],
            "++trainer.max_steps=15",
        ),
        (  # within an epoch
            [
                *(*STEPS, "++trainer.max_steps=7"),
                f"{SCHEDULE}ExponentialLR, gamma: 0.9, interval: step}}",
            ],
            "++trainer.max_steps=12",
        ),
    ],
)
def test_at_a_rate_that_knows_no_end_it_equals_one_that_began_with_as_many(
    start_run: StartRun, tmp_path: Path, settings: list[str], more: str
) -> None:
    others = [o for o in settings if not o.startswith(more.partition("=")[0])]
    long = survive(start_run, tmp_path / "long", [*others, more])
    folder = survive(start_run, tmp_path / "short", settings)
    before = metadata(folder)
    assert start_run(f"resume={folder}", more)["code"] == 0
    assert_same_run(folder, long)
    [entry] = metadata(folder)["history"]
    for name in ("config_hash", "metrics", "best_epoch", "num_epochs", "finished_at"):
        assert entry[name] == before[name]
    found = find_newest_run(tmp_path / "short", config_hash=metadata(long)["config_hash"])
    assert found
    assert found.folder == folder
    assert find_newest_run(tmp_path / "short", config_hash=before["config_hash"]) is None


ONE_CYCLE = ["optim.schedule=onecycle", "++trainer.max_epochs=2"]
LONGER = "++trainer.max_epochs=4"


@pytest.fixture(scope="module")
def short(start_run: StartRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs."""
    return survive(start_run, tmp_path_factory.mktemp("short"), ONE_CYCLE)


@pytest.fixture(scope="module")
def extended(start_run: StartRun, short: Path) -> Path:
    """That run, given two epochs more."""
    folder = Path(shutil.copytree(short, short.with_name("extended")))
    assert start_run(f"resume={folder}", LONGER)["code"] == 0
    return folder


@pytest.mark.parametrize("stop", [{"at": "step", "nth": 3}, {"at": "fitted"}, {"at": "end"}])
def test_it_may_be_killed_in_between_and_goes_on_without_being_told_again(
    start_run: StartRun, short: Path, extended: Path, tmp_path: Path, stop: dict[str, int]
) -> None:
    killed = Path(shutil.copytree(short, tmp_path / "killed"))
    assert start_run(f"resume={killed}", LONGER, **stop)["code"] == -signal.SIGKILL
    assert metadata(killed)["status"] == "running"
    assert start_run(f"resume={killed}")["code"] == 0
    assert_same_run(killed, extended)
    assert len(metadata(killed)["history"]) == 1


def test_one_cycle_goes_on_as_that_of_the_new_length(extended: Path) -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = OneCycleLR(optimizer, 0.01, total_steps=4 * NUM_STEPS)
    expected = {}
    for step in range(1, 4 * NUM_STEPS + 1):
        expected[step] = optimizer.param_groups[0]["lr"]
        optimizer.step()
        if step < 4 * NUM_STEPS:
            schedule.step()
    late = {step: rate for step, rate in rates(extended).items() if step > 2 * NUM_STEPS}
    assert late == pytest.approx({step: expected[step] for step in late})


def test_a_cosine_goes_on_as_that_of_the_new_length_and_so_it_is_said(
    start_run: StartRun, tmp_path: Path
) -> None:
    settings = ["optim.schedule=cosine", "++trainer.log_every_n_steps=1"]
    folder = survive(start_run, tmp_path, [*settings, "++trainer.max_epochs=2"])
    (folder / "evaluation.json").write_text("{}")
    (folder / "external").mkdir()
    Record.open(folder).update(command="python train.py a=1")
    env = {"TRIPTYCH_COMMAND": "python train.py resume=x"}
    answer = start_run(f"resume={folder}", "++trainer.max_epochs=4", env=env)
    assert answer["code"] == 0, answer["output"]
    assert metadata(folder)["command"] == "python train.py a=1 && python train.py resume=x"
    for said in ("trainer.max_epochs: 2 before, now 4", "optim.schedule=cosine", "evaluation.json"):
        assert said in answer["output"]
    [entry] = metadata(folder)["history"]
    for name in ("evaluation.json", "external"):
        assert not (folder / name).exists()
        assert (folder / entry["results"] / name).exists()
    assert (folder / entry["results"] / "predictions" / "test.npz").exists()
    for step, rate in rates(folder).items():
        length = (2 if step <= 2 * NUM_STEPS else 4) * NUM_STEPS
        assert rate == pytest.approx(0.01 * (1 + math.cos(math.pi * (step - 1) / length)) / 2)
    record = read_finished(folder)
    assert record.metadata["config_hash"] == config_hash(record.config)
    refused = start_run(f"resume={folder}", "++trainer.max_epochs=4")
    assert refused["code"] == 2
    assert "finished" in refused["output"]


@pytest.mark.parametrize(("interval", "total"), [("step", 3 * NUM_STEPS), ("epoch", 3)])
def test_a_scheduler_that_ends_is_refused_beyond_its_end_and_goes_on_up_to_it(
    start_run: StartRun, tmp_path: Path, interval: str, total: int
) -> None:
    one_cycle = f"OneCycleLR, max_lr: 0.01, total_steps: {total}, interval: {interval}}}"
    folder = survive(start_run, tmp_path, [f"{SCHEDULE}{one_cycle}", "++trainer.max_epochs=2"])
    before = (folder / "run.json").read_bytes()
    refused = start_run(f"resume={folder}", "++trainer.max_epochs=4")
    assert refused["code"] == 2, refused["output"]
    assert f"has {total} {interval}s" in refused["output"]
    assert "3 epochs" in refused["output"]
    assert (folder / "run.json").read_bytes() == before
    answer = start_run(f"resume={folder}", "++trainer.max_epochs=3")
    assert answer["code"] == 0, answer["output"]
    assert "OneCycleLR" in answer["output"]
    late = [rate for step, rate in rates(folder).items() if step > 2 * NUM_STEPS]
    assert min(rates(folder).values()) == late[-1] < 0.002


def test_a_run_that_was_stopped_early_would_stop_again(start_run: StartRun, tmp_path: Path) -> None:
    watched = "monitor: val/accuracy, mode: max, patience: 1, min_delta: 1"
    stopping = f"{CALLBACKS}EarlyStopping, {watched}}}]"
    folder = survive(start_run, tmp_path, [stopping, "++trainer.max_epochs=5"])
    before = (folder / "run.json").read_bytes()
    trusted = ["lightning.pytorch.callbacks.EarlyStopping"]
    answer = start_run(f"resume={folder}", "++trainer.max_epochs=9", trusted=trusted)
    assert answer["code"] == 2
    assert "after 2 epochs" in answer["output"]
    assert (folder / "run.json").read_bytes() == before


def test_an_interrupted_run_may_be_given_another_end_but_none_before_its_place(
    start_run: StartRun, tmp_path: Path
) -> None:
    start_run(*CONSTANT, f"log_dir={tmp_path}", "++trainer.max_epochs=9", at="epoch over", nth=3)
    folder = run_folder(tmp_path)
    refused = start_run(f"resume={folder}", "++trainer.max_epochs=1")
    assert refused["code"] == 2
    assert "trainer.max_epochs=1: this run is at 2 epochs" in refused["output"]
    assert start_run(f"resume={folder}", "++trainer.max_epochs=3")["code"] == 0
    assert (metadata(folder)["num_epochs"], metadata(folder)["status"]) == (3, "finished")


def test_a_refusal_leaves_a_finished_run_as_it_was(start_run: StartRun, tmp_path: Path) -> None:
    folder = survive(start_run, tmp_path, CONSTANT)
    names = ("run.json", "config.yaml", "metrics.csv", "predictions/test.npz")
    before = [(folder / name).read_bytes() for name in names]
    more = "++trainer.max_epochs=4"
    assert start_run(f"resume={folder}", more, "++trainer.accelerator=gpu")["code"] == 2
    assert [(folder / name).read_bytes() for name in names] == before
    Record.open(folder).checkpoint_path("last").unlink()
    assert "model.weights=" in start_run(f"resume={folder}", more)["output"]


def test_a_run_of_so_many_steps_goes_on_with_its_next_epoch(
    start_run: StartRun, tmp_path: Path
) -> None:
    settings = [*STEPS, "++trainer.max_steps=12"]
    whole = survive(start_run, tmp_path / "whole", settings)
    for nth in (1, 2):
        log_dir = tmp_path / f"killed{nth}"
        start_run(*settings, f"log_dir={log_dir}", at="after last.ckpt", nth=nth)
        assert start_run(f"resume={run_folder(log_dir)}")["code"] == 0
        assert_same_run(run_folder(log_dir), whole)
