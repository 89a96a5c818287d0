"""From a run folder to a folder of exported files, each checked against the network.

Shapes: N images of H x W pixels, C classes.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from triptych.callbacks.progress import silence_lightning
from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import read_finished, sanitize
from triptych.runs.record import library_versions, write_arrays
from triptych.runs.storage import atomic_write, translate_write_errors
from triptych.tools.compare.runs import hash_file, read_run
from triptych.tools.evaluate.rebuild import build_scorer, find_device, read_data, rebuild_run
from triptych.tools.export.card import list_scores, render_card, render_task_card
from triptych.tools.export.checks import Deployment, Network, check_files
from triptych.tools.export.examples import run_examples
from triptych.tools.export.formats import FORMATS
from triptych.tools.export.hub import (
    CONFIG,
    README,
    Shipped,
    list_scores_of_network,
    list_shipped,
    write_head,
)
from triptych.tools.export.program import trace_program
from triptych.tools.export.weights import plain_architecture
from triptych.tools.export.writers import WRITERS, Export, Written
from triptych.tools.predict.images import View

log = logging.getLogger(__name__)


def write_export(folder: Path, out: Path, files: dict[str, list[Path]], config: Config) -> None:
    """Write the run's network in each format as its `files`, and README.md beside them, into `out`,
    and what was measured of each into the run folder: all or nothing.

    Raises UserError where the run cannot be read, its network cannot be exported, a file's answers
    differ from the network's, or a file cannot be written.
    """
    silence_lightning()
    find_device(config["device"])  # which may be missing, before hours of answers
    network = read_network(folder, config)
    with translate_write_errors(str(out)), make_staging(out) as staging:
        staged = {name: [staging / path.name for path in paths] for name, paths in files.items()}
        if any(files.values()):
            write_config(network, staging)  # some formats are opened with it
        written = write_files(network, staged, config)
        deployments = check_files(network, staged, written, config)
        if any(files.values()):
            write_documents(network, deployments, staging, out, config)
        place_files(network, deployments, staging, out)
    for deployment in deployments:
        for sentence in deployment.checks:
            log.info("%s: %s", FORMATS[deployment.name].words, sentence)
    log.info("written: %s", out)


def read_network(folder: Path, config: Config) -> Network:
    """Raises UserError where the run cannot be rebuilt, or `data_root` does not hold its data.

    Without the data there is a warning.
    """
    record = read_finished(folder)
    trained = None if record.metadata.get("task") else read_run(folder)
    run = rebuild_run(folder, config["trusted_targets"])
    model, seed, data = (sanitize(record.metadata[name]) for name in ("model", "seed", "data"))
    log.info("%s seed %d on %s: exporting", model, seed, data)
    build_scorer(run, torch.device("cpu"))
    precision, run.precision = run.precision, "32-true"  # as files compute
    images = None
    try:
        images = read_data(run, config["data_root"])
    except UserError as error:
        if config["data_root"] is not None:
            raise
        log.warning("checked without test images: %s", " ".join(str(error).split()))
    return Network(run, trained, images, precision)


@contextmanager
def make_staging(out: Path) -> Iterator[Path]:
    """A folder beside `out`, so on its disk, for files that are not yet complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        yield Path(folder)


def write_files(
    network: Network, files: dict[str, list[Path]], config: Config
) -> dict[str, Written]:
    """In every format that has files; what each says of itself."""
    export = Export(
        run=network.run,
        program=trace_program(network.run),
        metadata=describe_network(network),
        calibration=partial(pick_calibration_images, network, config["calibration_images"]),
    )
    return {name: WRITERS[name](export, paths[0]) for name, paths in files.items() if paths}


def describe_network(network: Network) -> dict[str, Any]:
    """The metadata inside the file."""
    run, trained = network.run, network.trained
    view, record = View.from_run(run), sanitize(run.record.metadata)
    scores = {"accuracy": trained.scores.accuracy} if trained else list_scores(record)
    names = ("model", "weights", "data", "seed", "config_hash")
    return {
        "classes": sanitize(list(run.classes)),
        **{name: record[name] for name in names},
        **scores,
        "num_test": record["num_test"] if trained is None else trained.num_test,
        "input_size": view.input_size,
        "fit": view.stored[1] if view.stored else "stretch",
        "triptych": library_versions()["triptych"],
    }


def write_config(network: Network, folder: Path, shipped: Sequence[Shipped] = ()) -> dict[str, Any]:
    """config.json of the folder: what builds the network without us, what an image becomes first,
    and the files that are `shipped`."""
    view, preprocessing = View.from_run(network.run), network.run.backbone.preprocessing
    plain = plain_architecture(network.run)
    content = {
        **(plain or dict.fromkeys(("architecture", "library", "arguments"))),
        **describe_network(network),
        "stored_size": view.stored[0] if view.stored else None,  # of squares that are made first
        **preprocessing._asdict(),
        "exports": {
            each.name: {
                "files": {file.name: file.sha256 for file in each.files},
                "checks": [*each.checks],
            }
            for each in shipped
        },
    }
    (folder / CONFIG).write_text(json.dumps(content, indent=1) + "\n")
    return content


def pick_calibration_images(network: Network, number: int) -> Tensor:
    """Training images uint8 (N, 3, H, W), spread evenly over their order."""
    if network.data is None:
        raise UserError(
            "format: INT8 is calibrated on training images, which are not here\n"
            "data_root=<folder> says where they lie"
        )
    train = network.data.train
    positions = torch.linspace(0, len(train) - 1, min(number, len(train))).round().long()
    return train.__getitems__(positions).inputs


def write_documents(
    network: Network, deployments: Sequence[Deployment], folder: Path, out: Path, config: Config
) -> None:
    """config.json and README.md of the folder, which will be `out`, once its examples have run."""
    shipped = list_shipped(network, deployments, out)
    content = write_config(network, folder, shipped)
    run_examples(network, [each for each in deployments if each.files], content, folder)
    if network.trained:
        scores, text = (
            list_scores_of_network(network.trained),
            render_card(network.trained, content, shipped),
        )
    else:
        scores, text = content["metrics"], render_task_card(network.run.record, content, shipped)
    head = write_head(content, shipped, scores, config["license"])
    (folder / README).write_text(head + text, encoding="utf-8")


def place_files(
    network: Network, deployments: Sequence[Deployment], staging: Path, out: Path
) -> None:
    """Give everything its final name."""
    folder = network.run.record.folder
    out.mkdir(exist_ok=True)
    for path in sorted(staging.iterdir()):
        os.replace(path, out / path.name)
    for deployment in deployments:
        if deployment.answers is not None:
            write_record(folder, out, deployment)


def write_record(folder: Path, out: Path, deployment: Deployment) -> None:
    """`deployments/<name>.npz` and `.json` of a run, of files that have their final names."""
    path = folder / "deployments" / f"{deployment.key}.json"
    path.parent.mkdir(exist_ok=True)
    answers = deployment.answers
    assert answers is not None
    arrays = {"logits": answers.logits, "labels": answers.labels, "index": answers.index}
    write_arrays(path.with_suffix(".npz"), **arrays)
    names = [name_file(out / each.name, folder) for each in deployment.files]
    content = dict(deployment.record) | {
        "file": next(iter(names), None),
        "digests": {
            name: hash_file(out / each.name)
            for name, each in zip(names, deployment.files, strict=True)
        },
        "predictions_sha256": hash_file(path.with_suffix(".npz")),
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def name_file(path: Path, folder: Path) -> str:
    """Of a run's folder where it is below, else absolute."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
