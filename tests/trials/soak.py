"""A sweep that is killed at random moments, started again each time, and loses nothing: make soak

Jobs are tiny and on drawings; every fourth is made to fail. Processes of the sweep, it and its
jobs alike, get SIGKILL at random moments of their lives. In the end each job must have exactly one
run folder with the outcome that was expected; a finished one must equal, to the last bit, the same
job run undisturbed, in this one process, and must not have been touched after it was finished.
"""

import argparse
import csv
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from triptych.cli import add_plus
from triptych.config import CONFIGS, resolve_config
from triptych.runs.record import Record
from triptych.training import train

ROOT = Path(__file__).parents[2]
TINY = """
    data=shapes data.source.num_train=200 data.source.num_test=40 data.num_train=40 data.num_val=30
    data.batch_size=8 model=torchvision model.name=squeezenet1_1 model.weights=null
    model.input_size=32 trainer.max_epochs=3 trainer.accelerator=cpu trainer.log_every_n_steps=1
    checkpoint.every_n_steps=1
""".split()
RATES = ("0.001", "0.002", "0.003", "1e30")  # the last: a loss that is not finite
TIMED = "train/images_per_second"


class Plan(NamedTuple):
    num_seeds: int
    rates: tuple[str, ...]
    num_kills: int
    longest_peace: float = 4.0  # seconds before a kill, at most


def undisturbed(log_dir: Path, plan: Plan) -> list[Record]:
    """The same jobs, one after the other."""
    for seed, rate in itertools.product(range(plan.num_seeds), plan.rates):
        overrides = [*TINY, f"seed={seed}", f"optim.lr={rate}", f"log_dir={log_dir}"]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = resolve_config(compose("train", list(map(add_plus, overrides))))
        with suppress(SystemExit):  # of those that are made to fail
            train(config, overrides)
    return records(log_dir)


def records(log_dir: Path) -> list[Record]:
    return [Record.open(path.parent) for path in sorted(log_dir.rglob("run.json"))]


class Sweep:
    """The command of a sweep, started again and again, its processes and its run folders."""

    def __init__(self, log_dir: Path, plan: Plan) -> None:
        self.log_dir = log_dir
        self.scratch = log_dir.with_suffix(".tmp")
        self.scratch.mkdir()
        self.screen = self.scratch / "screen"
        seeds = ",".join(map(str, range(plan.num_seeds)))
        jobs = [f"seed={seeds}", f"optim.lr={','.join(plan.rates)}", "hydra.launcher.num_jobs=2"]
        self.command = [sys.executable, "train.py", "-m", *TINY, *jobs, f"log_dir={log_dir}"]
        self.process: subprocess.Popen[bytes] | None = None
        self.num_starts = 0

    def start(self) -> None:
        self.num_starts += 1
        with self.screen.open("ab") as screen:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=os.environ | {"TMPDIR": str(self.scratch)},
                stdout=screen,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def exit_code(self) -> int | None:
        assert self.process
        return self.process.poll()

    def jobs_at_work(self) -> dict[int, Path]:
        """Its jobs' processes and places, those included that a killed sweep has left behind."""
        listed = subprocess.run(["ps", "-A", "-o", "pid=,args="], capture_output=True, text=True)
        lines = (line.split() for line in listed.stdout.splitlines())
        ours = (words for words in lines if words[-1].startswith(f"{self.scratch}/"))
        return {int(words[0]): Path(words[-1]) for words in ours}

    def is_training(self) -> bool:
        return any((place / "folder").exists() for place in self.jobs_at_work().values())

    def finished(self) -> dict[Path, float]:
        """When each finished run last wrote its record."""
        done = [run.folder for run in records(self.log_dir) if run.metadata["status"] == "finished"]
        return {folder: (folder / "run.json").stat().st_mtime for folder in done}


def disturb(
    sweep: Sweep, plan: Plan, chance: random.Random
) -> tuple[Counter[str], dict[Path, float]]:
    """Kill and start again until the kills are used up; then let the sweep end, and once more.

    A job that is killed is resumed by the next sweep only. Returns what the kills hit, and the
    finished runs as they were when first seen.
    """
    hit: Counter[str] = Counter()
    finished: dict[Path, float] = {}
    sweep.start()
    while hit.total() < plan.num_kills:
        if sweep.exit_code() is not None:
            assert sweep.exit_code() in (0, 1, -signal.SIGKILL), sweep.screen.read_text()
            sweep.start()
        peace = chance.uniform(0, plan.longest_peace)
        # A tiny job is being imported for most of its life: more often than not, let it begin.
        while chance.random() < 0.97 and sweep.exit_code() is None and not sweep.is_training():
            time.sleep(0.5)
        wait(sweep, peace)
        finished = sweep.finished() | finished
        if sweep.exit_code() is None:
            hit[kill(sweep, chance)] += 1
    wait(sweep)
    finished = sweep.finished() | finished
    sweep.start()
    wait(sweep)
    assert sweep.exit_code() in (0, 1), sweep.screen.read_text()
    return hit, sweep.finished() | finished


