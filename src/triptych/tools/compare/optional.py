"""What a run folder may hold besides: cost, validation, curves, image types, slices, pictures.

Each reader returns None where the file is not there, and raises UserError where it is not what it
should be.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from triptych.config import TEXT, Rule, count, format_value
from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_arrays, read_validation
from triptych.runs.reader import MEASURED, sanitize
from triptych.tools.compare.exhibits import Curve, GradCam, ImageTypes, Slices
from triptych.tools.compare.groups import TrainedNetwork
from triptych.tools.compare.runs import FRACTION
from triptych.tools.evaluate.degradation import VariantAccuracy, degradations, read_outcomes
from triptych.tools.evaluate.findings import Slice

PNG = b"\x89PNG\r\n\x1a\n"
COST: dict[str, Rule] = {
    **dict.fromkeys(("num_params", "macs", "checkpoint_bytes", "peak_memory_bytes"), count(0)),
    **dict.fromkeys(("latency_ms_p50", "latency_ms_p95"), MEASURED),
    **dict.fromkeys(("throughput_images_per_second", "train_images_per_second"), MEASURED),
    **dict.fromkeys(("device", "precision"), TEXT),
    "num_threads": count(0),
}
LIST = Rule("a list", lambda value: type(value) is list)
SLICE: dict[str, Rule] = {
    **dict.fromkeys(("measure", "third"), TEXT),
    "num_images": count(0),
    **dict.fromkeys(("accuracy", "standardised"), FRACTION),
    **dict.fromkeys(("standardised_low", "standardised_high"), FRACTION),
    "class_mix": Rule(
        "a list of counts", lambda v: type(v) is list and all(map(count(0).holds, v))
    ),
}

EPOCH, SEVERITY = count(0, 10**9), count(0, 3)
COURSE = ("train/loss", "val/loss", "val/accuracy")

Read = TypeVar("Read")


def cost(network: TrainedNetwork) -> dict[str, Any] | None:
    """Every figure of `COST` in `cost.json`; None for what is not there."""
    found = _json(network.folder / "cost.json")
    return found and {
        name: _checked("cost.json", name, found.get(name), COST[name]) for name in COST
    }


def validation(network: TrainedNetwork) -> Predictions | None:
    exists = (network.folder / "predictions" / "val.npz").exists()
    return read_validation(network.folder, network.test.num_classes) if exists else None


def image_types(network: TrainedNetwork) -> ImageTypes | None:
    """Rows as `evaluate.py` left them; degradations from the images themselves."""
    path = network.folder / "image_types.csv"
    if not path.exists():
        return None
    rows = tuple(_table(path, _level))
    has_outcomes = (network.folder / "predictions" / "image_types.npz").exists()
    found = read_outcomes(network.folder) if has_outcomes else None
    return ImageTypes(network.label, rows, sanitize(degradations(found)) if found else {}, found)


def slices(network: TrainedNetwork) -> Slices | None:
    found = (_json(network.folder / "evaluation.json") or {}).get("slices")
    parts = _checked("evaluation.json", "slices", found, LIST)
    if not parts:
        return None
    return Slices(network.label, tuple(_slice(part, network.test.num_classes) for part in parts))


def curve(network: TrainedNetwork) -> Curve | None:
    """The last loss and the validation of every epoch."""
    path = network.folder / "metrics.csv"
    if not path.exists():
        return None
    epochs: dict[int, dict[str, float]] = {}
    for epoch, values in _table(path, _measured):
        epochs.setdefault(epoch, {}).update(values)
    order = sorted(epochs)
    train_loss, val_loss, val_accuracy = (
        np.array([epochs[epoch].get(name, np.nan) for epoch in order]) for name in COURSE
    )
    return Curve(
        *(network.label, np.array(order, np.int64), train_loss, val_loss, val_accuracy),
        best_epoch=network.metadata["best_epoch"],
    )


def pixels(network: TrainedNetwork) -> dict[int, NDArray[np.uint8]] | None:
    """Test images (3, H, W) that the run kept, by their index in the official set."""
    path = network.folder / "predictions" / "test_images.npz"
    if not path.exists():
        return None
    index, images = read_arrays(path, ("index", "images")).values()
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[1] != 3
        or 0 in images.shape[2:]
    ):
        raise UserError(f"{path}: images must be uint8 (K, 3, H, W), they are {images.shape}")
    if index.dtype != np.int64 or index.shape != images.shape[:1]:
        raise UserError(f"{path}: index must be int64 (K,), a place an image")
    return dict(zip(index.tolist(), images, strict=True))


def grad_cam(network: TrainedNetwork) -> GradCam | None:
    path = network.folder / "figures" / "grad_cam.png"
    if not path.exists():
        return None
    data = path.read_bytes()
    if not data.startswith(PNG):
        raise UserError(f"{path}: is no PNG")
    return GradCam(network.label, data)


def _json(path: Path) -> dict[str, Any] | None:
    """A mapping; None where there is no file."""
    try:
        found = sanitize(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: must be a mapping, it is {format_value(found)}")
    return found


def _table(path: Path, read: Callable[[dict[str, str]], Read]) -> list[Read]:
    try:
        with path.open(newline="") as file:
            return [read(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _measured(row: dict[str, str]) -> tuple[int, dict[str, float]]:
    """The epoch of a line of `metrics.csv` and what was measured there."""
    values = {name: float(row[name]) for name in COURSE if row.get(name)}
    if not all(map(MEASURED.holds, values.values())):
        raise ValueError(f"losses and accuracies must each be {MEASURED.says}")
    return _whole(row["epoch"], EPOCH), values


def _whole(text: str, rule: Rule) -> int:
    if not rule.holds(number := int(text)):
        raise ValueError(f"{format_value(text)} must be {rule.says}")
    return number


def _level(row: dict[str, str]) -> VariantAccuracy:
    shares = [float(row[name]) for name in VariantAccuracy._fields[3:]]
    if not all(map(FRACTION.holds, shares)):
        raise ValueError("accuracies must be fractions")
    severity, num_images = _whole(row["severity"], SEVERITY), _whole(row["num_images"], count(1))
    return VariantAccuracy(sanitize(row["type"]), severity, num_images, *shares)


def _slice(found: Any, num_classes: int) -> Slice:
    values = found if isinstance(found, dict) else {}
    checked = {
        name: _checked("evaluation.json", name, values.get(name), rule)
        for name, rule in SLICE.items()
    }
    if None in checked.values():
        raise UserError(f"evaluation.json: slices must each have {', '.join(SLICE)}")
    if len(checked["class_mix"]) != num_classes:
        raise UserError(f"evaluation.json: class_mix must be of {num_classes} classes")
    return Slice(**checked | {"class_mix": tuple(checked["class_mix"])})


def _checked(file: str, name: str, value: Any, rule: Rule) -> Any:
    if not rule.or_null().holds(value):
        raise UserError(f"{file}: {name} must be {rule.says}, it is {format_value(value)}")
    return value
