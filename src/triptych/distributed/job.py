"""A training in a process of its own; `processes.py` starts it and says what lies in its folder.

Standard input closes when the process that started the job is gone, however that ended. The job
then stops as at a SIGTERM; one that waits on a device or on another process is killed later.
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
from triptych.distributed.processes import SAVE_SECONDS
from triptych.errors import UserError


def main(place: Path) -> int:
    """Train what `job.json` says, write the run's folder into `folder`; the exit code."""
    threading.Thread(target=stop_with_parent, daemon=True).start()
    job = json.loads((place / "job.json").read_text())
    configure_logging()
    try:
        work(job["config"], job["overrides"], place / "folder")
    except UserError as error:
        return print_error(error)
    except KeyboardInterrupt:
        return 130
    return 0


def stop_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAVE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def work(config: Config, overrides: list[str], report: Path) -> None:
    """Train. A bug that shows before there is a run folder is recorded in one made for it."""
    from triptych.distributed.ranks import get_rank
    from triptych.runs.lifecycle import record_status
    from triptych.runs.record import Record
    from triptych.training import train

    try:
        train(config, overrides, report=report.write_text)
    except UserError:
        raise
    except Exception:
        if report.exists() or config["resume"] or get_rank():
            raise
        record = Record.create(config, overrides)
        report.write_text(str(record.folder))
        with record_status(record):
            raise


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
