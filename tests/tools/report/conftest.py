"""A comparison of evaluated runs, made once, and its page."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup
from matplotlib.image import imsave

from tests.run_folders import write_run
from triptych.runs.reader import find_run_folders
from triptych.tools.compare.command import build_comparison
from triptych.tools.compare.content import Comparison
from triptych.tools.compare.pictures import compare_images
from triptych.tools.compare.runs import read_runs
from triptych.tools.evaluate.degradation import UNMODIFIED, Outcomes, write_outcomes
from triptych.tools.evaluate.settings import LEVELS
from triptych.tools.report import charts
from triptych.tools.report.charts import Chart
from triptych.tools.report.page import render_page

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def write_evaluation(folder: Path, device: str) -> None:
    """Add what `evaluate.py` leaves in a run folder, drawn instead of measured."""
    random = np.random.default_rng(int(folder.name, 16))
    cost = {
        "macs": int(random.integers(1e6, 1e9)), "checkpoint_bytes": int(random.integers(1e6, 1e9)),
        "train_images_per_second": random.uniform(100, 4000),
        "latency_ms_p50": random.uniform(1, 50), "latency_ms_p95": random.uniform(50, 60),
        "throughput_images_per_second": random.uniform(100, 9000),
        "peak_memory_bytes": int(random.integers(1e8, 1e9)),
        "device": device, "precision": "32-true", "num_threads": 1,
    }  # fmt: skip
    (folder / "cost.json").write_text(json.dumps(cost))
    variants = [(UNMODIFIED, 0), *((kind, severity) for kind in LEVELS for severity in (1, 2, 3))]
    types, severities = zip(*variants, strict=True)
    right = random.random((len(variants), 50)) > 0.2 * np.array(severities)[:, None] + 0.1
    write_outcomes(Outcomes(np.array(types), np.array(severities), np.arange(50), right), folder)
    pixels = random.integers(0, 256, (100, 3, 16, 16), dtype=np.uint8)
    np.savez(folder / "predictions" / "test_images.npz", index=np.arange(100), images=pixels)
    (folder / "figures").mkdir()
    buffer = io.BytesIO()
    imsave(buffer, random.random((60, 240)), format="png")
    (folder / "figures" / "grad_cam.png").write_bytes(buffer.getvalue())


def compare_runs(root: Path, name: str, num_seeds: int = 1) -> Comparison:
    """Of three recipes, the first of a model with that name, and an unfinished run."""
    classes = [name, *CLASSES[1:]]
    for model, skill in ((name, 3.0), ("googlenet", 2.5), ("resnet50", 3.1)):
        for seed in range(num_seeds):
            rate = {"optim.lr": 0.1 if model == "resnet50" else 0.2}
            shape = {"num_classes": 10, "num_images": 400, "skill": skill, "settings": rate}
            folder = write_run(
                root, model, seed, classes=classes, command=name, data="cifar10", **shape
            )
            write_evaluation(folder, "cuda" if model == "resnet50" else "cpu")
    write_run(root, "alexnet", status="running")
    return build_comparison(*read_runs(find_run_folders([str(root)])))


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare_runs(tmp_path_factory.mktemp("logs"), "airplane", num_seeds=3)


@pytest.fixture(scope="session")
def html(comparison: Comparison) -> str:
    return render_page(comparison)


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are their words alone: drawing them takes most of a page's time."""
    svg = Markup('<svg role="img" aria-label="{}"></svg>')

    def write(
        heading: str, words: str, sizes: Any, render: Any, data: str, caption: str = ""
    ) -> Chart:
        return Chart(heading, svg.format(words), data, caption)

    monkeypatch.setattr(charts, "draw_sizes", write)


@pytest.fixture(scope="session")
def write_page(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The page of runs, the first of a model that has a given name."""
    return lambda name: render_page(compare_runs(tmp_path_factory.mktemp("logs"), name))


@pytest.fixture(scope="session")
def repeat(comparison: Comparison) -> Callable[[int], Comparison]:
    """A comparison of that many recipes of one network each, all alike, without image types."""

    def build(number: int) -> Comparison:
        labels = [f"recipe {n}" for n in range(number)]
        recipe, curve = comparison.recipes[0], comparison.curves[0]
        networks = [replace(recipe.first, label=label) for label in labels]
        recipes = tuple(replace(recipe, label=each.label, networks=(each,)) for each in networks)
        return replace(
            comparison,
            recipes=recipes,
            curves=tuple(replace(curve, label=label) for label in labels),
            images=compare_images(recipes, {}, {}),
            differing={},
            image_types=(),
            losses=(),
        )

    return build
