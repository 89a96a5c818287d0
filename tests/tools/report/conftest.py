"""The page of runs on disk, and comparisons of made-up numbers, as large as a test asks."""

import io
import json
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imsave

from tests.run_folders import write_run
from triptych.tools.compare.command import compare
from triptych.tools.compare.content import (
    Circumstances,
    Comparison,
    Origin,
    Pair,
    Pairs,
    Problem,
    Recipe,
    Row,
    Setting,
)
from triptych.tools.compare.exhibits import (
    Agreement,
    Confused,
    Curve,
    Gallery,
    GradCam,
    Guess,
    ImageTypes,
    Losses,
    LostMore,
    Picture,
    Slices,
    Study,
    WithInterval,
)
from triptych.tools.evaluate.degradation import (
    OVERALL,
    UNMODIFIED,
    Degradation,
    Outcomes,
    VariantAccuracy,
    write_outcomes,
)
from triptych.tools.evaluate.findings import Slice
from triptych.tools.evaluate.levels import LEVELS
from triptych.tools.statistics.calibration import Bin, Calibration, Reliability
from triptych.tools.statistics.intervals import Interval
from triptych.tools.statistics.scores import Averages

CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
MODELS = ("googlenet", "alexnet", "resnet50")
NUM_TEST = 10_000


