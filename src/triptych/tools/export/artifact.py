"""From a run folder to an exported file, checked against the network, and its model card."""

import logging
from functools import partial
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
from triptych.tools.export.agreement import measure_agreement, read_batches
from triptych.tools.export.card import FileDetails, render_card
from triptych.tools.export.formats import FORMATS, Predict
from triptych.tools.export.program import trace_program
from triptych.tools.predict.images import View

log = logging.getLogger(__name__)
log.addFilter(sanitize_log_record)


def write_artifact(folder: Path, path: Path, card: Path, config: Config) -> None:
    """Write the run's network to `path` and its card, both or neither.

    Raises UserError where the run cannot be read, its network cannot be exported, the file's
    probabilities differ from the network's, or a file cannot be written.
    """
    silence_lightning()
    network = read_run(folder)
    rebuilt = rebuild_run(folder, config["trusted_targets"])
    model, seed, data = (network.metadata[name] for name in ("model", "seed", "data"))
    log.info("%s seed %d on %s: exporting", model, seed, data)
    metadata = describe_network(network, rebuilt)
    batches = read_batches(rebuilt, config["data_root"])
    program = trace_program(rebuilt)
    form = FORMATS[config["format"]]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(card) as temporary_card, atomic_write(path) as temporary:
            form.write(program, temporary, metadata)
            exported = form.open(temporary, torch.get_num_threads())
            reference = partial(predict_as_network, rebuilt, View.from_run(rebuilt))
            functions: dict[str, Predict] = {
                form.runtime: exported,
                "the network in torch": reference,
            }
            agreement = measure_agreement(functions, batches, config["time_seconds"])
            details = FileDetails.read(temporary, path.name, config["format"])
            text = render_card(network, metadata, agreement, details)
            temporary_card.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error
    for sentence in agreement.sentences():
        log.info("%s", sentence)
    log.info("written: %s (%s) and %s", path, details.size, card.name)


def describe_network(network: TrainedNetwork, rebuilt: RebuiltRun) -> dict[str, Any]:
    """The metadata inside the file."""
    view = View.from_run(rebuilt)
    names = ("model", "weights", "data", "seed", "config_hash")
    return {
        "classes": sanitize(list(rebuilt.classes)),
        **{name: network.metadata[name] for name in names},
        "accuracy": network.scores.accuracy,
        "num_test": len(network.test.labels),
        "input_size": view.input_size,
        "fit": view.stored[1] if view.stored else "stretch",
        "triptych": library_versions()["triptych"],
    }


def predict_as_network(run: RebuiltRun, view: View, images: Tensor) -> Tensor:
    """Probabilities as `predict` has them, of images uint8 (N, 3, H, W)."""
    photos = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in images]
    return run.logits(torch.stack([view(photo) for photo in photos])).softmax(dim=1)
