"""One comparison, from run folders alone. Knows nothing of torch.

Folders are read; what cannot be shown is named; runs become recipes; pairs are tested; sentences
say what holds. Then a page, a text and a table are written.
"""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders
from triptych.runs.storage import atomic_write, translate_write_errors
from triptych.tools.compare import (
    abstention,
    deployments,
    labels,
    paired_scores,
    planned,
    ranks,
    runs,
    sentences,
    shifts,
    suspects,
    tuning,
    uncertainty,
)
from triptych.tools.compare.claims import Answer, answer_claims, subtract_values
from triptych.tools.compare.content import (
    AS_USUAL,
    MEASURES,
    BaseComparison,
    Comparison,
    Question,
    Section,
    Tested,
    write_csv,
)
from triptych.tools.compare.pairs import (
    compare_losses,
    compare_networks,
    compare_recipes,
    rank_recipes,
)
from triptych.tools.compare.pictures import compare_images
from triptych.tools.compare.recipes import (
    Recipe,
    group_by_recipe,
    name_classes,
    require_comparable,
    split_comparable,
)
from triptych.tools.compare.runs import Problem, TrainedNetwork, read_optional
from triptych.tools.compare.screen import print_end
from triptych.tools.compare.searches import find_repeated_winners
from triptych.tools.compare.settings import RULES, parse_claims
from triptych.tools.compare.verdict import write_outcomes, write_verdict
from triptych.tools.report.page import render_markdown, render_page
from triptych.tools.statistics.calibration import calibrate

log = logging.getLogger(__name__)

# The topics of a page besides, in order: each is shown by the templates of its name.
SECTIONS: dict[str, Callable[[Tested], Section | None]] = {
    "plan": planned.build,
    "scores": paired_scores.build,
    "uncertainty": uncertainty.build,
    "ranks": ranks.build,
    "tuning": tuning.build,
    "suspects": suspects.build,
    "shifts": shifts.build,
    "abstention": abstention.build,
    "deployments": deployments.build,
}
MAX_CALIBRATED = 10  # recipes: each takes a bootstrap of a thousand samples


def compare(config: Config, overrides: Sequence[str] = ()) -> Path:
    """Compare every finished run below `config["runs"]`; the path of the page.

    Raises UserError where no run is left, or where those left cannot be compared; SystemExit with 1
    where a claim that is required does not hold, or where a file is not as its runs have it.
    """
    if config["verify"]:
        from triptych.tools.compare.verify import verify

        return verify(config, compute, answer)
    out = Path(config["out"]) if config["out"] else None
    if out and os.path.exists(out / "run.json"):
        raise UserError(f"out={out}: is a run's own folder; name another one")
    comparison = compute(config)
    out = out or choose_folder(config["runs"] or config["predictions"], comparison.networks)
    comparison, answers = answer(config, comparison)
    page = write_files(comparison, out, answers)
    print_end(comparison, answers, page)
    if not all(each.tried.holds for each in answers):
        raise SystemExit(1)
    return page


def compute(config: Config) -> BaseComparison:
    """All that a comparison says, but for what is required of it."""
    networks, problems, are_multilabel = read_networks(config)
    if not config["allow_mixed"]:
        require_comparable(networks)
    question = ask(config, () if are_multilabel else networks, problems)
    if not are_multilabel:
        comparison: BaseComparison = build_comparison(networks, problems, question)
    elif question == AS_USUAL:
        comparison = labels.build_comparison(networks, problems)
    else:
        what = "for runs of one label an image; leave them out"
        raise UserError(f"metric, margin, suspects, plan, coverage, risk: {what}")
    settings = {name: config[name] for name in RULES if name not in ("out", "verify")}
    return replace(comparison, settings=settings)


def answer(config: Config, comparison: BaseComparison) -> tuple[BaseComparison, list[Answer]]:
    """With what is required of it, tested and counted by the log where there is one."""
    claims = [claim for claim in parse_claims(config["require"]) if claim]
    question, log = comparison.question, config["require_log"]
    is_usual = isinstance(comparison, Comparison)
    subtract = partial(subtract_values, question=question) if is_usual else labels.estimate
    path = Path(log) if log else None
    answers = answer_claims(claims, comparison.recipes, question, subtract, path)
    return replace(comparison, verdict=(*comparison.verdict, *map(str, answers))), answers


def read_networks(config: Config) -> tuple[list[TrainedNetwork], list[Problem], bool]:
    """Those of runs and of predictions, what is wrong with the others, and whether they are of any
    number of labels an image."""
    folders = find_run_folders(config["runs"])
    are_multilabel = labels.are_multilabel(folders)
    networks, problems = runs.read_runs(folders, labels.read_run if are_multilabel else None)
    if config["predictions"]:
        if are_multilabel:
            raise UserError("predictions: one label an image; the runs have any number of labels")
        from triptych.tools.compare.guests import read_guests

        guests, more = read_guests(config["predictions"], config["labels"], networks)
        networks = runs.share_groups([*networks, *guests])
        problems = [*problems, *more]
    if not networks:
        reason = f"{problems[0].folder}: {problems[0].what}"
        kind = f"runs: none of {len(folders)}" if folders else "predictions: none"
        raise UserError(f"{kind} can be shown\n{reason}")
    return networks, problems, are_multilabel


