"""What a network makes of images of none of its classes: `ood/<name>.npz` and `.json`.

They are the photos of a folder, or the test images of a data set; nothing is downloaded.
Shapes: N images, B of a batch, C classes.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from triptych.build import device_name, instantiate
from triptych.config import CONFIGS, Config
from triptych.data.photos import MAX_PIXELS
from triptych.data.rng import split_stratified
from triptych.data.split_folders import is_photo, walk_files
from triptych.data.torchvision_sets import SETS
from triptych.distributed.processes import count_cores
from triptych.errors import UserError, closest_matches, shorten
from triptych.library import compose
from triptych.runs.predictions import read_predictions, read_validation
from triptych.runs.record import SCHEMA, library_versions, write_arrays
from triptych.tools.compare.out_of_set import read_measured
from triptych.tools.evaluate.document import write_json
from triptych.tools.evaluate.external import choose_images, fold
from triptych.tools.evaluate.rebuild import RebuiltRun, use_threads
from triptych.tools.evaluate.screen import Row, describe_strange
from triptych.tools.evaluate.settings import list_words
from triptych.tools.predict.images import View, decode_batches, decode_image
from triptych.tools.statistics.out_of_set import KEEP

log = logging.getLogger(__name__)
NOT_WORDS = {"folder", "torchvision"}  # of configs/data: they say not which images
Place = Path | Config  # a folder, or what `data=` has for a set


class Batch(NamedTuple):
    images: list[Tensor]  # (3, H, W), as stored or as `View` has them
    content: bytes  # by which the images are known again
    errors: list[str]  # of images that cannot be read


class StrangeImages(NamedTuple):
    """A set as one run sees it; `read` gives rows of it, int64 (N,), in batches of B."""

    word: str  # as it was typed
    name: str  # of its files
    num_images: int
    classes: Sequence[str]  # what folders or labels call the images
    read: Callable[[Tensor, int], Iterator[Batch]]


def find_places(config: Config) -> dict[str, Place]:
    """By the words of `ood`; raises UserError at one that is neither a folder nor a data set."""
    return {word: find_place(word) for word in list_words(config["ood"])}


def find_place(word: str) -> Place:
    if os.path.isdir(word):
        return Path(os.path.abspath(word))  # so that `..` has a name
    own = {path.stem for path in (CONFIGS / "data").glob("*.yaml")} - NOT_WORDS
    of_torchvision = {name.casefold(): name for name in SETS}
    if word in own:
        choice = [f"data={word}"]
    elif name := of_torchvision.get(word.casefold()):
        choice = ["data=torchvision", f"data.set={name}"]
    else:
        near = closest_matches(word, sorted(own | {*of_torchvision}), cutoff=0.5)
        nearest = f"; nearest: {near}" if near else ""
        raise UserError(f"ood={word}: no such folder, nor a data set{nearest}")
    data: Config = compose(choice)["data"]
    return data


def evaluate_out_of_set(run: RebuiltRun, places: Mapping[str, Place], config: Config) -> list[Row]:
    """Write the run's logits of each set; lines of the screen.

    Raises UserError, before the first is written, where a set has images of the run's classes or
    none that can be read, or two have one name.
    """
    folder = run.record.folder
    test = read_predictions(folder / "predictions" / "test.npz")
    read_validation(folder, test.num_classes)  # which a comparison needs as well
    sets = [open_set(run, word, place) for word, place in places.items()]
    for number, strange in enumerate(sets):
        check_classes(run, strange)
        if strange.name in (other.name for other in sets[:number]):
            raise UserError(f"ood={strange.word}: another set is called {strange.name}, too")
    with use_threads(run.record.metadata["num_threads"]):
        answers = [predict_strange(run, strange, config) for strange in sets]
    (folder / "ood").mkdir(exist_ok=True)
    for logits, document in answers:
        write_arrays(folder / "ood" / f"{document['name']}.npz", logits=logits.numpy())
        write_json(folder / "ood" / f"{document['name']}.json", document)
    measured = (read_measured(folder, strange.name, test, KEEP) for strange in sets)
    return [row for each in measured for row in describe_strange(run, each)]


def open_set(run: RebuiltRun, word: str, place: Place) -> StrangeImages:
    """Raises UserError where it is missing, empty, or the folder that the run learned from."""
    own = run.config["data"]["source"]
    if isinstance(place, Path):
        paths = list_photos(word, place, own)
        inner = dict.fromkeys(part for path in paths for part in path.relative_to(place).parts[:-1])
        read = partial(read_photos, [*map(str, paths)], View.from_run(run))
        name = re.sub(r"[^\w.-]+", "_", place.name).lstrip(".")[:60]
        return StrangeImages(word, name, len(paths), [place.name, *inner], read)
    settings = dict(place["source"])
    if "fit" in settings:
        settings["fit"] = own.get("fit", "stretch")  # as `predict` does
    source = instantiate("data.source", settings)
    if missing := source.missing():
        raise UserError(
            f"ood={word}: not on this machine: {missing}\nevaluate downloads nothing; DATA_DIR "
            "says where data lie"
        )
    images, index, _ = choose_images(source.read(), "test")
    classes = [images.classes[n] for n in {*images.test.labels[index].tolist()}]
    read = partial(read_stored, images.test.images, index)
    return StrangeImages(word, place["name"].casefold(), len(index), classes, read)


def list_photos(word: str, root: Path, own: Config) -> list[Path]:
    """Those below a folder, at any depth; `own` is the source that the run learned from."""
    if "max_pixels" in own:  # a folder of photos, too
        trained, scored = (Path(os.path.realpath(place)) for place in (own["root"], root))
        if trained.is_relative_to(scored) or scored.is_relative_to(trained):
            raise UserError(f"ood={word}: the run was trained on {trained}; take images elsewhere")
    try:
        paths = [path for path in walk_files(root) if is_photo(path)]
    except OSError as error:
        raise UserError(f"ood={word}: {error.filename}: {error.strerror}") from error
    if not paths:
        raise UserError(f"ood={word}: no image there")
    return paths


def check_classes(run: RebuiltRun, strange: StrangeImages) -> None:
    """Raise UserError where the run knows any of its classes."""
    known = {simplify(name) for name in run.classes}
    if shared := [name for name in strange.classes if simplify(name) in known]:
        raise UserError(
            f"ood={strange.word}: has classes that the run knows: {shorten(', '.join(shared), 200)}"
            "\nit must be images of other classes alone"
        )


def simplify(name: str) -> str:
    """One spelling of a class: Polar_bear is polar bear."""
    return re.sub(r"[\s_-]+", " ", fold(name)).strip()


def read_stored(images: Tensor, index: Tensor, rows: Tensor, batch_size: int) -> Iterator[Batch]:
    for some in torch.split(index[rows], batch_size):
        yield Batch([*images[some]], images[some].numpy().tobytes(), [])


def read_photos(paths: Sequence[str], view: View, rows: Tensor, batch_size: int) -> Iterator[Batch]:
    decode = partial(decode_image, views=[view], max_pixels=MAX_PIXELS)
    for batch in decode_batches(decode, [paths[n] for n in rows], batch_size, count_cores()):
        photos = [image for image in batch if not image.error]
        content = (hashlib.sha256(Path(photo.path).read_bytes()).digest() for photo in photos)
        errors = [f"{image.path}: {image.error}" for image in batch if image.error]
        yield Batch([photo.pixels[0] for photo in photos], b"".join(content), errors)


def predict_strange(
    run: RebuiltRun, strange: StrangeImages, config: Config
) -> tuple[Tensor, dict[str, Any]]:
    """Logits (N, C) of all images, or of so many drawn at random, and what is said of them."""
    label, num, most = f"ood={strange.word}", strange.num_images, config["shift_images"]
    of_one_class = torch.zeros(num, dtype=torch.int64)
    [rows] = split_stratified(of_one_class, [most and min(most, num)], 0)
    parts, errors, digest = list[Tensor](), list[str](), hashlib.sha256()
    for images, content, unread in strange.read(rows, run.batch_size(config["batch_size"])):
        parts += [run.logits(torch.stack(images)).cpu()] if images else []
        errors += unread
        digest.update(content)
    if not parts:
        raise UserError(f"{label}: none of {len(rows):,} images can be read\n{errors[0]}")
    if errors:
        counted = f"{len(errors):,} of {len(rows):,} images cannot be read"
        log.warning("%s: %s, the first: %s", label, counted, errors[0])
    logits = torch.cat(parts)
    if not logits.isfinite().all():
        raise UserError(f"{label}: the network's output for some of these images is not finite")
    return logits, {
        **{"schema": SCHEMA, "name": strange.name, "num_images": len(logits)},
        **{"num_unreadable": len(errors), "digest": digest.hexdigest()},
        **{"precision": run.precision, "device": device_name(run.device)},
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": library_versions(),
    }
