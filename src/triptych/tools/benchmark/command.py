"""How fast a run trains on this machine, beside an upper bound and the usual way."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.table import Table

from triptych.cli.arguments import check_writable
from triptych.cli.tables import make_console
from triptych.config import Config
from triptych.distributed.processes import copy_env
from triptych.errors import UserError
from triptych.runs.storage import atomic_write

if TYPE_CHECKING:
    from triptych.tools.sweep.jobs import Job

WAYS = {
    "bound": "a bare loop on one resident batch",
    "ours": "a real training run",
    "usual": "PIL images, float32, metrics in every step",
}


def benchmark(config: Config, overrides: list[str]) -> None:
    """Measure, show the result, and write it to a JSON file.

    Raises UserError where it cannot be measured as requested, or `out` exists.
    """
    if config["minutes"]:
        raise UserError("minutes: a benchmark takes rounds=, and block_seconds= each")
    if config["resume"]:
        raise UserError("resume: a benchmark measures new steps, and keeps no run")
    path = output_path(config)
    check_writable(f"out={path}", path)
    if path.exists():
        raise UserError(f"out={path}: exists already; give another name")

    from triptych.callbacks.progress import silence_lightning
    from triptych.runs.record import Record
    from triptych.tools.benchmark.measurement import measure

    silence_lightning()
    with tempfile.TemporaryDirectory(prefix="triptych-") as scratch:
        record = Record.create(config | {"log_dir": scratch}, overrides)
        measured = measure(config, record) | {"command": os.environ.get("TRIPTYCH_COMMAND")}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(measured, indent=2) + "\n")
    show([measured])
    print(path)


def output_path(config: Config) -> Path:
    """Where the JSON file goes."""
    if config["out"]:
        return Path(config["out"])
    name = f"{config['model']['name']}_{config['data']['batch_size']}"
    now = datetime.now(UTC)
    return Path(config["log_dir"], "benchmark", f"{name}_{now:%Y-%m-%d_%H%M%S}.json")


def benchmark_each(jobs: "Sequence[Job]") -> None:
    """Measure one job after the other, each in a process of its own; exits with 1 if one fails.

    Raises UserError where all would write into one file.
    """
    if any(job.config["out"] for job in jobs):
        raise UserError("out: names one file; with -m they go into log_dir/benchmark")
    measured = []
    for job in jobs:
        path = output_path(job.config).absolute()
        program = [sys.executable, "-m", "triptych", "benchmark"]
        command = [*program, *job.overrides, f"out={path}"]
        if subprocess.run(command, env=copy_env()).returncode == 0:
            measured.append(json.loads(path.read_text()))
    show(measured)
    if len(measured) < len(jobs):
        raise SystemExit(1)


def show(measured: Sequence[Mapping[str, Any]]) -> None:
    """Print measurements as `measurement.measure` returns them, a column each."""
    form = "{model}, {batch_size} images of\n{input_size} pixels, {precision}, {device}"
    columns = [f"{form}\ncompile: {{compile}}".format_map(each) for each in measured]
    title = "medians (least to most)"
    table = Table("", *columns, title=title, title_justify="left", box=None, pad_edge=False)
    for way, meaning in WAYS.items():
        rates = [format_spread(each["images_per_second"].get(way), ",.1f") for each in measured]
        table.add_row(f"images/s, {way}: {meaning}", *rates)
    for name in ("ours/bound", "ours/usual"):
        table.add_row(name, *(format_spread(each["ratios"].get(name), ".3f") for each in measured))
    for way in ("bound", "ours"):
        peaks = (decimal(each["peak_memory_bytes"][way]) for each in measured)
        table.add_row(f"peak memory, {way}", *peaks)
    for part in measured[0]["parts_ms"] if measured else ():
        table.add_row(f"{part}, ms", *(f"{each['parts_ms'][part]:,.3f}" for each in measured))
    make_console().print(table)


def format_spread(spread: Mapping[str, float] | None, form: str) -> str:
    """Median, least and most; empty where it was not measured."""
    if spread is None:
        return ""
    return f"{spread['median']:{form}} ({spread['min']:{form}} to {spread['max']:{form}})"
