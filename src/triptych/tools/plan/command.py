"""A plan, before anything runs: what the runs will show, in what time; and what they must answer.

Imports no torch.
"""

import textwrap
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

from triptych.cli.arguments import check_writable
from triptych.config import Config, format_value, setting_name
from triptych.errors import UserError, sanitize_text
from triptych.runs.reader import read_records
from triptych.runs.record import config_hash
from triptych.runs.storage import translate_write_errors
from triptych.tools.compare.content import MEASURES
from triptych.tools.compare.formats import join_words
from triptych.tools.compare.headlines import compare_by
from triptych.tools.plan.document import Plan, PlannedRecipe, read_plan, write_plan
from triptych.tools.plan.outlook import Design, assume, describe_cost, foretell
from triptych.tools.plan.settings import RULES
from triptych.tools.sweep.jobs import Job, label_recipes

LOOKS = (3, 5, 10, 20)
# Settings of data that decide which images there are, and which of them are tested on.
OF_IMAGES = ("name", "source", "num_train", "num_val", "num_test", "split_seed", "folds", "fold")
WIDTH, INDENT = 100, 13  # columns


def plan(jobs: Sequence[Job]) -> None:
    """Print what a sweep over these jobs would show, and write the plan that it follows.

    Raises UserError where nothing can be planned with the settings, or another plan is there.
    """
    settings = {name: jobs[0].config[name] for name in RULES}
    jobs = [drop_settings(job) for job in jobs]
    data = jobs[0].config["data"]
    firsts = find_recipes(jobs)
    recipes = describe_recipes(firsts)
    records = [*read_records(Path(jobs[0].config["log_dir"]))]
    runs = [each.metadata for each in records if each.metadata.get("group_hash") in firsts]
    used = {run.get("seed") for run in runs}
    looks, seeds = choose_looks(settings["looks"], jobs, used)
    images = find_images(settings, data, runs)
    design = Design(recipes, looks, images["num_images"], settings["metric"])
    scatters, assumed = assume(design, settings, records)
    lines = {"design": design.describe(), "assumed": assumed}
    if data.get("groups"):
        lines["groups"] = (
            "count, not images: num_images= is how many groups of test images there are"
        )
    if early := [str(seed) for seed in seeds if seed in used]:
        shown = join_words(early, 5)
        lines["seeds"] = f"{shown} were trained before this plan, and the page will say so"
    promised: dict[str, Any] = {}
    for name, scatter in scatters.items():
        promised[name or "assumed"], said = foretell(design, scatter, settings)
        if name:  # the same once more, less certain
            del said["test images"]
            said = {name: ""} | {f"- {head}": text for head, text in said.items()}
        lines |= said
    content: dict[str, Any] = {n: settings[n] for n in ("metric", "margin", "difference")} | images
    content |= {"looks": looks, "seeds": seeds, "recipes": recipes, "promised": promised}
    new = Plan(question=ask(recipes, settings), data=str(data["name"]), **content)
    lines["time"] = describe_cost(design, firsts, records)
    lines["plan"] = put(new, Path(settings["out"]), overwrite=settings["overwrite"])
    show(lines)


def drop_settings(job: Job) -> Job:
    """The job as a sweep makes it."""
    config = {name: value for name, value in job.config.items() if name not in RULES}
    overrides = [o for o in job.overrides if setting_name(o) not in RULES]
    return job._replace(config=config, overrides=overrides, config_hash=config_hash(config))


def find_recipes(jobs: Sequence[Job]) -> dict[str, Job]:
    """The first job of each recipe, by its group_hash; raises UserError unless they are several,
    each with a seed once, of one label an image, on the same images."""
    counts = Counter(job.config_hash for job in jobs)
    for job in jobs:
        if counts[job.config_hash] > 1:
            raise UserError(
                f"{' '.join(job.overrides)}: one recipe and seed twice\n"
                "by two names, or two values of a setting of the plan, which has one"
            )
        for name in OF_IMAGES:
            first, value = (each.config["data"].get(name) for each in (jobs[0], job))
            if first != value:
                both = f"{format_value(first)} and {format_value(value)}"
                raise UserError(f"data.{name}: {both} make other images, which cannot be compared")
    if separator := jobs[0].config["data"].get("separator"):
        raise UserError(f"data.separator={separator}: plans are of one label an image")
    firsts: dict[str, Job] = {}
    for job in jobs:
        firsts.setdefault(config_hash(job.config, less=("seed",)), job)
    if len(firsts) < 2:
        raise UserError("model: one recipe; a plan is of several: model=alexnet,resnet50")
    return firsts


