"""From paths to predictions, written as they come."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from triptych.build import device_name
from triptych.callbacks.progress import silence_lightning
from triptych.config import Config
from triptych.data.disk_cache import track_progress
from triptych.errors import UserError
from triptych.runs.reader import sanitize_log_record
from triptych.tools.evaluate.rebuild import find_device
from triptych.tools.predict.ensemble import Ensemble, build_ensemble
from triptych.tools.predict.images import DecodedImage, decode_image, map_ahead
from triptych.tools.predict.output import (
    Layout,
    Prediction,
    make_prediction,
    open_output,
    save_grid,
)

log = logging.getLogger(__name__)
log.addFilter(sanitize_log_record)


def write_predictions(config: Config, folders: list[Path], paths: Iterable[str]) -> None:
    """Predict every image and write the output files, all of them or none.

    Raises UserError where no image could be predicted, a network cannot be rebuilt, or a file
    cannot be written.
    """
    silence_lightning()
    device = find_device(config["device"])
    ensemble = build_ensemble(folders, device, config["calibrated"], config["trusted_targets"])
    names, precision = ", ".join(ensemble.names), ensemble.runs[0].precision
    log.info("%s on %s, %s", names, device_name(device), precision)
    start = time.perf_counter()
    try:
        num_images, num_failed = predict_all(ensemble, paths, config)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"batch_size={config['batch_size']}: out of memory on {device}\n"
            "try batch_size=8 or device=cpu"
        ) from error
    except OSError as error:  # it names the file
        raise UserError(f"out: cannot be written ({error})") from error
    rate = num_images / (time.perf_counter() - start)
    files = [name for name in (config["out"], config["grid"]) if name]
    written = f"; written: {', '.join(files)}" if files else ""
    counts = f"{num_images - num_failed:,} of {num_images:,}"
    log.info("%s images predicted, %.1f images/s%s", counts, rate, written)


def predict_all(ensemble: Ensemble, paths: Iterable[str], config: Config) -> tuple[int, int]:
    """The number of images, and of those that could not be predicted."""
    layout = Layout(min(config["top_k"], len(ensemble.classes)), ensemble.voters, ensemble.classes)
    out, grid = (config[name] and Path(config[name]) for name in ("out", "grid"))
    decode = partial(decode_image, views=ensemble.views, max_pixels=config["max_pixels"])
    num_threads = config["num_threads"] or os.cpu_count() or 1
    num_ahead = config["batch_size"] + num_threads
    first, num_images, num_failed, reason = list[Prediction](), 0, 0, ""
    with (
        closing(map_ahead(decode, paths, num_threads, num_ahead)) as images,
        open_output(out, layout) as write,
    ):
        predictions = predict_batches(ensemble, images, config["batch_size"], layout)
        if isinstance(paths, list) and (out or not sys.stdout.isatty()):
            progress = track_progress(range(len(paths)), "Predicting")
            predictions = (each for _, each in zip(progress, predictions, strict=False))
        for num_images, prediction in enumerate(predictions, start=1):
            write(prediction)
            if prediction.error:
                num_failed += 1
                reason = reason or f"{prediction.path}: {prediction.error}"
            if num_images <= config["grid_images"]:
                first.append(prediction)
        if num_images == num_failed:
            reason = reason or "standard input holds no path"
            raise UserError(f"images: none of {num_images:,} could be predicted\n{reason}")
        if grid:
            votes = ": mean probability, and the number of networks that agree"
            heading = ", ".join(ensemble.names) + (votes if layout.voters else "")
            save_grid(grid, first, heading, config["max_pixels"])
    return num_images, num_failed


def predict_batches(
    ensemble: Ensemble, images: Iterator[DecodedImage], batch_size: int, layout: Layout
) -> Iterator[Prediction]:
    """A prediction for each image, in their order."""
    while batch := [*islice(images, batch_size)]:
        readable = [image for image in batch if not image.error]
        rows = iter(ensemble.probabilities(readable).cpu().numpy() if readable else ())
        for image in batch:
            if image.error:
                yield Prediction(image.path, error=image.error)
            else:
                yield make_prediction(image.path, next(rows), layout)
