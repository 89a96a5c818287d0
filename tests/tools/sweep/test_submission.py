"""A sweep of 200 jobs that is typed again and again: a stub stands in for the queue."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tools.sweep.test_jobs import make_run
from triptych.errors import UserError
from triptych.runs.storage import lock_run
from triptych.tools.sweep import cluster, submission
from triptych.tools.sweep.jobs import Job, lock_job, lock_path
from triptych.tools.sweep.submission import submit_sweep


class SlurmJob:
    """submitit's handle of a job."""

    def __init__(self, folder: Path, job_id: str) -> None:
        self.job_id, place = job_id, Path(str(folder).replace("%j", job_id))
        self.paths = SimpleNamespace(folder=place, stderr=place / "log.err")


class SlurmExecutor:
    """An executor of submitit's whose queue is a dict; a number for each array."""

    job_class = SlurmJob

    def __init__(self, log_dir: Path) -> None:
        self._executor = self
        self.folder = log_dir.absolute() / ".sweep" / "submitit" / "%j"
        self.queue: dict[str, tuple[str, str]] = {}
        self.arrays: list[list[str]] = []
        self.max_array, self.max_queue, self.parameters = 1000, 1000, {"time": 1}

    def submit_array(self, jobs: list[Any]) -> list[SlurmJob]:
        if len(jobs) > min(self.max_array, self.max_queue - len(self.queue)):
            raise RuntimeError("sbatch: error: Batch job submission failed: too many")
        number = len(self.arrays)
        handles = [SlurmJob(self.folder, f"{number}_{n}") for n in range(len(jobs))]
        self.arrays.append([job.job.overrides[0] for job in jobs])
        for handle in handles:
            self.queue[handle.job_id] = ("PENDING", "JobArrayTaskLimit")
            handle.paths.folder.mkdir(parents=True)
            (handle.paths.stderr).write_text(f"words of {handle.job_id}\n")
        return handles


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmExecutor:
    made = SlurmExecutor(tmp_path)
    for module in (cluster, submission):
        monkeypatch.setattr(module, "query_queue", lambda *_: dict(made.queue))
    return made


def make_jobs(log_dir: Path, num: int) -> list[Job]:
    config = {"log_dir": str(log_dir), "model": {"name": "tiny"}, "checkpoint": {}}
    config["data"] = {"name": "shapes"}
    return [Job([f"seed={n}"], config | {"seed": n}, f"{n:064}"[::-1], {}) for n in range(num)]


def make_run_of(job: Job, **metadata: Any) -> Path:
    folder = Path(job.config["log_dir"], job.overrides[0])
    return make_run(folder, config_hash=job.config_hash, code={}, **metadata)


def stand(jobs: list[Job], executor: SlurmExecutor) -> int:
    """How often a detached sweep of them has submitted something; its exit code is 0."""
    submit_sweep(jobs, executor, detach=True)
    return len(executor.arrays)