def describe_recipes(firsts: Mapping[str, Job]) -> list[PlannedRecipe]:
    """Each as it is typed in a sweep, without its seed."""
    labels = label_recipes([*firsts.values()])
    return [
        PlannedRecipe(
            label.removeprefix("model="),
            [o for o in job.overrides if setting_name(o) != "seed"],
            group_hash,
        )
        for (group_hash, job), label in zip(firsts.items(), labels, strict=True)
    ]


def choose_looks(
    looks: list[int] | None, jobs: Sequence[Job], used: Collection[Any]
) -> tuple[list[int], list[int]]:
    """The looks and the seeds; where no seed was typed the first ones that no run has used."""
    is_typed = any(setting_name(o) == "seed" for o in jobs[0].overrides)
    seeds = [*dict.fromkeys(job.config["seed"] for job in jobs)] if is_typed else []
    if looks is None:
        last = len(seeds) or LOOKS[-1]
        looks = [n for n in LOOKS if n < last] + [last]
    seeds = seeds or [*islice((seed for seed in count() if seed not in used), looks[-1])]
    if len(seeds) < looks[-1] or len(seeds) < LOOKS[0]:
        wanted = max(looks[-1], LOOKS[0])
        raise UserError(
            f"seed: {len(seeds)} of them, the last look takes {wanted}\n"
            f"leave seed= out for {wanted} that are new, or end looks= sooner"
        )
    return looks, seeds[: looks[-1]]


def find_images(
    settings: Config, data: Config, runs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """How many test images, or groups of them, there are, and the hashes of split and test images.

    `runs`: metadata of earlier ones of these recipes; without one the hashes are not known. Raises
    UserError where nothing says how many.
    """
    scored = [run for run in runs if type(run.get("num_test")) is int]
    run = scored[-1] if scored else {}
    num_images = (
        settings["num_images"]
        or (run.get("num_groups") or run.get("num_test"))
        or (data.get("num_test") or data["source"].get("num_test"))
    )
    if num_images is None:
        raise UserError(
            "num_images: must be given: nothing says how many test images there are\n"
            "the first lines of any run on these data do; with data.groups=, count groups"
        )
    hashes = {name: run.get(name) for name in ("split_hash", "test_hash")}
    return {"num_images": num_images} | hashes


def ask(recipes: Sequence[PlannedRecipe], settings: Config) -> str:
    """What the runs must answer."""
    names, measure = join_words([recipe.label for recipe in recipes]), MEASURES[settings["metric"]]
    margin = settings["margin"] and measure.write_margin(settings["margin"] / measure.per_unit)
    good = f", and which are as good as each other within {margin}" if margin else ""
    return f"Which of {names} {compare_by(measure, len(recipes))} with new seeds{good}?"


def put(plan: Plan, path: Path, *, overwrite: bool) -> str:
    """Write a plan and say so; raises UserError where another one, or another file, is there."""
    check_writable(f"out={path}", path)
    if path.exists() and not overwrite:
        earlier = read_plan(path)
        if plan != replace(earlier, written_at=plan.written_at, digest="", noted={}):
            raise UserError(
                f"out={path}: another plan, of {earlier.written_at}, is there\n"
                "out=<another file> keeps both; overwrite=true replaces it"
            )
        return f"{path} has it already, since {earlier.written_at}"
    with translate_write_errors(f"out={path}"):
        write_plan(plan, path)
    return f"{path}; to follow it: python train.py -m plan={path}"


def show(lines: Mapping[str, str]) -> None:
    for head, text in lines.items():
        wrapped = textwrap.fill(text, WIDTH - INDENT).replace("\n", f"\n{' ' * INDENT}")
        print(sanitize_text(f"{head:{INDENT - 1}} {wrapped}".rstrip()))
