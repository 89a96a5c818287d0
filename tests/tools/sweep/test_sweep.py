"""Sweeps of stand-ins, jobs that end as their seed says: what runs, how it stops, what it shows."""

import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from tests.run_folders import change_record
from triptych.cli import ScreenHandler
from triptych.config import CONFIGS
from triptych.distributed import processes
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.tools.sweep import results
from triptych.tools.sweep import sweep as sweep_module
from triptych.tools.sweep.jobs import Job, Outcome, compose_jobs, num_gpus, visible_gpus
from triptych.tools.sweep.results import print_results
from triptych.tools.sweep.sweep import Sweep, run_sweep

# Everything but the training is the real thing: the leash, the record, the lock of the folder.
STAND_IN = """
import contextlib, json, os, signal, sys, time
from pathlib import Path
from triptych.distributed import processes
from triptych.errors import UserError
from triptych.runs import record as records
from triptych.runs.record import Record
from triptych.runs.storage import lock_run

FINISHED, FAILED, WRONG_INPUT, KILLED, ENDLESS, DEAF, PAIRED = range(7)
records.git_commit = lambda: None  # asking takes longer than all the rest
SCORES = {"val/accuracy": 0.75, "test/accuracy": 0.875, "test/f1": 0.5, "test/loss": 1.25}

def note(log_dir, **what):
    what |= {"time": time.time(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
    what |= {"threads": os.environ.get("OMP_NUM_THREADS")}
    with open(Path(log_dir, "notes"), "a") as file:
        file.write(json.dumps(what) + "\\n")

def work(config, overrides, report):
    seed, log_dir = config["seed"] % 10, Path(config["log_dir"])
    if seed == WRONG_INPUT:
        raise UserError("data.root: not there\\nfetch it\\nor not")
    resumed = config["resume"]
    record = Record.open(Path(resumed)) if resumed else Record.create(config, overrides)
    report.write_text(str(record.folder))
    def stop(number, _):
        note(log_dir, what="stopped", signal=number)
        if seed == ENDLESS:
            record.end("interrupted")
            sys.exit(143)
    with lock_run(record.folder):
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        note(log_dir, what="began", seed=config["seed"], resume=resumed, folder=str(record.folder))
        try:
            live(record, seed, log_dir)
        finally:
            note(log_dir, what="ended", seed=config["seed"])

def live(record, seed, log_dir):
    mended = log_dir / "mended"
    record.update(status="running")
    time.sleep(0.3)
    if seed == FAILED and not mended.exists():
        record.end("failed", error="it failed")
        sys.exit(1)
    if seed == KILLED and not mended.exists():
        print("the last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    while seed in (ENDLESS, DEAF) and not mended.exists():
        time.sleep(0.05)
    patience = time.monotonic() + 60
    while seed == PAIRED and (log_dir / "notes").read_text().count('"began"') < 2:
        if time.monotonic() > patience:
            sys.exit("it is alone")
        time.sleep(0.05)
    record.update(metrics=SCORES, num_test=16, train_seconds=2.5)
    record.update(model="googlenet", data="shapes", split_hash="0", test_hash="0")
    record.end("finished")

processes.work = work
sys.exit(processes.main(Path(sys.argv[1])))
"""


class StandIns(NamedTuple):
    log_dir: Path
    program: Path
    config: DictConfig

    def jobs(self, seeds: str, *more: str) -> list[Job]:
        """A job a seed; the last digit says how it ends."""
        return compose_jobs(
            lambda overrides: OmegaConf.merge(self.config, OmegaConf.from_dotlist(overrides)),
            [[f"seed={seed}", f"log_dir={self.log_dir}", *more] for seed in seeds.split(",")],
        )

    def notes(self, what: str) -> list[dict[str, Any]]:
        """What the jobs noted, in the order of time."""
        path = self.log_dir / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        noted = [json.loads(line) for line in lines]
        return [note for note in noted if note["what"] == what]

    def statuses(self) -> dict[int, list[str]]:
        """The statuses of each seed's run folders, oldest first."""
        statuses: dict[int, list[str]] = {}
        for path in sorted(self.log_dir.rglob("run.json")):
            metadata = Record.open(path.parent).metadata
            statuses.setdefault(metadata["seed"], []).append(metadata["status"])
        return statuses