class Invented:
    """Draws the parts of one comparison."""

    def __init__(self, num_recipes: int, num_seeds: int, classes: tuple[str, ...]) -> None:
        self.random = np.random.default_rng(0)
        self.classes = classes
        self.recipes = [
            MODELS[n] if n < len(MODELS) else f"{MODELS[n % 3]}, optim.lr={0.0001 * n:.4f}"
            for n in range(num_recipes)
        ]
        self.networks = {
            recipe: tuple(f"{recipe} seed {seed}" for seed in range(num_seeds))
            for recipe in self.recipes
        }
        self.labels = [label for labels in self.networks.values() for label in labels]
        self.skill = {label: float(self.random.uniform(0.7, 0.93)) for label in self.labels}

    def estimate(self, value: float, half: float = 0.005) -> WithInterval:
        return WithInterval(value, value - half, value + half)

    def row(self, label: str) -> Row:
        skill, draw = self.skill[label], self.random.uniform
        return Row(
            label=label,
            model=label.split()[0].strip(","),
            weights="IMAGENET1K_V1",
            data="cifar10",
            seed=int(label.rpartition(" ")[2]),
            num_test=NUM_TEST,
            accuracy=skill,
            accuracy_low=skill - 0.006,
            accuracy_high=skill + 0.005,
            f1=skill - 0.001,
            precision=skill,
            recall=skill,
            nll=2 * (1 - skill),
            ece=0.03,
            weighted=Averages(skill, skill, skill),
            brier=1 - skill,
            top_k={1: skill, 3: 0.97, 5: 0.99},
            paper_f1=0.7071,
            paper_precision=0.84375,
            paper_recall=0.8333,
            num_params=int(draw(5e6, 6e7)),
            macs=int(draw(7e8, 4e9)),
            checkpoint_bytes=int(draw(2e7, 2e8)),
            train_images_per_second=draw(100, 4000),
            seconds_per_epoch=draw(5, 60),
            latency_ms_p50=draw(2, 20),
            latency_ms_p95=draw(20, 30),
            throughput_images_per_second=draw(200, 9000),
            peak_memory_bytes=int(draw(5e8, 3e9)),
            trained_on=Circumstances("NVIDIA H200", "bf16-mixed", 16),
            measured_on=Circumstances("cpu", "32-true", 2),
            folder=f"logs/cifar10/{label.replace(' ', '_')}",
        )

    def recipe(self, label: str) -> Recipe:
        networks, num_classes = self.networks[label], len(self.classes)
        skill = float(np.mean([self.skill[network] for network in networks]))
        errors = self.random.dirichlet(np.full(num_classes, 0.3), num_classes) * (1 - skill)
        shares = errors + np.eye(num_classes) * skill
        first, last = self.classes[0], self.classes[-1]
        return Recipe(
            label=label,
            model=label.split(",")[0],
            networks=networks,
            classes=self.classes,
            num_test=NUM_TEST,
            accuracy=self.estimate(skill),
            confusion=(shares * NUM_TEST / num_classes).round().astype(np.int64),
            most_confused=(Confused(last, first, 123, 0.123), Confused(first, last, 45, 0.045)),
            f1=self.random.uniform(skill - 0.1, min(skill + 0.1, 1), num_classes),
            calibration=Calibration(self.reliability(0.06), 1.62, self.reliability(0.01)),
        )

    def reliability(self, error: float) -> Reliability:
        confidence = np.linspace(0.4, 1, 15)
        accuracy = confidence - 2 * error * self.random.random(15)
        bins = [
            Bin(float(c), float(a), Interval(float(a) - 0.02, float(a) + 0.02), 667)
            for c, a in zip(confidence, accuracy, strict=True)
        ]
        return Reliability(error, Interval(error - 0.005, error + 0.005), 0.008, 0.01, 0.61, bins)

    def pairs(self, labels: list[str], num_seeds: int, question: str) -> Pairs:
        of_networks = num_seeds == 1
        pairs = [
            Pair(
                a=a,
                b=b,
                num_images=NUM_TEST,
                num_seeds=(num_seeds, num_seeds),
                difference=self.estimate(float(self.random.uniform(-0.05, 0.05)), 0.012),
                p=0.00001,
                p_holm=0.0312,
                only_a=412 if of_networks else None,
                only_b=297 if of_networks else None,
                f1_difference=self.estimate(0.0118) if of_networks else None,
                sentence=f"The sentence of {a} and {b}.",
            )
            for a, b in list(combinations(labels, 2))[:45]
        ]
        return Pairs(question, "How they were paired.", tuple(pairs))

    def curve(self, label: str) -> Curve:
        epochs = np.arange(1, 11)
        progress = 1 - np.exp(-epochs / 3)
        noise = self.random.normal(0, 0.01, (3, len(epochs)))
        train_loss = 2.3 - 2 * progress + noise[0]
        val_loss = 2.3 - 1.7 * progress + noise[1]
        return Curve(
            label, epochs, train_loss, val_loss, self.skill[label] * progress + noise[2], 9
        )

    def image_types(self, label: str) -> ImageTypes:
        skill = self.skill[label]
        levels = [VariantAccuracy(UNMODIFIED, 0, 1000, skill, skill - 0.02, skill + 0.02)]
        for kind in LEVELS:
            steep = self.random.uniform(0.02, 0.2)
            for severity in (1, 2, 3):
                left = skill - steep * severity
                levels.append(VariantAccuracy(kind, severity, 1000, left, left - 0.03, left + 0.03))
        lost = {kind: Degradation(0.1, 0.09, 0.11) for kind in LEVELS}
        lost[OVERALL] = Degradation(0.2, 0.18 * skill, 0.22)
        return ImageTypes(label, tuple(levels), lost, None)

    def slices(self, label: str) -> Slices:
        skill, mix = self.skill[label], tuple(range(50, 50 + len(self.classes)))
        parts = [
            Slice(measure, third, 3333, skill, skill - 0.01, skill - 0.02, skill, mix)
            for measure in ("edge_density", "colourfulness")
            for third in ("low", "middle", "high")
        ]
        return Slices(label, tuple(parts))

    def picture(self, networks: list[str]) -> Picture:
        pixels = self.random.integers(0, 256, (3, 32, 32), dtype=np.uint8)
        guesses = [
            Guess(n, self.classes[i % len(self.classes)], 0.99 - 0.01 * i)
            for i, n in enumerate(networks)
        ]
        return Picture(int(self.random.integers(NUM_TEST)), pixels, "cat", tuple(guesses))

    def origin(self, label: str) -> Origin:
        return Origin(
            label=label,
            command="python train.py experiment=scratch model=googlenet optim.lr=0.001",
            commit="39fbac2e8af8b63afb1df2dd177361e48535fae5",
            versions=(("torch", "2.14.1"), ("torchvision", "0.29.1")),
            device="cpu",
            precision="32-true",
            num_threads=2,
            started_at="2026-11-22T21:25:53+00:00",
            num_epochs=10,
            train_seconds=3571.9,
            test_hash="2c33b053d1cd726a",
            split_hash="59c5b241f6f58de1",
        )


