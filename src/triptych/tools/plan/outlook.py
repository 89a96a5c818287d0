"""What runs will show, and take, by what earlier ones scattered and took; else by usual figures."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.durations import format_duration
from triptych.runs.reader import MEASURED
from triptych.runs.record import Record
from triptych.tools.compare.content import MEASURES
from triptych.tools.compare.formats import join_words, pluralize
from triptych.tools.compare.recipes import Recipe, group_by_recipe, split_comparable
from triptych.tools.compare.runs import read_runs
from triptych.tools.plan.document import PlannedRecipe
from triptych.tools.statistics.crossed import Trainings
from triptych.tools.statistics.inference import MIN_SEEDS
from triptych.tools.statistics.planning import (
    SKILL_LIMIT,
    Scatter,
    count_seeds,
    draw_looks,
    estimate_scatter,
    guess_scatter,
    smallest_difference,
)
from triptych.tools.sweep.forecast import Forecast
from triptych.tools.sweep.jobs import Job

# Of small networks on CIFAR-10 that learn from unlike images, 87 % right; percent and points.
USUAL = {"churn": 6.0, "disagreement": 12.0, "skill_sd": 0.2}
CHANCE = "80 % chance"
UPPER = "skill at its upper 80 % limit"


class Design(NamedTuple):
    looks: tuple[int, ...]
    num_images: int
    recipes: tuple[PlannedRecipe, ...]
    metric: str

    @property
    def num_pairs(self) -> int:
        return comb(len(self.recipes), 2)

    @property
    def per_unit(self) -> int:
        """Of a typed difference: 100 where it is in points."""
        return MEASURES[self.metric].per_unit

    def describe(self) -> str:
        numbers = join_words([*map(str, self.looks)])
        pairs = f"{len(self.recipes)} recipes, {pluralize(self.num_pairs, 'pair')} by Holm"
        return f"{pairs}, {self.num_images:,} test images; looks at {numbers} seeds of each"

    def write(self, value: float) -> str:
        """A difference in its unit."""
        return MEASURES[self.metric].write_margin(round(value, 4))


def assume(
    design: Design, settings: Config, records: Sequence[Record]
) -> tuple[dict[str, Scatter], str]:
    """What pairs may scatter by, and on what ground; none where nothing is known.

    Settings come first, then earlier runs of every recipe, whose pair that scatters most is planned
    with, and then what is usual of accuracies.
    """
    typed = {name: settings[name] for name in USUAL if settings[name] is not None}
    if typed and design.metric != "accuracy":
        raise UserError(f"{min(typed)}: of accuracies; of {design.metric} earlier runs must tell")
    pilot = [] if typed else read_pilot(design, records)
    if pilot:
        trainings = [recipe.trainings(design.metric) for recipe in pilot]
        scatters = {
            name: max(
                (scatter_of(design, a, b, limit) for a, b in combinations(trainings, 2)),
                key=lambda s: draw_looks(s, design.looks, design.num_images).detectable,
            )
            for name, limit in {"": None, UPPER: SKILL_LIMIT}.items()
        }
        seeds = min(len(recipe.networks) for recipe in pilot)
        return scatters, (
            f"{describe(design, scatters[''])}: of {seeds} earlier runs of each recipe, for the "
            "pair that scatters most; they plan, and the test is by looks, on other seeds"
        )
    if design.metric != "accuracy":
        return {}, "nothing: three earlier runs of each recipe would tell"
    churn, disagreement, skill_sd = (value / 100 for value in (USUAL | typed).values())
    scatter = guess_scatter(churn, disagreement, skill_sd, (settings["difference"] or 0) / 100)
    ground = "as typed" if typed else "usual of small networks on CIFAR-10"
    return {"": scatter}, (
        f"two trainings of a recipe differ on {100 * churn:g} % of the images (churn=), of two "
        f"recipes on {100 * disagreement:g} % (disagreement=), and by {100 * skill_sd:g} points "
        f"besides (skill_sd=): {ground}"
    )


def scatter_of(design: Design, a: Trainings, b: Trainings, limit: float | None) -> Scatter:
    """Of a pair; of images in groups, which are fewer, as if each image scattered by more."""
    found, share = estimate_scatter(a, b, limit), design.num_images / a.num_images
    flips = (found.flips[0] * share, found.flips[1] * share)
    return Scatter(found.image * share, found.skill, flips)


def describe(design: Design, scatter: Scatter) -> str:
    """The standard deviations by which a pair of single trainings scatters."""
    variances = {
        "images": scatter.image / design.num_images,
        "skill": sum(scatter.skill),
        "flips": sum(scatter.flips) / design.num_images,
    }
    parts = [f"{name} {design.write(value**0.5)}" for name, value in variances.items()]
    return f"one training each scatters by {join_words(parts)}"


def read_pilot(design: Design, records: Sequence[Record]) -> list[Recipe]:
    """The recipes of earlier runs, where every one has three seeds, all on the same images."""
    wanted = {recipe.group_hash for recipe in design.recipes}
    folders = [
        each.folder
        for each in records
        if each.metadata.get("status") == "finished" and each.metadata.get("group_hash") in wanted
    ]
    if len(folders) < MIN_SEEDS * len(wanted):
        return []
    recipes = group_by_recipe(read_runs(folders)[0])
    repeated = [recipe for recipe in recipes if len(recipe.networks) >= MIN_SEEDS]
    found = {recipe.first.metadata["group_hash"] for recipe in repeated}
    is_whole = found == wanted and len(split_comparable(repeated)) == 1
    return repeated if is_whole and len(repeated) == len(wanted) else []


def foretell(
    design: Design, scatter: Scatter, settings: Config
) -> tuple[dict[str, Any], dict[str, str]]:
    """What the looks would show: figures (fractions, seeds), and lines of text."""
    num_images, pairs = design.num_images, design.num_pairs
    drawn = draw_looks(scatter, design.looks, num_images, pairs)
    limit = smallest_difference(scatter, num_images, pairs)
    figures: dict[str, Any] = {"detectable": drawn.detectable, "limit": limit}
    by_look = [drawn.until(k).detectable for k in range(1, len(design.looks) + 1)]
    each = zip(map(design.write, by_look), design.looks, strict=True)
    shown = ", ".join(f"{difference} by {n} seeds" for difference, n in each)
    least = f"are the limit: no number of seeds shows less than {design.write(limit)}"
    lines = {
        "detectable": f"with {CHANCE}, {shown}",
        "test images": least if limit > 0 else "are no limit, by what these runs show",
    }
    if settings["difference"]:
        difference = settings["difference"] / design.per_unit
        seeds = count_seeds(scatter, difference, num_images, pairs)
        figures |= {"power": drawn.power(difference), "seeds": seeds}
        figures["mean_seeds"] = drawn.mean_seeds(difference)
        enough = f"without looks {seeds} of each give {CHANCE}"
        if seeds is None:
            enough = (
                f"no number of seeds suffices for {CHANCE}: more test images or fewer pairs may"
            )
        lines["difference"] = (
            f"of {design.write(difference)}: found with {100 * figures['power']:.0f} % chance, "
            f"after {figures['mean_seeds']:.1f} seeds of each on average; {enough}"
        )
    if settings["margin"]:
        margin = settings["margin"] / design.per_unit
        equal, good = drawn.equivalence_power(margin), drawn.non_inferiority_power(margin)
        figures |= {"equivalence_power": equal, "non_inferiority_power": good}
        figures["smallest_margin"] = drawn.smallest_margin
        lines["margin"] = (
            f"of {design.write(margin)}: equal recipes are shown to be within it with "
            f"{100 * equal:.0f} % chance, one not to be worse with {100 * good:.0f} %; with "
            f"{CHANCE} the smallest margin is {design.write(drawn.smallest_margin)}"
        )
    return figures, lines


def describe_cost(
    design: Design, jobs: Mapping[str, Job], records: Sequence[Record]
) -> dict[str, str]:
    """The hours of all runs to the first look and to the last, by what one took here before.

    `jobs`: one of each recipe, by its hash.
    """
    forecast, seconds, missing = Forecast([*jobs.values()]), list[float](), list[str]()
    for recipe in design.recipes:
        job = jobs[recipe.group_hash]
        whole = forecast.whole.get(recipe.group_hash) or estimate_seconds(job, records)
        missing += [] if whole else [recipe.label]
        seconds.append(whole or 0.0)
    if missing:
        names = join_words(missing, 5)
        return {"time": f"not known yet: none of {names} was trained or benchmarked here"}
    devices = {str(each.metadata.get("device")) for each in records if each.metadata.get("device")}
    first, last = (sum(seconds) * n for n in (design.looks[0], design.looks[-1]))
    runs = [len(jobs) * n for n in (design.looks[0], design.looks[-1])]
    return {
        "time": f"{format_duration(first)} to the first look ({runs[0]} runs), at most "
        f"{format_duration(last)} ({runs[1]} runs), one at a time, as before"
        + (f" on {join_words(sorted(devices))}" if devices else "")
    }


def estimate_seconds(job: Job, records: Sequence[Record]) -> float | None:
    """What training alone takes at the rate of the newest benchmark, or else run, of a job's model
    and batch size; None where there is none, or nobody knows how many images there are."""
    data, epochs = job.config["data"], job.config["trainer"]["max_epochs"]
    wanted = {"model": job.config["model"]["name"], "batch_size": data["batch_size"]}
    each = [rate for found, rate in list_rates(job, records) if wanted.items() <= found.items()]
    rates = [rate for rate in each if MEASURED.holds(rate) and rate > 0]
    of_source = data["source"].get("num_train")
    num_train = data["num_train"] or (of_source and of_source - (data["num_val"] or 0))
    return epochs * num_train / rates[-1] if rates and num_train and epochs > 0 else None


def list_rates(job: Job, records: Sequence[Record]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """What was trained and how fast: runs in the order of their start, then benchmarks."""
    for record in sorted(records, key=lambda each: str(each.metadata.get("started_at"))):
        yield record.metadata, record.metadata.get("images_per_second")
    for path in sorted(Path(job.config["log_dir"], "benchmark").glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            measured = json.loads(path.read_text(encoding="utf-8"))
            yield measured, measured["images_per_second"]["ours"]["median"]