def wait(sweep: Sweep, seconds: float | None = None) -> None:
    """Until the time is up or the sweep has ended."""
    assert sweep.process
    with suppress(subprocess.TimeoutExpired):
        sweep.process.wait(seconds)


def kill(sweep: Sweep, chance: random.Random) -> str:
    """SIGKILL the sweep, or else one of its jobs with all that it started; which it was."""
    assert sweep.process
    jobs = sweep.jobs_at_work()
    if not jobs or chance.random() < 0.25:
        sweep.process.kill()
        sweep.process.wait()
        return "sweep"
    pid, place = chance.choice(sorted(jobs.items()))
    hit = "job at work" if (place / "folder").exists() else "job starting"
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return kill(sweep, chance)  # it has just ended
    return hit


def differences(one: Path, other: Path) -> Iterator[str]:
    """What of two finished runs is not equal to the last bit."""
    weights = [torch.load(f / "checkpoints" / "best.ckpt", weights_only=True) for f in (one, other)]
    states = [content["state_dict"] for content in weights]
    if states[0].keys() != states[1].keys():
        yield "names of weights"
    else:
        yield from (name for name, w in states[0].items() if not torch.equal(w, states[1][name]))
    for split in ("test", "val"):
        arrays = [np.load(f / "predictions" / f"{split}.npz") for f in (one, other)]
        for name in ("logits", "labels", "index"):
            if not np.array_equal(arrays[0][name], arrays[1][name]):
                yield f"{name} of {split}"
    rows = [untimed(folder / "metrics.csv") for folder in (one, other)]
    if rows[0] != rows[1]:
        yield "metrics.csv"
    metadata = [Record.open(folder).metadata for folder in (one, other)]
    for name in ("metrics", "best_epoch", "num_epochs", "num_test", "split_hash", "test_hash"):
        if metadata[0][name] != metadata[1][name]:
            yield f"{name} of run.json"


def untimed(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k != TIMED} for row in csv.DictReader(file)]


def soak(room: Path, plan: Plan, seed: int) -> str:
    """The tally; raises AssertionError where anything was lost, done twice or changed."""
    began = time.monotonic()
    expected = {r.metadata["config_hash"]: r for r in undisturbed(room / "undisturbed", plan)}
    num_jobs = plan.num_seeds * len(plan.rates)
    assert len(expected) == num_jobs

    disturbed = Sweep(room / "disturbed", plan)
    hit, finished = disturb(disturbed, plan, random.Random(seed))
    runs = records(disturbed.log_dir)
    hashes = [run.metadata["config_hash"] for run in runs]
    assert sorted(hashes) == sorted(expected), f"{len(hashes)} runs of {num_jobs} jobs"
    assert disturbed.finished() == disturbed.finished() | finished, "finished runs were touched"

    outcomes = Counter(run.metadata["status"] for run in runs)
    num_failing = plan.num_seeds * plan.rates.count("1e30")
    assert outcomes == Counter(finished=num_jobs - num_failing, failed=num_failing), outcomes
    for run in runs:
        same = expected[run.metadata["config_hash"]]
        assert run.metadata["status"] == same.metadata["status"], run.folder
        assert run.metadata["error"] == same.metadata["error"], run.folder
        assert (run.folder / "traceback.txt").exists() == (run.metadata["status"] == "failed")
        if run.metadata["status"] == "finished":
            changed = list(differences(run.folder, same.folder))
            assert not changed, f"{run.folder} and {same.folder} differ in {', '.join(changed)}"
    gone_on = sum((run.folder / "train.log").read_text().count(", weights ") - 1 for run in runs)
    return (
        f"{num_jobs} jobs: {outcomes['finished']} finished, {outcomes['failed']} failed as they "
        f"had to; none lost, none done twice\n"
        f"{hit.total()} kills: {hit['sweep']} of the sweep, {hit['job at work']} of a job at work, "
        f"{hit['job starting']} of one starting; {disturbed.num_starts} starts of the sweep, "
        f"{gone_on} times a run went on\n"
        f"{outcomes['finished']} finished runs equal undisturbed ones to the last bit\n"
        f"{time.monotonic() - began:.0f} s, seed {seed}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="of the kills")
    parser.add_argument("--kills", type=int, default=50)
    typed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="triptych-soak-") as room:
        print(f"seed {typed.seed}: about ten minutes on two cores", flush=True)
        print(soak(Path(room), Plan(6, RATES, typed.kills), typed.seed))


if __name__ == "__main__":
    main()
