"""Networks whose mean probability is the prediction; one network is an ensemble of one.

Shapes: M networks, B images of a batch, C classes.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from triptych.config import format_value, number
from triptych.errors import UserError
from triptych.runs.reader import sanitize
from triptych.runs.record import Record
from triptych.tools.compare.recipes import make_labels
from triptych.tools.evaluate.rebuild import RebuiltRun, build_scorer, rebuild_run
from triptych.tools.predict.images import DecodedImage, View

TEMPERATURE = number(0, above=True)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Runs with the same classes on the same device, with a name and a temperature each."""

    runs: Sequence[RebuiltRun]
    names: Sequence[str]
    temperatures: Sequence[float]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.runs[0].classes

    @property
    def voters(self) -> Sequence[str]:
        """The names of the networks whose votes are shown; none for a single network."""
        return self.names if len(self.runs) > 1 else ()

    @cached_property
    def view_of_each(self) -> list[View]:
        return [View.from_run(run) for run in self.runs]

    @property
    def views(self) -> list[View]:
        """The distinct views of the networks."""
        return list(dict.fromkeys(self.view_of_each))

    def probabilities(self, images: Sequence[DecodedImage]) -> Tensor:
        """Float32 (B, M, C), on the device."""
        batches = {
            view: torch.stack([image.pixels[place] for image in images]).to(self.runs[0].device)
            for place, view in enumerate(self.views)
        }
        each = zip(self.runs, self.view_of_each, self.temperatures, strict=True)
        return torch.stack(
            [(run.logits(batches[view]) / t).softmax(dim=1) for run, view, t in each], dim=1
        )


def build_ensemble(
    folders: Sequence[Path], device: torch.device, calibrated: bool, trusted: Iterable[str]
) -> Ensemble:
    """The networks of finished runs on the device, in the precision of an evaluation.

    Raises UserError where a run cannot be rebuilt, has other classes than the first, or lacks the
    temperature for `calibrated`.
    """
    temperatures = [read_temperature(folder) if calibrated else 1.0 for folder in folders]
    runs = [rebuild_run(folder, trusted) for folder in folders]
    for run in runs:
        check_classes(runs[0], run)
    for run in runs:
        run.classes = tuple(sanitize([*run.classes]))
        build_scorer(run, device)
    return Ensemble(runs, name_runs([run.record for run in runs]), temperatures)


def check_classes(first: RebuiltRun, other: RebuiltRun) -> None:
    if first.classes != other.classes:
        raise UserError(
            "run: the classes of these runs differ, so they cannot vote together\n"
            f"{first.record.folder}: {format_value(', '.join(first.classes))}\n"
            f"{other.record.folder}: {format_value(', '.join(other.classes))}"
        )


def name_runs(records: Sequence[Record]) -> list[str]:
    """The model of each run, with seed and folder where a model occurs several times."""
    details = [{"seed": str(r.metadata["seed"]), "folder": r.folder.name} for r in records]
    models = [r.metadata["model"] for r in records]
    return [str(sanitize(name)) for name in make_labels([*zip(models, details, strict=True)])]


def read_temperature(folder: Path) -> float:
    """The temperature that `evaluate` fitted on the run's validation images."""
    path, remedy = folder / "evaluation.json", f"python evaluate.py run={folder} measures it"
    try:
        temperature = json.loads(path.read_text())["calibration"]["temperature"]
    except FileNotFoundError:
        raise UserError(f"calibrated=true: {folder} was not evaluated\n{remedy}") from None
    except (OSError, ValueError, LookupError, TypeError):
        temperature = None
    if not TEMPERATURE.holds(temperature):
        raise UserError(f"calibrated=true: {path} has no temperature\n{remedy}")
    return float(temperature)
