"""Runs that meet a fault. Each request starts a tiny run in a process of its own.

A request is a line of JSON on standard input: `overrides` of a tiny run, or of one to resume; and
a fault. It comes `at` a moment (of `MOMENTS`, or a write, by its file: "before best.ckpt") for the
`nth` time, or `after` seconds. It is a `signal`, by default SIGKILL, an error of the system by its
`errno`, or the loss of a folder, `removed`. With a `rank`, of a run on several devices, it comes
there, and the signal goes to the process that started the ranks. `fsize` limits the bytes of a
file, `env` is added to the environment, `trusted` names targets. The answer, a line too, has the
exit code and the output.

torch is imported once, before the forks, in a process with one thread: a run starts at once.
"""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import lightning.pytorch as pl
import torch

from tests.composing import composed
from tests.tiny import TARGETS, TINY, draw_nothing
from tests.trials.child import find_exit_code
from triptych import training
from triptych.callbacks.checkpoint import CheckpointCallback
from triptych.cli import configure_logging
from triptych.config import Config
from triptych.distributed import processes, ranks
from triptych.module import ImageClassifier
from triptych.runs.record import Record, hash_code

MOMENTS = {
    "step": (ImageClassifier, "training_step"),
    "validation": (ImageClassifier, "validation_step"),
    "scored": (CheckpointCallback, "on_validation_end"),
    "epoch over": (CheckpointCallback, "on_train_epoch_end"),
    "fitted": (pl.Trainer, "test"),
    "test": (ImageClassifier, "test_step"),
    "end": (Record, "end"),
}


FOLDERS = ("log_dir=", "resume=")


class Fault:
    """What happens to this process at the nth time that a moment comes."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.at = (request["at"], request.get("nth", 1))
        self.count: Counter[str] = Counter()

    def install(self) -> None:
        for moment, (owner, name) in MOMENTS.items():
            setattr(owner, name, self.announce(moment, getattr(owner, name)))
        replace = os.replace

        def announce_replace(source: Any, target: Any) -> None:
            self.reach(f"before {Path(target).name}")
            replace(source, target)
            self.reach(f"after {Path(target).name}")

        os.replace = announce_replace  # type: ignore[assignment]

    def announce(self, moment: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def announced(*args: Any, **options: Any) -> Any:
            self.reach(moment)
            return function(*args, **options)

        return announced

    def reach(self, moment: str) -> None:
        if os.environ.get("RANK") != self.request.get("rank"):
            return
        self.count[moment] += 1
        if (moment, self.count[moment]) != self.at:
            return
        if "errno" in self.request:
            number = self.request["errno"]
            raise OSError(number, os.strerror(number), moment)
        if "removed" in self.request:
            shutil.rmtree(self.request["removed"])
        elif "rank" in self.request:
            signal_launcher(self.request["signal"])
        else:
            os.kill(os.getpid(), self.request.get("signal", signal.SIGKILL))


def signal_launcher(number: int) -> None:
    """Signal the process that started the ranks, and wait until it has passed the signal on."""
    handler: Any = signal.getsignal(number)
    arrived = []
    signal.signal(number, lambda *frame: (arrived.append(number), handler(*frame)))
    os.kill(os.getppid(), number)
    while not arrived:
        time.sleep(0.01)


class Forked(multiprocessing.get_context("fork").Process):  # type: ignore[name-defined,misc]
    """A rank, with the part of Popen's interface that its launcher uses."""

    def __init__(
        self, command: list[str], *, stdout: IO[bytes] | None, env: dict[str, str], **_: Any
    ) -> None:
        self.leash = os.pipe()
        super().__init__(target=self.work, args=(Path(command[-1]), stdout, env))
        self.start()

    def work(self, place: Path, output: IO[bytes] | None, env: dict[str, str]) -> None:
        os.setsid()
        os.dup2(self.leash[0], 0)
        for fd in (1, 2) if output else ():
            os.dup2(output.fileno(), fd)
        os.environ.update(env)
        ranks.cluster_environment.cache_clear()
        sys.exit(processes.main(place))

    def poll(self) -> int | None:
        return self.exitcode

    returncode = property(poll)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> None:
        self.join()


def run(request: dict[str, Any]) -> int:
    """One run, in the forked process; its exit code."""
    configure_logging()
    os.environ.update(request.get("env", {}))
    if "at" in request:
        Fault(request).install()
    if "fsize" in request:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["fsize"], request["fsize"]))
    return find_exit_code(lambda: training.train(compose_request(request), request["overrides"]))


def compose_request(request: dict[str, Any]) -> Config:
    """The run's config. Runs that differ in their folder alone are composed once."""
    folders = dict(o.split("=") for o in request["overrides"] if o.startswith(FOLDERS))
    overrides = [o for o in request["overrides"] if not o.startswith(FOLDERS)]
    trusted = ",".join([*TARGETS, *request.get("trusted", ())])
    start = [f"trusted_targets=[{trusted}]"] if "resume" in folders else TINY
    return composed("train", *start, *overrides, **folders)


def answer(request: dict[str, Any], output: Path) -> dict[str, Any]:
    """Run to the end, or to the fault, in a forked process."""
    hash_code(compose_request(request))  # here, so that the forks inherit what is cached
    child = os.fork()
    if child == 0:
        with output.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os._exit(run(request))
    if "after" in request:
        time.sleep(request["after"])
        os.kill(child, request.get("signal", signal.SIGKILL))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"code": code, "output": output.read_text(errors="replace")}


def main(output: Path) -> None:
    torch.set_num_threads(1)
    draw_nothing()
    processes.subprocess = SimpleNamespace(  # type: ignore[assignment]
        Popen=Forked, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT
    )
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), output)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
