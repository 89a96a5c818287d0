"""How fast a run trains, or predicts, on this machine: beside its upper bound and the usual way."""

import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.storage import atomic_write, check_writable


def benchmark(config: Config, overrides: list[str]) -> None:
    """Measure, show what came of it, and write it to a JSON file.

    Raises UserError where it cannot be measured as asked, or `out` exists.
    """
    if config["resume"]:
        raise UserError("resume: a benchmark measures new steps, and keeps no run")
    path = destination(config)
    check_writable(f"out={path}", path)
    if path.exists():
        raise UserError(f"out={path}: exists and is kept; give another name")

    from triptych.callbacks.progress import silence_lightning
    from triptych.runs.record import Record
    from triptych.tools.benchmark.measurement import measure
    from triptych.tools.benchmark.table import show

    silence_lightning()
    with tempfile.TemporaryDirectory(prefix="triptych-") as scratch:
        record = Record.create(config | {"log_dir": scratch}, overrides)
        measured = measure(config, record) | {"command": os.environ.get("TRIPTYCH_COMMAND")}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(measured, indent=2) + "\n")
    show(measured)
    print(path)


def destination(config: Config) -> Path:
    """Where the JSON file goes."""
    if config["out"]:
        if Path(config["out"]).suffix != ".json":
            raise UserError(f"out={config['out']}: must end with .json")
        return Path(config["out"])
    name = f"{config['model']['name']}_{config['mode']}_{config['data']['batch_size']}"
    now = datetime.now(UTC)
    return Path(config["log_dir"], "benchmark", f"{name}_{now:%Y-%m-%d_%H%M%S}.json")
