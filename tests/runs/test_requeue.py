"""Which run a job goes on with that SLURM has started again."""

from pathlib import Path

import pytest
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from tests.composing import composed
from triptych.distributed import ranks
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.runs.resume import resume_requeued_job
from triptych.runs.stopping import requeues_on_sigusr1

TYPED = ["data=shapes", "model.weights=null"]


def folder_of(log_dir: Path, *more: str) -> str | None:
    """The folder that a command goes on in; None where it begins a run."""
    config = composed("train", *TYPED, *more, f"log_dir={log_dir}")
    told, overrides = resume_requeued_job(config, [*TYPED, *more, f"log_dir={log_dir}"], print)
    assert (told["resume"] is None) == (told == config)
    if told["resume"]:
        assert overrides == [f"log_dir={log_dir}"], "what a resumed run may be told"
    resumed: str | None = told["resume"]
    return resumed


def test_a_requeued_job_goes_on_with_the_newest_run_that_it_began_of_the_config(
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
    assert folder_of(tmp_path) is None

    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert folder_of(tmp_path) is None, "without a job's number nothing is its own"
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert folder_of(tmp_path) == str(latest.folder)
    assert folder_of(tmp_path, "seed=2") is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert folder_of(tmp_path) is None


@pytest.mark.parametrize(
    "told",
    [
        {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"},
        {"SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "bash"},
        {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "interactive"},
        {"SLURM_JOB_ID": "77"},
        {},
    ],
)
def test_a_task_of_srun_is_known_as_lightning_knows_it(
    told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert requeues_on_sigusr1() == SLURMEnvironment.detect()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert not requeues_on_sigusr1(), "Lightning looks for torchrun first"


def test_options_of_srun_that_lightning_does_not_take_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    ranks.cluster_environment.cache_clear()
    with pytest.raises(UserError, match="--ntasks-per-node=4"):
        ranks.cluster_environment()
