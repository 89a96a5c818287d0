"""Finished runs scored again, from their folders alone.

The network is rebuilt and given the images it was tested on. What it answers is held against what
was logged and looked at more closely; what it costs is measured when the images are gone.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from triptych import figures
from triptych.callbacks.progress import silence_lightning
from triptych.config import Config
from triptych.errors import UserError, sanitize_text
from triptych.runs.predictions import Predictions, read_validation
from triptych.runs.reader import find_run_folders, sanitize, sanitize_log_record
from triptych.runs.storage import atomic_write, replace_non_finite
from triptych.tools.evaluate import cost
from triptych.tools.evaluate.degradation import rows, write_outcomes
from triptych.tools.evaluate.findings import findings
from triptych.tools.evaluate.grad_cam import check_places, chosen, explain
from triptych.tools.evaluate.image_types import examples, score_image_types, summary
from triptych.tools.evaluate.paper import by_the_paper
from triptych.tools.evaluate.rebuild import RebuiltRun, read_data, rebuild_run
from triptych.tools.evaluate.rescore import Rescored, build_scorer, find_device, rescore
from triptych.tools.report import diagrams
from triptych.tools.statistics.calibration import calibrate
from triptych.tools.statistics.scores import score_predictions

log = logging.getLogger(__name__)
log.addFilter(sanitize_log_record)

# What an evaluation leaves in `evaluation.json` that a later one, asked for less, does not drop.
LASTING = ("image_types",)


def evaluate(config: Config, overrides: list[str]) -> None:
    """Evaluate every run at or below the folders; raises UserError where none could be.

    Writes into each folder `evaluation.json` (of the validation split `evaluation_val.json`),
    `cost.json`, figures and, where asked for, `image_types.csv`.
    """
    silence_lightning()
    device = find_device(config["device"])
    folders = find_run_folders(config["run"], "run")
    refused: list[str] = []
    for folder in folders:
        try:
            evaluate_run(folder, config, device)
        except UserError as refusal:
            refused.append(sanitize_text(str(refusal)))
            if len(folders) > 1:
                log.warning("left out: %s", " ".join(str(refusal).split()))
    if len(refused) == len(folders):
        raise UserError(refused[0] if len(folders) == 1 else "run: none could be evaluated")


def evaluate_run(folder: Path, config: Config, device: torch.device) -> None:
    """One run; raises UserError where its folder, its images or this machine do not allow it."""
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written to")
    run = rebuild_run(folder, config["trusted_targets"])
    try:
        trainer = build_scorer(run, device)
        memory = cost.peak_memory(run) if config["cost"] else 0
        written = look_closely(run, config, trainer)
        if config["cost"]:
            run.to(device)
            write_json(folder / "cost.json", cost.measure(run, config["cost_seconds"], memory))
            written.append("cost.json")
    except torch.OutOfMemoryError as error:
        few = "try batch_size=16 or device=cpu"
        raise UserError(f"{folder}: out of memory on {device}; {few}") from error
    except OSError as error:  # it names the file
        raise UserError(f"{folder}: cannot be evaluated ({error})") from error
    log.info("written to %s: %s", folder, ", ".join([*written, "figures/"]))


def look_closely(run: RebuiltRun, config: Config, trainer: pl.Trainer) -> list[str]:
    """Score a split again, compare with what was logged, and show where the network fails.

    Returns the names of the files written besides figures.
    """
    split = config["split"]
    data = read_data(run, config["data_root"], config["batch_size"])
    run.classes = data.classes
    part = {"test": data.test, "val": data.val}[split]
    check_places(config["grad_cam"]["images"], part.index.numpy())
    found = rescore(run, data, split, trainer)
    log.info("%s", found.verdict(run.record.metadata))
    if config["protocol"] == "paper":
        log.info("%s", by_the_paper(found.predicted))
    images = part.data.images
    document = described(run, found, split)
    if split == "test":
        document |= by_image_type(run, found.predicted, images, config)
    written = [add_evaluation(run.record.folder, split, document)]
    if config["grad_cam"]["images"] != "none":
        try_grad_cam(run, found.predicted, images, config)
    return [*written, *(["image_types.csv"] if config["image_types"]["types"] else [])]


def described(run: RebuiltRun, found: Rescored, split: str) -> dict[str, Any]:
    """What the predictions say, beside what was logged; draws its figures."""
    predicted, folder = found.predicted, run.record.folder
    scores = score_predictions(predicted)
    val = validation(folder, predicted.num_classes) if split == "test" else None
    calibration = calibrate(predicted, val)
    heading = f"{split}, evaluated: accuracy {scores.accuracy:.2%}, {len(predicted.labels)} images"
    matrix = figures.confusion_matrix(scores.confusion, run.classes, heading)
    draw(matrix, folder, f"evaluated_{split}_confusion")
    heading = f"{run.record.metadata['model']} on {len(predicted.labels)} {split} images"
    diagram = diagrams.reliability_diagram(calibration, heading)
    draw(diagram, folder, f"evaluated_{split}_reliability")
    return {**findings(split, predicted, scores, calibration, run.classes), **found.metadata}


def validation(folder: Path, num_classes: int) -> Predictions | None:
    """What the run answered in validation, which a temperature is fitted to, if it can be read."""
    try:
        return read_validation(folder, num_classes)
    except UserError as refused:
        log.warning("no temperature: %s", refused)
        return None


def by_image_type(
    run: RebuiltRun, predicted: Predictions, images: Tensor, config: Config
) -> dict[str, Any]:
    """Scores of variants of the test images, where `config` names types of them."""
    types, num_images = (config["image_types"][name] for name in ("types", "num_images"))
    if not types:
        return {}
    index, labels = torch.from_numpy(predicted.index), torch.from_numpy(predicted.labels)
    images, folder, model = images[index], run.record.folder, run.record.metadata["model"]
    batch_size = config["batch_size"] or run.config["data"]["batch_size"]
    told = (types, num_images, batch_size)
    outcomes = score_image_types(run.logits, images, labels, index, *told)
    write_outcomes(outcomes, folder)
    draw(diagrams.type_sheet(examples(images, labels, index, types)), folder, "image_types")
    draw(diagrams.severity_curves(rows(outcomes), model), folder, "image_types_by_severity")
    return {"image_types": summary(outcomes)}


def try_grad_cam(run: RebuiltRun, predicted: Predictions, images: Tensor, config: Config) -> None:
    """Draw where the network looked; a network that Grad-CAM cannot be used on gets a line."""
    split, settings = config["split"], config["grad_cam"]
    try:
        rows = chosen(settings["images"], settings["num_images"], predicted)
        shown = [explain(run, images[predicted.index[row]], predicted, row) for row in rows]
    except UserError as refused:
        log.warning("%s: %s", run.record.folder, refused)
        return
    if not shown:
        log.info("Grad-CAM: no image to show")
        return
    name = "grad_cam" if split == "test" else f"grad_cam_{split}"
    heading = f"Grad-CAM of {run.record.metadata['model']}, {split} images"
    draw(diagrams.heat_maps(shown, heading), run.record.folder, name)


def draw(figure: Figure, folder: Path, name: str) -> None:
    (folder / "figures").mkdir(exist_ok=True)
    figures.save(figure, folder / "figures" / f"{name}.png")


def add_evaluation(folder: Path, split: str, document: dict[str, Any]) -> str:
    """Write a split's evaluation; image types of an earlier one stay, unless there are new ones.

    Returns the name of its file.
    """
    path = folder / ("evaluation.json" if split == "test" else f"evaluation_{split}.json")
    try:
        earlier = dict(sanitize(json.loads(path.read_text())))
    except (OSError, ValueError, TypeError, RecursionError):
        earlier = {}
    write_json(path, {name: earlier[name] for name in LASTING if name in earlier} | document)
    return path.name


def write_json(path: Path, content: dict[str, Any]) -> None:
    """NaN and infinities become null."""
    with atomic_write(path) as temporary:
        temporary.write_text(
            json.dumps(replace_non_finite(content), indent=2, allow_nan=False) + "\n"
        )