def evaluate(folder: Path, device: str) -> None:
    """Add what `evaluate.py` leaves in a run folder, drawn instead of measured."""
    random = np.random.default_rng(int(folder.name, 16))
    cost = {
        "macs": int(random.integers(1e6, 1e9)), "checkpoint_bytes": 4321,
        "train_images_per_second": 50.0, "seconds_per_epoch": 6.0,
        "latency_ms_p50": random.uniform(1, 50), "latency_ms_p95": random.uniform(50, 60),
        "throughput_images_per_second": random.uniform(100, 9000), "peak_memory_bytes": 10**8,
        "device": device, "precision": "32-true", "num_threads": 1,
    }  # fmt: skip
    (folder / "cost.json").write_text(json.dumps(cost))
    accuracies = {"accuracy": 0.8, "standardised": 0.79}
    part = accuracies | {"standardised_low": 0.7, "standardised_high": 0.85}
    part |= {"num_images": 66, "class_mix": [6, 10, 20, 30]}
    slices = [
        part | {"measure": measure, "third": third}
        for measure in ("edge_density", "colourfulness")
        for third in ("low", "middle", "high")
    ]
    (folder / "evaluation.json").write_text(json.dumps({"slices": slices}))
    variants = [(UNMODIFIED, 0), *((kind, severity) for kind in LEVELS for severity in (1, 2, 3))]
    types, severities = zip(*variants, strict=True)
    right = random.random((len(variants), 50)) > 0.2 * np.array(severities)[:, None] + 0.1
    write_outcomes(Outcomes(np.array(types), np.array(severities), np.arange(50), right), folder)
    pixels = random.integers(0, 256, (100, 3, 16, 16), dtype=np.uint8)
    np.savez(folder / "predictions" / "test_images.npz", index=np.arange(100), images=pixels)
    (folder / "figures").mkdir()
    (folder / "figures" / "grad_cam.png").write_bytes(png())


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Writes run folders, the first of a model that has a given name; the page of them."""

    def write(name: str) -> str:
        root = tmp_path_factory.mktemp("logs")
        classes = [name, "cat", "deer", "dog"]
        for model, skill in ((name, 2.0), ("googlenet", 1.0), ("resnet50", 2.1)):
            folder = write_run(root, model, skill=skill, classes=classes, command=name)
            evaluate(folder, "cuda" if model == "resnet50" else "cpu")
        write_run(root, "alexnet", status="running")
        page = compare({"runs": str(root), "out": None, "allow_mixed": False})
        return page.read_text(encoding="utf-8")

    return write


def png() -> bytes:
    buffer = io.BytesIO()
    imsave(buffer, np.random.default_rng(0).random((60, 240)), format="png")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def invented() -> Callable[..., Comparison]:
    """Builds a comparison with all its parts."""

    def build(num_recipes: int = 3, num_seeds: int = 3, **classes: tuple[str, ...]) -> Comparison:
        of = Invented(num_recipes, num_seeds, classes.get("classes", CIFAR10))
        labels = of.labels
        lost_more = Degradation(0.01, 0.0, 0.02)
        alone = tuple(int(n) for n in of.random.integers(0, 300, len(labels)))
        return Comparison(
            title="CIFAR-10: " + ", ".join(MODELS),
            banner=None,
            verdict=("The first sentence.", "The second.", "The third."),
            cautions=("The first caution.", "The second."),
            differing=(Setting("optim.lr", tuple("0.001" for _ in of.recipes)),),
            rows=tuple(map(of.row, labels)),
            recipes=tuple(map(of.recipe, of.recipes)),
            network_pairs=of.pairs(labels, 1, "Do these trained networks differ?"),
            recipe_pairs=of.pairs(of.recipes, 3, "Do the recipes differ, if trained again?"),
            curves=tuple(map(of.curve, labels)),
            image_types=tuple(map(of.image_types, labels)),
            losses=Losses(
                ("What is lost where.",),
                tuple(
                    LostMore(a, b, 1000, dict.fromkeys(("noise", OVERALL), lost_more))
                    for a, b in pairwise(labels)
                ),
            ),
            slices=tuple(map(of.slices, labels)),
            agreement=Agreement(tuple(labels), NUM_TEST, 7012, 214, alone)
            if len(labels) > 1
            else None,
            gallery=Gallery(
                tuple(of.picture(labels) for _ in range(6)),
                214,
                tuple(of.picture(labels[:1]) for _ in range(12)),
            ),
            study=Study(("The finding.",)),
            grad_cams=tuple(GradCam(label, png()) for label in labels[:2]),
            problems=(Problem("logs/cifar10/broken", "running: it has no predictions yet"),),
            origins=tuple(map(of.origin, labels)),
            command="python compare.py runs=logs",
            made_at="2026-11-23 00:12 UTC",
            version="0.1.0",
        )

    return build
