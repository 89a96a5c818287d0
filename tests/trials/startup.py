"""What starting costs: errors beside an empty Hydra program, a first step beside its imports.

`make startup`, or `python -m tests.trials.startup [--repeats 5] [override ...]`; the overrides are
of the training. Every round runs each command once, so that a machine that slows down does so for
all; the first round compiles, warms the disk's cache and is not counted.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.trials.child import ROOT, Ended, run

EMPTY = f"""import hydra
hydra.main(version_base="1.3", config_path={str(ROOT / "configs")!r}, config_name="train")(id)()
"""
WRONG = (
    *("train.py model=googlenett", "train.py optim.learning_rate=1", "train.py optim.lr=-1"),
    *("train.py resume=nowhere", "evaluate.py run=nowhere", "compare.py runs=nowhere"),
)
IMPORTS = "import torch, torchvision, lightning"
TRAINING = ("train.py", "data=shapes", "model.weights=null", "model.input_size=32")


class Case(NamedTuple):
    arguments: Sequence[str]  # of Python
    code: int = 0
    until: str | None = None  # what is in the line that ends it


# Commands by name, in groups; the first of a group is what the others are held against.
Groups = Mapping[str, Mapping[str, Case]]


def list_cases(folder: Path, overrides: Sequence[str] = ()) -> Groups:
    typed = [*TRAINING, *overrides]
    every_step = ["trainer.log_every_n_steps=1", f"log_dir={folder}"]
    return {
        "at most 1.3 times the first": {
            "an empty Hydra program, same configs": Case(["-c", EMPTY]),
            "train.py --help": Case(["train.py", "--help"]),
            **{line: Case(line.split(), code=2) for line in WRONG},
        },
        "at most 2 s above the first": {
            IMPORTS: Case(["-c", f"{IMPORTS}; print('imported', flush=True)"], until="imported"),
            f"{' '.join(typed)}: first step": Case([*typed, *every_step], until="batch 1 loss"),
        },
    }


def time_cases(groups: Groups, repeats: int) -> dict[str, list[Ended]]:
    """How every case ended, in rounds."""
    endings: dict[str, list[Ended]] = {name: [] for group in groups.values() for name in group}
    for number in range(repeats + 1):
        for name, case in [pair for group in groups.values() for pair in group.items()]:
            ended = run([sys.executable, *case.arguments], case.until)
            is_expected = case.until in ended.output if case.until else ended.code == case.code
            assert is_expected, f"{name}: exit code {ended.code}\n{ended.output}"
            endings[name] += [ended] if number else []
    return endings


def make_table(groups: Groups, endings: Mapping[str, Sequence[Ended]]) -> Table:
    """Medians, and how far each is from the first of its group; processor time besides."""
    table = Table("command", "median, s", "least", "most", "ratio", "difference", "CPU, s")
    for heading, group in groups.items():
        table.add_section()
        table.add_row(f"[bold]{heading}")
        seconds = {name: [ended.seconds for ended in endings[name]] for name in group}
        first = median(next(iter(seconds.values())))
        for name, each in seconds.items():
            figures = (median(each), min(each), max(each), median(each) / first)
            cpu = median(ended.cpu_seconds for ended in endings[name])
            cells = [f"{figure:.2f}" for figure in figures]
            table.add_row(name, *cells, f"{median(each) - first:+.2f}", f"{cpu:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="of the training")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="triptych-startup-") as folder:
        groups = list_cases(Path(folder), options.overrides)
        Console(width=max(Console().width, 140)).print(
            make_table(groups, time_cases(groups, options.repeats))
        )


if __name__ == "__main__":
    main()
