"""Which run a job resumes that SLURM or torchrun has started again."""

import os
from pathlib import Path

import pytest
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch.distributed import HashStore  # type: ignore[attr-defined]

from tests.composing import composed
from triptych.distributed import ranks
from triptych.distributed.detect import EARLIER, RESTARTS
from triptych.distributed.environment import leave_used_store
from triptych.runs.record import Record
from triptych.runs.resume import resume_requeued_job
from triptych.runs.stopping import is_requeued, requeues_on_sigusr1

TYPED = ["data=shapes", "model.weights=null"]


def resumed_folder(log_dir: Path, *overrides: str) -> str | None:
    """The folder of the run that a command resumes; None where it begins one."""
    typed = [*TYPED, *overrides, f"log_dir={log_dir}"]
    config = composed("train", *typed)
    changed, remaining, _ = resume_requeued_job(config, typed, print)
    if changed == config:
        return None
    assert remaining == [f"log_dir={log_dir}"], "the only override that a resumed run takes"
    return str(changed["resume"])


def test_a_requeued_job_resumes_the_newest_run_of_the_config_that_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed("train", *TYPED, f"log_dir={tmp_path}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    Record.create(config, []).update(started_at="2026-01-01T00:00:00+00:00")
    latest = Record.create(config, [])
    Record.create(config | {"seed": 1}, [])
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    Record.create(config, []).update(started_at="2099-01-01T00:00:00+00:00")
    monkeypatch.delenv("SLURM_JOB_ID")
    Record.create(config, []).update(started_at="2099-01-01T00:00:00+00:00")
    assert resumed_folder(tmp_path) is None, "without a job's number nothing is its own"
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert resumed_folder(tmp_path) == str(latest.folder)
    assert resumed_folder(tmp_path, "seed=2") is None
    for times, is_again in ((None, False), ("0", False), ("1", True)):
        if times:
            monkeypatch.setenv("SLURM_RESTART_COUNT", times)
        assert is_requeued() is is_again


def test_ranks_that_torchrun_starts_again_resume_their_run_and_meet_at_a_store_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Record.create(composed("train", *TYPED, f"log_dir={tmp_path}"), [])
    shared = HashStore()  # torchrun's, with what the ranks left there
    shared.set("triptych/folder", str(run.folder))
    for name in (RESTARTS, "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE", EARLIER):
        monkeypatch.setenv(name, "1")
    assert is_requeued()
    leave_used_store(shared, rank=0)
    port = os.environ["MASTER_PORT"]
    assert int(port) > 1
    assert resumed_folder(tmp_path) == str(run.folder)
    leave_used_store(shared, rank=1)
    assert os.environ["MASTER_PORT"] == port


@pytest.mark.parametrize(
    ("environment", "is_answered"),
    [
        ({"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train"}, True),
        ({"SLURM_JOB_ID": "77", "SLURM_NTASKS": "8"}, True),
        ({"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "bash"}, False),
        ({"SLURM_JOB_ID": "77", "TORCHELASTIC_RUN_ID": "x"}, False),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}, False),
    ],
)
def test_the_trainer_requeues_what_is_left_to_it_at_sigusr1(
    environment: dict[str, str], is_answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ranks.cluster_environment.cache_clear()
    known = ranks.trainer_environment()
    assert requeues_on_sigusr1() is is_answered
    assert (isinstance(known, SLURMEnvironment) and known.auto_requeue) is is_answered
    assert known.global_rank() == 0
    ranks.cluster_environment.cache_clear()
