"""Predict the classes of a user's own images by trained networks. Imports no torch.

An image is resized as the run's test images were: stretched to a square or, for a run on
`data=folder`, fitted into one by that run's settings.
"""

import glob
import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import rich

from triptych.cli.arguments import check_writable
from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders, read_finished
from triptych.runs.stopping import exit_on_signal

OUTPUT_SUFFIXES = {"out": (".csv", ".jsonl", ".ndjson"), "grid": (".png",)}

log = logging.getLogger(__name__)


def predict(config: Config, overrides: list[str]) -> None:
    """Run `predict_images` in a process whose standard output is for predictions alone."""
    rich.reconfigure(stderr=True)
    signal.signal(signal.SIGTERM, exit_on_signal)  # which deletes an unfinished output
    predict_images(config)


def predict_images(config: Config) -> None:
    """Write a prediction for every image, in the order of the images; all output files or none.

    An image that cannot be read gets a row with its error. Raises UserError, before any output is
    touched, where a setting, a run or every image cannot be used.
    """
    if not config["out"] and sys.__stdout__ is None:  # `>&-`
        raise UserError("out: standard output is closed; name a file, such as out=predictions.csv")
    for setting, suffixes in OUTPUT_SUFFIXES.items():
        if config[setting]:
            check_output(setting, Path(config[setting]), suffixes, config["overwrite"])
    runs, images = ([v] if isinstance(v, str) else v for v in (config["run"], config["images"]))
    folders = select_runs(runs)
    paths = read_paths(sys.stdin.buffer) if images == ["-"] else find_images(images)

    from triptych.tools.predict.prediction import write_predictions  # torch, behind the checks

    write_predictions(config, folders, paths)


def read_paths(lines: Iterable[bytes]) -> Iterator[str]:
    """Paths as they arrive, one a line; raises UserError where they cannot be read."""
    try:
        yield from (os.fsdecode(path) for line in lines if (path := line.rstrip(b"\r\n")))
    except OSError as error:
        raise UserError(f"images=-: standard input cannot be read ({error})") from error


def check_output(setting: str, path: Path, suffixes: Sequence[str], overwrite: bool) -> None:
    """Raise UserError unless a file with one of the suffixes can be written there."""
    label = f"{setting}={path}"
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{label}: must end in {' or '.join(suffixes)}")
    check_writable(label, path)
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{label}: exists; overwrite=true replaces it")
    if not path.parent.exists():
        raise UserError(f"{label}: there is no folder {path.parent}")


def select_runs(places: Sequence[str]) -> list[Path]:
    """The finished runs at or below the places; the others are skipped with a warning.

    Raises UserError where a place itself is an unfinished run, or no run is finished.
    """
    named = {Path(place).resolve() for place in places}
    finished, problems = list[Path](), list[UserError]()
    for folder in find_run_folders(places, "run"):
        try:
            read_finished(folder)
            finished.append(folder)
        except UserError as error:
            if folder.resolve() in named:
                raise
            problems.append(error)
    if not finished:
        raise problems[0]
    if problems:
        log.warning("skipped %d of the runs, the first: %s", len(problems), problems[0])
    return finished


def find_images(places: Sequence[str]) -> list[str]:
    """Paths of image files in the order of the places; within a folder or a glob by name.

    A place that is a file is taken whatever its name. Raises UserError where a place has no image
    or a folder cannot be read.
    """
    paths: list[str] = []
    for place in places:
        starts = [place] if os.path.exists(place) else sorted(glob.glob(place, recursive=True))
        here = [path for start in starts for path in list_images(start)]
        if not here:
            raise UserError(
                f"images={place}: no image there{'' if starts else ', there is no such file'}; "
                "give a file, a folder, a glob in quotes, a list of them, or - for standard input"
            )
        paths += here
    return paths


def list_images(start: str) -> list[str]:
    """A file itself; of a folder, at any depth, the files with an image's suffix, none hidden."""
    if not os.path.isdir(start):
        return [start]
    from triptych.data.photos import IMAGE_SUFFIXES
    from triptych.data.split_folders import walk_files

    try:
        files = [*walk_files(Path(start))]
    except OSError as error:
        raise UserError(f"images: {error.filename}: {error.strerror}") from error
    return [str(path) for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
