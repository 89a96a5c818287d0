"""The child's side of `TrainingProcess`.

Standard input closes when the process that started this one is gone, however that ended. The
training then stops as at a SIGTERM; one that waits on a device or another process is killed later.
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
    configure_logging()
    try:
        config, overrides = json.loads((place / "job.json").read_text())
        work(config, overrides, place / "folder")
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
    from triptych.training import train

    train(config, overrides, report=report.write_text)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
