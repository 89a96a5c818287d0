"""From paths to predictions, written as they come."""

import logging
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from triptych.build import device_name
from triptych.callbacks.progress import silence_lightning
from triptych.config import Config
from triptych.distributed.processes import count_cores
from triptych.errors import UserError
from triptych.runs.predictions import MULTILABEL
from triptych.tools.evaluate.rebuild import find_device
from triptych.tools.predict.answers import calibrate
from triptych.tools.predict.ensemble import Ensemble
from triptych.tools.predict.images import DecodedImage, decode_batches, decode_image
from triptych.tools.predict.labels import SEVERAL_LABELS
from triptych.tools.predict.output import (
    ONE_LABEL,
    Form,
    Layout,
    Prediction,
    make_prediction,
    open_output,
    save_grid,
)
from triptych.tools.predict.parallel import share_batches

log = logging.getLogger(__name__)


def write_predictions(config: Config, folders: list[Path], paths: Iterable[str]) -> None:
    """Predict every image and write the output files, all of them or none.

    Raises UserError where no image could be predicted, a network cannot be rebuilt, or a file
    cannot be written.
    """
    silence_lightning()
    device = find_device(config["device"])
    ensemble = Ensemble(folders, device, config["calibrated"], config["trusted_targets"])
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
    except BrokenPipeError:  # as of `| head`: whoever reads has enough
        raise SystemExit(141) from None
    except OSError as error:  # it names the file
        raise UserError(f"out: cannot be written ({error})") from error
    rate = num_images / (time.perf_counter() - start)
    counts = f"{num_images - num_failed:,} of {num_images:,}"
    log.info("%s images predicted, %.1f images/s", counts, rate)
    for path in filter(None, (config["out"], config["grid"])):
        log.info("written: %s", path)


def predict_all(ensemble: Ensemble, paths: Iterable[str], config: Config) -> tuple[int, int]:
    """The number of images, and of those that could not be predicted."""
    layout, form = choose_layout(ensemble, config)
    out, grid = (config[name] and Path(config[name]) for name in ("out", "grid"))
    first, num_images, failed = list[Prediction](), 0, list[str]()
    with open_output(out, layout, form) as write:
        predictions = predict_each(ensemble, paths, config, layout)
        if isinstance(paths, list) and (out or not sys.stdout.isatty()):
            console = Console(stderr=True)
            predictions = track(predictions, "Predicting", total=len(paths), console=console)
        for num_images, prediction in enumerate(predictions, start=1):
            write(prediction)
            if prediction.error:
                failed.append(f"{prediction.path}: {prediction.error}")
            if num_images <= config["grid_images"]:
                first.append(prediction)
        if num_images == len(failed):
            reason = failed[0] if failed else "standard input holds no path"
            raise UserError(f"images: none of {num_images:,} could be predicted\n{reason}")
        if grid:
            votes = ": mean probability, and the number of networks that agree"
            heading = ", ".join(ensemble.names) + (votes if layout.voters else "")
            save_grid(grid, first, heading, config["max_pixels"], form)
    return num_images, len(failed)


def choose_layout(ensemble: Ensemble, config: Config) -> tuple[Layout, Form]:
    """What rows have, and how they show it."""
    if thresholds := calibrate(ensemble.runs, ensemble.temperatures, config):
        log.info("%s", thresholds.promise)
    if ensemble.task == MULTILABEL:
        if config["tta"] != "none":
            raise UserError("tta: takes networks of one label an image; leave it out")
        return Layout(len(ensemble.classes), [], ensemble.classes), SEVERAL_LABELS
    voters = ensemble.names if len(ensemble.names) > 1 else []
    num_top, has_tta = min(config["top_k"], len(ensemble.classes)), config["tta"] != "none"
    return Layout(num_top, voters, ensemble.classes, has_tta, thresholds), ONE_LABEL


def predict_each(
    ensemble: Ensemble, paths: Iterable[str], config: Config, layout: Layout
) -> Iterable[Prediction]:
    """A prediction for each image, in their order."""
    decode = partial(decode_image, views=ensemble.views, max_pixels=config["max_pixels"])
    num_threads = config["num_threads"] or count_cores()
    batch_size = min(run.batch_size(config["batch_size"]) for run in ensemble.runs)
    both = (False, True) if layout.has_tta else (False,)

    def classify(images: Sequence[DecodedImage]) -> Tensor:
        """(B, 1, M, C), or (B, 2, M, C) with mirror images."""
        return torch.stack([ensemble.probabilities(images, mirrored=m) for m in both], 1)

    with share_batches(classify, ensemble.device, batch_size) as classify_batch:
        for batch in decode_batches(decode, paths, batch_size, num_threads):
            readable = [image for image in batch if not image.error]
            rows = iter(classify_batch(readable).cpu().numpy() if readable else ())
            for image in batch:
                if image.error:
                    yield Prediction(image.path, error=image.error)
                else:
                    yield make_prediction(image.path, layout, *next(rows))
