"""How fast a run trains, or predicts, on this machine: beside its upper bound and the usual way."""

import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from triptych import Refused
from triptych.config import Config
from triptych.door import open_door
from triptych.files import check_file, replacing


def benchmark(config: Config, overrides: list[str]) -> None:
    """Measure, show what came of it, and write it to a JSON file.

    Raises Refused where it cannot be measured as asked, or `out` exists.
    """
    if config["resume"]:
        raise Refused("resume: a benchmark measures new steps, and keeps no run")
    path = destination(config)
    check_file(f"out={path}", path)
    if path.exists():
        raise Refused(f"out={path}: exists and is kept; give another name")

    from triptych.progress import hush_lightning
    from triptych.record import Record
    from triptych.speed.measurement import measure
    from triptych.speed.table import show

    hush_lightning()
    with tempfile.TemporaryDirectory(prefix="triptych-") as scratch:
        record = Record.create(config | {"log_dir": scratch}, overrides)
        measured = measure(config, record) | {"command": os.environ.get("TRIPTYCH_COMMAND")}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(measured, indent=2) + "\n")
    show(measured)
    print(path)


def destination(config: Config) -> Path:
    """Where the JSON file goes."""
    if config["out"]:
        if Path(config["out"]).suffix != ".json":
            raise Refused(f"out={config['out']}: must end with .json")
        return Path(config["out"])
    name = f"{config['model']['name']}_{config['mode']}_{config['data']['batch_size']}"
    now = datetime.now(UTC)
    return Path(config["log_dir"], "benchmark", f"{name}_{now:%Y-%m-%d_%H%M%S}.json")


if __name__ == "__main__":
    open_door("benchmark", "triptych.benchmark:benchmark")
