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

from triptych import Refused
from triptych.comparison import collected
from triptych.comparison.comparable import banner, blocks, require_comparable
from triptych.comparison.content import Comparison, Origin, Problem, Recipe, Row
from triptych.comparison.gallery import agreement, gallery
from triptych.comparison.groups import Network, class_names, grouped, summary
from triptych.comparison.losses import losses
from triptych.comparison.pairs import network_pairs, recipe_pairs
from triptych.comparison.runs import Run, read_runs
from triptych.comparison.sentences import listed, setting_in_words
from triptych.comparison.settings import differing
from triptych.comparison.study import study
from triptych.comparison.tables import as_csv
from triptych.comparison.verdict import cautions, least_costs, verdict
from triptych.config import Config
from triptych.files import replacing
from triptych.folders import find_folders, made_legible
from triptych.report.markdown import as_markdown
from triptych.report.page import page

log = logging.getLogger(__name__)
log.addFilter(made_legible)

MAX_NAMED = 4  # models in a title


def compare(config: Config, overrides: Sequence[str] = ()) -> Path:
    """Compare every finished run below `config["runs"]`; the path of the page.

    Raises Refused where no run is left, or where those left cannot be compared.
    """
    out = Path(config["out"]) if config["out"] else None
    if out and (out / "run.json").exists():
        raise Refused(f"out={out}: is a run's own folder; name another one")
    folders = find_folders(config["runs"])
    runs, problems = read_runs(folders)
    if not runs:
        reason = f"{problems[0].folder}: {problems[0].what}"
        raise Refused(f"runs: none of {len(folders)} can be shown\n{reason}")
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


def origin(network: Network) -> Origin:
    """What reproduces a run, from its record."""
    facts = network.facts
    known = ("device", "precision", "num_threads", "started_at", "num_epochs", "train_seconds")
    return Origin(
        label=network.label,
        command=facts["command"] or "",
        commit=facts["git_commit"],
        versions=tuple((name, str(v)) for name, v in (facts["versions"] or {}).items() if v),
        test_hash=facts["test_hash"],
        split_hash=facts["split_hash"],
        **{name: facts[name] for name in known},
    )


def write(comparison: Comparison, out: Path) -> Path:
    """Put the three files into `out`, each whole; raises Refused where that cannot be."""
    files = {
        "comparison.csv": as_csv(comparison.rows),
        "comparison.md": as_markdown(comparison),
        "index.html": page(comparison),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with replacing(out / name) as path:
                path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(f"out={out}: cannot be written to ({error})") from error
    return out / "index.html"


def nearest_parent(runs: Sequence[Run]) -> Path:
    """The nearest folder that holds all the runs."""
    return Path(os.path.commonpath([run.folder.resolve().parent for run in runs]))
