"""Networks whose mean probability is the prediction; one network is an ensemble of one.

Shapes: M networks, B images of a batch, C classes.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from triptych.config import format_value, number
from triptych.errors import UserError
from triptych.runs.reader import read_finished, sanitize
from triptych.runs.record import Record
from triptych.tools.compare.names import Described, make_labels
from triptych.tools.evaluate.rebuild import build_scorer, rebuild_run
from triptych.tools.predict.images import DecodedImage, View

TEMPERATURE = number(0, above=True)


class Ensemble:
    """The networks of finished runs on a device, in the precision of an evaluation.

    Raises UserError where a run cannot be rebuilt, has other classes than the first, or lacks the
    temperature for `calibrated`.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        device: torch.device,
        calibrated: bool = False,
        trusted: Iterable[str] = (),
    ) -> None:
        if calibrated and any(read_finished(f).metadata.get("task") for f in folders):
            raise UserError("calibrated=true: takes networks of one label an image; leave it out")
        self.temperatures = [read_temperature(f) if calibrated else 1.0 for f in folders]
        self.runs = [rebuild_run(folder, trusted) for folder in folders]
        first = self.runs[0]
        for run in self.runs:
            if run.task != first.task:
                raise UserError(
                    f"run: {run.record.folder} is of the task {run.module.task}, "
                    f"{first.record.folder} of {first.module.task}; they cannot vote together"
                )
            if run.classes != first.classes:
                raise UserError(
                    "run: the classes of these runs differ, so they cannot vote together\n"
                    f"{first.record.folder}: {format_value(', '.join(first.classes))}\n"
                    f"{run.record.folder}: {format_value(', '.join(run.classes))}"
                )
            build_scorer(run, device)
        self.device, self.task = device, first.task
        self.names = name_runs([run.record for run in self.runs])
        self.classes = tuple(sanitize([*first.classes]))
        self.view_of_each = [View.from_run(run) for run in self.runs]
        self.views = [*dict.fromkeys(self.view_of_each)]  # the distinct ones

    def probabilities(self, images: Sequence[DecodedImage], *, mirrored: bool = False) -> Tensor:
        """Float32 (B, M, C), on the device; of the images' mirror images if `mirrored`."""
        batches = {
            view: torch.stack([image.pixels[place] for image in images]).to(self.device)
            for place, view in enumerate(self.views)
        }
        if mirrored:
            batches = {view: batch.flip(-1) for view, batch in batches.items()}
        each = zip(self.runs, self.view_of_each, self.temperatures, strict=True)
        return torch.stack(
            [run.module.probabilities(run.logits(batches[view]) / t) for run, view, t in each], 1
        )


def name_runs(records: Sequence[Record]) -> list[str]:
    """The name or model of each run, with seed and folder where several are called alike."""
    details = [{"seed": str(r.metadata["seed"]), "folder": r.folder.name} for r in records]
    titles = [r.metadata.get("name") or r.metadata["model"] for r in records]
    return [str(sanitize(name)) for name in make_labels([*map(Described, titles, details)])]


def read_temperature(folder: Path) -> float:
    """The temperature that `evaluate` fitted on the run's validation images."""
    path = folder / "evaluation.json"
    try:
        temperature = json.loads(path.read_text())["calibration"]["temperature"]
    except (OSError, ValueError, LookupError, TypeError):
        temperature = None
    if not TEMPERATURE.holds(temperature):
        raise UserError(
            f"calibrated=true: {path} has no temperature\n"
            f"python evaluate.py run={folder} measures it"
        )
    return float(temperature)
