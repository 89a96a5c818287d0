"""A sweep that is killed at random moments, started again each time, and loses nothing: make soak

Jobs are tiny; one of three is made to fail, half of them are probes that share a store of features,
half score averaged weights, and all have a logger that leaves links in the run's folder. The sweep
and its jobs get SIGKILL at random moments. In the end each job must have exactly one run folder,
with the outcome that was expected; a finished one must equal, to the last bit, the same job run
undisturbed in this process, and must not have been touched after it was finished.
"""

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.composing import composed
from tests.same_run import assert_same_run
from tests.tiny import TINY
from triptych.runs.record import Record
from triptych.training import train

ROOT = Path(__file__).parents[2]
LOGGERS = (
    "[{_target_: lightning.pytorch.loggers.TensorBoardLogger, name: '', version: tensorboard,"
    "default_hp_metric: false},"
)
SETTINGS = (
    *(*TINY, "data.augment=none", "checkpoint.every_n_steps=1", "checkpoint.keep_last=true"),
    f"++trainer.logger={LOGGERS}{{_target_: tests.services.Service}}]",
)
AVERAGE = "{_target_: lightning.pytorch.callbacks.EMAWeightAveraging, update_every_n_steps: 2}"
FAILING = "1e38"  # a learning rate whose loss is not finite


class Plan(NamedTuple):
    num_seeds: int = 4
    rates: tuple[str, ...] = ("0.001", "0.002", FAILING)
    frozen: tuple[str, ...] = ("none", "backbone")
    callbacks: tuple[str, ...] = ("[]", f"[{AVERAGE}]")
    num_kills: int = 50
    peace_seconds: float = 4.0  # at most, from the start of a training to a kill

    def num_finishing(self) -> int:
        num_rates = len(self.rates) - self.rates.count(FAILING)
        return self.num_seeds * num_rates * len(self.frozen) * len(self.callbacks)

    def choices(self) -> dict[str, Sequence[str]]:
        """What its jobs differ in; each with each."""
        return {
            "seed": [*map(str, range(self.num_seeds))],
            "optim.lr": self.rates,
            "++model.freeze": self.frozen,
            "++trainer.callbacks": self.callbacks,
        }


def run_undisturbed(log_dir: Path, plan: Plan) -> list[Record]:
    """The same jobs, one after the other, without a store of features."""
    choices = plan.choices()
    for values in itertools.product(*choices.values()):
        job = [f"{name}={value}" for name, value in zip(choices, values, strict=True)]
        overrides = [*SETTINGS, *job, "speed.cache_features=false", f"log_dir={log_dir}"]
        with suppress(SystemExit):  # of those that are made to fail
            train(composed("train", *overrides), overrides)
    return read_records(log_dir)


def read_records(log_dir: Path) -> list[Record]:
    return [Record.open(path.parent) for path in sorted(log_dir.rglob("run.json"))]


