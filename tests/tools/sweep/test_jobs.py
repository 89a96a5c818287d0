"""Jobs: composed and checked before the first starts; which of them were run already."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from hydra_plugins.triptych.launchers import ProcessLauncher
from tests.distributed.test_detect import TASK
from triptych.config import CONFIGS, check_config
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.tools.sweep.jobs import (
    Job,
    compose_jobs,
    describe_code,
    find_newer_inputs,
    find_run_of_job,
    find_times,
    is_done,
    label_jobs,
    label_recipes,
    lock_job,
)


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def jobs_of(*overrides: list[str]) -> list[Job]:
    return compose_jobs(lambda job: compose("train", job), overrides)


def test_every_job_has_the_config_of_its_overrides_and_of_the_environment_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOG_DIR", "before")
    first, second = jobs_of(["model=alexnet", "seed=1"], ["model=resnet50", "seed=2"])
    monkeypatch.setenv("LOG_DIR", "after")
    assert (first.config["model"]["name"], first.config["seed"]) == ("alexnet", 1)
    assert (second.config["model"]["name"], second.config["seed"]) == ("resnet50", 2)
    assert first.overrides == ["model=alexnet", "seed=1"]
    first.config["trainer"]["max_epochs"] = 1
    assert second.config["trainer"]["max_epochs"] == 40
    assert second.config["log_dir"] == "before"
    assert "${" not in json.dumps(second.config)


@pytest.mark.parametrize(
    "wrong",
    [["optim.lr=-1", "seed=-1", "data.batch_size=0"], ["model=nope"], ["fresh=maybe"]],
)
def test_an_error_names_the_job_in_its_last_line_of_three(wrong: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        jobs_of(["seed=0"], wrong)
    lines = str(raised.value).splitlines()
    assert lines[-1] == f"in the job {' '.join(wrong)}"
    assert 2 <= len(lines) <= 3


def test_two_folders_of_photos_that_have_one_name_are_not_taken_for_one() -> None:
    a, b = (["data=folder", f"data.root={place}/photos"] for place in "ab")
    with pytest.raises(UserError, match=r"^data\.root=b/photos: data\.name=photos .* a/photos"):
        jobs_of(a, b)
    jobs_of(a, [*b, "data.name=others"])
    jobs_of(a, a)


def test_settings_of_the_sweep_are_no_part_of_the_job() -> None:
    usual, again = jobs_of(["seed=1"], ["seed=1", "fresh=true", "++retry_failed=true"])
    assert (usual.fresh, usual.retry_failed) == (False, False)
    assert (again.fresh, again.retry_failed) == (True, True)
    assert again[:4] == usual[:4]
    for name in ("fresh", "retry_failed"):
        with pytest.raises(UserError, match=rf"{name}=true: must be false, or true in a sweep"):
            check_config(usual.config | {name: True})


def test_jobs_are_named_by_what_they_do_not_share() -> None:
    both = ["model=alexnet", "trainer.max_epochs=1"]
    assert label_jobs(jobs_of([*both, "seed=0"], [*both, "seed=1"])) == ["seed 0", "seed 1"]
    assert label_jobs(jobs_of(["model=alexnet", "seed=0"])) == ["alexnet seed 0"]
    assert label_jobs(jobs_of([])) == ["as configured"]


def test_recipes_are_named_by_what_they_do_not_share_and_seeds_are_none_of_it() -> None:
    a, b = (["model=alexnet", f"optim.lr={lr}", "data=shapes"] for lr in (0.1, 0.2))
    jobs = jobs_of([*a, "seed=0"], [*b, "seed=0"], [*a, "seed=1"], [*b, "seed=1"])
    assert label_recipes(jobs) == ["optim.lr=0.1", "optim.lr=0.2"] * 2
    assert label_recipes(jobs_of([*a, "seed=0"], [*a, "seed=1"])) == ["alexnet"] * 2
    assert label_recipes(jobs_of(["seed=0"], [*a, "seed=0"])) == [
        "googlenet",
        "alexnet optim.lr=0.1 data=shapes",
    ]


@pytest.mark.parametrize(("typed", "kept"), [([], False), (["checkpoint.keep_last=true"], True)])
def test_a_job_of_a_sweep_leaves_no_last_checkpoint_unless_it_is_asked_for(
    typed: list[str], kept: bool
) -> None:
    [usual], [asked] = jobs_of(["seed=1"]), jobs_of(["seed=1", *typed])
    assert asked.config["checkpoint"]["keep_last"] is kept
    assert asked.config_hash == usual.config_hash, "it is the same experiment"
    assert compose("train", ["seed=1"]).checkpoint.keep_last is None, "a single run keeps it"


def test_a_sweep_is_not_started_on_every_rank_of_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="srun"):
        ProcessLauncher(num_jobs=1).launch([["seed=0"], ["seed=1"]], 0)


def job(log_dir: Path, **settings: bool) -> Job:
    return Job(["seed=0"], {"log_dir": str(log_dir), "seed": 0}, "5eed" * 16, CODE, **settings)


CODE = {"triptych/module.py": "a", "mynet.py": "b"}
METRICS = {"test/accuracy": 0.5, "test/f1": 0.5, "test/loss": 6.3e31}  # float32 holds it
FINISHED = {
    **{"schema": 1, "status": "finished", "config_hash": "5eed" * 16, "seed": 0, "num_test": 10},
    **dict.fromkeys(("model", "data", "split_hash", "test_hash", "group_hash"), "a"),
    **dict.fromkeys(("started_at", "finished_at"), "2026-01-01T00:00:00+00:00"),
    **{"train_seconds": 1.0, "metrics": METRICS, "code": CODE},
}


def make_run(folder: Path, **metadata: Any) -> Path:
    """A run folder with that record."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(FINISHED | metadata))
    return folder


