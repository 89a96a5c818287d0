"""One comparison, from run folders alone. Knows nothing of torch.

Folders are read; what cannot be shown is named; runs become recipes; pairs are tested; sentences
say what holds. Then a page, a text and a table are written.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders, sanitize_log_record
from triptych.runs.storage import atomic_write
from triptych.tools.compare import runs, sentences
from triptych.tools.compare.comparable import find_differing, require_comparable, write_banner
from triptych.tools.compare.content import Comparison, NetworkSummary, Problem
from triptych.tools.compare.pairs import compare_losses, compare_networks, compare_recipes
from triptych.tools.compare.recipes import (
    Recipe,
    find_class_names,
    group_by_recipe,
    split_comparable,
    summarize_recipe,
)
from triptych.tools.compare.runs import TrainedNetwork, read_each, read_first
from triptych.tools.compare.summaries import (
    build_gallery,
    count_correct,
    summarize_network,
    write_csv,
)
from triptych.tools.report.page import render_markdown, render_page
from triptych.tools.statistics.calibration import Calibration, calibrate

log = logging.getLogger(__name__)
log.addFilter(sanitize_log_record)

MAX_CALIBRATED = 10  # recipes: each takes a bootstrap of a thousand samples


def compare(config: Config, overrides: Sequence[str] = ()) -> Path:
    """Compare every finished run below `config["runs"]`; the path of the page.

    Raises UserError where no run is left, or where those left cannot be compared.
    """
    out = Path(config["out"]) if config["out"] else None
    if out and (out / "run.json").exists():
        raise UserError(f"out={out}: is a run's own folder; name another one")
    folders = find_run_folders(config["runs"])
    networks, problems = runs.read_runs(folders)
    if not networks:
        reason = f"{problems[0].folder}: {problems[0].what}"
        raise UserError(f"runs: none of {len(folders)} can be shown\n{reason}")
    if not config["allow_mixed"]:
        require_comparable(networks)
    comparison = build_comparison(networks, problems)
    written = write_files(comparison, out or find_parent(networks) / "comparison")
    for line in summarize(comparison):
        log.info("%s", line)
    log.info("%s", written)
    return written


def summarize(comparison: Comparison) -> Iterator[str]:
    """What the screen shows: what the page begins with, and what could not be used."""
    labels = [recipe.label for recipe in comparison.recipes]
    yield from (f"{problem.folder}: {problem.what}" for problem in comparison.problems)
    yield from filter(None, (comparison.banner, *comparison.verdict))
    for setting in comparison.differing:
        yield f"differs: {sentences.describe_setting(setting, labels)}"
    yield from comparison.cautions


def build_comparison(read: list[TrainedNetwork], problems: list[Problem]) -> Comparison:
    """All that is said and shown of runs; `problems` gains what is wrong with their files."""
    recipes = group_by_recipe(read)
    blocks = split_comparable(recipes)
    classes = {recipe: find_class_names(block) for block in blocks for recipe in block}
    rows = summarize_networks(recipes, problems)
    calibrations = calibrate_recipes(recipes, problems)
    summaries = tuple(summarize_recipe(r, classes[r], calibrations.get(r)) for r in recipes)
    network_pairs, recipe_pairs = compare_networks(recipes), compare_recipes(recipes)
    differing = find_differing([recipe.networks for recipe in recipes])
    verdict = sentences.write_verdict(summaries, rows, network_pairs, recipe_pairs)
    if len(blocks) == 1:
        verdict += tuple(sentences.write_lowest_costs(summaries, rows))
    exhibits = read_exhibits(recipes, classes[recipes[0]] if len(blocks) == 1 else None, problems)
    return Comparison(
        title=sentences.write_title(summaries, rows),
        banner=write_banner(read),
        verdict=verdict,
        cautions=sentences.write_cautions(recipes, differing),
        differing=differing,
        networks=rows,
        recipes=summaries,
        network_pairs=network_pairs,
        recipe_pairs=recipe_pairs,
        study=sentences.describe_study({recipe.num_test for recipe in summaries}),
        **exhibits,
        problems=tuple(problems),
        command=os.environ.get("TRIPTYCH_COMMAND", "python compare.py"),
        made_at=datetime.now(UTC).isoformat(timespec="minutes"),
        version=version("triptych"),
    )


def read_exhibits(
    recipes: Sequence[Recipe], classes: Sequence[str] | None, problems: list[Problem]
) -> dict[str, Any]:
    """What comes from optional files; of single images only with `classes` that all share."""
    members = [recipe.networks for recipe in recipes]
    networks = [network for recipe in recipes for network in recipe.networks]
    image_types = read_first(runs.read_image_types, members, problems)
    losses, loss_sentences = compare_losses(recipes, image_types)
    gallery = None
    if classes:
        images = read_each(runs.read_pixels, networks, problems)
        pixels = {index: image for each in images for index, image in each.items()}
        gallery = build_gallery(recipes, pixels, classes)
    return {
        "curves": tuple(read_each(runs.read_curve, networks, problems)),
        "image_types": image_types,
        "losses": tuple(losses),
        "loss_sentences": loss_sentences,
        "correct_counts": count_correct(recipes) if classes else None,
        "gallery": gallery,
        "grad_cams": read_first(runs.read_grad_cam, members, problems),
    }


def summarize_networks(
    recipes: Sequence[Recipe], problems: list[Problem]
) -> tuple[NetworkSummary, ...]:
    """A line each, with its cost where that was measured."""
    return tuple(
        summarize_network(network, next(read_each(runs.read_cost, [network], problems), None))
        for recipe in recipes
        for network in recipe.networks
    )


def calibrate_recipes(
    recipes: Sequence[Recipe], problems: list[Problem]
) -> dict[Recipe, Calibration]:
    """Of the first network of each of the first 10 recipes."""
    calibrations = {}
    for recipe in recipes[:MAX_CALIBRATED]:
        val = next(read_each(runs.read_val_predictions, [recipe.first], problems), None)
        calibrations[recipe] = calibrate(recipe.first.test, val)
    return calibrations


def write_files(comparison: Comparison, out: Path) -> Path:
    """Put the three files into `out`, each whole; raises UserError where that cannot be."""
    files = {
        "comparison.csv": write_csv(comparison.networks),
        "comparison.md": render_markdown(comparison),
        "index.html": render_page(comparison),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with atomic_write(out / name) as path:
                path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"out={out}: cannot be written to ({error})") from error
    return out / "index.html"


def find_parent(networks: Sequence[TrainedNetwork]) -> Path:
    """The nearest folder that holds all the runs."""
    return Path(os.path.commonpath([network.folder.resolve().parent for network in networks]))
