"""One job of a sweep, in a folder of the sweep's: its frozen config, its run's folder, its output.

Standard input is the leash: it closes when the sweep is gone, however that ended, and the job stops
as at a SIGTERM. One that cannot, for it waits on a device or on another process, is killed.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from triptych.cli import configure_logging, print_error
from triptych.config import Config
from triptych.errors import UserError

COMMAND = [sys.executable, "-m", "triptych.distributed.job"]  # and the job's folder
SAVE_SECONDS = 30.0  # between a signal and SIGKILL, after which the last checkpoint counts


def main(place: Path) -> int:
    """Do the job of `job.json`, note the run's folder in `folder`, return the exit code."""
    threading.Thread(target=follow_leash, daemon=True).start()
    asked = json.loads((place / "job.json").read_text())
    configure_logging()
    try:
        work(asked["config"], asked["overrides"], place / "folder")
    except UserError as error:
        return print_error(error)
    except KeyboardInterrupt:
        return 130
    return 0


def follow_leash() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAVE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def work(config: Config, overrides: list[str], report: Path) -> None:
    """Train. A bug that shows before there is a run folder is recorded in one made for it."""
    from triptych.distributed.ranks import rank
    from triptych.runs.lifecycle import record_status
    from triptych.runs.record import Record
    from triptych.training import train

    try:
        train(config, overrides, started=report.write_text)
    except UserError:
        raise
    except Exception:
        if report.exists() or config["resume"] or rank():
            raise
        record = Record.create(config, overrides)
        report.write_text(str(record.folder))
        with record_status(record):
            raise


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
