"""What exported files answer and cost, each in a process of its own, beside the network.

Times of all are taken in turn, so that what else a machine does falls on each alike.

Shapes: N images of H x W pixels, C classes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.config import Config
from triptych.errors import UserError
from triptych.tools.evaluate.cost import LEAST_GAIN
from triptych.tools.export import runtime

ROUNDS = 5  # in each of which every file is timed once
LARGEST_BATCH = 256
SIZES = 5  # of batches, about, that share the time of a throughput
# Of this process alone, not of whoever ships a file.
OURS = ("GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE")

Array = NDArray[Any]


class Opened(NamedTuple):
    """What a process opens: a file in its format, or a run folder as `network` or `compiled`."""

    format: str
    path: Path
    package: str  # whose version is noted


class Measures(NamedTuple):
    """From uint8 images to probabilities. `peak_memory_bytes` is of the whole process, which has
    answered for one image at a time."""

    latency_ms_p50: float
    latency_ms_p95: float
    throughput_images_per_second: float
    throughput_batch_size: int
    load_seconds: float
    peak_memory_bytes: int


class FileProcess:
    """A process that answers by one file; its requests are those of `runtime`."""

    load_seconds: float
    version: str  # of the package
    peak_bytes: int  # of the process after its first answer

    def __init__(self, opened: Opened, scratch: Path) -> None:
        """`scratch` is a folder for images on their way there, and answers on their way back."""
        self.opened, self.scratch = opened, scratch
        self.errors = (scratch / f"{opened.format}.txt").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-P", runtime.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={name: value for name, value in os.environ.items() if name not in OURS},
        )

    def open(self, image: Tensor, device: str, num_threads: int, trusted: list[str]) -> None:
        """Open the file, and answer for an image uint8 (1, 3, H, W).

        Raises UserError where its runtime cannot.
        """
        about = {"path": str(self.opened.path), "format": self.opened.format}
        about["package"] = self.opened.package
        ours = {"trusted": trusted, "sys_path": sys.path}  # of a network that needs our code
        first = self.request(**about, **ours, device=device, num_threads=num_threads)
        self.load_seconds, self.version = first["load_seconds"], first["version"]
        self.peak_bytes = self.request(do="time", images=self.send(image), seconds=0)["peak_bytes"]

    def request(self, **content: Any) -> dict[str, Any]:
        """The reply; raises UserError with the last line of what went wrong."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            print(json.dumps(content), file=self.process.stdin, flush=True)
            reply: dict[str, Any] = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            self.process.wait()
            self.errors.seek(0)
            [*_, reason] = ["no reason", *self.errors.read().split("\n")[-3:-1]]
            raise UserError(f"{self.opened.path}: cannot be used\n{reason}") from None
        return reply

    def time(self, images: Tensor, seconds: float) -> list[float]:
        """Seconds of calls with a batch uint8 (N, 3, H, W), for about so long."""
        times: list[float] = self.request(do="time", images=self.send(images), seconds=seconds)[
            "seconds"
        ]
        return times

    def answer(self, images: Tensor, batch_size: int) -> Array:
        """Probabilities (N, C) of images uint8 (N, 3, H, W), in batches."""
        out = str(self.scratch / "answers.npy")
        self.request(do="answer", images=self.send(images), out=out, batch_size=batch_size)
        return np.asarray(np.load(out))

    def send(self, images: Tensor) -> str:
        path = self.scratch / "images.npy"
        np.save(path, images.numpy())
        return str(path)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


@contextmanager
def start_processes(
    opened: Sequence[Opened], scratch: Path, image: Tensor, config: Config
) -> Iterator[list[FileProcess]]:
    """One for each, by this machine's threads; they end with the block."""
    with ExitStack() as stack:
        processes = []
        for each in opened:
            processes.append(process := FileProcess(each, scratch))
            stack.callback(process.close)
            process.open(
                image, config["device"], torch.get_num_threads(), config["trusted_targets"]
            )
        yield processes


def measure_files(
    processes: Sequence[FileProcess], images: Tensor, seconds: float
) -> list[Measures]:
    """Of each, on the first of these images; `seconds` is about how long each is timed for its
    latency, and again for its throughput."""
    times: list[list[float]] = [[] for _ in processes]
    for _ in range(ROUNDS):
        for process, own in zip(processes, times, strict=True):
            own += process.time(images[:1], seconds / ROUNDS)
    throughput = find_best_batches(processes, images, seconds)
    return [
        Measures(
            1000 * float(np.median(times[n])),
            1000 * float(np.quantile(times[n], 0.95)),
            *throughput[n],
            process.load_seconds,
            process.peak_bytes,
        )
        for n, process in enumerate(processes)
    ]


def find_best_batches(
    processes: Sequence[FileProcess], images: Tensor, seconds: float
) -> list[tuple[float, int]]:
    """Images/s and the size of the fastest batches of each, of sizes that double until two in a row
    are no faster."""
    best, size = [(0.0, 1) for _ in processes], 1
    while size <= LARGEST_BATCH:
        batch = images[torch.arange(size) % len(images)]
        for n, process in enumerate(processes):
            if size <= 4 * best[n][1]:
                times = process.time(batch, seconds / SIZES)
                rate = size / float(np.median(times))
                if rate > LEAST_GAIN * best[n][0]:
                    best[n] = rate, size
        size *= 2
    return best
