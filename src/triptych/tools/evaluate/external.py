"""Labelled images of another folder or data set, for a network that was trained without them.

Their scores lie beside the run's own, in `external/<name>/`, and are never taken for those of its
test set. Shapes: N images, C classes of the network, K classes of the other set.
"""

import copy
import hashlib
import json
import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from triptych.build import device_name, instantiate
from triptych.config import Config, setting_name
from triptych.data.folder import Folder
from triptych.data.source import ImageSet, LabelledImages, Source, hash_tensors, split_images
from triptych.errors import UserError, shorten
from triptych.runs.predictions import Predictions
from triptych.runs.record import write_arrays, write_prediction_table
from triptych.tools.evaluate.document import evaluate_predictions, write_json
from triptych.tools.evaluate.rebuild import RebuiltRun, use_threads
from triptych.tools.evaluate.screen import Row, describe_run
from triptych.tools.evaluate.tta import evaluate_mirrored
from triptych.tools.statistics.groups import share_interval
from triptych.tools.statistics.scores import average_present, score_predictions

log = logging.getLogger(__name__)
# Of which images they are, not how they are stored.
OF_THE_SET = ("_target_", "set", "root", "splits", "labels", "max_pixels", "groups")


@dataclass(frozen=True, eq=False)
class ExternalImages:
    """`labels` int64 (N,) are the network's classes; `index` int64 (N,) is ascending."""

    name: str
    images: Tensor  # uint8 (all of the set, 3, H, W)
    index: Tensor  # of those that are scored
    labels: Tensor
    files: Sequence[str] | None  # of all of the set, by index
    groups: Tensor | None  # int64, of all of the set
    folder: Path  # where the results go
    about: dict[str, Any]  # what the results say of them


def evaluate_external(run: RebuiltRun, config: Config, overrides: list[str]) -> Row:
    """Score images that are not of the run's own set, into a folder of their own; a line of the
    screen."""
    external = read_external(run, config, overrides)
    metadata = run.record.metadata
    batch_size = run.batch_size(config["batch_size"])
    with use_threads(metadata["num_threads"]) as num_threads:
        predictions = predict_external(run, external, batch_size)
    document = evaluate_predictions(run, predictions, "external", external.folder, external.name)
    document |= describe_present(predictions, run.classes) | external.about
    document |= {name: metadata[name] for name in ("model", "seed", "best_epoch", "config_hash")}
    document |= {"device": device_name(run.device), "precision": run.precision}
    document["num_threads"] = num_threads
    if config["tta"] != "none":
        document["tta"] = evaluate_mirrored(
            run, external.images, predictions, config["batch_size"], of_present=True
        )
    write_json(external.folder / "evaluation.json", document)
    log.info("evaluated: %s", external.folder)
    return describe_run(run, document, predictions)


