"""The settings of this command, by the keys of its YAML."""

import glob
import os
from collections.abc import Iterator

from triptych.config import CONFIGS, FLAG, FOLDERS, PATH, Config, Rule, number, one_of
from triptych.errors import closest_matches

RULES: dict[str, Rule] = {
    "runs": FOLDERS.or_null(),
    "predictions": FOLDERS._replace(says="a file, a folder, a glob in quotes, or a list").or_null(),
    "labels": PATH.or_null(),
    "out": PATH.or_null(),
    "allow_mixed": FLAG,
    "metric": one_of("accuracy", "f1", "nll", "brier"),
    "margin": number(0, 100, above=True).or_null(),
    "suspects": PATH.or_null(),
}


def expand_arguments(arguments: list[str]) -> list[str]:
    """Where predictions are named and runs are not, no run stands beside them."""
    names = {argument.partition("=")[0] for argument in arguments}
    return [*arguments, *(["runs=null"] if "predictions" in names and "runs" not in names else [])]


def find_contradictions(config: Config) -> Iterator[str]:
    """What no setting shows by itself; whether the files that it names are there."""
    places, labels = config["predictions"], config["labels"]
    if config["runs"] is None and places is None:
        yield "runs=null: runs= or predictions= must be given"
    for place in [places] if isinstance(places, str) else places or ():
        if not os.path.exists(place) and not glob.glob(place, recursive=True):
            yield f"predictions={place}: no such file or folder"
    if labels is not None:
        if places is None:
            yield f"labels={labels}: of predictions=; runs have their own"
        sets = [path.stem for path in sorted((CONFIGS / "data").glob("*.yaml"))]
        if not os.path.exists(labels) and labels not in sets:
            known = f"nor a data set; nearest: {closest_matches(labels, sets)}"
            yield f"labels={labels}: no such file, {known}"
