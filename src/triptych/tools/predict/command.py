"""What trained networks make of your own images: class, probability, the next in line.

An image is seen as the network's test images were: squeezed into a square, or, where the run was
trained on `data=folder`, fitted into one as its settings say.
"""

import logging
import signal
import sys
from collections.abc import Iterable, Sequence
from io import BufferedReader
from pathlib import Path

import rich

from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders, read_finished, sanitize_log_record
from triptych.runs.stopping import exit_on_signal
from triptych.tools.predict.paths import check_output, find_images, read_paths
from triptych.tools.predict.rows import WAYS

MOST_NAMED = 2  # runs that are left out, a line each

log = logging.getLogger("triptych.tools.predict.command")  # also where this file is the program
log.addFilter(sanitize_log_record)


def predict(config: Config, overrides: list[str]) -> None:
    """The command: `predict_images` in a process whose standard output is for predictions."""
    rich.reconfigure(stderr=True)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a word
    signal.signal(signal.SIGTERM, exit_on_signal)  # which takes the unfinished output away
    predict_images(config)


def predict_images(config: Config) -> None:
    """Write what the runs' networks say of every image, in the order of the images.

    An image that cannot be read is a row with its error. Raises UserError, before any output is
    touched, where there is nothing to predict, or to predict by.
    """
    for setting, suffixes in (("out", [*WAYS]), ("grid", [".png"])):
        if config[setting]:
            check_output(setting, Path(config[setting]), suffixes, config["overwrite"])
    runs, images = config["run"], config["images"]
    folders = runs_to_ask([runs] if isinstance(runs, str) else runs)
    paths: Iterable[str]
    if images in ("-", ["-"]):
        assert isinstance(sys.stdin.buffer, BufferedReader)
        paths, total = read_paths(sys.stdin.buffer), None
    else:
        paths = find_images([images] if isinstance(images, str) else images)
        total = len(paths)

    from triptych.tools.predict.work import work  # torch, behind what can be refused

    work(config, folders, paths, total)


def runs_to_ask(places: Sequence[str]) -> list[Path]:
    """The runs at or below the places; those that are not finished are left out with a line.

    Not so one that a place names itself, nor where none is finished: these are refused later.
    """
    named = {Path(place).resolve() for place in places}
    folders, problems = find_run_folders(places, "run"), dict[Path, str]()
    for folder in folders:
        try:
            read_finished(folder)
        except UserError as refused:
            problems[folder] = " ".join(str(refused).split())
    if len(problems) == len(folders):
        return folders
    left_out = [folder for folder in problems if folder.resolve() not in named]
    for folder in left_out[:MOST_NAMED]:
        log.warning("left out: %s", problems[folder])
    if more := left_out[MOST_NAMED:]:
        log.warning("left out: %d more", len(more))
    return [folder for folder in folders if folder not in left_out]
