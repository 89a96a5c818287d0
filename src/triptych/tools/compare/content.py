"""What a comparison says: the one document that page, Markdown and CSV show.

Strings may come out of somebody's run folder: whoever shows them escapes them.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

from triptych.runs.reader import sanitize
from triptych.runs.storage import escape_formulas, replace_non_finite
from triptych.tools.compare import formats
from triptych.tools.compare.pictures import ImageByImage
from triptych.tools.compare.recipes import Recipe, list_differing
from triptych.tools.compare.runs import Curve, ImageTypes, Problem, TrainedNetwork
from triptych.tools.statistics.crossed import crossed_mean
from triptych.tools.statistics.inference import LEVEL, Interval, WithInterval
from triptych.tools.statistics.scores import METRICS

SIGNIFICANT = 0.05
COLUMNS = """
    model weights data seed num_test accuracy accuracy_low accuracy_high f1 precision recall nll ece
    paper_f1 paper_precision paper_recall num_params macs checkpoint_bytes train_images_per_second
    latency_ms_p50 latency_ms_p95 throughput_images_per_second peak_memory_bytes device
    precision_mode folder
""".split()
STUDIED = "cifar10"  # by the reference study


class Cost(NamedTuple):
    """One of the `costs` of a network."""

    name: str
    words: str
    of: Literal["measured_on", "trained_on"] | None = None  # the field that says on what it depends
    unit: str = ""  # to which a prefix may be put
    digits: int | None = None  # decimals; None where it has a prefix instead: 5.61 M
    sign: int = 1  # -1 where more is better
    least: str = ""  # what the verdict says of the best, by names and value; nothing of others


COSTS = (  # in the order in which a reader may choose them
    Cost(
        *("latency_ms_p50", "median latency, ms", "measured_on"),
        digits=2,
        least="shortest median latency at batch 1, {} ({:.1f} ms)",
    ),
    Cost("num_params", "parameters", least="fewest parameters, {} ({:,.0f})"),
    Cost("macs", "MACs an image", least="fewest multiply-accumulates an image, {} ({:,.0f})"),
    Cost("train_seconds", "training, s", "trained_on", digits=0),
    Cost("peak_memory_bytes", "peak memory", "measured_on", "B"),
    Cost("seconds_per_epoch", "seconds an epoch", "trained_on", digits=1),
    Cost("train_images_per_second", "training, images/s", "trained_on", digits=0, sign=-1),
    Cost("latency_ms_p95", "95th percentile of latency, ms", "measured_on", digits=2),
    Cost(
        *("throughput_images_per_second", "throughput, images/s", "measured_on"),
        digits=0,
        sign=-1,
        least="highest throughput, {} ({:,.0f} images/s)",
    ),
    Cost("checkpoint_bytes", "checkpoint size", unit="B"),
)


@dataclass(frozen=True)
class Question:
    """What is asked of runs: declared by settings of the command, or by a plan before them."""

    metric: str = "accuracy"  # one of METRICS: the words follow it
    margin: float | None = None  # differences within it do not matter; points as a fraction
    suspects: str | None = None  # a file that lists test images of doubtful truth
    plan: Any = None
    coverage: float = 0.95  # at which sets of classes are to hold the true one
    risk: float = 0.05  # errors among what is answered

    @property
    def measure(self) -> "Measure":
        return MEASURES[self.metric]


AS_USUAL = Question()


class Measure(NamedTuple):
    """A score by which pairs are compared, and what is said of it."""

    name: str
    better: str
    tests: tuple[str, str] = ("t test", "t test")  # of recipes, of networks
    unit: str = "points"  # or that of the score itself
    sign: int = 1  # -1 where less is better

    @property
    def per_unit(self) -> int:
        """By which a margin is typed larger than it is."""
        return 100 if self.unit == "points" else 1

    @property
    def column(self) -> str:
        """The head of a column of scores: accuracy, %."""
        return f"{self.name}, %" if self.unit == "points" else self.name

    def write_score(self, value: float) -> str:
        """A share in percent, without its sign; a loss as it is."""
        return formats.percent(value) if self.unit == "points" else formats.fixed(value, 4)

    def write(self, value: float, digits: int = 2) -> str:
        """A difference with its sign, without its unit."""
        in_points = self.unit == "points"
        return formats.points(value, digits) if in_points else formats.signed(value, digits + 2)

    def write_amount(self, value: float, digits: int = 2) -> str:
        """A difference with its sign and unit: +0.52 points."""
        return f"{self.write(value, digits)} {self.unit}".strip()

    def write_width(self, value: float) -> str:
        """The size of a difference, without a sign."""
        return self.write(value).removeprefix("+")

    def write_interval(self, difference: WithInterval, digits: int = 2) -> str:
        return formats.interval(difference.low, difference.high, self.write, digits)

    def write_score_interval(self, estimate: WithInterval) -> str:
        write = self.write_score
        return formats.interval(estimate.low, estimate.high, lambda bound, _: write(bound))

    def write_margin(self, margin: float) -> str:
        """0.5 points, 1 point."""
        number = f"{self.per_unit * margin:g}"
        return f"{number} {self.unit if number != '1' else self.unit.removesuffix('s')}".strip()


ACCURACY = Measure("accuracy", "more accurate", ("t test", "McNemar"))
MEASURES = {  # by the names of METRICS, and of several labels an image
    "accuracy": ACCURACY,
    "f1": Measure("macro F1", "better in macro F1"),
    "nll": Measure("NLL", "better in NLL (lower)", unit="nats", sign=-1),
    "brier": Measure("Brier score", "better in Brier score (lower)", unit="", sign=-1),
    "ap": Measure(
        *("mean average precision", "higher in mean average precision"),
        tests=("paired bootstrap", "paired bootstrap"),
    ),
}
Verdict = Literal[
    "a_better", "b_better", "equivalent", "a_not_inferior", "b_not_inferior", "undecided"
]


@dataclass(frozen=True)
class Pair:
    """Two networks, or two recipes, on the same test images."""

    a: str
    b: str
    num_images: int
    num_seeds: tuple[int, int]  # (1, 1) for trained networks
    difference: WithInterval  # value of a minus that of b; simultaneous over the table's pairs
    p: float  # of accuracies of networks exact McNemar, else t
    p_holm: float  # adjusted over the table's pairs: the words of a difference follow it alone
    level: float = LEVEL  # of the interval by itself, over the table's pairs and a plan's looks
    only_a: int | None = None  # images that a alone classifies correctly; None for recipes
    only_b: int | None = None
    f1_difference: WithInterval | None = None  # macro; None for recipes
    sentence: str = ""
    measure: Measure = ACCURACY
    margin: float | None = None
    # That a, and that b, is not worse by the margin; adjusted over the table's pairs, by Holm.
    p_not_inferior: tuple[float, float] = (1.0, 1.0)
    num_groups: int | None = None  # of the images, where they belong together
    costs: tuple[str, str] = ("", "")  # those of a as shares of those of b, and the other way

    @property
    def is_significant(self) -> bool:
        return self.p_holm < SIGNIFICANT and self.difference.value != 0

    @property
    def better(self) -> Literal["a", "b"]:
        """The one of the better value, significant or not."""
        return "a" if self.measure.sign * self.difference.value >= 0 else "b"

    @property
    def is_equivalent(self) -> bool:
        """Whether neither is worse by the margin."""
        return max(self.p_not_inferior) < SIGNIFICANT

    @property
    def exceeds_margin(self) -> bool:
        """Whether all of the interval lies beyond the margin."""
        _, low, high = self.difference
        return self.margin is not None and max(low, -high) > self.margin

    @property
    def verdict(self) -> Verdict:
        """The first that holds; each of its three questions has an error of its own."""
        if self.is_significant:
            return "a_better" if self.better == "a" else "b_better"
        if self.is_equivalent:
            return "equivalent"
        if min(self.p_not_inferior) < SIGNIFICANT:
            return "a_not_inferior" if self.better == "a" else "b_not_inferior"
        return "undecided"

    @property
    def p_of_verdict(self) -> float:
        """Of the test that the verdict rests on, adjusted."""
        if self.is_significant or self.verdict == "undecided":
            return self.p_holm
        return (max if self.is_equivalent else min)(self.p_not_inferior)

    @property
    def better_first(self) -> "Pair":
        """As it is read: A is the better one, or of equivalent ones the one that costs less."""
        one_costs_less = bool(self.costs[0]) != bool(self.costs[1])
        by_cost = self.verdict == "equivalent" and one_costs_less
        if bool(self.costs[0]) if by_cost else self.better == "a":
            return self
        f1 = self.f1_difference
        return replace(
            self,
            a=self.b,
            b=self.a,
            only_a=self.only_b,
            only_b=self.only_a,
            num_seeds=self.num_seeds[::-1],
            difference=self.difference.negate(),
            f1_difference=f1 and f1.negate(),
            p_not_inferior=self.p_not_inferior[::-1],
            costs=self.costs[::-1],
        )

    def describe(self) -> dict[str, Any]:
        """For verdict.json."""
        value, low, high = self.difference
        return {
            **{"a": self.a, "b": self.b, "difference": value, "low": low, "high": high},
            **{"p": self.p, "p_adjusted": self.p_holm, "verdict": self.verdict},
            "p_not_inferior": None if self.margin is None else self.p_not_inferior,
            **{"num_seeds": self.num_seeds, "num_images": self.num_images},
            **{"num_groups": self.num_groups, "level": self.level},
        }


class Pairs(NamedTuple):
    """The pairs of one question, and how they were chosen among so many recipes."""

    pairs: tuple[Pair, ...]
    num_recipes: int
    limit: int | None  # of more recipes each was tested against one only
    is_validated: bool  # that one is the best on validation data, else the first by name


def list_untested(
    recipes: Sequence[Recipe], recipe_pairs: Pairs, network_pairs: Pairs
) -> list[Pair]:
    """The pairs of networks of a recipe that is in no pair itself, as of one of few seeds."""
    tested = {label for pair in recipe_pairs.pairs for label in (pair.a, pair.b)}
    others = {recipe.first.label for recipe in recipes if recipe.label not in tested}
    return [pair for pair in network_pairs.pairs if {pair.a, pair.b} & others]


class Headline(NamedTuple):
    """A claim in plain words for the top of the page, its test, and on what images and seeds."""

    text: str
    detail: str = ""
    basis: str = ""


@dataclass(frozen=True)
class LossDifference:
    """How much more accuracy image types cost network a than b, on the same images."""

    a: str
    b: str
    num_images: int
    by_type: Mapping[str, WithInterval]  # of the types of both, then `all`


@dataclass(frozen=True, kw_only=True)
class Section:
    """A topic by itself: templates of its name show it, what it describes is in verdict.json."""

    heading: ClassVar[str]
    sentences: tuple[str, ...] = ()  # of the verdict, after those of pairs

    def describe(self) -> dict[str, Any]:
        """For verdict.json: fractions; NaN becomes null."""
        raise NotImplementedError


def describe(value: Any) -> Any:
    """Named tuples as mappings, for verdict.json."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {name: describe(each) for name, each in value.items()}
    return [*map(describe, value)] if isinstance(value, list | tuple) else value


