"""What starting costs: refusals beside an empty Hydra program, a first step beside its imports.

`make startup`, or `python -m tests.startup [--repeats 5] [override ...]`; the overrides are of the
training. Every round runs each command once, so that a machine that slows down does so for all;
the first round compiles, warms the disk's cache and is not counted.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.child import ROOT, run

EMPTY = f"""import hydra
hydra.main(version_base="1.3", config_path={str(ROOT / "configs")!r}, config_name="train")(id)()
"""
FIRST_STEP = "epoch 1 batch 1 loss "
TRAINING = ("data=shapes", "model.weights=null", "model.input_size=32")


class Case(NamedTuple):
    command: list[str]
    code: int = 0
    until: str | None = None  # the line that ends it


def cases(folder: Path, overrides: Sequence[str] = ()) -> dict[str, dict[str, Case]]:
    """Commands by name; each group begins with the one that the others are held against."""

    def door(name: str, *arguments: str, **ends: int | str) -> Case:
        return Case([sys.executable, f"{name}.py", *arguments], **ends)  # type: ignore[arg-type]

    typed = [*TRAINING, *overrides]
    training = (*typed, "trainer.log_every_n_steps=1", f"log_dir={folder}")
    refused = {
        "train.py model=googlenett": door("train", "model=googlenett", code=2),
        "train.py optim.learning_rate=1": door("train", "optim.learning_rate=1", code=2),
        "train.py optim.lr=-1": door("train", "optim.lr=-1", code=2),
        "train.py resume=nowhere": door("train", "resume=nowhere", code=2),
        "evaluate.py run=nowhere": door("evaluate", "run=nowhere", code=2),
        "compare.py runs=nowhere": door("compare", "runs=nowhere", code=2),
    }
    return {
        "at most 1.3 times the first": {
            "an empty Hydra program, same configs": Case([sys.executable, "-c", EMPTY]),
            "train.py --help": door("train", "--help"),
            **refused,
        },
        "at most 2 s above the first": {
            "import torch, torchvision, lightning": Case(
                [sys.executable, "-c", "import torch, torchvision, lightning"]
            ),
            f"train.py {' '.join(typed)}, to the first step's loss": door(
                "train", *training, until=FIRST_STEP
            ),
        },
    }


def timed(groups: Mapping[str, Mapping[str, Case]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every case, in rounds."""
    seconds: dict[str, list[float]] = {name: [] for group in groups.values() for name in group}
    for number in range(repeats + 1):
        for name, case in [pair for group in groups.values() for pair in group.items()]:
            ended = run(case.command, case.until)
            came = case.until in ended.said if case.until else ended.code == case.code
            assert came, f"{name}: exit code {ended.code}\n{ended.said}"
            seconds[name] += [ended.seconds] if number else []
    return seconds


def table(groups: Mapping[str, Mapping[str, Case]], seconds: dict[str, list[float]]) -> Table:
    drawn = Table(
        "command", *(f"{name}, s" for name in ("median", "least", "most")), "ratio", "s +"
    )
    for heading, group in groups.items():
        drawn.add_section()
        drawn.add_row(f"[bold]{heading}")
        first = statistics.median(seconds[next(iter(group))])
        for name in group:
            median = statistics.median(seconds[name])
            figures = (median, min(seconds[name]), max(seconds[name]), median / first)
            drawn.add_row(name, *(f"{figure:.2f}" for figure in figures), f"{median - first:+.2f}")
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="of the training")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="triptych-startup-") as folder:
        groups = cases(Path(folder), asked.overrides)
        Console().print(table(groups, timed(groups, asked.repeats)))


if __name__ == "__main__":
    main()
