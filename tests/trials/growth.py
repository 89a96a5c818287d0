"""Does time or memory grow faster than the work? 1x, 2x, 4x and 8x of what a user would grow.

`make growth`, or `python -m tests.trials.growth [--unit 1000] [override ...]`; the overrides are
those of the trainings. A long training comes first, which must hold no more with every epoch. Each
figure of the rest is of a command in a process of its own, as the system counted it: processor
seconds, which other programs do not lengthen, and the largest process's peak memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import linear_regression
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.trials.child import MEGABYTE, ROOT, Ended, run

TIMES = (1, 2, 4, 8)
SMALL = """
    model=torchvision model.name=shufflenet_v2_x0_5 model.weights=null model.input_size=32
    trainer.accelerator=cpu trainer.enable_progress_bar=false
""".split()
# What the same command differs by from one run to the next; less is no growth.
NOISE = {"cpu_seconds": 1.0, "megabytes": 30.0}

Growing = tuple[str, Callable[[int], Ended]]  # what grows, and its command for n times of it


def list_growing_work(room: Path, unit: int, overrides: Sequence[str] = ()) -> Iterator[Growing]:
    """What a user would grow; what later commands read, earlier ones leave in `room`."""

    def train(
        name: str, *arguments: str, images: int = unit, tests: int = 100, n: int = 1
    ) -> Ended:
        drawings = f"data.source.num_train={images + 100} data.source.num_test={tests}".split()
        settings = ("data.num_val=100", f"trainer.max_epochs={n}", f"log_dir={room / name}")
        return execute(
            "train.py", *arguments, *SMALL, "data=shapes", *drawings, *settings, *overrides
        )

    def train_on_files(n: int) -> Ended:
        part = f"data.num_train={n * unit} data.num_val=100 data.num_test=100".split()
        settings = ("trainer.max_epochs=1", f"log_dir={room}/files")
        return execute("train.py", *SMALL, "data=cifar10", *part, *settings, *overrides)

    def train_and_evaluate(n: int) -> Ended:
        train(f"tested{n}", tests=n * unit)
        return execute("evaluate.py", f"run={room}/tested{n}", "device=cpu", "cost=false")

    def predict(n: int) -> Ended:
        picture = next(room.glob("tested1/**/figures/images.png"))
        (room / f"pictures{n}").mkdir()
        for number in range(n * unit // 10):
            os.link(picture, room / f"pictures{n}" / f"{number}.png")
        where = f"images={room}/pictures{n} out={room}/pictures{n}.csv".split()
        return execute("-m", "triptych", "predict", f"run={room}/tested1", *where, "device=cpu")

    def sweep(n: int) -> Ended:
        return train(f"jobs{n}", "-m", f"seed={','.join(map(str, range(n)))}")

    yield f"train: epochs of {unit} images", lambda n: train("epochs", n=n)
    yield f"train: {unit} drawings", lambda n: train("drawings", images=n * unit)
    if (Path(os.environ.get("DATA_DIR", "data")) / "cifar-10-batches-py").is_dir():
        yield f"train: {unit} images of CIFAR-10's files", train_on_files
    yield f"train -m: jobs of {unit} images", sweep
    yield f"evaluate: {unit} test images", train_and_evaluate
    yield (
        f"compare: {unit} test images",
        lambda n: execute("compare.py", f"runs={room}/tested{n}"),
    )
    yield "compare: runs", lambda n: execute("compare.py", f"runs={room}/jobs{n}")
    yield f"predict: {unit // 10} pictures", predict


def execute(*arguments: str) -> Ended:
    """Run one of our commands, which must succeed."""
    ended = run([sys.executable, *arguments])
    assert ended.code == 0, f"{' '.join(arguments)}: exit code {ended.code}\n{ended.output}"
    return ended


class Held(NamedTuple):
    """What a process holds at a moment."""

    megabytes: float
    num_files: int
    num_threads: int


def watch_epochs(room: Path, num_epochs: int) -> list[Held]:
    """What a training with callbacks and TensorBoard holds after each epoch; on Linux."""
    average = "_target_: lightning.pytorch.callbacks.EMAWeightAveraging"
    settings = f"data.num_train=64 data.num_val=64 data.num_test=64 log_dir={room}/long".split()
    settings += [f"trainer.max_epochs={num_epochs}", f"trainer.callbacks=[{{{average}}}]"]
    process = subprocess.Popen(
        [sys.executable, "train.py", "data=shapes", *SMALL, *settings],
        **{"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True},
    )
    place, held = Path("/proc", str(process.pid)), []
    for line in process.stdout or ():
        if " val loss " in line:
            status = dict(row.split(":") for row in (place / "status").read_text().splitlines())
            megabytes = int(status["VmRSS"].split()[0]) / MEGABYTE
            held.append(Held(megabytes, len([*place.glob("fd/*")]), int(status["Threads"])))
    assert process.wait() == 0
    return held


def check_flat(held: Sequence[Held], first: int = 5, most: float = 0.5) -> str:
    """The figures after the first epochs; raises AssertionError where memory, by least squares,
    grows by more than `most` megabytes an epoch, or files or threads do at all."""
    later = held[first:]
    slope, start = linear_regression(range(len(later)), [one.megabytes for one in later])
    figures = (
        f"{len(held)} epochs: {start:.0f} MB and {slope:+.3f} MB an epoch after epoch {first}; "
        f"{later[0].num_files} to {later[-1].num_files} open files, "
        f"{later[0].num_threads} to {later[-1].num_threads} threads"
    )
    assert slope <= most, figures
    assert later[-1][1:] <= later[0][1:], figures
    return figures


def describe_growth(figures: Sequence[float], noise: float) -> str:
    """`flat`, or what the second half of the work added over what the first half added.

    So what starting costs cancels: 1 where figures are linear, 2.4 where they are quadratic.
    """
    one, _, four, eight = figures
    if eight - one < noise:
        return "flat"
    return f"{(eight - four) / 4 / (max(four - one, noise / 2) / 3):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--unit", type=int, default=1000, help="images of 1x")
    parser.add_argument("--epochs", type=int, default=60, help="of the long training")
    parser.add_argument("overrides", nargs="*", help="of the trainings")
    arguments = parser.parse_args()
    heads = [[f"{n}x, {unit}" for n in TIMES] for unit in ("CPU s", "MB")]
    table = Table("what grows", *heads[0], "linear: 1", *heads[1], "linear: 1")
    with tempfile.TemporaryDirectory(prefix="triptych-growth-") as room:
        print(check_flat(watch_epochs(Path(room), arguments.epochs)), flush=True)
        for what, command in list_growing_work(Path(room), arguments.unit, arguments.overrides):
            print(what, flush=True)
            ended = [command(n) for n in TIMES]
            cells = []
            for name, noise in NOISE.items():
                figures = [getattr(one, name) for one in ended]
                cells += [*(f"{figure:.1f}" for figure in figures), describe_growth(figures, noise)]
            table.add_row(what, *cells)
    Console(width=max(Console().width, 160)).print(table)


if __name__ == "__main__":
    main()
