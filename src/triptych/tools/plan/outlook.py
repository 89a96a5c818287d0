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
from triptych.tools.compare.content import MEASURES, Measure
from triptych.tools.compare.formats import join_words, pluralize
from triptych.tools.compare.recipes import Recipe, group_by_recipe, split_comparable
from triptych.tools.compare.runs import read_runs
from triptych.tools.plan.document import PlannedRecipe
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
    recipes: Sequence[PlannedRecipe]
    looks: Sequence[int]
    num_images: int
    metric: str

    @property
    def num_pairs(self) -> int:
        return comb(len(self.recipes), 2)

    @property
    def measure(self) -> Measure:
        return MEASURES[self.metric]

    def describe(self) -> str:
        numbers = join_words([*map(str, self.looks)])
        pairs = f"{len(self.recipes)} recipes, {pluralize(self.num_pairs, 'pair')} by Holm"
        return f"{pairs}, {self.num_images:,} test images; looks at {numbers} seeds of each"

    def write(self, value: float) -> str:
        """A difference in its unit."""
        return self.measure.write_margin(round(value, 4))


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
        seeds = min(len(recipe.networks) for recipe in pilot)
        scatters = estimate_by_pilot(design, pilot)
        return scatters, (
            f"{describe_scatter(design, scatters[''])}: of {seeds} earlier runs of each recipe, "
            "for the pair that scatters most; they plan, and the test is by looks, on other seeds"
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


def read_pilot(design: Design, records: Sequence[Record]) -> list[Recipe]:
    """The recipes of earlier runs, where every one has three seeds, all on the same images."""
    wanted = {recipe.group_hash for recipe in design.recipes}
    folders = [
        each.folder
        for each in records
        if each.metadata.get("status") == "finished" and each.metadata.get("group_hash") in wanted
    ]
    recipes = [r for r in group_by_recipe(read_runs(folders)[0]) if r.has_enough_seeds]
    found = [recipe.first.metadata["group_hash"] for recipe in recipes]
    is_whole = sorted(found) == sorted(wanted) and len(split_comparable(recipes)) == 1
    return recipes if is_whole else []


def estimate_by_pilot(design: Design, pilot: Sequence[Recipe]) -> dict[str, Scatter]:
    """Of the pair that scatters most, and the same at the upper limit of skill."""
    trainings = [recipe.trainings(design.metric) for recipe in pilot]
    a, b = max(
        combinations(trainings, 2),
        key=lambda two: (
            draw_looks(estimate_scatter(*two), design.looks, design.num_images).detectable
        ),
    )
    return {"": estimate_scatter(a, b), UPPER: estimate_scatter(a, b, SKILL_LIMIT)}


def describe_scatter(design: Design, scatter: Scatter) -> str:
    """As standard deviations."""
    variances = {
        "images": scatter.image / design.num_images,
        "skill": sum(scatter.skill),
        "flips": sum(scatter.flips) / design.num_images,
    }
    parts = [f"{name} {design.write(value**0.5)}" for name, value in variances.items()]
    return f"the difference of one training each scatters by {join_words(parts)}"


def foretell(
    design: Design, scatter: Scatter, settings: Config
) -> tuple[dict[str, Any], dict[str, str]]:
    """What the looks would show: figures (fractions, seeds), and lines of text."""
    num_images, pairs = design.num_images, design.num_pairs
    drawn = draw_looks(scatter, design.looks, num_images, pairs)
    limit = smallest_difference(scatter, num_images, pairs)
    figures: dict[str, Any] = {"detectable": drawn.detectable, "limit": limit}
    each = zip(map(design.write, drawn.detectable_by_look), design.looks, strict=True)
    shown = ", ".join(f"{difference} by {n} seeds" for difference, n in each)
    least = f"are the limit: no number of seeds shows less than {design.write(limit)}"
    lines = {
        "detectable": f"with {CHANCE}, {shown}",
        "test images": least if limit > 0 else "are no limit, by what these runs show",
    }
    if settings["difference"]:
        difference = settings["difference"] / design.measure.per_unit
        seeds = count_seeds(scatter, difference, num_images, pairs)
        power, mean_seeds = drawn.power(difference), drawn.mean_seeds(difference)
        figures |= {"power": power, "seeds": seeds, "mean_seeds": mean_seeds}
        enough = f"without looks {seeds} of each give {CHANCE}"
        if seeds is None:
            enough = (
                f"no number of seeds suffices for {CHANCE}: more test images or fewer pairs may"
            )
        lines["difference"] = (
            f"of {design.write(difference)}: found with {100 * power:.0f} % chance, after "
            f"{mean_seeds:.1f} seeds of each on average; {enough}"
        )
    if settings["margin"]:
        margin = settings["margin"] / design.measure.per_unit
        equal, good = drawn.equivalence_power(margin), drawn.non_inferiority_power(margin)
        smallest = drawn.smallest_margin
        figures |= {"equivalence_power": equal, "non_inferiority_power": good}
        figures["smallest_margin"] = smallest
        lines["margin"] = (
            f"of {design.write(margin)}: equal recipes are shown to be within it with "
            f"{100 * equal:.0f} % chance, one not to be worse with {100 * good:.0f} %; with "
            f"{CHANCE} the smallest margin is {design.write(smallest)}"
        )
    return figures, lines


def describe_cost(design: Design, jobs: Mapping[str, Job], records: Sequence[Record]) -> str:
    """The time of all runs to the first look and to the last, by what one took here before.

    `jobs`: one of each recipe, by its hash.
    """
    whole, seconds, missing = Forecast([*jobs.values()]).whole, 0.0, list[str]()
    devices = set[str]()
    for recipe in design.recipes:
        job = jobs[recipe.group_hash]
        measured = [*list_measured(job, records)]
        found = whole.get(recipe.group_hash) or estimate_seconds(job, measured)
        missing += [] if found else [recipe.label]
        seconds += found or 0.0
        devices |= {str(each["device"]) for each, _ in measured if each.get("device")}
    if missing:
        return f"not known yet: there is no run or benchmark of {join_words(missing, 5)} here"
    first, last = design.looks[0], design.looks[-1]
    return (
        f"{format_duration(seconds * first)} to the first look ({len(jobs) * first} runs), at most "
        f"{format_duration(seconds * last)} ({len(jobs) * last} runs), one at a time, as before"
        + (f" on {join_words(sorted(devices), 5)}" if devices else "")
    )


def list_measured(job: Job, records: Sequence[Record]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Trainings of a job's model and batch size with their images per second: runs in the order of
    their start, then benchmarks."""
    wanted = {"model": job.config["model"]["name"], "batch_size": job.config["data"]["batch_size"]}
    for record in sorted(records, key=lambda each: str(each.metadata.get("started_at"))):
        if wanted.items() <= record.metadata.items():
            yield record.metadata, record.metadata.get("images_per_second")
    for path in sorted(Path(job.config["log_dir"], "benchmark").glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            found = json.loads(path.read_text(encoding="utf-8"))
            if wanted.items() <= found.items():
                yield found, found["images_per_second"]["ours"]["median"]


def estimate_seconds(job: Job, measured: Sequence[tuple[Mapping[str, Any], Any]]) -> float | None:
    """What training alone takes at the newest rate; None where there is none, or nobody knows how
    many images there are."""
    data, epochs = job.config["data"], job.config["trainer"]["max_epochs"]
    rates = [rate for _, rate in measured if MEASURED.holds(rate) and rate > 0]
    of_source = data["source"].get("num_train")
    num_train = data["num_train"] or (of_source and of_source - (data["num_val"] or 0))
    return epochs * num_train / rates[-1] if rates and num_train and epochs > 0 else None