def ask(config: Config, networks: Sequence[TrainedNetwork], problems: list[Problem]) -> Question:
    """What the settings ask, or a plan that runs follow; a margin is typed in points, or in the
    unit of a loss. `problems` gains what is wrong with plans."""
    metric, margin = config["metric"], config["margin"]
    margin = margin and margin / MEASURES[metric].per_unit
    rates = {name: config[name] for name in ("coverage", "risk")}
    question = Question(metric, margin, config["suspects"], **rates)
    plan = planned.find_plan(networks, config["plan"], problems)
    if plan is None:
        return question
    return planned.ask_by_plan(plan, find_run_folders(config["runs"]), question)


def choose_folder(places: str | Sequence[str], networks: Sequence[TrainedNetwork]) -> Path:
    """`comparison/` in the folder that was given; of a run, a list or a glob in the nearest folder
    that holds all of the runs. Raises UserError where that is a link: it may be somebody's."""
    [*given] = [places] if isinstance(places, str) else places
    parents: Sequence[str | Path] = [network.folder.resolve().parent for network in networks]
    if len(given) == 1 and os.path.isdir(given[0]) and not Path(given[0], "run.json").exists():
        parents = given
    out = Path(os.path.commonpath(parents)) / "comparison"
    if out.is_symlink():
        raise UserError(f"{out}: a link, and might lead anywhere\nout={out.resolve()} follows it")
    return out


def build_comparison(
    read: Sequence[TrainedNetwork], problems: list[Problem], question: Question = AS_USUAL
) -> Comparison:
    """All that is said and shown of runs; `problems` gains what is wrong with their files."""
    read = runs.exclude(read, find_repeated_winners, problems)
    recipes = rank_recipes(name_classes(group_by_recipe(read)), question)
    for place, recipe in enumerate(recipes[:MAX_CALIBRATED]):
        if recipe.first.has_probabilities:
            val = read_optional(runs.read_val_predictions, recipe.first, problems)
            recipes[place] = replace(recipe, calibration=calibrate(recipe.first.test, val))
    networks = [network for recipe in recipes for network in recipe.networks]
    is_comparable = len(split_comparable(recipes)) == 1
    network_pairs = compare_networks(recipes, question)
    recipe_pairs = compare_recipes(recipes, question)
    tested = Tested(recipes, network_pairs, recipe_pairs, question, problems)
    sections = {name: s for name, build in SECTIONS.items() if (s := build(tested))}
    verdict = sentences.write_summary(recipes, network_pairs, recipe_pairs, question)
    image_types = read_by_recipe(runs.read_image_types, recipes, problems)
    losses, num_degraded = compare_losses(recipes, image_types)
    curves = [read_optional(runs.read_curve, network, problems) for network in networks]
    pixels, files = runs.read_pictures(networks if is_comparable else (), problems)
    return Comparison(
        sections=sections,
        verdict=(
            *verdict,
            *(sentence for section in sections.values() for sentence in section.sentences),
            *(sentences.write_lowest_costs(recipes) if is_comparable else ()),
        ),
        curves=tuple(curve for curve in curves if curve),
        image_types=image_types,
        losses=tuple(losses),
        num_degraded=num_degraded,
        images=compare_images(recipes, pixels, files) if is_comparable else None,
        grad_cams=read_by_recipe(runs.read_grad_cam, recipes, problems),
        **sentences.describe_runs(  # the last to read `problems`
            *(read, recipes, problems, question, (recipe_pairs, network_pairs)),
            described=sentences.write_accuracy(recipes[0]),
        ),
    )


def read_by_recipe(
    read: Callable[[TrainedNetwork], runs.Read | None],
    recipes: Sequence[Recipe],
    problems: list[Problem],
) -> tuple[runs.Read, ...]:
    """What `read` gives of the first network of each recipe that has the file."""
    contents = []
    for recipe in recipes:
        each = (read_optional(read, network, problems) for network in recipe.networks)
        contents.append(next(filter(None, each), None))
    return tuple(content for content in contents if content)


def write_files(comparison: BaseComparison, out: Path, answers: Sequence[Answer] = ()) -> Path:
    """Put the four files into `out`, all or none; raises UserError where that cannot be."""
    verdict = write_verdict(comparison, answers)
    data = {"verdict.json": verdict, "outcomes.json": write_outcomes(comparison)}
    files = {
        "verdict.json": verdict,
        "comparison.csv": write_csv(comparison),
        "comparison.md": render_markdown(comparison),
        "index.html": render_page(comparison, data),
    }
    with translate_write_errors(f"out={out}"), ExitStack() as written:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = written.enter_context(atomic_write(out / name))
            path.write_text(text, encoding="utf-8")
    return out / "index.html"
