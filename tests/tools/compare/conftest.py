"""Drawn run folders, and one comparison of them for all tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.run_folders import write_run
from triptych.runs.reader import find_run_folders
from triptych.tools.compare.command import build_comparison
from triptych.tools.compare.content import Comparison
from triptych.tools.compare.runs import read_runs

SKILLS = {"alexnet": 1.0, "googlenet": 2.0, "resnet50": 2.1}


@pytest.fixture(scope="session")
def compare_below() -> Callable[[Path], Comparison]:
    return lambda root: build_comparison(*read_runs(find_run_folders([str(root)])))


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recipes of three seeds and one of a single seed, which is not 0."""
    root = tmp_path_factory.mktemp("logs")
    for model, skill in SKILLS.items():
        for seed in (5,) if model == "resnet50" else range(3):
            write_run(root, model, seed, skill=skill)
    return root


@pytest.fixture(scope="session")
def comparison(root: Path, compare_below: Callable[[Path], Comparison]) -> Comparison:
    return compare_below(root)


@pytest.fixture(scope="session")
def logits(root: Path) -> dict[str, np.ndarray]:
    """By model and seed as the labels have them."""
    logits = {}
    for path in root.glob("shapes/*/seed*/*/predictions/test.npz"):
        model, seed = path.parts[-5], path.parts[-4].removeprefix("seed")
        with np.load(path) as file:
            logits[f"{model} seed {seed}"] = file["logits"].astype(float)
    return logits
