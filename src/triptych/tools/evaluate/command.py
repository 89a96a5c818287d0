"""Finished runs scored again, from their folders alone.

The network is rebuilt and scores the images it was tested on. Its scores are compared with what
was logged, and looked at more closely; its cost is measured when the images are gone.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isnan
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from triptych.build import build_module, device_name
from triptych.callbacks.progress import silence_lightning
from triptych.cli.arguments import check_writable
from triptych.config import Config
from triptych.data.datamodule import ImageDataModule
from triptych.errors import UserError, summarize_error
from triptych.metrics import Scores
from triptych.runs.durations import format_left
from triptych.runs.predictions import (
    MULTILABEL,
    MultilabelPredictions,
    Predictions,
    write_missing_tables,
)
from triptych.runs.reader import FINITE, find_run_folders, sanitize
from triptych.runs.trust import drop_training_parts
from triptych.tools.evaluate import rebuild
from triptych.tools.evaluate.cost import inference_call, measure_cost, measure_peak_bytes
from triptych.tools.evaluate.degradation import accuracy_by_variant, degradations, write_outcomes
from triptych.tools.evaluate.document import evaluate_predictions, save_figure, write_json
from triptych.tools.evaluate.external import evaluate_external
from triptych.tools.evaluate.grad_cam import check_places, choose_rows, explain_image
from triptych.tools.evaluate.image_types import (
    MAX_BYTES_KEPT,
    SharedImages,
    choose_images,
    make_examples,
    score_image_types,
)
from triptych.tools.evaluate.out_of_set import Place, evaluate_out_of_set, find_places
from triptych.tools.evaluate.rebuild import RebuiltRun
from triptych.tools.evaluate.screen import Row, describe_run, print_rows
from triptych.tools.evaluate.shifted_sets import (
    ShiftedSet,
    evaluate_shifts,
    number_classes,
    read_sets,
)
from triptych.tools.evaluate.tasks import check_settings, describe_scores
from triptych.tools.evaluate.tta import evaluate_mirrored
from triptych.tools.report import diagrams

log = logging.getLogger(__name__)


def evaluate(config: Config, overrides: list[str]) -> None:
    """Evaluate every run at or below the folders; raises UserError where none could be.

    Writes into each folder `evaluation.json` (of the validation split `evaluation_val.json`),
    `cost.json`, figures and, where asked for, `image_types.csv`, `duplicates.csv` and `ood/`; for
    all together `suspect_labels.csv`; with `data=`, the scores on those images into
    `external/<name>/`, and nothing else.
    """
    silence_lightning()
    device = rebuild.find_device(config["device"])
    folders = find_run_folders(config["run"], "run")
    harder = SharedImages(MAX_BYTES_KEPT if len(folders) > 1 else 0)
    shifted, places = read_sets(config), find_places(config)
    evaluated, rows, others, started = [], list[Row](), list[Row](), time.monotonic()
    for number, folder in enumerate(folders, 1):
        try:
            row, strange = evaluate_run(folder, config, overrides, device, harder, shifted, places)
            rows, others = [*rows, row], [*others, *strange]
            evaluated.append(folder)
        except UserError as error:
            if len(folders) == 1:
                raise
            log.warning("left out: %s", " ".join(str(error).split()))
        if number < len(folders):
            seconds = (time.monotonic() - started) / number * (len(folders) - number)
            log.info("%d of %d runs done, %s", number, len(folders), format_left(seconds))
    if not evaluated:
        raise UserError("run: none could be evaluated")
    is_place = len(rows) > 1 and not config["data"] and isinstance(config["run"], str)
    for table in filter(None, (others, rows)):
        print_rows(table, config["run"] if is_place and table is rows else None)
    if config["suspect_labels"]:
        from triptych.tools.evaluate.suspect_labels import report_suspect_labels  # few need it

        report_suspect_labels(evaluated)


def evaluate_run(
    folder: Path,
    config: Config,
    overrides: list[str],
    device: torch.device,
    harder: SharedImages,
    shifted: Sequence[ShiftedSet],
    places: Mapping[str, Place],
) -> tuple[Row, list[Row]]:
    """One run: a line of the screen, and lines of images of other classes; raises UserError where
    its folder, its images or this machine do not allow it."""
    check_writable(f"{folder}/evaluation.json", folder / "evaluation.json")
    run = rebuild.rebuild_run(folder, config["trusted_targets"])
    if run.task:
        check_settings(run, config)
    if shifted:
        number_classes(run)  # before anything is scored
    try:
        trainer = rebuild.build_scorer(run, device)
        if config["data"]:
            return evaluate_external(run, config, overrides), []
        # Before the images are read, which would count on a CPU.
        call = torch.inference_mode()(inference_call(run, 1))
        peak_memory = measure_peak_bytes(call, device) if config["cost"] else 0
        others = evaluate_out_of_set(run, places, config) if places else []
        row = evaluate_split(run, config, trainer, harder, shifted)
        if config["cost"]:
            cost = measure_cost(run, config["cost_seconds"], peak_memory)
            write_json(folder / "cost.json", cost)
    except torch.OutOfMemoryError as error:
        mend = "try batch_size=16 or device=cpu"
        raise UserError(f"{folder}: out of memory on {device}; {mend}") from error
    except (OSError, MisconfigurationException) as error:  # it names the file, or the setting
        reason = summarize_error(error)
        raise UserError(f"{folder}: cannot be evaluated ({reason})") from error
    log.info("evaluated: %s", folder)
    return row, others


def evaluate_split(
    run: RebuiltRun,
    config: Config,
    trainer: pl.Trainer,
    harder: SharedImages,
    shifted: Sequence[ShiftedSet],
) -> Row:
    """Score a split again, compare with what was logged, and show where the network fails."""
    split, folder = config["split"], run.record.folder
    data = rebuild.read_data(run, config["data_root"], config["batch_size"])
    subset = data.test if split == "test" else data.val
    check_places(config["grad_cam"]["images"], subset.index.numpy())
    files = data.image_set.files
    index = {"val": data.val.index.numpy(), "test": data.test.index.numpy()}
    write_missing_tables(folder, run.classes, files, index, run.task, run.module.write_table)
    predictions, scores, rescored = rescore(run, data, split, trainer)
    if run.task:
        document = describe_scores(run, predictions, scores, split) | rescored
    else:
        document = evaluate_predictions(run, predictions, split, folder, split) | rescored
    log_scores(run, document, config["protocol"])
    images = subset.data.images
    if config["tta"] != "none":
        document["tta"] = evaluate_mirrored(run, images, predictions, config["batch_size"])
    if config["image_types"]["types"]:
        document["image_types"] = evaluate_image_types(run, predictions, images, config, harder)
    if shifted:
        document["shifts"] = evaluate_shifts(run, shifted, config)
    if config["duplicates"]:
        from triptych.tools.evaluate.duplicates import report_duplicates  # few need it

        document["duplicates"] = report_duplicates(run, data, trainer)
    write_evaluation(folder, split, document)
    if config["grad_cam"]["images"] != "none":
        draw_grad_cam(run, predictions, images, files, config)
    return describe_run(run, document, predictions)


def write_evaluation(folder: Path, split: str, document: dict[str, Any]) -> None:
    """What an earlier evaluation found besides stays, unless it was measured again."""
    path = folder / ("evaluation.json" if split == "test" else f"evaluation_{split}.json")
    with suppress(OSError, ValueError, AttributeError, TypeError, RecursionError):
        earlier = sanitize(json.loads(path.read_text()))
        if "shifts" in document:
            document["shifts"] = earlier.get("shifts", {}) | document["shifts"]
        again = earlier.keys() & {"image_types", "tta", "shifts", "duplicates"}
        document = {name: earlier[name] for name in again} | document
    write_json(path, document)


def rescore(
    run: RebuiltRun, data: ImageDataModule, split: str, trainer: pl.Trainer
) -> tuple[Predictions, Scores, dict[str, Any]]:
    """Score `split` (test or val) with the Trainer of `build_scorer`; the network stays there.

    With as many threads as in training, if there are processors for them. Returns, last, what
    `evaluation.json` says of it: metrics now and as logged in training, device, precision, threads.
    """
    metadata, device = run.record.metadata, run.device
    module = build_module(drop_training_parts(run.config), run.backbone, len(data.classes))
    with rebuild.use_threads(metadata["num_threads"]) as num_threads:
        score = {"test": trainer.test, "val": trainer.validate}[split]
        score(module, datamodule=data, verbose=False)
    run.to(device)  # Lightning has moved it to the CPU
    metrics = module.scores.named(split)
    of_split = {name: v for name, v in metadata["metrics"].items() if name.startswith(f"{split}/")}
    # A `run.json` may be edited by hand.
    logged = {name: value for name, value in of_split.items() if FINITE.holds(value)}
    difference = find_largest_difference(metrics, logged)
    kind = MultilabelPredictions if run.task == MULTILABEL else Predictions
    logits, labels, index = (tensor.cpu().numpy() for tensor in module.predictions)
    of_all = data.image_set.groups
    groups = of_all and of_all[split == "test"].numpy()[index]
    rescored = {
        "metrics": metrics,
        "logged": logged,
        "device": device_name(device),
        "precision": run.precision,
        "num_threads": num_threads,
        "largest_difference": difference and difference[1],
    }
    return kind(logits, labels, index, groups), module.scores, rescored


def find_largest_difference(
    metrics: dict[str, float], logged: dict[str, float]
) -> tuple[str, float] | None:
    """Between a metric now and as logged, counts left out; NaN counts as the largest."""
    shared = sorted(metrics.keys() & logged.keys())
    measured = (name for name in shared if not name.endswith("/undefined_classes"))
    gaps = {name: abs(metrics[name] - logged[name]) for name in measured}
    return max(gaps.items(), key=lambda gap: (isnan(gap[1]), gap[1]), default=None)


def log_scores(run: RebuiltRun, document: dict[str, Any], protocol: str) -> None:
    """Where scores differ from what was logged, and those of the study's protocol on request."""
    metadata = run.record.metadata
    name, gap = find_largest_difference(document["metrics"], document["logged"]) or ("", 0)
    if gap:
        places = f"trained on {metadata['device']}, here {document['device']}"
        log.info("largest difference from what was logged: %s by %.2g (%s)", name, gap, places)
    if protocol == "paper" and "paper" in document:
        log.info(
            "by the study's protocol (last %d of %d images): F1 %.4f, precision %.4f, recall %.4f",
            *(document["paper"]["num_images"], document["num_images"]),
            *(document["paper"][name] for name in ("f1", "precision", "recall")),
        )


