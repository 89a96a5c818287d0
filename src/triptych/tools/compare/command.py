"""One comparison, from run folders alone. Knows nothing of torch.

Folders are found and read; what cannot be shown is named; runs become recipes; pairs are tested;
what holds is said in sentences first. Then a page, a text and a table are written.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders, sanitize_log_record
from triptych.runs.storage import atomic_write
from triptych.tools.compare import collected
from triptych.tools.compare.comparable import banner, blocks, require_comparable
from triptych.tools.compare.content import Comparison, Origin, Problem, Recipe, Row
from triptych.tools.compare.differences import differing
from triptych.tools.compare.gallery import agreement, gallery
from triptych.tools.compare.groups import TrainedNetwork, class_names, grouped, summary
from triptych.tools.compare.losses import losses
from triptych.tools.compare.pairs import network_pairs, recipe_pairs
from triptych.tools.compare.runs import Run, read_runs
from triptych.tools.compare.sentences import listed, setting_in_words
from triptych.tools.compare.study import study
from triptych.tools.compare.tables import as_csv
from triptych.tools.compare.verdict import cautions, least_costs, verdict
from triptych.tools.report.markdown import as_markdown
from triptych.tools.report.page import page

log = logging.getLogger(__name__)
log.addFilter(sanitize_log_record)

MAX_NAMED = 4  # models in a title


def compare(config: Config, overrides: Sequence[str] = ()) -> Path:
    """Compare every finished run below `config["runs"]`; the path of the page.

    Raises UserError where no run is left, or where those left cannot be compared.
    """
    out = Path(config["out"]) if config["out"] else None
    if out and (out / "run.json").exists():
        raise UserError(f"out={out}: is a run's own folder; name another one")
    folders = find_run_folders(config["runs"])
    runs, problems = read_runs(folders)
    if not runs:
        reason = f"{problems[0].folder}: {problems[0].what}"
        raise UserError(f"runs: none of {len(folders)} can be shown\n{reason}")
    if not config["allow_mixed"]:
        require_comparable(runs)
    comparison = compared(runs, problems)
    written = write(comparison, out or nearest_parent(runs) / "comparison")
    for line in in_lines(comparison):
        log.info("%s", line)
    log.info("%s", written)
    return written


def in_lines(comparison: Comparison) -> Iterator[str]:
    """What the screen shows of it: what the page begins with, and what could not be used."""
    labels = [recipe.label for recipe in comparison.recipes]
    yield from (f"{problem.folder}: {problem.what}" for problem in comparison.problems)
    yield from filter(None, (comparison.banner, *comparison.verdict))
    yield from (f"differs: {setting_in_words(each, labels)}" for each in comparison.differing)
    yield from comparison.cautions


def compared(runs: list[Run], problems: list[Problem]) -> Comparison:
    """All that is said and shown of runs; `problems` gains what is wrong with their files."""
    groups = grouped(runs)
    networks = [network for group in groups for network in group.networks]
    apart = blocks(groups)
    classes = {group: class_names(block) for block in apart for group in block}
    rows = collected.rows(networks, problems)
    calibrations = collected.calibrations(groups, problems)
    recipes = tuple(
        summary(group, classes[group], calibration)
        for group, calibration in zip(groups, calibrations, strict=True)
    )
    of_networks, of_recipes = network_pairs(groups), recipe_pairs(groups)
    besides = differing([group.networks for group in groups])
    pixels = collected.pixels(networks, problems) if len(apart) == 1 else {}
    tried = collected.image_types(groups, problems)
    least = least_costs(recipes, rows) if len(apart) == 1 else []
    return Comparison(
        title=title(recipes, rows),
        banner=banner(runs),
        verdict=(*verdict(recipes, rows, of_networks, of_recipes), *least),
        cautions=cautions(groups, besides),
        differing=besides,
        rows=rows,
        recipes=recipes,
        network_pairs=of_networks,
        recipe_pairs=of_recipes,
        curves=collected.curves(networks, problems),
        image_types=tried,
        losses=losses(groups, tried),
        slices=collected.slices(groups, problems),
        agreement=agreement(groups) if len(apart) == 1 else None,
        gallery=gallery(groups, pixels, classes[groups[0]]),
        study=study({recipe.num_test for recipe in recipes}),
        grad_cams=collected.grad_cams(groups, problems),
        origins=tuple(map(origin, networks)),
        problems=tuple(problems),
        command=os.environ.get("TRIPTYCH_COMMAND", "python compare.py"),
        made_at=datetime.now(UTC).isoformat(timespec="minutes"),
        version=version("triptych"),
    )


def title(recipes: Sequence[Recipe], rows: Sequence[Row]) -> str:
    """Which networks on which data."""
    models = [*dict.fromkeys(recipe.model for recipe in recipes)]
    networks = listed(models) if len(models) <= MAX_NAMED else f"{len(models)} networks"
    return f"{networks} on {listed([*dict.fromkeys(row.data for row in rows)])}"


def origin(network: TrainedNetwork) -> Origin:
    """What reproduces a run, from its record."""
    metadata = network.metadata
    known = ("device", "precision", "num_threads", "started_at", "num_epochs", "train_seconds")
    return Origin(
        label=network.label,
        command=metadata["command"] or "",
        commit=metadata["git_commit"],
        versions=tuple((name, str(v)) for name, v in (metadata["versions"] or {}).items() if v),
        test_hash=metadata["test_hash"],
        split_hash=metadata["split_hash"],
        **{name: metadata[name] for name in known},
    )


def write(comparison: Comparison, out: Path) -> Path:
    """Put the three files into `out`, each whole; raises UserError where that cannot be."""
    files = {
        "comparison.csv": as_csv(comparison.rows),
        "comparison.md": as_markdown(comparison),
        "index.html": page(comparison),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with atomic_write(out / name) as path:
                path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"out={out}: cannot be written to ({error})") from error
    return out / "index.html"


def nearest_parent(runs: Sequence[Run]) -> Path:
    """The nearest folder that holds all the runs."""
    return Path(os.path.commonpath([run.folder.resolve().parent for run in runs]))
