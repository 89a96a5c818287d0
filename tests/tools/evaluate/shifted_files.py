"""Imitations of published sets of shifted images, in the files' own formats: a few images each."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import SVHN

from triptych.tools.evaluate.shifts import CORRUPTIONS, SEVERITIES

NUM = {"cifar10_1": 30, "cifar10_c": 20, "svhn": 25}


def draw_images(num_images: int, seed: int) -> np.ndarray:
    shape = (num_images, 32, 32, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def draw_classes(num_images: int) -> np.ndarray:
    return np.random.default_rng(num_images).permutation(np.arange(num_images) % 10)


def write_sets(root: Path, patch: pytest.MonkeyPatch) -> None:
    """All three below `root`, where their archives and repositories put them."""
    folder = root / "CIFAR-10.1" / "datasets"
    folder.mkdir(parents=True)
    np.save(folder / "cifar10.1_v6_data.npy", draw_images(NUM["cifar10_1"], 0))
    np.save(folder / "cifar10.1_v6_labels.npy", draw_classes(NUM["cifar10_1"]).astype(np.int32))
    folder = root / "CIFAR-10-C"
    folder.mkdir()
    for number, name in enumerate(CORRUPTIONS):
        np.save(folder / f"{name}.npy", draw_images(SEVERITIES * NUM["cifar10_c"], 100 + number))
    labels = draw_classes(NUM["cifar10_c"]).astype(np.uint8)
    np.save(folder / "labels.npy", np.tile(labels, SEVERITIES))
    digits = draw_classes(NUM["svhn"])
    digits[digits == 0] = 10  # as there
    images = draw_images(NUM["svhn"], 1).transpose(1, 2, 3, 0)
    path = root / "test_32x32.mat"
    savemat(path, {"X": images, "y": digits.astype(np.uint8)[:, None]}, do_compression=True)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    patch.setitem(SVHN.split_list, "test", [*SVHN.split_list["test"][:2], md5])
