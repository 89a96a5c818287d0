"""The runs of a comparison: each read and checked, then held against the others."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych.config import Config, Rule, format_value
from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_predictions
from triptych.runs.reader import MEASURED, read_finished, sanitize
from triptych.tools.compare.content import Problem
from triptych.tools.statistics.scores import Scores, score_predictions

ROUNDING = {"accuracy": 1e-5, "f1": 1e-5, "precision": 1e-5, "recall": 1e-5, "loss": 1e-3}

FRACTION = Rule("a number from 0 to 1", lambda v: type(v) in (int, float) and 0 <= v <= 1)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its record, its config, and what it answered for the test images."""

    folder: Path
    metadata: dict[str, Any]  # of a `finished` record
    config: Config
    test: Predictions
    scores: Scores  # of `test`

    @property
    def recipe(self) -> tuple[object, ...]:
        """What its repetitions with other seeds share: the settings, and the very images."""
        hashes = (self.metadata[f"{name}_hash"] for name in ("group", "split", "test"))
        return (*hashes, self.test.num_classes)

    @property
    def val_accuracy(self) -> float | None:
        value = self.metadata["metrics"].get("val/accuracy")
        return value if FRACTION.holds(value) else None


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], list[Problem]]:
    """The runs that can be shown, and in a line each what is wrong with the others."""
    runs: list[Run] = []
    problems: list[Problem] = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except UserError as refused:
            problems.append(problem(folder, refused))
    for doubts in (other_images, repetitions):
        lost = dict(doubts(runs))
        problems += [problem(run.folder, doubt) for run, doubt in lost.items()]
        runs = [run for run in runs if run not in lost]
    return runs, problems


def problem(folder: Path, what: object) -> Problem:
    """In one line, which does not repeat the folder."""
    says = str(what).replace(f"{folder}: ", "").replace(f"{folder}{os.sep}", "")
    return Problem(sanitize(str(folder)), sanitize(says))


def read_run(folder: Path) -> Run:
    """Read a run folder; raises UserError where it is not finished or cannot be trusted."""
    record = read_finished(folder)
    metadata = sanitize(record.metadata)
    test = read_predictions(folder / "predictions" / "test.npz")
    run = Run(folder, metadata, sanitize(record.config), test, score_predictions(test))
    if metadata["classes"] and len(metadata["classes"]) != run.test.num_classes:
        few = f"{len(metadata['classes'])} classes, its predictions {run.test.num_classes}"
        raise UserError(f"run.json: names {few}")
    _check_metrics(run)
    return run


def _check_metrics(run: Run) -> None:
    """Raise UserError where the record's test metrics are not those of the predictions."""
    scores = run.scores
    recomputed = {"accuracy": scores.accuracy, "loss": scores.nll, **scores.macro._asdict()}
    for name, value in recomputed.items():
        logged = run.metadata["metrics"].get(f"test/{name}")
        if logged is None and name != "accuracy":
            continue
        rounding = ROUNDING[name] * max(1, value)
        if not MEASURED.holds(logged) or not abs(logged - value) <= rounding:
            raise UserError(
                f"run.json: test/{name} is {format_value(logged)}, its predictions give {value:.6g}"
            )


def other_images(runs: list[Run]) -> Iterator[tuple[Run, str]]:
    """Runs whose labels or index differ from those of most runs with the same `test_hash`."""
    images = {run: (run.test.index.tobytes(), run.test.labels.tobytes()) for run in runs}
    for test_hash in {run.metadata["test_hash"]: None for run in runs}:
        same = [run for run in runs if run.metadata["test_hash"] == test_hash]
        [(most, _)] = Counter(images[run] for run in same).most_common(1)
        first = next(run for run in same if images[run] == most)
        for run in same:
            if images[run] != most:
                what = "index" if images[run][0] != most[0] else "labels"
                doubt = f"test.npz: not the {what} of {first.folder}"
                yield run, f"{doubt}, whose test_hash is the same"


def repetitions(runs: list[Run]) -> Iterator[tuple[Run, str]]:
    """Runs of a config and seed that another run, which finished no earlier, has too."""
    newest: dict[tuple[object, ...], Run] = {}
    for run in sorted(runs, key=lambda run: (run.metadata["finished_at"], str(run.folder))):
        newest[*run.recipe, run.metadata["seed"]] = run
    for run in runs:
        kept = newest[*run.recipe, run.metadata["seed"]]
        if kept is not run:
            later = kept.metadata["finished_at"] > run.metadata["finished_at"]
            when = "later" if later else "at the same time, as a copy does"
            yield run, f"left out, {kept.folder} has the same config and seed and finished {when}"