def read_external(run: RebuiltRun, config: Config, overrides: Sequence[str]) -> ExternalImages:
    """The images that `data=` chooses, as the run's own were stored; downloads nothing.

    Raises UserError where they are missing, or have no labels, where none is of a class of the
    network, and where the run was trained on them.
    """
    data = merge_settings(run, config["data"], overrides)
    name, source = data["name"], instantiate("data.source", data["source"])
    check_not_own(run, data, source)
    images = read_source(source, run.record.folder)
    if images.test.labels.ndim > 1:
        raise UserError("data.separator: the network gives one label an image; leave it out")
    images, index, which = choose_images(images, config["split"])
    chosen = images.test
    if data["num_test"]:
        [index] = split_images(images, "test", index, [data["num_test"]], data["split_seed"])
        which = f"{which}, of which data.num_test={data['num_test']}"
    numbers = match_classes(run.classes, images.classes)
    counts = torch.bincount(chosen.labels[index], minlength=len(images.classes)).tolist()
    unknown = {c: n for c, n in zip(images.classes, counts, strict=True) if n and c not in numbers}
    if not numbers:
        raise UserError(
            f"data={name}: the network knows none of its classes\n"
            f"they are {shorten(', '.join(unknown), 200)}\n"
            f"the network's are {shorten(', '.join(run.classes), 200)}"
        )
    own = torch.tensor([numbers.get(c, -1) for c in images.classes])[chosen.labels]
    index = index[own[index] >= 0]
    labels = own[index]
    parts = (chosen.images[some] for some in torch.split(index, 256))
    digest = hash_tensors(chain(parts, [labels]))  # as the `test_hash` of a run
    if digest == run.record.metadata["test_hash"]:
        raise UserError(f"data={name}: the run's own test images; leave data= out")
    for line in (f"{name}: {len(index)} images, {which}", *images.notes):
        log.info("%s", line)
    if unknown:
        counted = ", ".join(f"{c} ({n} images)" for c, n in unknown.items())
        log.warning("left out, unknown to the network: %s", shorten(counted, 300))
    settings = data["source"] | identify_source(data["source"])  # with the whole path of a folder
    about = {"name": name, "source": settings, "images": which, "left_out": unknown}
    about |= {"test_hash": digest, "num_images": len(index)}
    place = run.record.folder / "external" / make_folder_name(data, config["split"])
    groups = images.groups and images.groups[1]
    return ExternalImages(name, chosen.images, index, labels, images.files, groups, place, about)


def merge_settings(run: RebuiltRun, data: Config, overrides: Sequence[str]) -> Config:
    """The settings of the other set; of a folder, what was not typed is as for the run's photos.

    Where the run was trained on no folder, photos are stretched, as `predict` does.
    """
    data = copy.deepcopy(data)
    source, own = data["source"], run.config["data"]["source"]
    if "fit" not in source:
        return data
    size = run.backbone.preprocessing.input_size
    as_trained = own if own["_target_"] == source["_target_"] else {"size": size, "fit": "stretch"}
    typed = {setting_name(o).rpartition(".")[2] for o in overrides}
    for name in as_trained.keys() - typed - {*OF_THE_SET}:
        source[name] = as_trained[name]
    return data


def read_source(source: Source, folder: Path) -> ImageSet:
    """What a source gives; raises UserError where it is not on disk, or has no labels."""
    if missing := source.missing():
        raise UserError(
            f"not on this machine: {missing}\nevaluate downloads nothing; data.root=<folder> says "
            "where it lies"
        )
    if isinstance(source, Folder):
        source.least_classes = 1
    try:
        return source.read()
    except UserError as error:
        if not isinstance(source, Folder) or "no images in folders" not in str(error):
            raise
        first_line = str(error).partition("\n")[0]
        raise UserError(
            f"{first_line}\nphotos without labels: python predict.py run={folder} images=<folder>"
        ) from error


def check_not_own(run: RebuiltRun, data: Config, source: Source) -> None:
    """Raise UserError where a run was trained on images of this very set.

    Of photos of which that may be so, it is said in a line.
    """
    own, other = run.config["data"]["source"], data["source"]
    if own["_target_"] != other["_target_"]:
        return
    if not isinstance(source, Folder):
        if identify_source(own) == identify_source(other):
            raise UserError(
                f"data={data['name']}: the run was trained on it; leave data= out, and its test "
                "images are scored"
            )
        return
    trained, scored = (Path(os.path.realpath(each["root"])) for each in (own, other))
    lists = [identify_source(each).get("labels") for each in (own, other)]
    if trained == scored and lists[0] == lists[1]:
        raise UserError(
            f"data.root={other['root']}: the run was trained on this folder; leave data= out, and "
            "its test images are scored"
        )
    if trained.is_relative_to(scored) or scored.is_relative_to(trained):
        log.warning("%s: photos that the run was trained on may be among these", other["root"])


