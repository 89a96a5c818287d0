"""A sweep that follows a plan: recipes and seeds are the plan's, and after each of its looks it
stops what is decided."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from omegaconf import DictConfig

from triptych.cli import prepare, restore
from triptych.config import setting_name
from triptych.errors import UserError
from triptych.runs.record import NOT_THE_EXPERIMENT, Record, config_hash
from triptych.runs.storage import translate_write_errors
from triptych.tools.compare.content import AS_USUAL, Pair
from triptych.tools.compare.pairs import compare_recipes
from triptych.tools.compare.planned import ask_by_plan, has_diverged
from triptych.tools.compare.recipes import group_by_recipe
from triptych.tools.compare.runs import read_runs
from triptych.tools.plan.document import FILE, Plan, read_plan, write_plan
from triptych.tools.sweep.jobs import Job, compose_jobs, find_run_of_job

log = logging.getLogger(__name__)
Compose = Callable[[list[str]], DictConfig]
Run = Callable[[Sequence[Job]], None]
Jobs = dict[tuple[str, int], Job]  # by group_hash and seed


def find_plan(job_overrides: Sequence[Sequence[str]]) -> Path:
    """The file that `plan=` names; raises UserError where the sweep has several jobs by itself."""
    each = [dict(o.split("=", 1) for o in restore(job) if "=" in o) for job in job_overrides]
    for name in each[0]:
        if len(values := {job[name] for job in each}) > 1:
            shown = f"{name}={','.join(sorted(values))}"
            raise UserError(f"{shown}: a plan has its recipes and seeds; leave it out")
    return Path(each[0]["plan"])


def follow(path: Path, overrides: Sequence[str], compose: Compose, run: Run) -> None:
    """Run the first look of all recipes, and further ones of those that are in an undecided pair.

    `overrides` are for every job; they may not change a recipe. `run` runs jobs, and exits with 1
    where one failed. Exits with 1 where a look cannot be completed.
    """
    plan = read_plan(path)
    jobs = compose_planned(plan, overrides, compose)
    if not plan.is_intact:
        log.info("plan=%s: edited after it was written, so not declared before these runs", path)
    undecided = plan.group_hashes
    for number, look in enumerate(plan.looks, 1):
        looked = {key: job for key, job in jobs.items() if key[1] in plan.seeds[:look]}
        try:
            is_whole = complete([job for (r, _), job in looked.items() if r in undecided], run)
        finally:  # the page of a look that was interrupted knows the plan, too
            records = [record for job in looked.values() if (record := find_ended(job))]
            plan = note_data(plan, path, records)
        if not is_whole:
            return
        log.info("look %d of %d, at %d seeds:", number, len(plan.looks), look)
        pairs, undecided = decide(plan, records)
        for pair in pairs:
            log.info("- %s", pair.sentence)
        if not undecided:
            log.info(
                "the answer is in: further seeds are not needed" if pairs else "no pair is left"
            )
            return
        if number < len(plan.looks):
            names = ", ".join(r.label for r in plan.recipes if r.group_hash in undecided)
            log.info("to %d seeds: %s", plan.looks[number], names)
    log.info("this was the last look: what is undecided stays so")


def compose_planned(plan: Plan, overrides: Sequence[str], compose: Compose) -> Jobs:
    """Every job that the plan may come to, checked; raises UserError where one is of another recipe
    than was planned."""
    typed = [o for o in overrides if setting_name(o) != "plan"]
    own = {setting_name(o) for recipe in plan.recipes for o in recipe.overrides} | {"seed"}
    for override in restore(typed):
        if setting_name(override) in own:
            raise UserError(f"{override}: the plan sets it for its recipes; leave it out")
        if override == "fresh=true":
            raise UserError("fresh=true: of a plan every seed counts as it was run first")
    keys = [*product(plan.recipes, plan.seeds)]
    each = [[*map(prepare, r.overrides), *typed, f"seed={seed}"] for r, seed in keys]
    jobs = compose_jobs(compose, each)
    for (recipe, _), job in zip(keys, jobs, strict=True):
        if config_hash(job.config, less=("seed",)) != recipe.group_hash:
            named = [o for o in restore(typed) if setting_name(o) not in NOT_THE_EXPERIMENT]
            raise UserError(
                f"{' '.join(named) or 'plan'}: {recipe.label} is not the recipe that was planned\n"
                "plan again: triptych plan"
            )
    return {(r.group_hash, seed): job for (r, seed), job in zip(keys, jobs, strict=True)}


def complete(jobs: Sequence[Job], run: Run) -> bool:
    """Run what has not ended, once more what its machine lost; whether all has ended: else time is
    over. Exits with 1 where a run failed, or was lost again."""
    try:
        if missing := [job for job in jobs if not find_ended(job)]:
            run(missing)
    except SystemExit as stop:
        left = [job for job in jobs if not find_ended(job)]
        records = filter(None, map(find_run_of_job, left))
        if stop.code != 1 or any(record.metadata["status"] == "failed" for record in records):
            raise
        if left:
            run(left)
    return all(map(find_ended, jobs))


def find_ended(job: Job) -> Record | None:
    """Its run, if that counts: where it finished, or diverged."""
    record = find_run_of_job(job)
    is_over = record and (record.metadata["status"] == "finished" or has_diverged(record))
    return record if is_over else None


def note_data(plan: Plan, path: Path, records: Sequence[Record]) -> Plan:
    """The plan with the hashes of its data, which its first runs know; a copy goes to each run."""
    each = [
        {name: str(record.metadata.get(name)) for name in ("split_hash", "test_hash")}
        for record in records
        if record.metadata["status"] == "finished"
    ]
    if each and not plan.noted:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        plan = replace(plan, noted=each[0] | {"noted_at": at})
        with translate_write_errors(f"plan={path}"):
            write_plan(plan, path)
    for changed in {plan.find_changed_data(**hashes) for hashes in each} - {""}:
        log.info("plan=%s: the data changed since: %s", path, changed)
    for record in records:
        if not (record.folder / FILE).exists():
            with translate_write_errors(str(record.folder)):
                write_plan(plan, record.folder / FILE)
    return plan


def decide(plan: Plan, records: Sequence[Record]) -> tuple[Sequence[Pair], set[str]]:
    """The pairs after the looks so far, and the recipes of those that are undecided, by hash.

    Raises UserError where a run cannot be read.
    """
    networks, problems = read_runs(r.folder for r in records if not has_diverged(r))
    for folder, what in problems:
        raise UserError(f"{folder}: {what}")
    recipes = group_by_recipe(networks)
    hashes = {recipe.label: recipe.first.metadata["group_hash"] for recipe in recipes}
    for planned in plan.recipes:
        if planned.group_hash not in hashes.values():
            log.info("- %s: every run diverged, so it is in no pair", planned.label)
    question = ask_by_plan(plan, [record.folder for record in records], AS_USUAL)
    pairs = compare_recipes(recipes, question).pairs
    undecided = [pair for pair in pairs if pair.verdict == "undecided"]
    return pairs, {hashes[label] for pair in undecided for label in (pair.a, pair.b)}