@pytest.fixture(scope="module")
def config() -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", ["data=shapes", "model.weights=null"])


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: DictConfig) -> StandIns:
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    monkeypatch.setattr(processes, "COMMAND", [sys.executable, str(program)])
    (tmp_path / "logs").mkdir()
    monkeypatch.setattr(logging.getLogger("triptych"), "level", logging.INFO)
    monkeypatch.setattr(logging.getLogger("triptych"), "handlers", [ScreenHandler()])
    return StandIns(tmp_path / "logs", program, config)


def exit_code(jobs: list[Job], num_jobs: int = 4) -> int:
    try:
        run_sweep(jobs, num_jobs)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else -1
    return 0


def test_a_job_that_fails_stops_no_other_and_makes_the_exit_code_1(
    stand_ins: StandIns, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(stand_ins.jobs("0,1,2,3,10"), num_jobs=2) == 1
    ended = {0: ["finished"], 1: ["failed"], 3: ["running"], 10: ["finished"]}
    assert stand_ins.statuses() == ended, "wrong input makes no folder"
    shown = capfd.readouterr().out
    lines = [line for line in shown.splitlines() if line.startswith("[")]
    assert len(lines) == 5, "a line a job"
    assert [sum(f"[{n}/5] seed " in line for line in lines) for n in range(1, 6)] == [1] * 5
    for says in (": failed in", ": data.root: not there\n", ": the last words\n"):
        assert says in shown
    assert "seed 2: refused: data.root: not there\nfetch it\nor not\n" in shown
    rows = [line.split()[2:] for line in shown.splitlines() if re.match(r"seed \d+  ", line)]
    assert [row[0] for row in rows] == [*2 * ["finished"], "failed", "refused", "killed"]
    assert rows[0][1:5] == ["75.00", "%", "87.50", "%"]


def test_jobs_at_a_time_share_the_cores_and_have_a_gpu_each(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5d5ba0d6")
    assert exit_code(stand_ins.jobs("6,16,0"), num_jobs=2) == 0
    assert count_at_once(stand_ins, lambda _: True) == 2
    assert {note["threads"] for note in stand_ins.notes("began")} == {"8"}
    gpus = [note["gpus"] for note in stand_ins.notes("began")]
    assert len(gpus) == 3
    for name in ("3", "GPU-5d5ba0d6"):
        assert count_at_once(stand_ins, lambda note, name=name: note["gpus"] == name) == 1
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,GPU-5d5ba0d6"


def count_at_once(stand_ins: StandIns, counts: Callable[[dict[str, Any]], bool]) -> int:
    """How many jobs that count were at work at a time."""
    notes = [(n["time"], 1, n) for n in stand_ins.notes("began")]
    notes += [(n["time"], -1, n) for n in stand_ins.notes("ended")]
    ordered = sorted(notes, key=lambda note: note[:2])
    return max(itertools.accumulate(step for _, step, note in ordered if counts(note)))


class FakeProcess:
    """A job that runs until it has an outcome."""

    started, outcome = 0.0, None

    def __init__(self, job: Job, place: Path, lock: IO[str], gpus: list[str], *_: object) -> None:
        self.gpus = gpus

    def poll(self) -> Outcome | None:
        return self.outcome

    def read_end(self) -> None:
        return None

    def read_output(self) -> str:
        return ""


@pytest.fixture
def start_sweep_on_gpus(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Sweep]:
    """A sweep on these GPUs whose first jobs run: one a number of devices."""

    def start(gpus: str, devices: list[Any], num_jobs: int | None, jobs_per_gpu: int) -> Sweep:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        monkeypatch.setattr(sweep_module, "JobProcess", FakeProcess)
        jobs = stand_ins.jobs(",".join(map(str, range(len(devices)))))
        for job, number in zip(jobs, devices, strict=True):
            job.config["trainer"]["devices"] = number
        sweep = Sweep(jobs, num_jobs, tmp_path, jobs_per_gpu)
        sweep.poll()
        return sweep

    return start


@pytest.mark.parametrize(
    ("gpus", "devices", "num_jobs", "jobs_per_gpu", "running"),
    [
        ("0,1", [1] * 6, None, 2, ["0", "1", "0", "1"]),
        ("0,1", [1] * 6, 3, 2, ["0", "1", "0"]),
        ("0,1", [1] * 6, 8, 1, ["0", "1"]),
        ("0,1", [1] * 6, None, 1, ["0"]),
        ("0,1", [1, 2, 1, 1], None, 2, ["0", "1,0", "1"]),  # the fourth finds no room
        ("0,1", ["auto", "auto", 1], None, 2, ["0,1", "0,1"]),
        ("MIG-a,MIG-b", [1] * 3, None, 2, ["MIG-a", "MIG-b", "MIG-a"]),
        ("0,1", [[1]] * 3, None, 2, [""]),  # they say which: the sweep knows of no GPU in use
        ("", [1] * 3, None, 4, [""]),  # a CPU
        ("", [1] * 3, 2, 4, ["", ""]),
    ],
)
def test_jobs_per_gpu_of_them_share_a_gpu(
    start_sweep_on_gpus: Callable[..., Sweep],
    gpus: str,
    devices: list[Any],
    num_jobs: int | None,
    jobs_per_gpu: int,
    running: list[str],
) -> None:
    sweep = start_sweep_on_gpus(gpus, devices, num_jobs, jobs_per_gpu)
    assert [",".join(process.gpus) for process in sweep.running.values()] == running
    for process in sweep.running.values():
        process.outcome = Outcome("finished")  # type: ignore[attr-defined]
    sweep.poll()
    num_left = len(devices) - len(running)
    assert len(sweep.running) == min(len(running), num_left), "there is as much room as before"


@pytest.mark.parametrize(("jobs_per_gpu", "hints"), [(4, ["jobs_per_gpu=2"]), (1, [])])
def test_a_job_for_which_a_shared_gpu_has_no_memory_says_that_fewer_may_share_it(
    start_sweep_on_gpus: Callable[..., Sweep], jobs_per_gpu: int, hints: list[str]
) -> None:
    sweep = start_sweep_on_gpus("0", [1] * 4, None, jobs_per_gpu)
    failed = Outcome("failed", error="out of memory at data.batch_size=64")
    sweep.running[0].outcome = failed  # type: ignore[attr-defined]
    sweep.poll()
    assert sweep.outcomes[0].error.startswith("out of memory at data.batch_size=64")
    assert re.findall(r"jobs_per_gpu=\d", sweep.outcomes[0].error) == hints


def test_a_second_sweep_skips_finished_jobs_and_resumes_interrupted_ones(
    stand_ins: StandIns, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(stand_ins.jobs("0,1,3")) == 1
    first = {note["seed"]: note["folder"] for note in stand_ins.notes("began")}
    (stand_ins.log_dir / "mended").touch()
    capfd.readouterr()

    assert exit_code(stand_ins.jobs("0,1,3")) == 1, "a failure stays one until it is retried"
    assert stand_ins.statuses() == {0: ["finished"], 1: ["failed"], 3: ["finished"]}
    shown = capfd.readouterr().out
    assert "seed 0: finished before" in shown
    assert "seed 1: failed before: it failed" in shown
    assert "retry_failed=true" in shown

    assert exit_code(stand_ins.jobs("0,1,3", "retry_failed=true")) == 0
    assert stand_ins.statuses() == {0: ["finished"], 1: ["finished"], 3: ["finished"]}
    again = stand_ins.notes("began")[3:]
    assert [(note["seed"], note["resume"]) for note in again] == [(3, first[3]), (1, first[1])]

    assert exit_code(stand_ins.jobs("0,1,3", "fresh=true")) == 0
    assert stand_ins.statuses() == {seed: ["finished"] * 2 for seed in (0, 1, 3)}


def forget_code(stand_ins: StandIns) -> None:
    """Have the runs there be trained by other code, one by code that is not known."""
    for place, path in enumerate(sorted(stand_ins.log_dir.rglob("run.json"))):
        code = Record.open(path.parent).metadata["code"]
        change_record(path.parent, code=code | {"triptych/module.py": "old"} if place else None)


def test_results_of_other_code_are_not_taken_for_the_jobs_own_without_a_word(
    stand_ins: StandIns, capfd: pytest.CaptureFixture[str]
) -> None:
    seeds = "0,10,3"
    assert exit_code(stand_ins.jobs(seeds)) == 1
    forget_code(stand_ins)
    (stand_ins.log_dir / "mended").touch()
    capfd.readouterr()

    assert exit_code(stand_ins.jobs(seeds, "same_code=ignore")) == 0
    shown = capfd.readouterr().out
    assert stand_ins.statuses() == {seed: ["finished"] for seed in (0, 10, 3)}
    assert shown.count("finished before, by other code") == 2
    assert shown.count("triptych/module.py") == 1, "said once, not for every job"

    forget_code(stand_ins)
    assert exit_code(stand_ins.jobs(seeds)) == 0
    shown = capfd.readouterr().out
    assert stand_ins.statuses() == {seed: ["finished"] * 2 for seed in (0, 10, 3)}
    assert "same_code=ignore" in shown
    assert "triptych/module.py" in shown
    assert "is not recorded" in shown
    assert [note["resume"] for note in stand_ins.notes("began")[4:]] == [None] * 3, "from the start"

    assert exit_code(stand_ins.jobs(seeds)) == 0
    assert len(stand_ins.notes("began")) == 7
    assert "other code" not in capfd.readouterr().out


def test_a_job_that_another_process_works_on_is_waited_for(
    stand_ins: StandIns, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [job] = stand_ins.jobs("4")
    retry_later = Sweep._retry_later

    def mend_and_retry(sweep: Sweep, number: int) -> None:
        retry_later(sweep, number)
        (stand_ins.log_dir / "mended").touch()  # then the other process ends

    monkeypatch.setattr(Sweep, "_retry_later", mend_and_retry)
    command = [*processes.COMMAND, str(stand_ins.log_dir)]
    (stand_ins.log_dir / "job.json").write_text(json.dumps([job.config, job.overrides]))
    other = subprocess.Popen(command, stdin=subprocess.PIPE)  # a run outside any sweep
    wait_for(lambda: stand_ins.notes("began"))
    assert exit_code([job]) == 0
    other.communicate()
    assert other.returncode == 0
    assert len(stand_ins.notes("began")) == 1
    shown = capfd.readouterr().out
    assert shown.count("seed 4") >= 2
    assert "another process works on it" in shown
    assert "finished before" in shown


def test_a_sweep_that_needs_more_gpus_than_there_are_is_a_user_error(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    [job] = stand_ins.jobs("0")
    job.config["trainer"]["devices"] = 4
    with pytest.raises(UserError, match=r"trainer\.devices=4: 2 GPUs"):
        run_sweep([job], 1)


SWEEP = """
import json, sys
from triptych.cli import configure_logging
from triptych.distributed import processes
from triptych.tools.sweep.jobs import Job
from triptych.tools.sweep.sweep import run_sweep
processes.COMMAND = [sys.executable, sys.argv[1]]
configure_logging()
run_sweep([Job(*fields) for fields in json.loads(sys.argv[2])], int(sys.argv[3]))
"""


@contextmanager
def start_sweep(stand_ins: StandIns, seeds: str, num_jobs: int) -> Iterator[subprocess.Popen[str]]:
    """A sweep in a process group of its own, as a terminal starts it."""
    jobs = json.dumps(stand_ins.jobs(seeds))
    command = [sys.executable, "-c", SWEEP, str(stand_ins.program), jobs, str(num_jobs)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.communicate()


def wait_for(happened: Callable[[], Any], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_stops_all_jobs_and_starts_no_more(
    stand_ins: StandIns, number: signal.Signals, code: int
) -> None:
    with start_sweep(stand_ins, "4,14,24", num_jobs=2) as sweep:
        wait_for(lambda: len(stand_ins.notes("began")) == 2)
        os.killpg(sweep.pid, number)  # Ctrl-C reaches every process of the group
        shown, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == code
    assert [note["signal"] for note in stand_ins.notes("stopped")] == [signal.SIGTERM] * 2
    assert stand_ins.statuses() == {4: ["interrupted"], 14: ["interrupted"]}
    assert "not started" in shown


def test_a_second_signal_kills_and_leaves_runs_that_can_be_resumed(stand_ins: StandIns) -> None:
    with start_sweep(stand_ins, "5", num_jobs=1) as sweep:
        wait_for(lambda: stand_ins.notes("began"))
        sweep.send_signal(signal.SIGINT)
        wait_for(lambda: stand_ins.notes("stopped"))
        assert sweep.poll() is None, "the job was asked to end, and has not"
        sweep.send_signal(signal.SIGINT)
        sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    (stand_ins.log_dir / "mended").touch()
    assert exit_code(stand_ins.jobs("5")) == 0
    assert stand_ins.statuses() == {5: ["finished"]}


def test_when_a_sweep_is_killed_its_jobs_stop_and_the_next_sweep_resumes_them(
    stand_ins: StandIns,
) -> None:
    with start_sweep(stand_ins, "4", num_jobs=1) as sweep:
        wait_for(lambda: stand_ins.notes("began"))
        sweep.kill()
    wait_for(lambda: stand_ins.notes("stopped"))
    (stand_ins.log_dir / "mended").touch()
    assert exit_code(stand_ins.jobs("4")) == 0
    assert stand_ins.statuses() == {4: ["finished"]}
    assert len(stand_ins.notes("began")) == 2


def test_two_sweeps_of_the_same_jobs_share_them(stand_ins: StandIns) -> None:
    seeds = "0,10,20"
    with start_sweep(stand_ins, seeds, 1) as one, start_sweep(stand_ins, seeds, 1) as other:
        for sweep in (one, other):
            sweep.communicate(timeout=60)
            assert sweep.returncode == 0
    assert sorted(note["seed"] for note in stand_ins.notes("began")) == [0, 10, 20]


DIVIDED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-95dcb0a7-2e8a-4c1f-8a7e-0f4c7f2f9c11)
"""


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("3,5", ["3", "5"]),
        (" 0 , GPU-5d5ba0d6 ", ["0", "GPU-5d5ba0d6"]),
        ("-1", []),
        ("2,-1,3", ["2"]),
    ],
)
def test_the_environment_says_which_gpus_may_be_used(
    monkeypatch: pytest.MonkeyPatch, listed: str, names: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == names


def test_else_the_driver_does_and_a_divided_gpu_counts_as_its_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ $1 = -L ] && cat <<'END'\n{DIVIDED}END\n")
    program.chmod(0o755)
    names = [name[:12] for name in visible_gpus()]
    assert names == ["MIG-c6d4f1ef", "MIG-cba663e8", "GPU-95dcb0a7"]


@pytest.mark.parametrize(
    ("accelerator", "devices", "num_visible", "num"),
    [
        ("auto", 1, 4, 1),
        ("gpu", 2, 4, 2),
        ("auto", "auto", 4, 4),
        ("auto", [2], 4, 0),
        ("cpu", 2, 4, 0),
        ("auto", 1, 0, 0),
    ],
)
def test_a_job_gets_the_gpus_that_its_trainer_will_use(
    accelerator: str, devices: Any, num_visible: int, num: int
) -> None:
    config = {"trainer": {"accelerator": accelerator, "devices": devices}}
    assert num_gpus(config, num_visible) == num


def test_no_control_codes_of_somebody_elses_folder_reach_the_screen(
    stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Record(Path("logs/[a]\x1b]0;a\x07"), {})
    print_results(stand_ins.jobs("1"), [Outcome("failed", run, "\x1b[31mred", is_earlier=True)])
    shown = capsys.readouterr().out
    assert "  logs/[a]\ufffd]0;a\ufffd\n" in shown
    assert shown.count("red\n") == 1
    assert all(letter.isprintable() or letter == "\n" for letter in shown)


def outcome(status: str, *, val: float | None = 0.5, test: float = 0.5, error: str = "") -> Outcome:
    metrics = {"val/accuracy": val, "test/accuracy": test}
    folder = Path("logs/cifar10/googlenet/seed0/2026-11-27_101112_abcdef")
    return Outcome(status, Record(folder, {"metrics": metrics, "seconds_total": 90.0}), error)


def show(capsys: pytest.CaptureFixture[str], jobs: list[Job], outcomes: list[Outcome]) -> list[str]:
    print_results(jobs, outcomes)
    return capsys.readouterr().out.splitlines()


def cells(lines: list[str]) -> list[list[str]]:
    """Those of the lines of the table."""
    rows = [re.split(r"  +", line.strip()) for line in lines if line.startswith("optim.lr")]
    return [row for row in rows if len(row) > 1]


def test_the_table_has_a_line_a_job_the_best_in_validation_first(
    stand_ins: StandIns, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [j for lr in ("0.1", "0.01") for j in stand_ins.jobs("0,1", f"optim.lr={lr}")]
    ends = [outcome("finished", val=0.2, test=0.9), outcome("finished", val=0.4, test=0.7)]
    ends += [outcome("interrupted"), outcome("finished", val=0.3)]
    lines = show(capsys, jobs, ends)
    assert lines[1].startswith("3 of 4 jobs finished, 1 interrupted;")
    time = "1 min 30 s"
    assert cells(lines) == [
        ["optim.lr=0.1 seed 1", "finished", "40.00 %", "70.00 %", time],
        ["optim.lr=0.01 seed 1", "finished", "30.00 %", "50.00 %", time],
        ["optim.lr=0.1 seed 0", "finished", "20.00 %", "90.00 %", time],
        ["optim.lr=0.01 seed 0", "interrupted", time],
    ], "a test figure does not order them"
    monkeypatch.setattr(results, "MAX_ROWS", 3)
    lines = show(capsys, jobs, ends)
    assert len(cells(lines)) == 3
    assert any(line.startswith("and 1 more") for line in lines)


def test_a_long_name_is_folded_and_the_columns_stay_in_line(
    stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [*stand_ins.jobs("0", f"optim.lr=0.{120 * '1'}"), *stand_ins.jobs("0", "optim.lr=0.2")]
    lines = show(capsys, jobs, [outcome("finished"), outcome("finished")])
    [last] = [number for number, line in enumerate(lines) if line.startswith("optim.lr=0.2")]
    table = lines[2 : last + 1]
    assert max(map(len, table)) <= 100
    assert "".join(line.split(" ")[0] for line in table).count("1") == 120, "nothing is cut"
    assert len({line.index("finished") for line in table if "finished" in line}) == 1


def test_jobs_that_were_refused_alike_are_told_once(
    stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = [outcome("refused", error=f"no data\npython train.py seed={n} data=b") for n in (0, 1)]
    lines = show(capsys, stand_ins.jobs("0,1"), ends)
    assert [line for line in lines if "no data" in line] == ["seed 0 and 1 more: refused: no data"]
    assert sum("data=b" in line for line in lines) == 1


@pytest.mark.parametrize("same_error", [True, False])
def test_eight_jobs_take_20_lines_of_80_columns_at_most(
    stand_ins: StandIns, capsys: pytest.CaptureFixture[str], same_error: bool
) -> None:
    jobs = [
        job
        for name in ("regnet_y_400mf", "efficientnet_b0", "mobilenet_v3_small", "resnet18")
        for job in stand_ins.jobs("0,1", f"model.name={name}", "optim.lr=0.00012345")
    ]
    ends = [outcome("finished") for _ in range(6)]
    ends += [outcome("failed", error="out of memory" if same_error else f"{n}") for n in "ab"]
    lines = show(capsys, jobs, ends)
    assert len(lines) <= 20
    assert max(len(line.rstrip()) for line in lines if str(stand_ins.log_dir) not in line) <= 80
    assert sum("2026-11-27_101112_abcdef" in line for line in lines) == 2, "where to look"
    assert sum("out of memory" in line for line in lines) == same_error


def test_a_recipe_without_validation_comes_last_and_has_no_figure_for_it(
    stand_ins: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [*stand_ins.jobs("0", "optim.lr=0.1"), *stand_ins.jobs("0", "optim.lr=0.2")]
    lines = show(capsys, jobs, [outcome("finished", val=None), outcome("finished", val=0.1)])
    assert [row[2:-1] for row in cells(lines)] == [["10.00 %", "50.00 %"], ["50.00 %"]]


def test_a_sweep_begins_what_fits_its_minutes_and_the_same_command_goes_on(
    stand_ins: StandIns,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    assert exit_code(stand_ins.jobs("0")) == 0
    [path] = stand_ins.log_dir.rglob("run.json")
    change_record(path.parent, seconds_total=100.0)  # and so the next seeds take it, too
    sweep = sweep_module.Sweep(stand_ins.jobs("0,10,20"), None, tmp_path)
    sweep.deadline, sweep.budget = time.time() + 60, 120.0
    sweep.poll()
    assert [sweep.outcomes[n].status for n in range(3)] == ["finished", "not begun", "not begun"]
    shown = capfd.readouterr().out
    assert "seed 0: finished before" in shown
    assert shown.count("not begun: takes about 1 min 40 s, 1 min are left") == 2

    change_record(path.parent, seconds_total=59.0)
    monkeypatch.setenv("TRIPTYCH_STARTED", str(time.time() - 35))
    assert exit_code(stand_ins.jobs("0,10", "minutes=1")) == 0, "more than all of it: in parts"
    assert stand_ins.statuses() == {0: ["finished"], 10: ["finished"]}
    monkeypatch.delenv("TRIPTYCH_DEADLINE")
    monkeypatch.setenv("TRIPTYCH_STARTED", str(time.time() - 50))
    assert exit_code(stand_ins.jobs("20", "minutes=1")) == 0, "it would do nothing but start"
    assert 20 not in stand_ins.statuses()
    with pytest.raises(UserError, match=r"minutes=0\.2"):
        Sweep(stand_ins.jobs("20", "minutes=0.2"), None, tmp_path)
    [job] = stand_ins.jobs("20", "minutes=1")
    assert (job.minutes, job.config["minutes"]) == (1, None)
    assert "minutes=1" not in job.overrides


def test_jobs_that_are_late_are_asked_to_save_and_end(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "LEAST_SECONDS", 0.0)
    monkeypatch.setenv("TRIPTYCH_STARTED", str(time.time() - 58))
    assert exit_code(stand_ins.jobs("4,14", "minutes=1"), num_jobs=2) == 0
    assert stand_ins.statuses() == {4: ["interrupted"], 14: ["interrupted"]}


def test_what_the_next_seed_saves_is_not_counted_again(
    start_sweep_on_gpus: Callable[..., Sweep],
) -> None:
    sweep = start_sweep_on_gpus("", [1] * 5, 1, 1)
    [process] = sweep.running.values()
    process.started = time.monotonic() - 20
    process.read_end = lambda: (200.0, 180.0)  # type: ignore[method-assign]
    assert sweep._describe_left().startswith("about 6 min left"), "200 s, and four times 40 s"