class Tested(NamedTuple):
    """Recipes and pairs after their tests: what a section is made of.

    `problems` gains what is wrong with files that a section reads.
    """

    recipes: Sequence[Recipe]
    network_pairs: "Pairs"
    recipe_pairs: "Pairs"
    question: Question
    problems: list[Problem]


def rank_pairs(pairs: Iterable[Pair], recipes: Sequence[Recipe]) -> list[Pair]:
    """As they are read: the better one first, those of the best recipes first."""
    places = {name: n for n, r in enumerate(recipes) for name in (r.label, r.first.label)}
    shown = [pair.better_first for pair in pairs]
    return sorted(shown, key=lambda pair: sorted((places.get(pair.a, 0), places.get(pair.b, 0))))


@dataclass(frozen=True, kw_only=True)
class BaseComparison:
    """What `index.html`, `comparison.md` and `comparison.csv` show of runs of any task."""

    title: str
    banner: str | None  # says that what is shown is not comparable
    verdict: tuple[str, ...]  # sentences, the first thing on the page
    cautions: tuple[str, ...]  # sentences: what the figures do not cover
    differing: Mapping[str, tuple[str, ...]]  # settings besides the model: a value a recipe
    recipes: tuple[Recipe, ...]
    network_pairs: Pairs
    recipe_pairs: Pairs
    problems: tuple[Problem, ...]
    command: str  # that made this comparison
    made_at: str
    version: str  # of triptych
    question: Question = AS_USUAL
    sections: Mapping[str, Section] = field(default_factory=dict)
    asked: str = ""  # the question, in one sentence
    answers: tuple[Headline, ...] = ()  # to it: one a pair, or why there is none
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the command, by which it is made
    columns: ClassVar[Sequence[str]] = COLUMNS

    @property
    def networks(self) -> tuple[TrainedNetwork, ...]:
        return tuple(network for recipe in self.recipes for network in recipe.networks)

    @property
    def short_names(self) -> dict[str, str]:
        """Of networks that are all of their recipe its label, where no network is called so."""
        taken = {network.label for network in self.networks}
        alone = (recipe for recipe in self.recipes if len(recipe.networks) == 1)
        return {each.first.label: each.label for each in alone if each.label not in taken}

    @property
    def confounders(self) -> list[str]:
        """Settings that differ between recipes of different models, so besides the model."""
        return [*self.differing] if len({recipe.model for recipe in self.recipes}) > 1 else []

    @property
    def runs(self) -> list[TrainedNetwork]:
        """Those of whose training something is known."""
        return [network for network in self.networks if not network.is_guest]

    @property
    def guests(self) -> list[TrainedNetwork]:
        return [network for network in self.networks if network.is_guest]

    @property
    def has_probabilities(self) -> bool:
        """Whether any network gave more than classes."""
        return any(network.has_probabilities for network in self.networks)

    @property
    def has_groups(self) -> bool:
        """Whether test images of any network belong together."""
        return any(network.num_groups for network in self.networks)

    @property
    def own_metrics(self) -> list[str]:
        """The names of metrics besides, of any of the networks."""
        names = {name for network in self.networks for name in network.own_metrics}
        return sorted(names - {*self.columns})

    def rank_pairs(self, table: Pairs) -> list[Pair]:
        return rank_pairs(table.pairs, self.recipes)

    def list_commands(self) -> list[tuple[str, str, str]]:
        """Of runs that one command trained, apart from the seed: their names, on what, and it."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for recipe in self.recipes:
            for run in (network for network in recipe.networks if not network.is_guest):
                seed, commit = run.metadata["seed"], f"commit {run.metadata['git_commit']}"
                known = (commit, run.metadata["device"], run.metadata["precision"], run.versions)
                command = re.sub(
                    rf"\bseed={seed}(?!\S)", "seed=<seed>", run.metadata["command"] or ""
                )
                key = recipe.label, "; ".join(filter(None, known)), command
                groups.setdefault(key, []).append(str(seed))
        return [
            (f"{label}, seed {formats.join_words(seeds)}", known, command)
            for (label, known, command), seeds in groups.items()
        ]

    def list_scores(self, network: TrainedNetwork) -> dict[str, float]:
        """Of a network, by column."""
        raise NotImplementedError

    def score(self, network: TrainedNetwork) -> float:
        """A network's value of the metric in question."""
        return self.list_scores(network)[self.question.metric]

    def estimate(self, recipe: Recipe) -> WithInterval:
        """A recipe's, with an interval where there are enough seeds for one."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Comparison(BaseComparison):
    """Of one label an image."""

    curves: tuple[Curve, ...]
    image_types: tuple[ImageTypes, ...]  # empty where no run was evaluated on any
    losses: tuple[LossDifference, ...]  # pairs of networks evaluated on image types, untested
    num_degraded: Mapping[str, int]  # images by network, where these are not the same for all
    images: ImageByImage | None  # None where recipes have other test images or classes
    grad_cams: tuple[tuple[str, bytes], ...]  # labels of networks, and PNGs

    @property
    def has_study(self) -> bool:
        """Whether the reference study's figures belong beside these."""
        return any(network.metadata["data"] == STUDIED for network in self.networks)

    def list_scores(self, network: TrainedNetwork) -> dict[str, float]:
        scores = network.scores
        paper = {f"paper_{name}": value for name, value in scores.paper._asdict().items()}
        return {**scores.macro._asdict(), "nll": scores.nll, "ece": network.ece, **paper}

    def score(self, network: TrainedNetwork) -> float:
        return float(METRICS[self.question.metric](network.test).mean())

    def estimate(self, recipe: Recipe) -> WithInterval:
        metric = self.question.metric
        if metric == "accuracy":
            return recipe.accuracy
        trainings = recipe.trainings(metric)
        if trainings.num_seeds == 2:
            return WithInterval(float(trainings.by_seed.mean()))
        mean = crossed_mean(trainings, Interval(0, math.inf))
        return WithInterval(mean.value, *mean.interval())


