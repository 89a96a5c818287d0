"""Finished runs scored again, from their folders alone.

The network is rebuilt and scores the images it was tested on. Its scores are compared with what
was logged, and looked at more closely; its cost is measured when the images are gone.
"""

import json
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from triptych import figures
from triptych.callbacks.progress import silence_lightning
from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_validation
from triptych.runs.reader import find_run_folders, sanitize, sanitize_log_record
from triptych.runs.storage import atomic_write, replace_non_finite
from triptych.tools.evaluate.cost import inference_call, measure_cost, measure_peak_bytes
from triptych.tools.evaluate.degradation import accuracy_by_variant, degradations, write_outcomes
from triptych.tools.evaluate.findings import describe_split
from triptych.tools.evaluate.grad_cam import check_places, choose_rows, explain_image
from triptych.tools.evaluate.image_types import make_examples, score_image_types
from triptych.tools.evaluate.paper import summarize_paper_scores
from triptych.tools.evaluate.rebuild import RebuiltRun, read_data, rebuild_run
from triptych.tools.evaluate.rescore import Rescored, build_scorer, find_device, rescore
from triptych.tools.report import diagrams
from triptych.tools.statistics.calibration import calibrate
from triptych.tools.statistics.scores import score_predictions

log = logging.getLogger(__name__)
log.addFilter(sanitize_log_record)


def evaluate(config: Config, overrides: list[str]) -> None:
    """Evaluate every run at or below the folders; raises UserError where none could be.

    Writes into each folder `evaluation.json` (of the validation split `evaluation_val.json`),
    `cost.json`, figures and, where asked for, `image_types.csv`.
    """
    silence_lightning()
    device = find_device(config["device"])
    folders = find_run_folders(config["run"], "run")
    num_failed = 0
    for folder in folders:
        try:
            evaluate_run(folder, config, device)
        except UserError as error:
            if len(folders) == 1:
                raise
            log.warning("left out: %s", " ".join(str(error).split()))
            num_failed += 1
    if num_failed == len(folders):
        raise UserError("run: none could be evaluated")


def evaluate_run(folder: Path, config: Config, device: torch.device) -> None:
    """One run; raises UserError where its folder, its images or this machine do not allow it."""
    run = rebuild_run(folder, config["trusted_targets"])
    try:
        trainer = build_scorer(run, device)
        # Before the images are read, which would count on a CPU.
        call = torch.inference_mode()(inference_call(run, 1))
        peak_memory = measure_peak_bytes(call, device) if config["cost"] else 0
        files = evaluate_split(run, config, trainer)
        if config["cost"]:
            run.to(device)
            cost = measure_cost(run, config["cost_seconds"], peak_memory)
            files.append(write_json(folder / "cost.json", cost))
    except torch.OutOfMemoryError as error:
        mend = "try batch_size=16 or device=cpu"
        raise UserError(f"{folder}: out of memory on {device}; {mend}") from error
    except OSError as error:  # it names the file
        raise UserError(f"{folder}: cannot be evaluated ({error})") from error
    log.info("written to %s: %s", folder, ", ".join([*files, "figures/"]))


def evaluate_split(run: RebuiltRun, config: Config, trainer: pl.Trainer) -> list[str]:
    """Score a split again, compare with what was logged, and show where the network fails.

    Returns the names of the files written besides figures.
    """
    split, grad_cam = config["split"], config["grad_cam"]
    data = read_data(run, config["data_root"], config["batch_size"])
    run.classes = data.classes
    subset = data.test if split == "test" else data.val
    check_places(grad_cam["images"], subset.index.numpy())
    rescored = rescore(run, data, split, trainer)
    log.info("%s", rescored.summarize(run.record.metadata))
    if config["protocol"] == "paper":
        log.info("%s", summarize_paper_scores(rescored.predictions))
    images, types = subset.data.images, config["image_types"]["types"]
    document = evaluate_predictions(run, rescored, split)
    if types:
        document["image_types"] = evaluate_image_types(run, rescored.predictions, images, config)
    files = [write_evaluation(run.record.folder, split, document)]
    if grad_cam["images"] != "none":
        draw_grad_cam(run, rescored.predictions, images, config)
    return [*files, *(["image_types.csv"] if types else [])]