def identify_source(source: dict[str, Any]) -> dict[str, Any]:
    """What tells a source from others; of a folder of photos, whatever the way to it."""
    less = {"size", "fit", "max_pixels", "max_value", "num_train", "num_test", "groups"}
    if "set" in source or "fit" not in source:  # of an official set the place says nothing
        less.add("root")
    kept = {name: value for name, value in source.items() if name not in less}
    paths = [name for name in ("root", "labels") if kept.get(name)]
    return kept | {name: os.path.realpath(kept[name]) for name in paths}


def make_folder_name(data: Config, split: str) -> str:
    """A name that sets of other photos with the same name do not have."""
    text = json.dumps(identify_source(data["source"]), sort_keys=True)
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:6]
    name = re.sub(r"[^\w.-]+", "_", data["name"]).lstrip(".")[:60]
    return f"{name}-{digest}" + ("-all" if split == "all" else "")


def choose_images(images: ImageSet, split: str) -> tuple[ImageSet, Tensor, str]:
    """The set with the images to choose from as its test images, the index of those chosen, and in
    words which they are."""
    has_test = images.splits is None or "test" in images.splits
    if split == "test" and has_test:
        test = images.splits["test"] if images.splits else torch.arange(len(images.test.labels))
        return images, test, "its test images (split=all takes all)"
    which = "all of them" if split == "all" else "all of them, as it has no test split"
    if images.train.images is images.test.images:
        return images, torch.arange(len(images.test.labels)), which
    both = (torch.cat([a, b]) for a, b in zip(images.train, images.test, strict=True))
    groups = images.groups and (images.groups[0], torch.cat(images.groups))
    images = images._replace(test=LabelledImages(*both), groups=groups)
    return images, torch.arange(len(images.test.labels)), which


def match_classes(own: Sequence[str], others: Sequence[str]) -> dict[str, int]:
    """The network's class of each of the other set, by name, wherever it stands.

    Names that differ in Unicode's form alone are the same, and so are those that differ in case,
    unless the network tells two such apart.
    """
    by_name, by_case = defaultdict(list), defaultdict(list)
    for number, name in enumerate(own):
        by_name[unicodedata.normalize("NFC", name)].append(number)
        by_case[fold(name)].append(number)
    matched = {}
    for name in others:
        exact = by_name.get(unicodedata.normalize("NFC", name), [])
        if len(numbers := exact or by_case.get(fold(name), [])) == 1:
            matched[name] = numbers[0]
    return matched


def fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def predict_external(run: RebuiltRun, external: ExternalImages, batch_size: int) -> Predictions:
    """The network's predictions for the images, which are written beside the run's."""
    batches = torch.split(external.index, batch_size)
    logits = torch.cat([run.logits(external.images[some]).cpu() for some in batches]).numpy()
    arrays = {"logits": logits, "labels": external.labels.numpy(), "index": external.index.numpy()}
    groups = None if external.groups is None else external.groups[external.index].numpy()
    external.folder.mkdir(parents=True, exist_ok=True)
    of_groups = {} if groups is None else {"groups": groups}
    write_arrays(external.folder / "predictions.npz", **arrays, **of_groups)
    table = external.folder / "predictions.csv"
    write_prediction_table(table, run.classes, external.files, **arrays)
    return Predictions(**arrays, groups=groups)


def describe_present(predictions: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy with its interval, and means over the classes that have images; says which lack."""
    scores = score_predictions(predictions)
    num_true = scores.confusion.sum(axis=1)
    present = num_true > 0
    absent = [name for name, there in zip(classes, present, strict=True) if not there]
    if absent:
        log.info(
            "no images of %s; F1, precision and recall are means over the other %d classes",
            shorten(", ".join(absent), 200),
            present.sum(),
        )
    interval = share_interval(predictions.correct, predictions.groups)
    never = scores.confusion.sum(axis=0) == 0
    return {
        "accuracy": scores.accuracy,
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "macro": average_present(scores)._asdict(),
        "undefined_classes": int((present & never).sum()),
        "without_images": absent,
        "confusion": scores.confusion.tolist(),
    }
