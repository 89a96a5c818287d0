"""How networks were tuned: what each search spent, and what such a budget gives in validation.

Inside, scores of trials are negated where less is better. They chose settings: nobody's results.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.config import TEXT, Rule, one_of
from triptych.errors import UserError
from triptych.runs.reader import FINITE, MAPPING, MEASURED
from triptych.runs.storage import replace_non_finite
from triptych.tools.compare.content import Section, Tested
from triptych.tools.compare.formats import fixed, interval, join_words, percent, pluralize
from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import Problem, TrainedNetwork, read_entries, read_optional
from triptych.tools.compare.searches import Search, find_search
from triptych.tools.report import charts
from triptych.tools.report.charts import Axis, Series, render_chart
from triptych.tools.report.page import Panel
from triptych.tools.statistics.best_of_trials import best_beats, expected_best, median_best
from triptych.tools.statistics.inference import MIN_SEEDS

Numbers = NDArray[np.float64]
SPENT: dict[str, Rule] = {
    **dict.fromkeys(("search_hash", "trials_sha256"), TEXT),
    **{"direction": one_of("maximize", "minimize"), "budget": MAPPING, "space": MAPPING},
}
TRIAL: dict[str, Rule] = {"state": TEXT, "score": FINITE.or_null(), "seconds": MEASURED.or_null()}
ENDED = ("complete", "pruned")
IN_PERCENT = ("accuracy", "f1", "precision", "recall", "ap")
MAX_POINTS = 200  # of a curve
MAX_NAMES = 4  # of recipes in a sentence
MAX_PAIRS = 10


class Study(NamedTuple):
    """What a search left: (B,) of its trials in order. One that was ended early has its last score,
    one that never had any the worst of the others."""

    scores: Numbers
    seconds: Numbers
    num_pruned: int
    num_unknown: int
    sign: int  # -1 where less is better
    space: tuple[str, ...]  # the settings that it varied
    budget_seconds: float | None


class Curve(NamedTuple):
    """The best of k trials, and the interval of its median, NaN where it is open or unknown."""

    k: Numbers
    best: Numbers
    low: Numbers
    high: Numbers


@dataclass(frozen=True)
class TunedRecipe:
    """A recipe whose settings were searched: the searches of its networks, and their studies."""

    label: str
    first: str  # the label of its first network
    searches: tuple[Search, ...]
    studies: tuple[Study, ...]  # those that can be read; together their trials are of one kind

    @property
    def search(self) -> Search:
        return self.searches[0]

    @property
    def is_random(self) -> bool:
        return self.search.sampler == "random"

    @property
    def hours(self) -> float:
        return sum(search.seconds for search in self.searches) / 3600

    @property
    def budget(self) -> str:
        """Of each search: the seconds that it was given, or else the trials that it took."""
        seconds = {s.budget_seconds for s in self.studies if s.budget_seconds}
        trials = sorted({search.num_trials for search in self.searches})
        numbers = " or ".join(f"{each:g}" for each in (sorted(seconds) or trials))
        return f"{numbers} {'seconds' if seconds else 'trials'}"

    @cached_property
    def scores(self) -> Numbers:
        return np.concatenate([study.scores for study in self.studies])

    @cached_property
    def curves(self) -> list[Curve]:
        """One of all random trials; of others the best so far of each search."""
        if not self.studies:
            return []
        sign, total = self.studies[0].sign, len(self.scores)
        if not self.is_random:
            best = [np.maximum.accumulate(study.scores) for study in self.studies]
            unknown = [np.full(len(each), np.nan) for each in best]
            lines = zip(best, unknown, strict=True)
            return [Curve(np.arange(1.0, len(b) + 1), sign * b, none, none) for b, none in lines]
        k = np.unique(np.linspace(1, total, min(total, MAX_POINTS)).round())
        expected = np.array([expected_best(self.scores, int(each)) for each in k])
        bounds = np.array([median_best(self.scores, int(each))[1:] for each in k])
        bounds[~np.isfinite(bounds).all(axis=1)] = np.nan
        return [Curve(k, sign * expected, *(sign * bounds.T[::sign]))]

    @property
    def num_bounded(self) -> int:
        """The most random trials whose median best has an interval."""
        return int(max((c.k[np.isfinite(c.low)].max(initial=0) for c in self.curves), default=0))

    def describe(self) -> dict[str, Any]:
        curves = [{n: v.tolist() for n, v in curve._asdict().items()} for curve in self.curves]
        for curve in curves:
            curve["k"] = [*map(int, curve["k"])]
        about = {"recipe": self.label, "budget": self.budget, "curves": replace_non_finite(curves)}
        return about | {"searches": [search._asdict() for search in self.searches]}


@dataclass(frozen=True, kw_only=True)
class Tuning(Section):
    heading: ClassVar[str] = "Tuning"
    about: ClassVar[str] = (
        "Scores of validation images, by which settings were chosen: the best of them promises too "
        "much, so none is a result. Of random trials, of all whole searches together, a line is "
        "the expected best of k, drawn without replacement, and its band the exact 95 % interval "
        "of the median best, which ends where the trials bound it no longer (beyond a fifth of "
        "them). Hours are those of k trials of mean length."
    )
    tuned: Sequence[TunedRecipe]
    untuned: Sequence[str]
    notes: Sequence[str]

    def draw(self, styles: Mapping[str, int]) -> list[Panel]:
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
            "equal_budgets": len({recipe.budget for recipe in self.tuned}) == 1,
        }


def draw_curves(
    tuned: Sequence[TunedRecipe], monitor: str, x: str, styles: Mapping[str, int]
) -> Panel:
    series = []
    for recipe in tuned:
        seconds = [study.seconds for study in recipe.studies]
        scale = np.mean(np.concatenate(seconds)) / 3600 if seconds and x == "hours" else 1.0
        style = styles.get(recipe.first)
        series += [Series(style, scale * curve.k, *curve[1:]) for curve in recipe.curves]
    words = f"Best {monitor} by {x}, of {pluralize(len(tuned), 'recipe')}"
    kind = "percent" if monitor.rpartition("/")[2] in IN_PERCENT else "number"
    axes = Axis(x, "count" if x == "trials" else "number"), Axis(monitor, kind)
    chart = render_chart(f"tuning {monitor} {x}", words, charts.draw_bands, series, *axes)
    return Panel(f"Best {monitor} by {x}", chart)


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
    """The searches of its networks, and their studies where `tune` left them."""
    found: dict[Search, TrainedNetwork] = {}
    for network in recipe.networks:
        if search := find_search(network):
            found.setdefault(search, network)
    if not found:
        return None
    alike = [search for search in found if search.search_hash == next(iter(found)).search_hash]
    studies = [read_optional(read_study, found[search], problems) for search in alike]
    known = tuple(study for study in studies if study)
    return TunedRecipe(recipe.label, recipe.first.label, tuple(alike), known)


def read_study(network: TrainedNetwork) -> Study | None:
    """Of `tune/<study>` beside the folders of runs; None without a score. Raises UserError where it
    is gone, broken, or of another search."""
    search = find_search(network)
    assert search
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
    return make_study(spent, [row for row in rows if row["state"] in ENDED])


def make_study(spent: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Study | None:
    sign = -1 if spent["direction"] == "minimize" else 1
    columns = ([row[name] for row in rows] for name in ("score", "seconds"))
    scores, seconds = (np.array(column, dtype=np.float64) for column in columns)
    unknown = np.isnan(scores)
    if unknown.all():
        return None
    scores[unknown] = sign * (sign * scores[~unknown]).min()
    budget = spent["budget"].get("seconds")
    return Study(
        scores=sign * scores,
        seconds=np.nan_to_num(seconds),
        num_pruned=sum(row["state"] == "pruned" for row in rows),
        num_unknown=int(unknown.sum()),
        sign=sign,
        space=tuple(map(str, spent["space"])),
        budget_seconds=budget if MEASURED.holds(budget) else None,
    )


def compare_budgets(tuned: Sequence[TunedRecipe], untuned: Sequence[str]) -> Iterator[str]:
    """In what tuning was not the same for all."""
    names = [recipe.label for recipe in tuned]
    if untuned:
        yield (
            f"Tuned by a search: {join_words(names, MAX_NAMES)}; not by one on record: "
            f"{join_words(untuned, MAX_NAMES)}. A difference between them may be one of tuning."
        )
    if len({recipe.budget for recipe in tuned}) > 1:
        spent = [f"{recipe.label} by {recipe.budget}" for recipe in tuned]
        yield f"The budgets of tuning are unequal: {join_words(spent, MAX_NAMES)} a search."
    if len({recipe.search.space_hash for recipe in tuned}) > 1:
        yield "The searches varied other settings, or the same ones within other ranges."
    if len({(recipe.search.sampler, recipe.search.monitor) for recipe in tuned}) > 1:
        yield "The searches differ in their sampler, or in the score that they went by."


def claim(tuned: Sequence[TunedRecipe]) -> Iterator[str]:
    """What differences between tuned recipes are statements of."""
    several = [recipe for recipe in tuned if len(recipe.searches) >= MIN_SEEDS]
    single = [recipe.label for recipe in tuned if recipe not in several]
    if several:
        budgets = join_words([*dict.fromkeys(recipe.budget for recipe in several)])
        yield (
            f"Each network of {join_words([each.label for each in several], MAX_NAMES)} is the "
            "winner of a whole search, trained anew: what is said of them is of networks tuned "
            f"with {budgets}, not of one setting."
        )
    if single:
        yield (
            f"What is said of {join_words(single, MAX_NAMES)} is of the settings that were found, "
            "not of the network so tuned: of equal ones it would tell 10 to 17 % apart. That takes "
            f"the winners of {MIN_SEEDS} whole searches (triptych tune searches={MIN_SEEDS})."
        )


def describe_curve(recipe: TunedRecipe) -> Iterator[str]:
    """What a recipe's line says, and what it leaves out."""
    if not recipe.studies:
        return
    label, monitor, total = recipe.label, recipe.search.monitor, len(recipe.scores)
    if not recipe.is_random:
        yield (
            f"{label}: its sampler chose each trial by those before, so a line is the best so far "
            "of one search, without an interval; sampler=random gives one."
        )
    elif k := recipe.num_bounded:
        median = median_best(recipe.scores, k)
        in_percent = monitor.rpartition("/")[2] in IN_PERCENT
        write, unit = (percent, " %") if in_percent else (fixed, "")
        sign = recipe.studies[0].sign
        low, high = sorted(sign * each for each in median[1:])
        yield (
            f"With {pluralize(k, 'random trial')} the median best {monitor} of {label} is "
            f"{write(sign * median.value)}{unit} (95 % {interval(low, high, write)})."
        )
    for number, what in (
        (sum(study.num_pruned for study in recipe.studies), "were ended early, with their last"),
        (sum(study.num_unknown for study in recipe.studies), "had no score, with the worst"),
    ):
        if number:
            yield f"{label}: {number} of {total} trials {what}: its line is a bound, no estimate."


def compare_best(tuned: Sequence[TunedRecipe]) -> Iterator[str]:
    """Of pairs by random trials, each by as many as have an interval of their best."""
    random = [recipe for recipe in tuned if recipe.num_bounded]
    pairs = [(a, b) for a, b in combinations(random, 2) if a.search.monitor == b.search.monitor]
    for a, b in pairs[:MAX_PAIRS]:
        k = min(a.num_bounded, b.num_bounded)
        chance = f"beats that of {b.label} with chance {best_beats(a.scores, b.scores, k):.2f}"
        yield f"In validation the best of {pluralize(k, 'trial')} of {a.label} {chance}."
