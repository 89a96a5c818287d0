"""Test images whose labels networks doubt, by confident learning (Northcutt, Jiang & Chuang, 2021).

Errors of these networks choose the list, which names them: it is for a comparison of others.

Shapes: N images, C classes.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triptych.callbacks.figures import image_grid
from triptych.errors import UserError
from triptych.runs.storage import translate_write_errors, write_csv
from triptych.tools.compare.formats import MAX_WORDS, join_words
from triptych.tools.compare.runs import TrainedNetwork, read_pixels, read_run
from triptych.tools.evaluate.document import save_figure

log = logging.getLogger(__name__)

COLUMNS = "index file kind label suggested p_label p_suggested test_hash source made_by".split()


def report_suspect_labels(folders: Sequence[Path]) -> None:
    """Write `suspect_labels.csv`, by the mean probabilities of these finished runs, into the run's
    folder; of several into the nearest folder above all.

    Raises UserError where the runs were not tested on the same images.
    """
    networks = [read_run(folder) for folder in folders]
    first, *others = networks
    for other in others:
        for name in ("test_hash", "classes"):
            if other.metadata[name] != first.metadata[name]:
                raise UserError(
                    f"suspect_labels=true: {other.folder} has another {name} than {first.folder}; "
                    "take runs tested on the same images"
                )
    p = np.asarray(sum(network.test.probabilities for network in networks)) / len(networks)
    rows, guesses = find_suspect_labels(p, first.test.labels)
    out = Path(os.path.commonpath([*map(os.path.abspath, folders)]))
    with translate_write_errors(str(out)):
        write_list(out / "suspect_labels.csv", networks, p, rows, guesses)
        draw_suspects(out, first, rows, guesses)
    log.info("%d of %d labels are doubted: %s", len(rows), len(p), out / "suspect_labels.csv")
    log.info("most may be errors of these networks: look at the images before a label is changed")


def find_suspect_labels(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of (N, C) and the class that is likelier, the least probable label first.

    Networks are confident of a class where its probability is at least its mean over the images
    with that label; a label is doubted where they are confident of another class, and most so.
    """
    own = np.eye(probabilities.shape[1], dtype=bool)[labels]
    counts = own.sum(axis=0)
    means = (probabilities * own).sum(axis=0) / np.maximum(counts, 1)
    confident = (probabilities >= means - 1e-12) & (counts > 0)
    guesses = np.where(confident, probabilities, -1).argmax(axis=1)
    rows = np.flatnonzero(confident.any(axis=1) & (guesses != labels))
    rows = rows[np.argsort(probabilities[rows, labels[rows]], kind="stable")]
    return rows, guesses[rows]


def write_list(
    path: Path,
    networks: Sequence[TrainedNetwork],
    probabilities: NDArray[np.float64],
    rows: NDArray[np.int64],
    guesses: NDArray[np.int64],
) -> None:
    first = networks[0]
    test, classes, files = first.test, list_classes(first), first.read_files() or {}
    source = f"labels doubted by {join_words([network.label for network in networks], MAX_WORDS)}"
    groups = sorted({str(network.metadata["group_hash"]) for network in networks})
    made_by = " ".join([*groups, *(network.digest for network in networks)])
    lines: list[Sequence[object]] = [COLUMNS]
    for row, guess in zip(rows.tolist(), guesses.tolist(), strict=True):
        label, place = int(test.labels[row]), int(test.index[row])
        named = (place, files.get(place, ""), "label", classes[label], classes[guess])
        p = (f"{probabilities[row, each]:.4f}" for each in (label, guess))
        lines.append((*named, *p, first.metadata["test_hash"], source, made_by))
    write_csv(path, lines)


def list_classes(network: TrainedNetwork) -> Sequence[str]:
    return network.metadata["classes"] or [*map(str, range(network.test.num_classes))]


def draw_suspects(
    out: Path, network: TrainedNetwork, rows: NDArray[np.int64], guesses: NDArray[np.int64]
) -> None:
    """Those whose pixels the run kept: its mistakes, most of them."""
    pixels, test, names = read_pixels(network) or {}, network.test, list_classes(network)
    shown = [n for n, row in enumerate(rows) if int(test.index[row]) in pixels]
    if shown:
        images = np.stack([pixels[int(test.index[rows[n]])] for n in shown])
        titles = [f"{names[test.labels[rows[n]]]}? {names[guesses[n]]}" for n in shown]
        heading = f"{len(rows)} doubted labels, and what the networks take the image for"
        save_figure(image_grid(images, titles, heading), out, "suspect_labels")
