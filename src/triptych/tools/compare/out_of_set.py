"""Images of none of the classes: how many of them a network would answer, by its own threshold.

Shapes: N images of such a set, C classes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from triptych.config import TEXT, count
from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_arrays, read_validation
from triptych.runs.reader import sanitize
from triptych.tools.compare.content import describe
from triptych.tools.compare.formats import DASH, fixed, interval, percent, pluralize, rate
from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import Problem, TrainedNetwork, read_entries, read_optional
from triptych.tools.statistics.inference import WithInterval
from triptych.tools.statistics.out_of_set import DOUBTS, Separation, separate

ABOUT = {"name": TEXT, "digest": TEXT, "num_images": count(1)}


class Measured(NamedTuple):
    """A network on one set."""

    name: str
    digest: str  # the same for the same images
    num_images: int
    separations: tuple[Separation, ...]  # of DOUBTS, the first what `predict` rejects by


def read_measured(folder: Path, name: str, test: Predictions, keep: float) -> Measured:
    """What `evaluate` left of a set; raises UserError in one line where it is not that, or without
    the validation images that thresholds are of."""
    val, path = read_validation(folder, test.num_classes), folder / "ood" / f"{name}.json"
    [about] = read_entries(path, ABOUT) or [{}]
    logits = read_arrays(path.with_suffix(".npz"), ("logits",))["logits"]
    is_alike = logits.shape == (about.get("num_images"), test.num_classes)
    if not is_alike or logits.dtype != np.float32 or not np.isfinite(logits).all():
        raise UserError(f"{path}: not of the file beside it; run evaluate.py again")
    each = (separate(s, val.logits, test.logits, logits, keep, test.groups) for s in DOUBTS)
    return Measured(**about, separations=tuple(each))


class Separated(NamedTuple):
    """A recipe on one set: the first network measured, and the AUROCs of all, (seeds, scores)."""

    recipe: str
    network: str
    measured: Measured
    aurocs: Sequence[Sequence[float]]

    def write_ends(self, score: int) -> str:
        """The least and the greatest over seeds."""
        values = [each[score] for each in self.aurocs]
        return interval(min(values), max(values), fixed, 3) if len(values) > 1 else DASH


class StrangeSet(NamedTuple):
    name: str
    num_images: int
    keep: float
    rows: Sequence[Separated]  # in the order of the recipes

    def describe(self) -> dict[str, Any]:
        """For verdict.json."""
        rows = [
            {
                **{"recipe": row.recipe, "network": row.network, "auroc_of_seeds": row.aurocs},
                "scores": describe(row.measured.separations),
            }
            for row in self.rows
        ]
        about = {"name": self.name, "num_images": self.num_images, "keep": self.keep}
        return about | {"digest": self.rows[0].measured.digest, "recipes": rows}

    def write_sentence(self, recipe: str) -> str:
        """Of this recipe, or else of the first."""
        row = next((row for row in self.rows if row.recipe == recipe), self.rows[0])
        _, auroc, _, accepted = row.measured.separations[0]
        return (
            f"Of {pluralize(self.num_images, 'image')} of {self.name}, which belong to none of its "
            f"classes, {row.network} would answer {write_share(accepted)} when it answers "
            f"{rate(self.keep)} of its own: AUROC {write_auroc(auroc)}."
        )


def write_share(share: WithInterval) -> str:
    return f"{percent(share.value, 1)} % ({interval(share.low, share.high, digits=1)})"


def write_auroc(auroc: WithInterval) -> str:
    return f"{auroc.value:.3f} ({interval(auroc.low, auroc.high, fixed, 3)})"


def list_sets(
    recipes: Sequence[Recipe], keep: float, problems: list[Problem]
) -> Iterator[StrangeSet]:
    """By name, each of the images that most networks were measured on."""
    found = [each for recipe in recipes for each in list_measured(recipe, keep, problems)]
    for name in sorted({measured.name for _, _, measured in found}):
        of_name = [each for each in found if each[-1].name == name]
        [(digest, _)] = Counter(measured.digest for *_, measured in of_name).most_common(1)
        rows = []
        for recipe in recipes:
            own = [(label, each) for of, label, each in of_name if of is recipe]
            same = [(label, each) for label, each in own if each.digest == digest]
            if len(same) < len(own):
                what = f"{recipe.label} was measured on other images of this name"
                place = sanitize(str(recipe.first.folder))
                problems.append(Problem(place, f"left out on {name}: {what}"))
            if same:
                aurocs = [[one.auroc.value for one in each.separations] for _, each in same]
                rows.append(Separated(recipe.label, *same[0], aurocs))
        yield StrangeSet(name, rows[0].measured.num_images, keep, rows)


def list_measured(
    recipe: Recipe, keep: float, problems: list[Problem]
) -> Iterator[tuple[Recipe, str, Measured]]:
    """Each set that lies in the folder of one of its networks, with the label of that network."""
    for network in recipe.networks:
        for path in () if network.is_guest else sorted((network.folder / "ood").glob("*.json")):

            def read(network: TrainedNetwork, name: str = path.stem) -> Measured:
                return read_measured(network.folder, name, network.test, keep)

            if measured := read_optional(read, network, problems):
                yield recipe, network.label, measured
