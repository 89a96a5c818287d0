"""What a network made of images that are not from where it learned: `shifts/<set>.npz`. No torch.

Rows are in the order of the published files: of CIFAR-10-C the corruptions by name, each with its
five severities of the same images. Shapes: N images, V versions of each.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_arrays, read_predictions, read_validation

CORRUPTIONS = tuple(
    """
    brightness contrast defocus_blur elastic_transform fog frost gaussian_noise glass_blur
    impulse_noise jpeg_compression motion_blur pixelate shot_noise snow zoom_blur
    """.split()
)
SEVERITIES = 5
NUM_VERSIONS = {"cifar10_c": len(CORRUPTIONS) * SEVERITIES}  # of other sets there is one
OTHER_CLASSES = "svhn"  # the set of none of the network's classes


class Shifted(NamedTuple):
    values: NDArray[np.bool_]  # (V, N): whether the network did what is right
    images: str  # the same for networks that were scored on the same images


def read_shifted(folder: Path, name: str, num_classes: int) -> Shifted | None:
    """What `evaluate` left there of a set; None without.

    Raises UserError in one line where it is not that, or without the validation that it needs.
    """
    path = folder / "shifts" / f"{name}.npz"
    if not path.exists():
        return None
    predictions, [md5] = read_predictions(path), read_arrays(path, ("md5",)).values()
    is_whole = len(predictions.labels) % NUM_VERSIONS.get(name, 1) == 0
    if not is_whole or predictions.num_classes != num_classes:
        raise UserError(f"{path}: its arrays do not belong together; run evaluate.py again")
    images = hashlib.sha256()
    for array in (predictions.index, predictions.labels, md5):
        images.update(array.tobytes())
    return Shifted(judge(name, predictions, folder), images.hexdigest())


def judge(name: str, predictions: Predictions, folder: Path) -> NDArray[np.bool_]:
    """Whether each image is classified correctly; of digits, whether it is rejected, (V, N).

    A digit is of no class that the network knows, so there is nothing to be right about but to
    abstain: an image counts as rejected where its confidence is below what 95 % of the run's own
    validation images reach (one less the false positive rate at 95 % true positives). The
    threshold is the run's own, so seeds scatter by theirs too; from validation, so no test image
    chooses it; at one place, as an area under all thresholds has no value an image.
    """
    if name == OTHER_CLASSES:
        val = read_validation(folder, predictions.num_classes)
        return np.less(predictions.confidence, find_lowest_confidence(val))[None]
    return predictions.correct.reshape(NUM_VERSIONS.get(name, 1), -1)


def find_lowest_confidence(val: Predictions) -> float:
    """The confidence that 95 % of validation images reach, and at most one in 20 does not."""
    return float(np.sort(val.confidence)[len(val.labels) // 20])
