"""Published test images from elsewhere, for networks of CIFAR-10's classes: read where they lie.

Nothing is downloaded. Shapes: N images of 32x32 pixels, V versions of each.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torchvision.datasets import SVHN

from triptych.config import Config
from triptych.data.disk_cache import data_dir
from triptych.data.rng import split_stratified
from triptych.errors import UserError, shorten, summarize_error
from triptych.runs.predictions import Predictions, read_validation
from triptych.runs.record import write_arrays
from triptych.tools.evaluate.external import match_classes
from triptych.tools.evaluate.rebuild import RebuiltRun, use_threads
from triptych.tools.evaluate.settings import SHIFTS, list_shifts
from triptych.tools.evaluate.shifts import (
    CORRUPTIONS,
    NUM_VERSIONS,
    OTHER_CLASSES,
    SEVERITIES,
    find_lowest_confidence,
    judge,
)
from triptych.tools.statistics.inference import wilson

log = logging.getLogger(__name__)
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


class Origin(NamedTuple):
    """The files of a set, the folders below DATA_DIR that may hold them, and who publishes them."""

    files: tuple[str, ...]  # of images, then of labels if these are apart
    folders: tuple[str, ...]
    address: str


# Of SVHN torchvision knows the md5. Of the others' files none is published (of CIFAR-10-C that of
# the archive alone): what they were is recorded, and only networks scored on the same are compared.
ORIGINS = {
    "cifar10_1": Origin(
        ("cifar10.1_v6_data.npy", "cifar10.1_v6_labels.npy"),
        (".", "CIFAR-10.1", "CIFAR-10.1/datasets"),
        "https://github.com/modestyachts/CIFAR-10.1 (datasets/)",
    ),
    "cifar10_c": Origin(
        (*(f"{name}.npy" for name in CORRUPTIONS), "labels.npy"),
        ("CIFAR-10-C",),
        "https://zenodo.org/records/2535967 (CIFAR-10-C.tar)",
    ),
    "svhn": Origin(
        (SVHN.split_list["test"][1],), (".", "SVHN", "svhn"), SVHN.split_list["test"][0]
    ),
}


class ShiftedSet(NamedTuple):
    """`parts`: uint8 (rows, 32, 32, 3), one a file, each of as many versions of the N images."""

    name: str
    parts: Sequence[NDArray[np.uint8]]
    labels: NDArray[np.int64]  # (N,), of `CLASSES`; of SVHN the digits
    md5: dict[str, str]  # by file


def read_sets(config: Config) -> list[ShiftedSet]:
    """The sets that are asked for, in memory only as far as they are looked at.

    Raises UserError where one is missing or broken. Of `all` it takes those that are there, and
    says which are not.
    """
    root = Path(config["data_root"] or data_dir()).expanduser().absolute()
    sets, problems = [], []
    for name in list_shifts(config):
        try:
            sets.append(read_set(name, find_folder(root, name)))
        except UserError as error:
            problems.append(str(error))
    if problems and (config["shifts"] != "all" or not sets):
        raise UserError("\n".join(problems))
    for line in problems:
        log.warning("left out: %s", line)
    return sets


def find_folder(root: Path, name: str) -> Path:
    """The folder that holds all files of a set; raises UserError without."""
    origin, absent = ORIGINS[name], []
    folders = [root / folder for folder in origin.folders]
    for folder in folders:
        absent.append([file for file in origin.files if not (folder / file).is_file()])
        if not absent[-1]:
            return folder
    first, *others = min(absent, key=len)
    more = f" and {len(others)} more of its files" if others else ""
    places = ", ".join(map(str, folders))
    raise UserError(f"shifts={name}: no {first}{more} in {places}; from {origin.address}")


def read_set(name: str, folder: Path) -> ShiftedSet:
    """Raises UserError where a file is not as published, or of other images than it says."""
    files, md5 = ORIGINS[name].files, {}
    try:
        if name == OTHER_CLASSES:
            digits = SVHN(str(folder), split="test")
            parts, labels = [digits.data.transpose(0, 2, 3, 1)], digits.labels
        else:
            *parts, labels = (npy.open_memmap(folder / file, mode="r") for file in files)
        for file in files:
            with (folder / file).open("rb") as opened:
                md5[file] = hashlib.file_digest(opened, "md5").hexdigest()
    except Exception as error:  # of numpy, of scipy, of the system: many kinds
        raise UserError(f"shifts={name}: {folder}: {summarize_error(error)}") from error
    num_versions = NUM_VERSIONS.get(name, 1) // len(parts)  # in a file
    of_one, shape = labels[: len(labels) // num_versions], (len(labels), 32, 32, 3)
    are_images = all(part.shape == shape and part.dtype == np.uint8 for part in parts)
    are_classes = np.isin(labels, range(len(CLASSES))).all()
    if not are_images or not are_classes or (labels != np.tile(of_one, num_versions)).any():
        raise UserError(f"shifts={name}: {folder}: not the images and labels that were published")
    return ShiftedSet(name, parts, of_one.astype(np.int64), md5)


def number_classes(run: RebuiltRun) -> NDArray[np.int64]:
    """The network's number of each of `CLASSES`; raises UserError where its classes are others."""
    numbers = match_classes(run.classes, CLASSES)
    if not len(numbers) == len(run.classes) == len(CLASSES):
        raise UserError(
            f"{run.record.folder}: shifts: takes a network of CIFAR-10's ten classes; its own are "
            f"{shorten(', '.join(run.classes), 100)}"
        )
    return np.array([numbers[name] for name in CLASSES])