def evaluate_image_types(
    run: RebuiltRun, predictions: Predictions, images: Tensor, config: Config, shared: SharedImages
) -> dict[str, Any]:
    """The accuracy that types of test images cost; writes the outcomes and their figures."""
    types, folder, metadata = config["image_types"]["types"], run.record.folder, run.record.metadata
    labels = torch.from_numpy(predictions.labels)
    chosen = choose_images(labels, config["image_types"]["num_images"])
    index, labels = torch.from_numpy(predictions.index)[chosen], labels[chosen]
    harder = shared.find(metadata["test_hash"], images, index)
    batch_size = run.batch_size(config["batch_size"])
    outcomes = score_image_types(run.logits, harder, labels, types, batch_size)
    if predictions.groups is not None:
        outcomes = outcomes._replace(groups=predictions.groups[chosen])
    write_outcomes(outcomes, folder)
    sheet = diagrams.type_sheet(make_examples(harder, labels, types))
    save_figure(sheet, folder, "image_types")
    curves = diagrams.severity_curves(accuracy_by_variant(outcomes), metadata["model"])
    save_figure(curves, folder, "image_types_by_severity")
    lost = {name: loss._asdict() for name, loss in degradations(outcomes).items()}
    return {"num_images": len(outcomes.index), "degradation": lost}


def draw_grad_cam(
    run: RebuiltRun,
    predictions: Predictions,
    images: Tensor,
    files: Sequence[str] | None,
    config: Config,
) -> None:
    """Draw where the network looked; a network that Grad-CAM cannot be used on gets a line."""
    split, settings = config["split"], config["grad_cam"]
    rows = choose_rows(settings["images"], settings["num_images"], predictions)
    if not rows:
        log.info("Grad-CAM: no image to show")
        return
    try:
        explanations = [
            explain_image(run, images[predictions.index[row]], predictions, row, files)
            for row in rows
        ]
    except UserError as error:
        log.warning("%s: %s", run.record.folder, error)
        return
    heading = f"Grad-CAM of {run.record.metadata['model']}, {split} images"
    name = "grad_cam" if split == "test" else f"grad_cam_{split}"
    save_figure(diagrams.heat_maps(explanations, heading), run.record.folder, name)