class Sweep:
    """The command of a sweep, which is started again and again; its processes, its run folders."""

    def __init__(self, log_dir: Path, plan: Plan) -> None:
        self.log_dir = log_dir
        self.scratch = log_dir.with_suffix(".tmp")
        self.scratch.mkdir()
        self.screen = self.scratch / "screen"
        jobs = [f"{name}={','.join(values)}" for name, values in plan.choices().items()]
        place = ["hydra.launcher.num_jobs=2", f"log_dir={log_dir}"]
        self.command = [sys.executable, "train.py", "-m", *SETTINGS, *jobs, *place]
        self.num_starts = 0
        self.start()

    def start(self) -> None:
        self.num_starts += 1
        with self.screen.open("ab") as screen:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=os.environ | {"TMPDIR": str(self.scratch), "DATA_DIR": str(self.scratch)},
                stdout=screen,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def find_jobs(self) -> dict[int, Path]:
        """Process ids and folders of its jobs, with those that a killed sweep has left behind."""
        listing = subprocess.run(
            ["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True
        )
        processes = (line.split() for line in listing.stdout.splitlines())
        ours = (words for words in processes if words[-1].startswith(f"{self.scratch}/"))
        return {int(words[0]): Path(words[-1]) for words in ours}

    def is_training(self) -> bool:
        return any((place / "folder").exists() for place in self.find_jobs().values())

    def find_finished(self) -> dict[Path, float]:
        """When each finished run last wrote its record."""
        runs = (run for run in read_records(self.log_dir) if run.metadata["status"] == "finished")
        return {run.folder: (run.folder / "run.json").stat().st_mtime for run in runs}

    def kill(self, chance: random.Random) -> str:
        """SIGKILL the sweep, or one of its jobs with all that it started; returns which it was."""
        jobs = sorted(self.find_jobs().items())
        if not jobs or chance.random() < 0.25:
            self.process.kill()
            self.process.wait()
            return "sweep"
        pid, place = chance.choice(jobs)
        is_training = (place / "folder").exists()
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return self.kill(chance)  # the job has just ended
        return "training" if is_training else "starting"


def disturb(
    sweep: Sweep, plan: Plan, chance: random.Random
) -> tuple[Counter[str], dict[Path, float]]:
    """Kill and start again until the kills are used up; then let the sweep end, and once more.

    Returns what the kills hit, and the finished runs as they were when first seen.
    """
    hits: Counter[str] = Counter()
    finished: dict[Path, float] = {}
    while hits.total() < plan.num_kills:
        if (code := sweep.process.poll()) is not None:
            assert code in (0, 1, -signal.SIGKILL), sweep.screen.read_text()
            sweep.start()
        # A tiny job is being imported for most of its life: more often than not, let it begin.
        while len(finished) < plan.num_finishing() and chance.random() < 0.99:
            if sweep.is_training() or sweep.process.poll() is not None:
                break
            time.sleep(0.1)
        with suppress(subprocess.TimeoutExpired):
            sweep.process.wait(chance.uniform(0, plan.peace_seconds))
        finished = sweep.find_finished() | finished
        if sweep.process.poll() is None:
            hits[sweep.kill(chance)] += 1
    for _ in range(2):  # a job that was killed is resumed by the next sweep only
        sweep.process.wait()
        finished = sweep.find_finished() | finished
        sweep.start()
    assert sweep.process.wait() in (0, 1), sweep.screen.read_text()
    return hits, finished


def soak(room: Path, plan: Plan, seed: int) -> str:
    """The tally; raises AssertionError where anything was lost, done twice or changed."""
    began = time.monotonic()
    expected = {r.metadata["config_hash"]: r for r in run_undisturbed(room / "undisturbed", plan)}
    sweep = Sweep(room / "disturbed", plan)
    hits, finished = disturb(sweep, plan, random.Random(seed))

    runs = read_records(sweep.log_dir)
    assert sorted(run.metadata["config_hash"] for run in runs) == sorted(expected)
    assert finished.items() <= sweep.find_finished().items(), "finished runs were touched"
    statuses = Counter(run.metadata["status"] for run in runs)
    num_finishing = plan.num_finishing()
    num_failing = len(expected) - num_finishing
    assert statuses == Counter(finished=num_finishing, failed=num_failing), statuses
    for run in runs:
        same = expected[run.metadata["config_hash"]]
        assert run.metadata["error"] == same.metadata["error"], run.folder
        assert (run.folder / "traceback.txt").exists() == (run.metadata["status"] == "failed")
        if run.metadata["status"] == "finished":
            assert_same_run(run.folder, same.folder)
            assert (run.folder / "service" / "debug.log").is_symlink()
    logs = [(run.folder / "train.log").read_text() for run in runs]
    num_resumed = sum(text.count(", weights ") - 1 for text in logs)
    num_cached = sum("features computed in" in text or "features read" in text for text in logs)
    assert num_cached * len(plan.frozen) == len(runs) * plan.frozen.count("backbone")
    return (
        f"{len(runs)} jobs: {num_finishing} finished, {num_failing} failed as they had to; "
        "none lost, none done twice\n"
        f"{hits.total()} kills: {hits['sweep']} of the sweep, {hits['training']} of a job that "
        f"trained, {hits['starting']} of one that started; {sweep.num_starts} starts of the sweep, "
        f"{num_resumed} times a run was resumed\n"
        f"finished runs equal undisturbed ones to the last bit; "
        f"{time.monotonic() - began:.0f} s, seed {seed}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="of the kills")
    parser.add_argument("--kills", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="triptych-soak-") as room:
        print(f"seed {arguments.seed}: about ten minutes on two cores", flush=True)
        print(soak(Path(room), Plan(num_kills=arguments.kills), arguments.seed))


if __name__ == "__main__":
    main()