def evaluate_predictions(run: RebuiltRun, rescored: Rescored, split: str) -> dict[str, Any]:
    """What the predictions show, beside what was logged; draws its figures."""
    predictions, folder = rescored.predictions, run.record.folder
    scores, num_images = score_predictions(predictions), len(predictions.labels)
    val = None
    if split == "test":
        try:
            val = read_validation(folder, predictions.num_classes)
        except UserError as error:
            log.warning("no temperature: %s", error)
    calibration = calibrate(predictions, val)
    heading = f"{split}, evaluated: accuracy {scores.accuracy:.2%}, {num_images} images"
    matrix = figures.confusion_matrix(scores.confusion, run.classes, heading)
    save_figure(matrix, folder, f"evaluated_{split}_confusion")
    heading = f"{run.record.metadata['model']} on {num_images} {split} images"
    diagram = diagrams.reliability_diagram(calibration, heading)
    save_figure(diagram, folder, f"evaluated_{split}_reliability")
    document = describe_split(split, predictions, scores, calibration, run.classes)
    return document | rescored.metadata


def evaluate_image_types(
    run: RebuiltRun, predictions: Predictions, images: Tensor, config: Config
) -> dict[str, Any]:
    """The accuracy that types of test images cost; writes the outcomes and their figures."""
    index, labels = torch.from_numpy(predictions.index), torch.from_numpy(predictions.labels)
    images, folder, model = images[index], run.record.folder, run.record.metadata["model"]
    types, num_images = config["image_types"]["types"], config["image_types"]["num_images"]
    batch_size = config["batch_size"] or run.config["data"]["batch_size"]
    outcomes = score_image_types(
        run.logits, images, labels, index, types, num_images=num_images, batch_size=batch_size
    )
    write_outcomes(outcomes, folder)
    sheet = diagrams.type_sheet(make_examples(images, labels, index, types))
    save_figure(sheet, folder, "image_types")
    curves = diagrams.severity_curves(accuracy_by_variant(outcomes), model)
    save_figure(curves, folder, "image_types_by_severity")
    lost = {name: loss._asdict() for name, loss in degradations(outcomes).items()}
    return {"num_images": len(outcomes.index), "degradation": lost}


def draw_grad_cam(
    run: RebuiltRun, predictions: Predictions, images: Tensor, config: Config
) -> None:
    """Draw where the network looked; a network that Grad-CAM cannot be used on gets a line."""
    split, settings = config["split"], config["grad_cam"]
    rows = choose_rows(settings["images"], settings["num_images"], predictions)
    if not rows:
        log.info("Grad-CAM: no image to show")
        return
    try:
        explanations = [
            explain_image(run, images[predictions.index[row]], predictions, row) for row in rows
        ]
    except UserError as error:
        log.warning("%s: %s", run.record.folder, error)
        return
    heading = f"Grad-CAM of {run.record.metadata['model']}, {split} images"
    name = "grad_cam" if split == "test" else f"grad_cam_{split}"
    save_figure(diagrams.heat_maps(explanations, heading), run.record.folder, name)


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    (folder / "figures").mkdir(exist_ok=True)
    figures.save(figure, folder / "figures" / f"{name}.png")


def write_evaluation(folder: Path, split: str, document: dict[str, Any]) -> str:
    """Write a split's evaluation; image types of an earlier one stay, unless there are new ones.

    Returns the name of its file.
    """
    path = folder / ("evaluation.json" if split == "test" else f"evaluation_{split}.json")
    try:
        earlier = dict(sanitize(json.loads(path.read_text())))
    except (OSError, ValueError, TypeError, RecursionError):
        earlier = {}
    image_types = {"image_types": earlier["image_types"]} if "image_types" in earlier else {}
    return write_json(path, image_types | document)


def write_json(path: Path, content: dict[str, Any]) -> str:
    """Write with NaN and infinities as null; returns the file's name."""
    text = json.dumps(replace_non_finite(content), indent=2, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n")
    return path.name
