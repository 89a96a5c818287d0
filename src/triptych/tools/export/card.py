"""The model card of an exported file, written from the run's record.

Shapes: C classes.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.filesize import decimal

from triptych.config import format_value
from triptych.errors import UserError
from triptych.runs.reader import sanitize
from triptych.tools.compare import runs
from triptych.tools.compare.content import Circumstances
from triptych.tools.compare.runs import TrainedNetwork
from triptych.tools.compare.summaries import summarize_network
from triptych.tools.evaluate.findings import describe_hardware
from triptych.tools.export.agreement import Agreement
from triptych.tools.report.formats import percent
from triptych.tools.report.page import escape_markdown
from triptych.tools.statistics.calibration import calibrate
from triptych.tools.statistics.intervals import Interval, wilson

log = logging.getLogger(__name__)

MOST_CLASSES = 100  # in the table
RECIPE = """
    model.weights model.freeze data.augment data.mix data.batch_size optim.name optim.lr
    optim.schedule optim.weight_decay optim.label_smoothing trainer.max_epochs checkpoint.score
""".split()

Read = TypeVar("Read")


class ClassRow(NamedTuple):
    """A class on the test images; NaN where a value is undefined."""

    name: str
    num_images: int
    recall: float
    interval: Interval  # Wilson, of the recall
    precision: float
    f1: float


class FileFacts(NamedTuple):
    name: str
    size: str
    sha256: str


def card(
    network: TrainedNetwork, identity: dict[str, Any], found: Agreement, form: str, file: FileFacts
) -> str:
    """What the file is, how to use it, what it scored, and where that ends, in Markdown.

    Nothing that the run folder says becomes markup.
    """
    val = where_readable(runs.read_val_predictions, network)
    cost = where_readable(runs.read_cost, network)
    types = where_readable(runs.read_image_types, network)
    weakest = per_class(network, identity["classes"])
    metadata = dict.fromkeys(("num_train", "num_val", "split_seed")) | network.metadata
    versions = (metadata["versions"] or {}).items()
    return (
        _environment()
        .get_template("card.md.jinja")
        .render(
            **identity,
            num_classes=len(identity["classes"]),
            row=summarize_network(network, cost),
            metadata=metadata,
            recipe=[(name, format_value(setting(network.config, name))) for name in RECIPE],
            versions=", ".join(f"{name} {value}" for name, value in versions),
            torch=version("torch"),
            per_class=weakest[:MOST_CLASSES],
            undefined_classes=network.scores.undefined_classes,
            calibration=calibrate(network.test, val),
            cost=cost,
            image_types=types,
            found=found,
            file=file,
            folder=sanitize(str(network.folder)),
            snippet=snippet(form, file.name),
            command=sanitize(os.environ.get("TRIPTYCH_COMMAND", "")),
        )
    )


def describe_file(path: Path, name: str) -> FileFacts:
    """Of the file at `path`, which will be called `name`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileFacts(sanitize(name), decimal(path.stat().st_size), digest)


def where_readable(
    read: Callable[[TrainedNetwork], Read | None], network: TrainedNetwork
) -> Read | None:
    """What a run folder may hold; None, with a line on the screen, where it is not what it is."""
    try:
        return read(network)
    except UserError as refused:
        log.warning("left out of the card: %s", " ".join(str(refused).split()))
        return None


def per_class(network: TrainedNetwork, classes: list[str]) -> list[ClassRow]:
    """The weakest class first; one without a test image comes last."""
    scores = network.scores
    num_true, right = scores.confusion.sum(axis=1), scores.confusion.diagonal()
    f1, precision, recall = scores.per_class
    order = np.argsort(recall, kind="stable")
    return [
        ClassRow(
            *(classes[c], int(num_true[c]), float(recall[c])),
            *(wilson(int(right[c]), int(num_true[c])), float(precision[c]), float(f1[c])),
        )
        for c in order
    ]


def setting(config: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None  # type: ignore[assignment]
    return config


def snippet(form: str, name: str) -> str:
    """The lines of Python that use the file, with its own name in them."""
    text = files("triptych.exported").joinpath("template", f"use_{form}.py.txt").read_text()
    return text.replace('"FILE"', json.dumps(name, ensure_ascii=False))


def number(value: Any) -> str:
    """With separators; what a record lacks, or has as something else, is not recorded."""
    return f"{value:,.0f}" if type(value) in (int, float) else "not recorded"


def fixed(value: float | None, digits: int = 4) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def percents(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{percent(value)} %"


def duration(seconds: float | None) -> str:
    return "not recorded" if seconds is None else f"{seconds / 60:,.1f} minutes"


def place(measured: Circumstances) -> str:
    return describe_hardware(measured.device, measured.precision, measured.num_threads)


def typed(text: str | None) -> Markup:
    """For code, where nothing is markup: in one line it cannot end it, without backticks."""
    return Markup((text or "not recorded").replace("`", "'"))


def indented(text: str) -> Markup:
    return Markup("\n".join(f"    {line}".rstrip() for line in text.splitlines()))


def finalized(value: Any) -> str:
    """Every value of the template comes by here."""
    if isinstance(value, Markup):
        return str(value)
    return escape_markdown(sanitize("not recorded" if value is None else str(value)))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("triptych.exported", "template"),
        finalize=finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        **{each.__name__: each for each in (number, fixed, duration, place, typed, indented)},
        "percent": percents,
    }
    return environment