def evaluate_shifts(run: RebuiltRun, sets: Sequence[ShiftedSet], config: Config) -> dict[str, Any]:
    """What `evaluation.json` says of each set; writes the predictions into `shifts/`."""
    folder, own = run.record.folder, number_classes(run)
    (folder / "shifts").mkdir(exist_ok=True)
    documents = {}
    for shifted in sets:
        labels = shifted.labels if shifted.name == OTHER_CLASSES else own[shifted.labels]
        with use_threads(run.record.metadata["num_threads"]):
            predictions = predict_shifted(run, shifted, labels, config)
        arrays = {name: getattr(predictions, name) for name in ("logits", "labels", "index")}
        md5 = np.array([*shifted.md5.values()])
        write_arrays(folder / "shifts" / f"{shifted.name}.npz", md5=md5, **arrays)
        documents[shifted.name] = describe_shifted(run, shifted, predictions)
    return documents


def predict_shifted(
    run: RebuiltRun, shifted: ShiftedSet, labels: NDArray[np.int64], config: Config
) -> Predictions:
    """Of all versions of the N images, or of a stratified part of them."""
    num_images, most = len(labels), config["shift_images"]
    [chosen] = split_stratified(torch.from_numpy(labels), [most and min(most, num_images)], 0)
    logits, index = [], []
    for place, part in enumerate(shifted.parts):
        rows = (np.arange(0, len(part), num_images)[:, None] + chosen.numpy()).ravel()
        for some in torch.split(torch.from_numpy(rows), run.batch_size(config["batch_size"])):
            images = torch.from_numpy(np.array(part[some.numpy()])).permute(0, 3, 1, 2)
            logits.append(run.logits(images).cpu())
        index.append(place * len(part) + rows)
    places = np.concatenate(index)
    return Predictions(torch.cat(logits).numpy(), labels[places % num_images], places)


def describe_shifted(
    run: RebuiltRun, shifted: ShiftedSet, predictions: Predictions
) -> dict[str, Any]:
    """Fractions, with Wilson's interval; of CIFAR-10-C by corruption and severity."""
    name, folder, metadata = shifted.name, run.record.folder, run.record.metadata
    values, word = judge(name, predictions, folder), "accuracy"
    document: dict[str, Any] = {"num_images": values.shape[1], "md5": shifted.md5}
    if name == OTHER_CLASSES:
        word, val = "rejected", read_validation(folder, predictions.num_classes)
        document["lowest_confidence"] = find_lowest_confidence(val)
    document[word] = float(values.mean())
    if len(values) > 1:
        means = values.mean(axis=1).reshape(-1, SEVERITIES).tolist()
        document["by_corruption"] = dict(zip(CORRUPTIONS, means, strict=True))
    else:
        interval = wilson(int(values.sum()), values.size)
        document |= {f"{word}_{end}": value for end, value in interval._asdict().items()}
    heading = f"{metadata['model']} seed {metadata['seed']} on {SHIFTS[name]}"
    log.info("%s  %s %.4f, %d images", heading, word, document[word], document["num_images"])
    return document
