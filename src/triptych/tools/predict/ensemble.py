"""Networks that answer together, one alone among them.

Shapes: M networks, B photos of a batch, S pixels a side of a network's input, C classes.
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
from triptych.tools.compare.groups import labels
from triptych.tools.evaluate.rebuild import RebuiltRun, rebuild_run
from triptych.tools.evaluate.rescore import build_scorer
from triptych.tools.predict.decoding import Photo, View

TEMPERATURE = number(0, above=True)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """`runs` of the same classes on the same device, a name and a temperature each."""

    runs: Sequence[RebuiltRun]
    names: Sequence[str]
    temperatures: Sequence[float]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.runs[0].classes

    @property
    def voters(self) -> Sequence[str]:
        """The names of those whose votes are shown; a network alone has none."""
        return self.names if len(self.runs) > 1 else ()

    @cached_property
    def view_of_each(self) -> list[View]:
        return [*map(View.of, self.runs)]

    @property
    def views(self) -> list[View]:
        """Every way in which one of the networks sees a photo, once."""
        return list(dict.fromkeys(self.view_of_each))

    def probabilities(self, photos: Sequence[Photo]) -> Tensor:
        """Float32 (B, M, C), on the device, which may still be at work on them."""
        device = self.runs[0].device
        seen = [
            torch.stack([photo.seen[place] for photo in photos]) for place in range(len(self.views))
        ]
        if device.type == "cuda":
            seen = [pixels.pin_memory() for pixels in seen]
        batches = dict(
            zip(self.views, (p.to(device, non_blocking=True) for p in seen), strict=True)
        )
        answers = [
            (run.logits(batches[view]) / temperature).softmax(dim=1)
            for run, view, temperature in zip(
                self.runs, self.view_of_each, self.temperatures, strict=True
            )
        ]
        return torch.stack(answers, dim=1)


def assemble(
    folders: Sequence[Path], device: torch.device, calibrated: bool, trusted: Iterable[str]
) -> Ensemble:
    """The networks of finished runs, on the device in the precision that evaluation would take.

    Raises UserError where one cannot be rebuilt, has other classes than the first, or is to be
    calibrated and no temperature was found for it.
    """
    temperatures = [read_temperature(folder) if calibrated else 1.0 for folder in folders]
    runs = [rebuild_run(folder, trusted) for folder in folders]
    for run in runs:
        check_classes(runs[0], run)
        run.classes = tuple(sanitize([*run.classes]))
    for run in runs:
        build_scorer(run, device)
    return Ensemble(runs, names_of([run.record for run in runs]), temperatures)


def check_classes(first: RebuiltRun, other: RebuiltRun) -> None:
    if first.classes != other.classes:
        raise UserError(
            "run: these cannot vote together, their classes differ\n"
            f"{first.record.folder}: {format_value(', '.join(first.classes))}\n"
            f"{other.record.folder}: {format_value(', '.join(other.classes))}"
        )


def names_of(records: Sequence[Record]) -> list[str]:
    """The model of each run, with seed and folder where they are needed to tell them apart."""
    told = [{"seed": str(r.metadata["seed"]), "folder": r.folder.name} for r in records]
    models = [r.metadata["model"] for r in records]
    return [str(sanitize(name)) for name in labels([*zip(models, told, strict=True)])]


def read_temperature(folder: Path) -> float:
    """The temperature that an evaluation fitted to the run's validation images."""
    path, remedy = folder / "evaluation.json", f"python evaluate.py run={folder} finds it"
    try:
        found = json.loads(path.read_text())["calibration"]["temperature"]
    except FileNotFoundError:
        raise UserError(f"calibrated=true: {folder} was not evaluated\n{remedy}") from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        found = None
    if not TEMPERATURE.holds(found):
        raise UserError(f"calibrated=true: {path} has no temperature\n{remedy}")
    return float(found)
