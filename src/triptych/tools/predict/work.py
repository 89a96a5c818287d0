"""From paths to what is said of each image, written as it comes.

Shapes: M networks, B photos of a batch, C classes.
"""

import io
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from pathlib import Path

import torch
from torch import Tensor

from triptych.build import device_name
from triptych.callbacks.progress import silence_lightning
from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import sanitize_log_record
from triptych.runs.storage import atomic_write
from triptych.tools.evaluate.rescore import find_device
from triptych.tools.predict.decoding import Decoder, Photo, in_order
from triptych.tools.predict.ensemble import Ensemble, assemble
from triptych.tools.predict.grid import Seen, save_grid
from triptych.tools.predict.rows import WAYS, Layout, Prediction, Write, as_lines, predicted
from triptych.tools.predict.watch import watch

log = logging.getLogger(__name__)
log.addFilter(sanitize_log_record)


@dataclass
class Tally:
    """What is known at the end: how many came, how many of them failed, and the first to show."""

    num: int = 0
    num_failed: int = 0
    failure: str = ""
    first: list[Seen] = field(default_factory=list)

    def add(self, prediction: Prediction) -> None:
        self.num += 1
        if prediction.error:
            self.num_failed += 1
            self.failure = self.failure or f"{prediction.path}: {prediction.error}"


def work(config: Config, folders: list[Path], paths: Iterable[str], total: int | None) -> None:
    """Predict every image and write what is asked for, all of it or nothing.

    Raises UserError where no image could be predicted, the networks cannot be used, or the outputs
    cannot be written.
    """
    silence_lightning()
    device = find_device(config["device"])
    told = config["calibrated"], config["trusted_targets"]
    ensemble = assemble(folders, device, *told)
    names = ", ".join(ensemble.names)
    log.info("%s on %s, %s", names, device_name(device), ensemble.runs[0].precision)
    start = time.perf_counter()
    try:
        tally = write_all(ensemble, paths, total, config)
    except torch.OutOfMemoryError as error:
        few = "try batch_size=8 or device=cpu"
        raise UserError(
            f"batch_size={config['batch_size']}: out of memory on {device}; {few}"
        ) from error
    except OSError as error:  # it names the file
        raise UserError(f"out: cannot be written ({error})") from error
    seconds = time.perf_counter() - start
    good = tally.num - tally.num_failed
    written = [name for name in (config["out"], config["grid"]) if name]
    log.info(
        "%s of %s images predicted, %.1f images/s%s",
        *(f"{good:,}", f"{tally.num:,}", tally.num / seconds),
        f"; written: {', '.join(written)}" if written else "",
    )


def write_all(ensemble: Ensemble, paths: Iterable[str], total: int | None, config: Config) -> Tally:
    layout = Layout(min(config["top_k"], len(ensemble.classes)), ensemble.voters, ensemble.classes)
    out, grid = (config[name] and Path(config[name]) for name in ("out", "grid"))
    decoder = Decoder(ensemble.views, config["max_pixels"], config["grid_images"] if grid else 0)
    num_threads = config["num_threads"] or os.cpu_count() or 1
    num_ahead = config["batch_size"] + num_threads
    tally = Tally()
    with (
        closing(in_order(decoder, enumerate(paths), num_threads, num_ahead)) as photos,
        writing(out, layout) as write,
        watch(total, is_shown=not on_screen(out)) as advance,
    ):
        for photo, prediction in predictions(ensemble, photos, config["batch_size"], layout):
            write(prediction)
            tally.add(prediction)
            if len(tally.first) < decoder.num_thumbnails:
                tally.first.append((prediction, photo.thumbnail))
            advance()
        if tally.num == tally.num_failed:
            raise UserError(nothing(tally))
        if grid:
            save_grid(grid, tally.first, heading(ensemble))
    return tally


def heading(ensemble: Ensemble) -> str:
    """Whose answers they are."""
    names = ", ".join(ensemble.names)
    return f"{names}: mean probability, and how many of them agree" if ensemble.voters else names


def nothing(tally: Tally) -> str:
    """Why no image was predicted."""
    if not tally.num:
        return "images: no path came"
    return f"images: none of {tally.num:,} could be predicted\n{tally.failure}"


def on_screen(out: Path | None) -> bool:
    return out is None and sys.stdout.isatty()


@contextmanager
def writing(out: Path | None, layout: Layout) -> Iterator[Write]:
    """Write into the file, which is there when the block ends; without one to standard output.

    Of a name that is no UTF-8 the bytes are written as escapes.
    """
    if out:
        with (
            atomic_write(out) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            yield WAYS[out.suffix.lower()](file, layout)
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    yield (as_lines if on_screen(out) else WAYS[".csv"])(sys.stdout, layout)
    sys.stdout.flush()


def predictions(
    ensemble: Ensemble, photos: Iterator[Photo], batch_size: int, layout: Layout
) -> Iterator[tuple[Photo, Prediction]]:
    """In the order of the photos.

    A batch's answers are read when the next was handed over, so that the device does not wait.
    """
    batches = iter(lambda: [*islice(photos, batch_size)], [])
    handed = ((batch, answers(ensemble, batch)) for batch in batches)
    for (batch, found), _ in pairwise(chain(handed, [([], None)])):
        each = iter(() if found is None else found.cpu().numpy())
        for photo in batch:
            failed = photo.error and Prediction(photo.path, error=photo.error)
            yield photo, failed or predicted(photo.path, next(each), layout)


def answers(ensemble: Ensemble, batch: list[Photo]) -> Tensor | None:
    """Probabilities (B, M, C) of the photos that could be read; None where none could."""
    readable = [photo for photo in batch if not photo.error]
    return ensemble.probabilities(readable) if readable else None