@pytest.mark.parametrize(
    "forged",
    [
        {"metrics": {}},
        {"metrics": METRICS | {"test/accuracy": 5}},
        {"num_test": None},
        {"train_seconds": None},
        {"status": ["finished"]},
        {"status": "interrupted"},
        {"config_hash": "0" * 64},
    ],
)
def test_a_finished_run_counts_before_later_ones_that_are_not_or_cannot_be_trusted(
    tmp_path: Path, forged: dict[str, Any]
) -> None:
    finished = make_run(tmp_path / "a")
    os.mkfifo(make_run(tmp_path / "b", started_at="2100") / "train.log")
    make_run(tmp_path / "z", started_at="2099", **forged)
    run = find_run_of_job(job(tmp_path))
    assert run
    assert run.folder == finished


@pytest.mark.parametrize(
    ("code", "difference"),
    [
        (CODE, ""),
        (dict(reversed(CODE.items())), ""),
        (CODE | {"mynet.py": "c"}, "differs in mynet.py"),
        (CODE | {"mylayers.py": "c"}, "differs in mylayers.py"),
        (dict.fromkeys("fedcba", "x"), "differs in a, b, c, d and 4 more"),
        (None, "is not recorded"),
    ],
)
@pytest.mark.parametrize("status", ["finished", "failed", "interrupted"])
def test_a_run_of_other_code_or_of_unknown_code_is_not_the_jobs_unless_it_is_to_be_ignored(
    tmp_path: Path, code: dict[str, str] | None, difference: str, status: str
) -> None:
    make_run(tmp_path / "a", status=status, code=code)
    assert (find_run_of_job(job(tmp_path)) is None) is bool(difference)
    run = find_run_of_job(job(tmp_path, same_code=False))
    assert run
    assert describe_code(run, job(tmp_path)) == difference


def test_of_two_finished_runs_the_one_by_the_same_code_counts_though_it_is_older(
    tmp_path: Path,
) -> None:
    make_run(tmp_path / "a", started_at="2026-01-01")
    make_run(tmp_path / "b", started_at="2026-01-02", code=CODE | {"mynet.py": "c"})
    for job_, name in ((job(tmp_path), "a"), (job(tmp_path, same_code=False), "b")):
        run = find_run_of_job(job_)
        assert run
        assert run.folder.name == name


def test_the_newest_run_counts_wherever_it_lies_also_behind_a_link(tmp_path: Path) -> None:
    log_dir = tmp_path / "logs"
    assert find_run_of_job(job(log_dir)) is None
    make_run(log_dir / "shapes" / "old", started_at="2026-01-01T00:00:00+00:00")
    make_run(log_dir / "z", started_at="2026-01-02T00:00:00+00:00")
    make_run(tmp_path / "elsewhere" / "latest", started_at="2026-01-03T00:00:00+00:00")
    (log_dir / "link").symlink_to(tmp_path / "elsewhere")
    run = find_run_of_job(job(log_dir))
    assert run
    assert run.folder.resolve() == tmp_path / "elsewhere" / "latest"


@pytest.mark.parametrize(
    ("status", "done", "done_with_retry_failed"),
    [
        ("finished", True, True),
        ("failed", True, False),
        ("interrupted", False, False),
        ("running", False, False),
    ],
)
def test_the_status_of_the_earlier_run_says_what_is_left_to_do(
    tmp_path: Path, status: str, done: bool, done_with_retry_failed: bool
) -> None:
    make_run(tmp_path / "a", status=status)
    run = find_run_of_job(job(tmp_path))
    assert run
    assert is_done(run, job(tmp_path)) is done
    assert is_done(run, job(tmp_path, retry_failed=True)) is done_with_retry_failed


def test_an_experiment_is_locked_once_and_a_child_keeps_the_lock_when_the_sweep_is_gone(
    tmp_path: Path,
) -> None:
    lock = lock_job(job(tmp_path))
    assert lock
    assert lock_job(job(tmp_path)) is None
    waiting = [sys.executable, "-c", "input()"]
    child = subprocess.Popen(waiting, stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
    lock.close()  # as the system does with a sweep that is killed
    assert lock_job(job(tmp_path)) is None
    child.communicate(b"\n")
    again = lock_job(job(tmp_path))
    assert again
    again.close()


@pytest.mark.parametrize("name", ["photos/cat", "photos/cat/1.png", "labels.csv", "net.pt"])
def test_what_a_job_reads_is_named_where_it_is_newer_than_an_earlier_run(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    for file in ("labels.csv", "net.pt", "photos/cat/1.png"):
        (tmp_path / file).touch()
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0))
    settings = {"data.root": "photos", "data.labels": "labels.csv", "model.weights": "net.pt"}
    typed = [f"{key}={tmp_path / value}" for key, value in settings.items()]
    [job_] = jobs_of(["data=folder", *typed])
    run = Record.open(make_run(tmp_path / "logs" / "a"))
    before, now = run.metadata["started_at"], datetime.now(UTC)
    names = sorted(str(tmp_path / each) for each in (*settings.values(), "photos/cat"))
    assert find_newer_inputs(run, job_) == names, f"changed since {before}, whatever mtime says"
    run.metadata["started_at"] = (now + timedelta(hours=1)).isoformat()
    assert find_newer_inputs(run, job_) == []
    find_times.cache_clear()
    os.utime(tmp_path / name, (now.timestamp() + 7200,) * 2)
    assert find_newer_inputs(run, job_) == [str(tmp_path / name.removesuffix("/1.png"))]
    assert find_newer_inputs(run, jobs_of(["data=cifar10", "data.root=" + str(tmp_path)])[0]) == []
