"""How networks were tuned: what each search spent, and what such a budget gives in validation.

Scores of trials chose settings, so they are nobody's results.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, combinations
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.config import TEXT, Rule, one_of
from triptych.errors import UserError
from triptych.runs.reader import FINITE, MAPPING, MEASURED
from triptych.tools.compare.content import Section, Tested
from triptych.tools.compare.formats import fixed, interval, join_words, percent, pluralize
from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import Problem, TrainedNetwork, read_entries, read_optional
from triptych.tools.compare.searches import Search, find_search
from triptych.tools.report import charts
from triptych.tools.report.charts import Axis, Chart, Series, make_chart
from triptych.tools.statistics.best_of_trials import best_beats, expected_best, median_best
from triptych.tools.statistics.inference import MIN_SEEDS

Numbers = NDArray[np.float64]
SPENT: dict[str, Rule] = {
    **dict.fromkeys(("search_hash", "trials_sha256"), TEXT),
    **{"direction": one_of("maximize", "minimize"), "space": MAPPING},
}
TRIAL: dict[str, Rule] = {"state": TEXT, "score": FINITE.or_null(), "seconds": MEASURED}
IN_PERCENT = ("accuracy", "f1", "precision", "recall", "ap")
MAX_NAMES = 4  # of recipes in a sentence
MAX_PAIRS = 10


class Study(NamedTuple):
    """What a search left: (B,) of its trials that ended, in order. One that was ended early has its
    last score, one that never had any the worst of the others."""

    scores: Numbers  # negated where less is better
    seconds: Numbers
    num_pruned: int
    sign: int  # -1 where less is better
    space: tuple[str, ...]  # the settings that it varied


class Curve(NamedTuple):
    """The best of k trials, and the interval of its median, NaN where it is open or unknown."""

    k: NDArray[np.int64]
    hours: Numbers  # that k trials take
    best: Numbers
    low: Numbers
    high: Numbers


@dataclass(frozen=True)
class TunedRecipe:
    """A recipe whose settings were searched: its searches of one kind, and their studies."""

    label: str
    first: str  # the label of its first network
    searches: tuple[Search, ...]
    studies: tuple[Study, ...]  # those that can be read

    @property
    def search(self) -> Search:
        return self.searches[0]

    @property
    def is_random(self) -> bool:
        return self.search.sampler == "random"

    @property
    def in_percent(self) -> bool:
        return self.search.monitor.rpartition("/")[2] in IN_PERCENT

    @property
    def hours(self) -> float:
        return sum(search.seconds for search in self.searches) / 3600

    @cached_property
    def scores(self) -> Numbers:
        return np.concatenate([study.scores for study in self.studies])

    @cached_property
    def curves(self) -> list[Curve]:
        """One of all random trials; of others the best so far of each search."""
        if not self.is_random:
            return [trace_best(study) for study in self.studies]
        if not self.studies:
            return []
        seconds = float(np.concatenate([study.seconds for study in self.studies]).mean())
        return [expect_best(self.scores, self.studies[0].sign, seconds)]

    @property
    def num_bounded(self) -> int:
        """The most random trials whose median best has an interval."""
        return sum(int(np.isfinite(curve.low).sum()) for curve in self.curves)

    def describe(self) -> dict[str, Any]:
        return {
            "recipe": self.label,
            "budget": self.search.budget,
            "curves": [{n: v.tolist() for n, v in each._asdict().items()} for each in self.curves],
            "searches": [search._asdict() for search in self.searches],
        }


def trace_best(study: Study) -> Curve:
    best = study.sign * np.maximum.accumulate(study.scores)
    k, unknown = np.arange(1, len(best) + 1), np.full(len(best), np.nan)
    return Curve(k, study.seconds.cumsum() / 3600, best, unknown, unknown)


def expect_best(scores: Numbers, sign: int, seconds: float) -> Curve:
    """Of random trials, of which one takes so long on average."""
    k = np.arange(1, len(scores) + 1)
    best = np.array([expected_best(scores, each) for each in k.tolist()])
    bounds = np.array([median_best(scores, each)[1:] for each in k.tolist()])
    bounds[np.isinf(bounds).any(axis=1)] = np.nan
    low, high = np.sort(sign * bounds).T
    return Curve(k, k * seconds / 3600, sign * best, low, high)


@dataclass(frozen=True, kw_only=True)
class Tuning(Section):
    heading: ClassVar[str] = "Tuning"
    about: ClassVar[str] = (
        "Settings were chosen by these scores of validation images, so the best of them promises "
        "too much: none is a result. The line of random trials (of all whole searches together) "
        "is the expected best of k trials, drawn without replacement. Its band is the exact 95 % "
        "interval of the median best; it ends at about a fifth of the trials, for they do not "
        "bound the best of more. Its hours are those of k trials of mean length."
    )
    tuned: Sequence[TunedRecipe]
    untuned: Sequence[str]
    notes: Sequence[str]

    def draw(self, styles: Mapping[str, int]) -> list[Chart]:
        """A chart by trials and one by time, for each score that trials were chosen by."""
        monitors = dict.fromkeys(recipe.search.monitor for recipe in self.tuned if recipe.curves)
        return [
            draw_curves([r for r in self.tuned if r.search.monitor == name], name, x, styles)
            for name in monitors
            for x in ("trials", "hours")
        ]

    def describe(self) -> dict[str, Any]:
        return {
            "recipes": [recipe.describe() for recipe in self.tuned],
            "not_tuned": [*self.untuned],
            "equal_budgets": len({recipe.search.budget for recipe in self.tuned}) == 1,
        }


def draw_curves(
    tuned: Sequence[TunedRecipe], monitor: str, x: str, styles: Mapping[str, int]
) -> Chart:
    series = []
    for recipe in tuned:
        style = styles.get(recipe.first)
        for curve in recipe.curves:
            along = curve.hours if x == "hours" else curve.k.astype(np.float64)
            series.append(
                Series(style, along, curve.best, curve.low, curve.high, label=recipe.label)
            )
    words = f"Best {monitor} by {x}, of {pluralize(len(tuned), 'recipe')}"
    kind = "percent" if tuned[0].in_percent else "number"
    axes = Axis(x, "count" if x == "trials" else "number"), Axis(monitor, kind)
    return make_chart(f"Best {monitor} by {x}", words, charts.draw_bands, series, *axes)


def build(tested: Tested) -> Tuning | None:
    """None where no recipe was tuned."""
    recipes = [(recipe, find_tuned(recipe, tested.problems)) for recipe in tested.recipes]
    tuned = [found for _, found in recipes if found]
    untuned = [recipe.label for recipe, found in recipes if not found]
    if not tuned:
        return None
    return Tuning(
        sentences=(*compare_budgets(tuned, untuned), *claim(tuned)),
        tuned=tuned,
        untuned=untuned,
        notes=[*chain.from_iterable(map(describe_curve, tuned)), *compare_best(tuned)],
    )


def find_tuned(recipe: Recipe, problems: list[Problem]) -> TunedRecipe | None:
    """The searches of its networks that are like the first, and the studies that `tune` left."""
    found = {search: run for run in recipe.networks if (search := find_search(run))}
    alike = {s: run for s, run in found.items() if s.search_hash == next(iter(found)).search_hash}
    studies = (read_optional(partial(read_study, s), run, problems) for s, run in alike.items())
    known = tuple(study for study in studies if study)
    return TunedRecipe(recipe.label, recipe.first.label, (*alike,), known) if alike else None


def read_study(search: Search, network: TrainedNetwork) -> Study | None:
    """Of `tune/<study>` beside the folders of runs; None without a score. Raises UserError where it
    is gone, broken, or of another search."""
    places = [parent / "tune" / search.study for parent in network.folder.absolute().parents[:5]]
    folder = next((place for place in places if (place / "spent.json").is_file()), None)
    if folder is None:
        raise UserError(f"tuned by study {search.study}, whose spent.json is gone: no curve of it")
    [spent] = read_entries(folder / "spent.json", SPENT) or [{}]
    if spent["search_hash"] != search.search_hash:
        raise UserError(f"{folder}: its settings or its budget are not those that tuned this run")
    rows = read_entries(table := folder / "trials.csv", TRIAL)
    if rows is None or hashlib.sha256(table.read_bytes()).hexdigest() != spent["trials_sha256"]:
        raise UserError(f"{table}: is not as tune wrote it: no curve of it")
    ended = [row for row in rows if row["state"] in ("complete", "pruned")]
    sign = -1 if spent["direction"] == "minimize" else 1
    scores = sign * np.array([row["score"] for row in ended], dtype=np.float64)
    if np.isnan(scores).all():
        return None
    return Study(
        scores=np.nan_to_num(scores, nan=np.nanmin(scores)),
        seconds=np.array([row["seconds"] for row in ended]),
        num_pruned=sum(row["state"] == "pruned" for row in ended),
        sign=sign,
        space=tuple(spent["space"]),
    )


def compare_budgets(tuned: Sequence[TunedRecipe], untuned: Sequence[str]) -> Iterator[str]:
    """In what tuning was not the same for all."""
    names = [recipe.label for recipe in tuned]
    if untuned:
        yield (
            f"Tuned by a search: {join_words(names, MAX_NAMES)}. No search is recorded of "
            f"{join_words(untuned, MAX_NAMES)}: tuning may cause their difference."
        )
    if len({recipe.search.budget for recipe in tuned}) > 1:
        budgets = [f"{recipe.search.budget} ({recipe.label})" for recipe in tuned]
        yield f"Searches had unequal budgets: {join_words(budgets, MAX_NAMES)}."
    if len({recipe.search.space_hash for recipe in tuned}) > 1:
        yield "The searches did not vary the same settings within the same ranges."
    if len({(recipe.search.sampler, recipe.search.monitor) for recipe in tuned}) > 1:
        yield "The searches differ in their sampler, or in the score that they went by."


def claim(tuned: Sequence[TunedRecipe]) -> Iterator[str]:
    """What differences between tuned recipes are statements of."""
    several = [recipe for recipe in tuned if len(recipe.searches) >= MIN_SEEDS]
    single = [recipe.label for recipe in tuned if recipe not in several]
    if several:
        budgets = join_words([*dict.fromkeys(recipe.search.budget for recipe in several)])
        yield (
            f"Each run of {join_words([each.label for each in several], MAX_NAMES)} is the winner "
            f"of a whole search: results hold for networks tuned with {budgets}, not for one "
            "setting."
        )
    if single:
        yield (
            f"Results of {join_words(single, MAX_NAMES)} hold for the settings found, not for the "
            "network tuned with this budget: read so, equal networks differ in 10 to 17 % of "
            f"comparisons instead of 5 %. Claims about networks take {MIN_SEEDS} whole searches "
            f"(triptych tune searches={MIN_SEEDS})."
        )


def describe_curve(recipe: TunedRecipe) -> Iterator[str]:
    """What a recipe's line says, and what it leaves out."""
    label, monitor = recipe.label, recipe.search.monitor
    if recipe.studies and not recipe.is_random:
        yield (
            f"{label}: the sampler chose each trial by those before it, so its line is the best so "
            "far of one search, without an interval; sampler=random gives one."
        )
    if k := recipe.num_bounded:
        sign = recipe.studies[0].sign
        value, *bounds = median_best(recipe.scores, k)
        low, high = sorted(sign * each for each in bounds)
        write, unit = (percent, " %") if recipe.in_percent else (fixed, "")
        yield (
            f"With {pluralize(k, 'random trial')} the median best {monitor} of {label} is "
            f"{write(sign * value)}{unit} (95 % {interval(low, high, write)})."
        )
    if num_pruned := sum(study.num_pruned for study in recipe.studies):
        yield (
            f"{label}: {num_pruned} of {len(recipe.scores)} trials were ended early. They count "
            "with their last score, or the worst of all if they had none: trained to the end they, "
            "and the line, may have been better."
        )


def compare_best(tuned: Sequence[TunedRecipe]) -> Iterator[str]:
    """Of pairs by random trials, each by as many as have an interval of their best."""
    random = [recipe for recipe in tuned if recipe.num_bounded]
    pairs = [(a, b) for a, b in combinations(random, 2) if a.search.monitor == b.search.monitor]
    for a, b in pairs[:MAX_PAIRS]:
        k = min(a.num_bounded, b.num_bounded)
        chance = f"beats that of {b.label} with chance {best_beats(a.scores, b.scores, k):.2f}"
        yield f"In validation the best of {pluralize(k, 'trial')} of {a.label} {chance}."