def test_only_what_is_neither_done_nor_in_the_queue_is_submitted_again(
    executor: SlurmExecutor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = make_jobs(tmp_path, 200)
    make_run_of(jobs[7])
    assert stand(jobs, executor) == 1
    assert len(executor.arrays[0]) == 199
    assert "199 queued" in capsys.readouterr().out
    assert stand(jobs, executor) == 1, "the queue has them all"

    for n in range(10):
        executor.queue[f"0_{n}"] = ("RUNNING", "None")
    for n in range(10, 14):
        executor.queue[f"0_{n}"] = (("COMPLETED", "TIMEOUT", "NODE_FAIL")[n % 3], "None")
    for n in range(14, 18):
        del executor.queue[f"0_{n}"]  # it ended long ago
    ended = [job for job in jobs if job.overrides[0] in executor.arrays[0][10:18]]
    for job in ended[::2]:
        make_run_of(job)
    make_run_of(ended[1], status="interrupted")
    assert stand(jobs, executor) == 2
    assert executor.arrays[1] == [job.overrides[0] for job in ended[1::2]]
    shown = capsys.readouterr().out
    assert "5 of 200" in shown
    assert "10 running, 185 queued" in shown
    assert stand(jobs, executor) == 2


def test_as_many_are_submitted_as_a_site_allows(
    executor: SlurmExecutor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = make_jobs(tmp_path, 200)
    executor.max_array, executor.max_queue = 20, 71
    stand(jobs, executor)
    assert sum(map(len, executor.arrays)) == 71
    assert "71 queued, 129 not submitted" in capsys.readouterr().out
    executor.max_queue = 500
    stand(jobs, executor)
    submitted = [override for array in executor.arrays for override in array]
    assert sorted(submitted) == sorted(job.overrides[0] for job in jobs), "none twice"

    executor.max_queue = 0
    with pytest.raises(UserError, match="too many"):
        stand(make_jobs(tmp_path / "other", 9), executor)


def test_where_squeue_does_not_answer_nothing_is_submitted(
    executor: SlurmExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "query_queue", lambda *_: None)
    with pytest.raises(UserError, match="squeue"):
        stand(make_jobs(tmp_path, 2), executor)
    assert executor.arrays == []


def test_why_a_job_ended_is_said_and_a_failed_one_is_not_submitted_again(
    executor: SlurmExecutor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    jobs = make_jobs(tmp_path, 3)
    assert stand(jobs, executor) == 1
    executor.queue = {"0_0": ("FAILED", "NonZeroExitCode"), "0_2": ("PENDING", "InvalidQOS")}
    make_run_of(jobs[1], status="failed", error="out of memory")
    with pytest.raises(SystemExit, match="1"):
        stand(jobs, executor)
    assert executor.arrays[1:] == [["seed=0"]]
    assert "words of 0_0" in caplog.text
    assert "words of 0_1" not in caplog.text
    shown = capsys.readouterr().out
    assert "seed 1: failed: out of memory" in shown
    assert "seed 2: never starts: InvalidQOS" in shown


def test_what_runs_elsewhere_is_not_submitted(
    executor: SlurmExecutor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [job] = make_jobs(tmp_path, 1)
    with lock_run(make_run_of(job, status="running")):
        assert stand([job], executor) == 0
    assert "seed 0: running" in capsys.readouterr().out
    assert stand([job], executor) == 1, "its process is gone"


def test_a_job_that_another_process_works_on_does_not_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job] = make_jobs(tmp_path, 1)
    monkeypatch.setattr(cluster, "LOCK_SECONDS", 0)
    lock = lock_job(job)
    assert lock
    with lock, pytest.raises(UserError, match="another process"):
        cluster.lock_when_free(job)


def test_files_of_jobs_that_slurm_forgot_are_cleared_away_and_no_others(
    executor: SlurmExecutor, tmp_path: Path
) -> None:
    jobs = make_jobs(tmp_path, 3)
    stand(jobs, executor)
    make_run_of(jobs[0])
    make_run_of(jobs[1])
    executor.queue = {"0_1": ("COMPLETED", "None"), "0_2": ("RUNNING", "None")}
    stand(jobs, executor)
    names = {path.name for path in (tmp_path / ".sweep" / "submitit").iterdir()}
    assert names == {"0_1", "0_2"}, "another launcher may wait for the second one's result"


@pytest.mark.parametrize("note", ["", "{", '{"job_id": 7}', '{"job_id": "../7"}', "[]", "0"])
def test_a_note_that_is_none_is_passed_over(
    executor: SlurmExecutor, tmp_path: Path, note: str
) -> None:
    [job] = make_jobs(tmp_path, 1)
    lock_path(job).parent.mkdir()
    lock_path(job).write_text(note)
    assert stand([job], executor) == 1
    assert json.loads(lock_path(job).read_text()) == {"job_id": "0_0"}
