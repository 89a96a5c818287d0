"""A sweep whose jobs a cluster runs: submitit's local processes stand in for SLURM."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from tests.tiny import TINY
from triptych.config import CONFIGS
from triptych.errors import UserError
from triptych.tools.sweep import cluster
from triptych.tools.sweep.jobs import Job, compose_jobs


def compose_job(log_dir: Path, *overrides: str) -> Job:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        [job] = compose_jobs(
            lambda job: compose("train", job), [[*TINY, f"log_dir={log_dir}", *overrides]]
        )
        return job


def local(folder: Path) -> Any:
    options = {"timeout_min": 10, "gpus_per_node": 0}
    return cluster.make_executor("local", str(folder), max_num_timeout=1, parameters=options)


def test_without_submitit_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="extra `slurm`"):
        local(Path("nowhere"))


def test_a_machine_without_slurm_is_a_user_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"cluster=slurm: .*srun"):
        cluster.make_executor("slurm", str(tmp_path), max_num_timeout=1, parameters={})


def test_a_submitted_job_trains_its_config_and_a_finished_one_is_not_trained_again(
    tmp_path: Path,
) -> None:
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    job, executor = compose_job(tmp_path / "logs", "seed=3"), local(tmp_path / "submitit")
    assert cluster.SubmittedJob(job)() == ""
    submitted = [cluster.ClusterJob(job, *cluster.submit_jobs([job], executor))]
    [outcome] = cluster.wait_for_jobs(submitted, executor)
    assert outcome.record
    metadata = outcome.record.metadata
    assert (outcome.status, metadata["status"], metadata["seed"]) == ("finished", "finished", 3)
    assert metadata["config_hash"] == job.config_hash
    assert [*(tmp_path / "logs").rglob("run.json")] == [outcome.record.folder / "run.json"]


def test_a_job_that_slurm_cuts_off_is_requeued_to_be_resumed(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    job = compose_job(tmp_path, "fresh=true")
    requeued = cluster.SubmittedJob(job).checkpoint().function
    assert requeued.job == job._replace(fresh=False)


@pytest.mark.parametrize(
    ("rows", "overrides", "expected"),
    [
        (["all*|64|256000|gpu:a100:4(S:0-1)"], ["trainer.accelerator=gpu"], (4, 32, 1)),
        (["all*|64|256000|gpu:4"], ["trainer.accelerator=auto", "trainer.devices=2"], (4, 32, 2)),
        (["all*|64|256000|gpu:4"], ["trainer.accelerator=auto", "trainer.devices=-1"], (4, 32, 4)),
        (["all*|64|256000|gpu:4"], ["trainer.accelerator=cpu"], (4, 32, None)),
        (["all*|2|16000|(null)"], ["trainer.accelerator=auto"], (2, 15, None)),
        (["big|64|256000|gpu:4", "all*|2+|16000+|(null)"], [], (2, 15, None)),
        (["all*|1|512|(null)", "all*|2|256|craynetwork:4"], [], (2, 0.5, None)),
        ([], ["trainer.accelerator=auto"], (4, 32, 1)),
        (["all*|64|1|gpu:4"], ["trainer.accelerator=auto"], (4, None, 1)),  # memory is not set
        (["CLUSTER: one", "all*|N/A|(null)|gpu:4"], [], (None, None, None)),
        (["all*|64|256000K|gpu:4\\351"], [], (4, 32, None)),  # of sh: no UTF-8
    ],
)
def test_resources_by_default_are_no_more_than_the_largest_node_of_the_partition_has(
    rows: list[str],
    overrides: list[str],
    expected: tuple[int, float, int | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "sinfo").write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows))
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    names = ("cpus_per_task", "mem_gb", "gpus_per_node")
    job = compose_job(tmp_path, *(f"++{override}" for override in overrides))
    chosen = cluster.choose_resources(dict.fromkeys(names, "auto") | {"timeout_min": 5}, [job])
    assert tuple(chosen[name] for name in names) == expected
    assert chosen["timeout_min"] == 5
