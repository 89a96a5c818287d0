"""The story of one export: from a run folder to a file that was tried, and its model card."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from triptych import Refused
from triptych.comparison.groups import Network
from triptych.comparison.runs import read_run
from triptych.config import Config
from triptych.evaluation.rebuilt import Rebuilt, rebuild
from triptych.export import card_of
from triptych.exported.agreement import (
    PHOTOGRAPHS,
    Agreement,
    differences,
    images_to_try,
    milliseconds,
)
from triptych.exported.card import card, describe_file
from triptych.exported.formats import FORMATS, Format
from triptych.exported.portable import program
from triptych.files import replacing
from triptych.folders import made_legible, printable
from triptych.identity import library_versions
from triptych.prediction.decoding import View
from triptych.progress import hush_lightning

log = logging.getLogger(__name__)
log.addFilter(made_legible)


def deliver(folder: Path, path: Path, config: Config) -> None:
    """Write the run's network to `path` and its card beside it, both or neither.

    Raises Refused where the run cannot be read, its network cannot be exported, the file answers
    otherwise than the network, or `path` cannot be written to.
    """
    hush_lightning()
    network = read_network(folder)
    run = rebuild(folder, config["trusted_targets"])
    view = View.of(run)
    log.info("%s seed %d on %s: exporting", *(network.facts[k] for k in ("model", "seed", "data")))
    identity = identify(network, run, view)
    shown = images_to_try(run, network, config["data_root"])
    traced = program(run)
    form = FORMATS[config["format"]]
    try:
        with made(path.parent), replacing(card_of(path)) as beside, replacing(path) as file:
            form.write(traced, file, identity)
            found = tried(run, view, form, file, shown, config["time_seconds"])
            described = describe_file(file, path.name)
            text = card(network, identity, found, config["format"], described)
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(f"{path}: cannot be written ({error})") from error
    for sentence in found.sentences():
        log.info("%s", sentence)
    log.info("written: %s (%s) and %s", path, described.size, card_of(path).name)


def read_network(folder: Path) -> Network:
    """The run with what it answered in the test."""
    run = read_run(folder)
    return Network(**vars(run), label=run.facts["model"])


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


def identify(network: Network, run: Rebuilt, view: View) -> dict[str, Any]:
    """What the file says of itself."""
    facts = network.facts
    named = ("model", "weights", "data", "seed", "config_hash")
    return {
        "classes": printable(list(run.classes)),
        **{name: facts[name] for name in named},
        "accuracy": network.scores.accuracy,
        "num_test": len(network.test.labels),
        "input_size": view.input_size,
        "fit": view.stored[1] if view.stored else "stretch",
        "triptych": library_versions()["triptych"],
    }


def tried(
    run: Rebuilt,
    view: View,
    form: Format,
    file: Path,
    shown: dict[str, list[Tensor]],
    seconds: float,
) -> Agreement:
    """The file, opened as others would, beside what `predict` says; raises Refused where they
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
