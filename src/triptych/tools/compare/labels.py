"""Runs with any number of labels an image, compared by their mean average precision.

Recipes, pairs and their adjustment are as for one label an image; intervals and p values are from
a bootstrap over images, the same resamples for every network.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from triptych.errors import UserError
from triptych.runs.multilabel import LabelScores, score_labels
from triptych.runs.predictions import MULTILABEL, MultilabelPredictions, read_predictions
from triptych.runs.reader import read_finished, sanitize
from triptych.runs.record import Record
from triptych.tools.compare import content, formats, sentences
from triptych.tools.compare.content import BaseComparison, Pair, Pairs, Question
from triptych.tools.compare.formats import percent, pluralize
from triptych.tools.compare.pairs import adjust, choose_pairs
from triptych.tools.compare.recipes import Recipe, group_by_recipe, name_classes
from triptych.tools.compare.runs import FRACTION, Problem, TrainedNetwork, check_logged
from triptych.tools.statistics.average_precision import bootstrap_ap, estimate_ap
from triptych.tools.statistics.crossed import Estimate
from triptych.tools.statistics.inference import MIN_SEEDS, WithInterval

OF_ONE_LABEL = ("ece", "paper_f1", "paper_precision", "paper_recall")
COLUMNS = [name for name in content.COLUMNS if name not in OF_ONE_LABEL]  # of comparison.csv
COLUMNS[COLUMNS.index("accuracy") : COLUMNS.index("accuracy")] = ["ap", "ap_low", "ap_high"]


@dataclass(frozen=True, eq=False)
class LabelNetwork(TrainedNetwork):
    """A finished run of any number of labels an image."""

    test: MultilabelPredictions
    scores: LabelScores  # type: ignore[assignment]

    @property
    def ap(self) -> float:
        return self.scores.values["ap"]

    @property
    def val_score(self) -> float | None:
        """Its mean average precision in validation."""
        value = self.metadata["metrics"].get("val/ap")
        return value if FRACTION.holds(value) else None

    @cached_property
    def draws(self) -> NDArray[np.float64]:
        """The mean average precision on resamples of the images, (R,)."""
        return bootstrap_ap(self.test)


@dataclass(frozen=True, kw_only=True)
class LabelComparison(BaseComparison):
    """Of any number of labels an image."""

    ap: Mapping[str, WithInterval]  # by the label of each recipe and each network
    columns = COLUMNS  # `accuracy` is the share of images of which every label is right

    def list_scores(self, network: TrainedNetwork) -> dict[str, float]:
        values = cast("LabelNetwork", network).scores.values
        _, low, high = self.ap[network.label]
        bounds = {"ap_low": low, "ap_high": high} if low == low else {}
        return {**values, "nll": values["loss"], **bounds}

    def estimate(self, recipe: Recipe) -> WithInterval:
        return self.ap[recipe.label]


def are_multilabel(folders: Sequence[Path]) -> bool:
    """Whether all of the runs have any number of labels an image."""
    tasks = set()
    for folder in folders:
        with suppress(UserError):  # it is named when it is read
            tasks.add(Record.open(folder).metadata.get("task"))
    return tasks == {MULTILABEL}


def read_run(folder: Path) -> LabelNetwork:
    """Read a run folder; raises UserError where it is not finished or contradicts itself."""
    record = read_finished(folder)
    metadata = sanitize(record.metadata)
    test = read_predictions(folder / "predictions" / "test.npz", metadata["task"])
    if not isinstance(test, MultilabelPredictions):
        raise UserError(f"{folder}: one label an image; compare such runs by themselves")
    scores = score_labels(test)
    names = ("accuracy", "loss", "ap", "f1", "precision", "recall")
    check_logged(metadata, test.num_classes, {name: scores.values[name] for name in names})
    return LabelNetwork(folder, metadata, sanitize(record.config), test, scores, metadata["model"])


def list_networks(recipe: Recipe) -> tuple[LabelNetwork, ...]:
    return cast("tuple[LabelNetwork, ...]", recipe.networks)


def build_comparison(read: Sequence[TrainedNetwork], problems: list[Problem]) -> LabelComparison:
    recipes = name_classes(group_by_recipe(read))
    each = [recipe.take(n) for recipe in recipes for n in range(len(recipe.networks))]
    ap = {recipe.label: give_interval(estimate(recipe), 0.0) for recipe in (*recipes, *each)}
    recipes.sort(key=lambda recipe: -ap[recipe.label].value)
    tables = [
        compare_recipes([recipe for recipe in recipes if recipe.has_enough_seeds]),
        compare_recipes([recipe.take(0) for recipe in recipes]),
    ]
    described = write_precision(recipes[0], ap)
    common = sentences.describe_runs(read, recipes, problems, Question("ap"), tables, described)
    return LabelComparison(**common, verdict=write_summary(recipes, ap, tables), ap=ap)


def estimate(*recipes: Recipe) -> Estimate:
    """The mean over seeds of a recipe, or the difference of a first and a second."""
    groups = [list_networks(recipe) for recipe in recipes]
    seeds = [np.array([network.ap for network in group]) for group in groups]
    means = [each.mean() for each in seeds]
    draws = [np.mean([network.draws for network in group], axis=0) for group in groups]
    value, drawn = (each[0] - each[1] if len(each) == 2 else each[0] for each in (means, draws))
    repeated = [each for each in seeds if len(each) >= MIN_SEEDS]
    num_units = recipes[0].first.num_groups or recipes[0].first.num_test
    found = estimate_ap(float(value), drawn, num_units, repeated)
    if any(len(each) == 2 for each in seeds):  # their scatter says too little
        found = found._replace(variance=np.inf)
    return found


def give_interval(estimate: Estimate, least: float, bounds: Sequence[float] = ()) -> WithInterval:
    """With its 95 % interval, or these `bounds`, from `least` to 1; without, where nothing says how
    the value scatters."""
    if not np.isfinite(estimate.standard_error):
        return WithInterval(estimate.value)
    low, high = bounds or estimate.interval()
    return WithInterval(estimate.value, max(low, least), min(high, 1.0))


def compare_recipes(recipes: Sequence[Recipe]) -> Pairs:
    """All that can be compared, or of many each with the best in validation."""
    twos, limit, is_validated = choose_pairs(recipes)
    estimates = [estimate(*two) for two in twos]
    pairs = []
    for (a, b), found, test in zip(twos, estimates, adjust(estimates), strict=True):
        difference = give_interval(found, -1.0, test.difference[1:])
        num_seeds = (len(a.networks), len(b.networks))
        fields = (a.label, b.label, a.first.num_test, num_seeds, difference)
        num_groups = a.first.num_groups
        pairs.append(
            Pair(*fields, *test[1:], measure=content.MEASURES["ap"], num_groups=num_groups)
        )
    return Pairs(sentences.add_sentences(pairs), len(recipes), limit, is_validated)


def write_summary(
    recipes: Sequence[Recipe], ap: Mapping[str, WithInterval], tables: Sequence[Pairs]
) -> tuple[str, ...]:
    """What was compared, how well each ranks its labels, and which differences are significant."""
    sizes = sorted({(recipe.first.num_test, recipe.first.num_groups or 0) for recipe in recipes})
    images = formats.join_words([formats.count_images(*each, "image") for each in sizes])
    lines = [f"Evaluated on {images} with any number of labels; every image counts once."]
    lines += [write_precision(recipe, ap) for recipe in recipes[: sentences.MAX_SENTENCES]]
    for table in tables:
        lines += [pair.sentence for pair in table.pairs[: sentences.MAX_SENTENCES]]
    return tuple(lines)


def write_precision(recipe: Recipe, ap: Mapping[str, WithInterval]) -> str:
    value, low, high = ap[recipe.label]
    bounds = f"95 % bootstrap interval {formats.interval(low, high)} %"
    seeds = pluralize(len(recipe.networks), "seed")
    how = f"{seeds}; {bounds if low == low else 'no interval'}"
    return f"{recipe.label}: mean average precision {percent(value)} % ({how})."
