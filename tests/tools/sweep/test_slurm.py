"""Sweeps and runs on a real SLURM of this machine alone: tests/slurm_cluster.py."""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.slurm_cluster import PATH, find_missing
from tests.tiny import TINY
from tests.tools.sweep.test_cluster import compose_job
from triptych.cli import ROOT
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.tools.sweep import cluster
from triptych.tools.sweep.jobs import Outcome

TRAIN = (sys.executable, str(ROOT / "train.py"))
RUN = (*TINY, "trainer.logger=[]")  # TensorBoard takes a second to import


def wait_until(is_true: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.2)


def run(environment: dict[str, str], *command: str) -> str:
    """What a command prints; it must succeed."""
    environment = environment | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def find_records(log_dir: Path) -> list[Record]:
    return [Record.open(path.parent) for path in log_dir.rglob("run.json")]


def test_a_sweep_that_is_left_to_slurm_finishes_and_typed_again_shows_it(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    sweep = ("-m", "hydra/launcher=slurm", "seed=0,1", f"log_dir={tmp_path}", *RUN)
    screen = run(slurm, *TRAIN, *sweep, "hydra.launcher.detach=true")
    assert "0 of 2" in screen
    assert "submitted:" in screen
    wait_until(lambda: not run(slurm, "squeue", "--noheader"))
    screen = run(slurm, *TRAIN, *sweep, "hydra.launcher.detach=true")
    assert "2 of 2" in screen
    assert "submitted:" not in screen
    records = find_records(tmp_path)
    assert len(records) == 2
    assert {record.metadata["seed"] for record in records} == {0, 1}
    assert {record.metadata["status"] for record in records} == {"finished"}
    assert all(record.metadata["slurm_job_id"] for record in records)


def test_a_requeued_run_goes_on_in_its_folder(slurm: dict[str, str], tmp_path: Path) -> None:
    settings = (*RUN, f"log_dir={tmp_path}", "trainer.max_epochs=20")
    script = f"#!/bin/bash\nsrun {subprocess.list2cmdline([*TRAIN, *settings])}\n"
    (tmp_path / "job.sh").write_text(script)
    options = ("--parsable", "--requeue", f"--output={tmp_path}/log", "--open-mode=append")
    job_id = run(slurm, "sbatch", *options, str(tmp_path / "job.sh")).strip()
    wait_until(lambda: list(tmp_path.rglob("metrics.csv")))
    run(slurm, "scancel", "--signal=USR1", job_id)
    wait_until(lambda: "PENDING" in run(slurm, "squeue", "--noheader", "--format=%T"))
    [before] = find_records(tmp_path)
    assert before.metadata["status"] == "interrupted"

    wait_until(lambda: find_records(tmp_path)[0].metadata["status"] == "finished")
    [after] = find_records(tmp_path)
    assert after.folder == before.folder
    with (after.folder / "metrics.csv").open() as file:
        epochs = [int(row["epoch"]) for row in csv.DictReader(file) if row.get("val/loss")]
    assert epochs == list(range(1, 21))


def submit(
    slurm: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch, **parameters: Any
) -> list[Outcome]:
    """The outcome of a job of no more than its submission; one that is held is cancelled."""
    pytest.importorskip("submitit")
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm[name])
    monkeypatch.setattr(cluster, "RESULT_SECONDS", 0)
    job = compose_job(folder / "logs")
    chosen = cluster.choose_resources({"mem_gb": 1, **parameters}, [job])
    executor = cluster.make_executor("slurm", str(folder), 1, chosen)
    submitted = [cluster.ClusterJob(job, *cluster.submit_jobs([job], executor))]
    if "slurm_additional_parameters" in parameters:
        submitted[0].handle.cancel()
    return cluster.wait_for_jobs(submitted, executor)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"slurm_partition": "nope"}, "partition=nope"),
        ({"gpus_per_node": 1}, "gpus_per_node=1"),
        ({"mem_gb": 99}, "mem=99GB"),
        ({"slurm_constraint": "fast"}, "constraint=fast"),
        ({"slurm_partition": "short", "timeout_min": 5}, "time=5"),  # accepted, never started
    ],
)
def test_what_slurm_refuses_is_a_user_error(
    parameters: dict[str, Any],
    named: str,
    slurm: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match=named) as error:
        submit(slurm, tmp_path, monkeypatch, **parameters)
    assert len(str(error.value).splitlines()) == 3
    assert "PENDING" not in run(slurm, "squeue", "--noheader", "--format=%T")


def test_a_job_that_was_cancelled_in_the_queue_never_began(
    slurm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"slurm_additional_parameters": {"hold": True}}
    [outcome] = submit(slurm, tmp_path, monkeypatch, **held)
    assert (outcome.status, outcome.record) == ("cancelled", None)


def test_a_job_that_fails_before_it_trains_says_why_and_where_its_log_is(
    slurm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [outcome] = submit(slurm, tmp_path, monkeypatch, slurm_setup=["echo no such >&2; exit 3"])
    assert outcome.status == "failed"
    assert "no such" in outcome.error
    assert outcome.log_file
    assert "no such" in outcome.log_file.read_text()


def processes_of(folder: Path) -> Sequence[str]:
    """Those that work in a folder, by their ids."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd") == str(folder):
                found.append(process.name)
        except OSError:
            continue
    return found


@pytest.mark.skipif(bool(find_missing()), reason=f"no SLURM: {find_missing()}")
def test_a_cluster_ends_with_the_process_that_started_it_however_that_ends(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.slurm_cluster", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PATH": PATH},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with owner:
        assert owner.stdout
        assert owner.stdout.readline().startswith(b"export SLURM_CONF=")
        assert len(processes_of(tmp_path)) >= 4
        owner.kill()
    wait_until(lambda: not processes_of(tmp_path), seconds=20)


def test_two_tasks_of_srun_are_two_ranks_of_one_run(slurm: dict[str, str], tmp_path: Path) -> None:
    devices = ("trainer.devices=2", "trainer.max_epochs=1", f"log_dir={tmp_path}")
    run(slurm, "srun", "--ntasks=2", *TRAIN, *RUN, *devices)
    [record] = find_records(tmp_path)
    assert record.metadata["status"] == "finished"