def write_csv(comparison: BaseComparison) -> str:
    """A line a run, fractions; empty where not measured. Behind the agreed columns: the recipe,
    scores in validation, and the settings that differ."""
    validated = {name for network in comparison.networks for name in network.val_scores}
    more = [*comparison.own_metrics, "recipe", *sorted(validated), *comparison.differing]
    names = [*dict.fromkeys([*comparison.columns, *more])]
    if comparison.has_groups:
        names.insert(names.index("num_test") + 1, "num_groups")
    values = (
        {"recipe": recipe.label, **list_differing(network), **_list_columns(network)}
        | comparison.list_scores(network)
        for recipe in comparison.recipes
        for network in recipe.networks
    )
    rows = [[replace_non_finite(row.get(name)) for name in names] for row in values]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *map(escape_formulas, rows)])
    return text.getvalue()


def _list_columns(network: TrainedNetwork) -> dict[str, Any]:
    where, accuracy = network.cost or network.metadata, network.accuracy
    return {
        **network.own_metrics,
        **network.val_scores,
        **{name: network.metadata[name] for name in ("model", "weights", "data", "seed")},
        "num_test": network.num_test,
        "num_groups": network.num_groups,
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        **network.costs,
        "device": where["device"],
        "precision_mode": where["precision"],
        "folder": sanitize(str(network.folder)),
    }
