"""The model card of exported files, written from the run's record.

Shapes: C classes.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
from markupsafe import Markup
from rich.filesize import decimal

from triptych.config import Config, format_value, iterate_settings, load_rules
from triptych.runs.reader import sanitize
from triptych.runs.record import Record
from triptych.tools.compare.formats import join_words, percent
from triptych.tools.compare.runs import (
    Problem,
    TrainedNetwork,
    read_cost,
    read_image_types,
    read_optional,
    read_val_predictions,
)
from triptych.tools.export.examples import list_packages, write_example
from triptych.tools.export.hub import Shipped
from triptych.tools.report.page import escape_markdown, make_environment
from triptych.tools.statistics.calibration import calibrate
from triptych.tools.statistics.groups import share_interval

log = logging.getLogger(__name__)

MAX_CLASSES = 100  # in the table
RECIPE = """
    model.weights model.freeze data.augment data.mix data.batch_size optim.name optim.lr
    optim.schedule optim.weight_decay optim.label_smoothing trainer.max_epochs checkpoint.score
""".split()


def render_card(
    network: TrainedNetwork, config: Mapping[str, Any], shipped: Sequence[Shipped]
) -> str:
    """What the files are, how to use them, their scores and their limits, in Markdown.

    `config`: of config.json. Nothing from the run folder becomes markup.
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
        config,
        shipped,
        network=replace(network, cost=cost),
        class_rows=[*iterate_classes(network, config["classes"])][:MAX_CLASSES],
        undefined_classes=network.scores.undefined_classes,
        calibration=calibrate(network.test, val),
        cost=cost,
        image_types=image_types,
    )


def render_task_card(record: Record, config: Mapping[str, Any], shipped: Sequence[Shipped]) -> str:
    """The same of a run of another task than one label an image, with what it logged."""
    run = sanitize(record.metadata), sanitize(record.config)
    return render_template("task_card.md.jinja", run, config, shipped)


def render_template(
    name: str,
    run: tuple[dict[str, Any], Config],
    config: Mapping[str, Any],
    shipped: Sequence[Shipped],
    **content: Any,
) -> str:
    """A card with what all of them have; `run` is its record and its config."""
    record = dict.fromkeys(("num_train", "num_val", "split_seed")) | run[0]
    settings = dict(iterate_settings(run[1], load_rules("train")))
    versions = (record["versions"] or {}).items()
    options = {"finalize": escape_value, "keep_trailing_newline": True}
    environment = make_environment("export", autoescape=False, **options)
    environment.filters |= {"number": number, "inline_code": inline_code, "percent": percent_cell}
    environment.filters |= {"size": decimal, "join_words": join_words}
    return environment.get_template(name).render(
        **config,
        **content,
        shipped=shipped,
        examples=[
            (
                each,
                list_packages(each.name, config),
                Markup(write_example(each.name, each.files[0].name, config)),
            )
            for each in shipped
        ],
        num_classes=len(config["classes"]),
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
