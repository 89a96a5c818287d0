"""Runs that die: each request starts a run in a process of its own, which may be killed under way.

A request is a line of JSON on standard input: `typed`, overrides of a tiny run or of one to go on
with; and a fault, `at` a moment (of `MOMENTS`, or a write by its file's name: "before best.ckpt")
for the `nth` time, or `after` seconds: a `signal`, SIGKILL where none is named, an error of the
system by its `errno`, or the loss of a folder, `removed`. Where it names a `rank` of a run on
several devices, it comes there, and the signal goes to the process that started the ranks. `clock`
is added to the time, `fsize` is the length that files may have, `uid` whom root becomes, `env` is
added to the environment. The answer, a line too, has the exit code and what was printed.

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
import traceback
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import lightning.pytorch as pl
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from triptych import figures, training
from triptych.callbacks.checkpoint import CheckpointCallback
from triptych.cli import configure_logging, print_error
from triptych.config import CONFIGS, Config, check_config, resolve_config
from triptych.distributed import job, processes, ranks
from triptych.errors import UserError
from triptych.module import ImageClassifier
from triptych.runs import record
from triptych.runs.record import Record

MOMENTS = {
    "step": (ImageClassifier, "training_step"),
    "validation": (ImageClassifier, "validation_step"),
    "scored": (CheckpointCallback, "on_validation_end"),
    "epoch over": (CheckpointCallback, "on_train_epoch_end"),
    "fitted": (pl.Trainer, "test"),
    "test": (ImageClassifier, "test_step"),
    "end": (Record, "end"),
}


class Tiny(nn.Sequential):
    """All that a resumed network can get wrong, in few numbers: statistics, dropout, a head."""

    def __init__(self, num_classes: int) -> None:
        layers = [nn.Conv2d(3, 8, 8, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()]
        super().__init__(*layers, nn.Dropout(0.5), nn.Linear(8 * 7 * 7, num_classes))


OWN = "mortal.Tiny,triptych.models.custom.CustomModel"
TINY = [
    *("data=shapes", "data.source.num_train=60", "data.source.num_test=30", "data.num_train=40"),
    *("data.num_val=20", "data.num_test=25", "data.batch_size=8", "data.augment=standard"),
    *(
        "~model",
        "+model._target_=triptych.models.custom.CustomModel",
        "+model.name=tiny",
        "optim.lr=0.01",
    ),
    *("+model.weights=null", "+model.input_size=32"),
    "+model.network={_target_: mortal.Tiny, _partial_: true}",
    *("++trainer.max_epochs=3", "++trainer.accelerator=cpu", "++trainer.log_every_n_steps=2"),
]


class Fault:
    """What is done to this process at the nth time that a moment comes."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.at, self.nth = request["at"], request.get("nth", 1)
        self.seen: Counter[str] = Counter()

    def comes(self, moment: str) -> None:
        if os.environ.get("RANK") != self.request.get("rank"):
            return
        self.seen[moment] += 1
        if (moment, self.seen[moment]) != (self.at, self.nth):
            return
        if "errno" in self.request:
            number = self.request["errno"]
            raise OSError(number, os.strerror(number), moment)
        if "removed" in self.request:
            shutil.rmtree(self.request["removed"])
        elif "rank" in self.request:
            self.signal_launcher(self.request["signal"])
        else:
            os.kill(os.getpid(), self.request.get("signal", signal.SIGKILL))

    def signal_launcher(self, number: int) -> None:
        """Signal the process that started the ranks, and wait until it has passed the signal on."""
        handler: Any = signal.getsignal(number)
        arrived = []
        signal.signal(number, lambda *told: (arrived.append(number), handler(*told)))
        os.kill(os.getppid(), number)
        while not arrived:
            time.sleep(0.01)

    def install(self) -> None:
        for moment, (owner, name) in MOMENTS.items():
            setattr(owner, name, self.announced(moment, getattr(owner, name)))
        replace = os.replace

        def announced_replace(source: Any, target: Any) -> None:
            self.comes(f"before {Path(target).name}")
            replace(source, target)
            self.comes(f"after {Path(target).name}")

        os.replace = announced_replace  # type: ignore[assignment]

    def announced(self, moment: str, function: Any) -> Any:
        def announce(*args: Any, **options: Any) -> Any:
            self.comes(moment)
            return function(*args, **options)

        return announce


class Forked(multiprocessing.get_context("fork").Process):  # type: ignore[name-defined,misc]
    """A rank, and of Popen what its launcher uses."""

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
        sys.exit(job.main(place))

    def poll(self) -> int | None:
        return self.exitcode

    returncode = property(poll)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> None:
        self.join()


def live(request: dict[str, Any]) -> int:
    """One run, in the forked process; its exit code."""
    bend(request)
    typed = request["typed"]
    goes_on = any(override.startswith("resume=") for override in typed)
    typed = [f"trusted_targets=[{request.get('trusted', OWN)}]", *typed] if goes_on else typed
    try:
        config = composed(typed if goes_on else [*TINY, *typed])
        check_config(config)
        if "uid" in request and os.getuid() == 0:
            os.setuid(request["uid"])
        training.train(config, typed)
    except UserError as error:
        return print_error(error)
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def composed(typed: list[str]) -> Config:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return resolve_config(compose("train", typed))


def bend(request: dict[str, Any]) -> None:
    """Make this process's world as the request says."""
    configure_logging()
    os.environ.update(request.get("env", {}))
    if "at" in request:
        Fault(request).install()
    if "fsize" in request:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["fsize"], request["fsize"]))
    if "clock" in request:
        now = time.time
        time.time = lambda: now() + request["clock"]
        record.datetime = SimpleNamespace(  # type: ignore[attr-defined]
            now=lambda zone: datetime.now(zone) + timedelta(seconds=request["clock"])
        )


def start(request: dict[str, Any], output: Path) -> dict[str, Any]:
    child = os.fork()
    if child == 0:
        with output.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os._exit(live(request))
    if "after" in request:
        time.sleep(request["after"])
        os.kill(child, request.get("signal", signal.SIGKILL))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"code": code, "output": output.read_text(errors="replace")}


def main(output: Path) -> None:
    torch.set_num_threads(1)
    sys.modules["mortal"] = sys.modules["__main__"]  # mortal.Tiny, as a config names it
    figures.image_grid = figures.confusion_matrix = lambda *_: None  # type: ignore[assignment]
    figures.save = lambda *_: np.zeros((3, 2, 2), np.uint8)  # drawing takes longer than all else
    processes.subprocess = SimpleNamespace(  # type: ignore[assignment]
        Popen=Forked, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT
    )
    composed(TINY)  # the parsers' tables, which are filled in use
    for line in sys.stdin:
        print(json.dumps(start(json.loads(line), output)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
