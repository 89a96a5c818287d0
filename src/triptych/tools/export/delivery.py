"""The story of one export: from a run folder to a file that was tried, and its model card."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from triptych.callbacks.progress import silence_lightning
from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import sanitize, sanitize_log_record
from triptych.runs.record import library_versions
from triptych.runs.storage import atomic_write
from triptych.tools.compare.runs import TrainedNetwork, read_run
from triptych.tools.evaluate.rebuild import RebuiltRun, rebuild_run
from triptych.tools.export.agreement import (
    PHOTOGRAPHS,
    Agreement,
    differences,
    images_to_try,
    milliseconds,
)
from triptych.tools.export.card import card, describe_file
from triptych.tools.export.command import card_of
from triptych.tools.export.formats import FORMATS, Format
from triptych.tools.export.portable import program
from triptych.tools.predict.images import View

log = logging.getLogger(__name__)
log.addFilter(sanitize_log_record)


def deliver(folder: Path, path: Path, config: Config) -> None:
    """Write the run's network to `path` and its card beside it, both or neither.

    Raises UserError where the run cannot be read, its network cannot be exported, the file answers
    otherwise than the network, or `path` cannot be written to.
    """
    silence_lightning()
    network = read_run(folder)
    run = rebuild_run(folder, config["trusted_targets"])
    view = View.from_run(run)
    log.info(
        "%s seed %d on %s: exporting", *(network.metadata[k] for k in ("model", "seed", "data"))
    )
    identity = identify(network, run, view)
    shown = images_to_try(run, network, config["data_root"])
    traced = program(run)
    form = FORMATS[config["format"]]
    try:
        with made(path.parent), atomic_write(card_of(path)) as beside, atomic_write(path) as file:
            form.write(traced, file, identity)
            found = tried(run, view, form, file, shown, config["time_seconds"])
            described = describe_file(file, path.name)
            text = card(network, identity, found, config["format"], described)
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error
    for sentence in found.sentences():
        log.info("%s", sentence)
    log.info("written: %s (%s) and %s", path, described.size, card_of(path).name)


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """The folder is there in the block; those made for it go again where the block fails."""
    lacking = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for each in lacking:
            with suppress(OSError):
                each.rmdir()
        raise


def identify(network: TrainedNetwork, run: RebuiltRun, view: View) -> dict[str, Any]:
    """What the file says of itself."""
    metadata = network.metadata
    named = ("model", "weights", "data", "seed", "config_hash")
    return {
        "classes": sanitize(list(run.classes)),
        **{name: metadata[name] for name in named},
        "accuracy": network.scores.accuracy,
        "num_test": len(network.test.labels),
        "input_size": view.input_size,
        "fit": view.stored[1] if view.stored else "stretch",
        "triptych": library_versions()["triptych"],
    }


def tried(
    run: RebuiltRun,
    view: View,
    form: Format,
    file: Path,
    shown: dict[str, list[Tensor]],
    seconds: float,
) -> Agreement:
    """The file, opened as others would, beside what `predict` says; raises UserError where they
    differ."""

    def network(images: Tensor) -> Tensor:
        photos = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in images]
        return run.logits(torch.stack([view(photo) for photo in photos])).softmax(dim=1)

    num_threads = torch.get_num_threads()
    exported = form.open(file, num_threads)
    found = differences(network, exported, shown)
    both = {form.runtime: exported, "the network in torch": network}
    photograph = shown[PHOTOGRAPHS][0]
    times = {name: milliseconds(each, photograph, seconds) for name, each in both.items()}
    return Agreement(found, times, num_threads)
