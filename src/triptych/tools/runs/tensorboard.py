"""TensorBoard over runs by short names: it names a run by its path below what it is given."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from triptych.config import find_node, format_value, setting_name
from triptych.errors import UserError
from triptych.runs.record import NOT_THE_EXPERIMENT
from triptych.tools.compare.names import Described, make_labels
from triptych.tools.runs.listing import Run

SECONDS = 20  # between two looks for new runs


def show_in_tensorboard(find: Callable[[], Sequence[Run]], port: int) -> None:
    """Run TensorBoard on this machine until Ctrl-C, over links to the runs that `find` gives.

    Raises UserError where it ends by itself, as on a port that is taken.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # it ends with this process
    with TemporaryDirectory(prefix="triptych_tensorboard_") as folder:
        link_runs(find(), Path(folder))
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder]
        process = subprocess.Popen([*command, "--host", "localhost", "--port", str(port)])
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(SECONDS)
                with suppress(UserError):  # the runs may be gone for now
                    link_runs(find(), Path(folder))
            raise UserError(
                f"tensorboard={port}: TensorBoard has ended, exit code {process.returncode}\n"
                f"try another port: tensorboard={port + 1}"
            )
        except KeyboardInterrupt:
            process.wait()  # Ctrl-C has reached it, too
        finally:
            process.terminate()


def link_runs(runs: Sequence[Run], folder: Path) -> None:
    """Make the folder's links those of these runs' events, by `name_runs`."""
    places = {name: run.folder.absolute() / "tensorboard" for name, run in name_runs(runs).items()}
    links = {folder / name: place for name, place in places.items() if place.is_dir()}
    for link in folder.iterdir():
        if links.get(link) != link.readlink():
            link.unlink()
    for link, place in links.items():
        if not link.is_symlink():
            link.symlink_to(place)


def name_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Each by its own name or model and its seed, and by the settings that tell it from others."""
    known = []
    for run in runs:
        names = map(setting_name, run.metadata.get("overrides") or ())
        settings = {"data": str(run.metadata.get("data"))}
        for key in (name for name in names if name not in NOT_THE_EXPERIMENT):
            node, name = find_node(run.settings, key)
            if not isinstance(value := node.get(name), dict):
                settings[key] = format_value(value)
        shown = run.metadata.get("name") or run.metadata.get("model")
        known.append(Described(f"{shown} seed{run.metadata.get('seed')}", settings))
    labels = (re.sub(r"[^\w .,=()+-]", "_", label)[:80] for label in make_labels(known))
    return dict(zip(labels, runs, strict=True))
