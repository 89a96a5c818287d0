"""The model card of an exported file, written from the run's record.

Shapes: C classes.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from rich.filesize import decimal

from triptych.config import Config, format_value, iterate_settings, load_rules
from triptych.runs.reader import sanitize
from triptych.runs.record import Record
from triptych.tools.compare.formats import percent
from triptych.tools.compare.runs import (
    Problem,
    TrainedNetwork,
    read_cost,
    read_image_types,
    read_optional,
    read_val_predictions,
)
from triptych.tools.report.page import escape_markdown, make_environment
from triptych.tools.statistics.calibration import calibrate
from triptych.tools.statistics.groups import share_interval

log = logging.getLogger(__name__)

MAX_CLASSES = 100  # in the table
RECIPE = """
    model.weights model.freeze data.augment data.mix data.batch_size optim.name optim.lr
    optim.schedule optim.weight_decay optim.label_smoothing trainer.max_epochs checkpoint.score
""".split()


def describe_file(path: Path, name: str, form: str) -> dict[str, str]:
    """Of the file at `path`, which will be called `name`; `snippet` is Python that uses it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    quoted = json.dumps(sanitize(name), ensure_ascii=False)
    snippet = files("triptych.tools.export").joinpath("template", f"use_{form}.py.txt").read_text()
    return {
        "name": sanitize(name),
        "size": decimal(path.stat().st_size),
        "sha256": digest,
        "snippet": Markup(snippet.replace('"FILE"', quoted)),
    }


def render_card(
    network: TrainedNetwork, metadata: dict[str, Any], checks: list[str], file: dict[str, str]
) -> str:
    """What the file is, how to use it, its scores and its limits, in Markdown.

    `metadata`: inside the file; `checks`: of the file, in sentences; `file`: of `describe_file`.
    Nothing from the run folder becomes markup.
    """
    problems: list[Problem] = []
    val = read_optional(read_val_predictions, network, problems)
    cost = read_optional(read_cost, network, problems)
    image_types = read_optional(read_image_types, network, problems)
    for problem in problems:
        log.warning("left out of the card: %s: %s", problem.folder, problem.what)
    return render_template(
        "card.md.jinja",
        (network.metadata, network.config),
        metadata,
        network=replace(network, cost=cost),
        class_rows=[*iterate_classes(network, metadata["classes"])][:MAX_CLASSES],
        undefined_classes=network.scores.undefined_classes,
        calibration=calibrate(network.test, val),
        cost=cost,
        image_types=image_types,
        checks=checks,
        file=file,
        folder=sanitize(str(network.folder)),
    )


def render_task_card(
    record: Record, metadata: dict[str, Any], checks: list[str], file: dict[str, str]
) -> str:
    """The same of a run of another task than one label an image, with what it logged."""
    run = sanitize(record.metadata), sanitize(record.config)
    return render_template("task_card.md.jinja", run, metadata, checks=checks, file=file)


def render_template(
    name: str, run: tuple[dict[str, Any], Config], metadata: dict[str, Any], **content: Any
) -> str:
    """A card with what all of them have; `run` is its record and its config."""
    record = dict.fromkeys(("num_train", "num_val", "split_seed")) | run[0]
    settings = dict(iterate_settings(run[1], load_rules("train")))
    versions = (record["versions"] or {}).items()
    options = {"finalize": escape_value, "keep_trailing_newline": True}
    environment = make_environment("export", autoescape=False, **options)
    environment.filters |= {"number": number, "inline_code": inline_code, "percent": percent_cell}
    return environment.get_template(name).render(
        **metadata,
        **content,
        num_classes=len(metadata["classes"]),
        record=record,
        recipe=[(name, format_value(settings.get(name))) for name in RECIPE],
        versions=", ".join(f"{name} {value}" for name, value in versions),
        torch=version("torch"),
        command=sanitize(os.environ.get("TRIPTYCH_COMMAND", "")),
    )


def list_scores(record: dict[str, Any]) -> dict[str, Any]:
    """What a run of another task says inside of its file: its task, and its scores as logged."""
    scores = {n.removeprefix("test/"): v for n, v in record["metrics"].items() if "test/" in n}
    measured = {name: value for name, value in scores.items() if type(value) in (int, float)}
    return {"task": record["task"], "metrics": measured}


def iterate_classes(network: TrainedNetwork, classes: list[str]) -> Iterator[dict[str, Any]]:
    """The class of lowest recall first, one without a test image last; NaN where undefined."""
    test, num_images = network.test, network.scores.confusion.sum(axis=1)
    f1, precision, recall = network.scores.per_class
    for c in np.argsort(recall, kind="stable"):
        of_class = test.labels == c
        groups = None if test.groups is None else test.groups[of_class]
        yield {
            "name": classes[c],
            "num_images": int(num_images[c]),
            "recall": float(recall[c]),
            "interval": share_interval(test.correct[of_class], groups),
            "precision": float(precision[c]),
            "f1": float(f1[c]),
        }


def number(value: Any) -> str:
    """With separators; what a record lacks, or has as something else, is not recorded."""
    return f"{value:,.0f}" if type(value) in (int, float) else "not recorded"


def percent_cell(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{percent(value)} %"


def inline_code(text: str | None) -> Markup:
    """For code spans and blocks, where nothing is markup but a backtick."""
    return Markup((text or "not recorded").replace("`", "'"))


def escape_value(value: Any) -> str:
    """Applied to every value of the template."""
    if isinstance(value, Markup):
        return str(value)
    return escape_markdown(sanitize("not recorded" if value is None else str(value)))
