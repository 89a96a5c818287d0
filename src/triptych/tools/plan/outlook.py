"""What runs will show, and take, by what earlier ones scattered and took; else by usual figures."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

from triptych.config import Config
from triptych.runs.durations import format_duration
from triptych.runs.reader import MEASURED
from triptych.runs.record import Record
from triptych.tools.compare.formats import join_words, pluralize
from triptych.tools.compare.recipes import Recipe, group_by_recipe, split_comparable
from triptych.tools.compare.runs import read_runs
from triptych.tools.plan.document import PlannedRecipe
from triptych.tools.statistics.inference import MIN_SEEDS
from triptych.tools.statistics.planning import (
    SKILL_LIMIT,
    DrawnLooks,
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


class Design(NamedTuple):
    looks: tuple[int, ...]
    num_images: int
    recipes: tuple[PlannedRecipe, ...]

    @property
    def num_pairs(self) -> int:
        return comb(len(self.recipes), 2)


def assume(
    design: Design, settings: Config, records: Sequence[Record]
) -> tuple[dict[str, Scatter], dict[str, str]]:
    """What pairs may scatter by, and lines that say on what ground; none where nothing is known.

    A setting that was given comes first, then three earlier runs of every recipe, of which the pair
    that scatters most is planned with, and then what is usual of accuracies.
    """
    recipes, pairs = len(design.recipes), pluralize(design.num_pairs, "pair")
    looks = f"looks at {join_words([*map(str, design.looks)])} seeds of each"
    sizes = f"{recipes} recipes, {pairs} by Holm, {design.num_images:,} test images; {looks}"
    given = {name: settings[name] for name in USUAL if settings[name] is not None}
    pilot = [] if given else read_pilot(design, settings["metric"], records)
    if pilot:
        seeds = min(len(recipe.networks) for recipe in pilot)
        ground = (
            f"of {seeds} or more earlier runs of each recipe, for the pair that scatters most. "
            "They plan; the test goes by looks, on seeds that nobody has seen"
        )
        metric, images = settings["metric"], design.num_images
        trainings = [recipe.trainings(metric) for recipe in pilot]

        def scatter_most(limit: float | None) -> Scatter:
            each = (estimate_scatter(a, b, limit) for a, b in combinations(trainings, 2))
            return max(each, key=lambda s: draw_looks(s, design.looks, images).detectable)

        limit = f"{SKILL_LIMIT:.0%}".replace("%", " %")
        upper = f"skill at its upper {limit} limit"
        scatters = {"": scatter_most(None), upper: scatter_most(SKILL_LIMIT)}
        return scatters, {"design": sizes, "assumed": f"{describe(scatters[''], images)}, {ground}"}
    if settings["metric"] != "accuracy" and not given:
        return {}, {"design": sizes, "assumed": "nothing: three runs of each recipe would tell"}
    churn, disagreement, skill_sd = (value / 100 for value in (USUAL | given).values())
    scatter = guess_scatter(churn, disagreement, skill_sd, (settings["difference"] or 0) / 100)
    ground = "as was typed" if given else "usual of small networks on CIFAR-10: churn=, skill_sd="
    said = f"trainings of a recipe differ on {churn:.1%} of the images, of two on "
    said += f"{disagreement:.1%}, and by {100 * skill_sd:.2g} points besides ({ground})"
    return {"": scatter}, {"design": sizes, "assumed": said.replace("%", " %")}


def describe(scatter: Scatter, num_images: int) -> str:
    """The standard errors that a pair has, of one training each, in points."""
    parts = {
        "test images": scatter.image / num_images,
        "skill": sum(scatter.skill) / 2,
        "flips": sum(scatter.flips) / 2 / num_images,
    }
    return ", ".join(f"{name} {100 * value**0.5:.2g}" for name, value in parts.items()) + " points"


def read_pilot(design: Design, metric: str, records: Sequence[Record]) -> list[Recipe]:
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
    """What the looks would show: figures (fractions, seeds), and lines in points."""
    num_images, pairs = design.num_images, design.num_pairs
    drawn = draw_looks(scatter, design.looks, num_images, pairs)
    limit = smallest_difference(scatter, num_images, pairs)
    by_look = [drawn.until(k).detectable for k in range(1, len(design.looks) + 1)]
    figures: dict[str, Any] = {"detectable": drawn.detectable, "limit": limit}
    shown = [f"{100 * d:.2f} by {n} seeds" for d, n in zip(by_look, design.looks, strict=True)]
    lines = {
        "detectable": f"{', '.join(shown)}: points that one pair shows with {CHANCE}",
        "test images": f"are the limit: no number of seeds shows less than {100 * limit:.2f}",
    }
    if settings["difference"]:
        more, lines["difference"] = foretell_difference(design, scatter, drawn, settings)
        figures |= more
    if settings["margin"]:
        margin = settings["margin"] / 100
        equal, good = drawn.equivalence_power(margin), drawn.non_inferiority_power(margin)
        figures |= {"equivalence_power": equal, "non_inferiority_power": good}
        figures["smallest_margin"] = drawn.smallest_margin
        lines["margin"] = (
            f"{settings['margin']:g} points: recipes that are equal are shown to be within it with "
            f"{100 * equal:.0f} % chance, one not inferior with {100 * good:.0f} %; the smallest "
            f"margin with {CHANCE} is {100 * drawn.smallest_margin:.2f} points"
        )
    return figures, lines


def foretell_difference(
    design: Design, scatter: Scatter, drawn: DrawnLooks, settings: Config
) -> tuple[dict[str, Any], str]:
    """The chance to find the difference that must not be missed, and the seeds it takes."""
    difference = settings["difference"] / 100
    seeds = count_seeds(scatter, difference, design.num_images, design.num_pairs)
    figures = {"power": drawn.power(difference), "mean_seeds": drawn.mean_seeds(difference)}
    text = (
        f"{settings['difference']:g} points: found with {100 * figures['power']:.0f} % chance, "
        f"after {figures['mean_seeds']:.1f} seeds of each on average; "
    )
    if seeds:
        text += f"without looks {seeds} of each give {CHANCE}"
    else:
        text += f"no number of seeds suffices for {CHANCE}: take more test images, or fewer pairs"
    return figures | {"seeds": seeds}, text


def describe_cost(
    design: Design, jobs: Mapping[str, Job], records: Sequence[Record]
) -> dict[str, str]:
    """The hours of all runs to the first look and to the last, by what one took here before.

    `jobs`: one of each recipe, by its hash.
    """
    forecast, seconds, grounds = Forecast([*jobs.values()]), list[float](), dict[str, None]()
    for name, job in jobs.items():
        whole = forecast.whole.get(name)
        ground = "runs of these recipes"
        if whole is None and (rate := find_rate(job, records)):
            data, trainer = job.config["data"], job.config["trainer"]
            of_source = data["source"].get("num_train")
            num_train = data["num_train"] or (of_source and of_source - (data["num_val"] or 0))
            whole = num_train and trainer["max_epochs"] * num_train / rate
            ground = "rates of training alone"
        if not whole:
            label = next(r.label for r in design.recipes if r.group_hash == name)
            return {"time": f"not known yet: {label} was never trained nor benchmarked here"}
        seconds.append(whole)
        grounds[ground] = None
    devices = {str(each.metadata.get("device")) for each in records if each.metadata.get("device")}
    first, last = (sum(seconds) * n for n in (design.looks[0], design.looks[-1]))
    runs = [len(jobs) * n for n in (design.looks[0], design.looks[-1])]
    return {
        "time": f"{format_duration(first)} to the first look ({runs[0]} runs), at most "
        f"{format_duration(last)} ({runs[1]} runs), one at a time, by {join_words([*grounds])}"
        + (f" on {join_words(sorted(devices))}" if devices else "")
    }


def find_rate(job: Job, records: Sequence[Record]) -> float | None:
    """Images a second of the newest benchmark, or else run, of a job's model and batch size."""
    wanted = {"model": job.config["model"]["name"], "batch_size": job.config["data"]["batch_size"]}
    found = [
        rate for entries, rate in list_rates(job, records) if wanted.items() <= entries.items()
    ]
    rates = [rate for rate in found if MEASURED.holds(rate) and rate > 0]
    return rates[-1] if rates else None


def list_rates(job: Job, records: Sequence[Record]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """What was trained and how fast: runs in the order of their start, then benchmarks."""
    for record in sorted(records, key=lambda each: str(each.metadata.get("started_at"))):
        yield record.metadata, record.metadata.get("images_per_second")
    for path in sorted(Path(job.config["log_dir"], "benchmark").glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            measured = json.loads(path.read_text(encoding="utf-8"))
            yield measured, measured["images_per_second"]["ours"]["median"]
