"""The settings of this command, by the keys of its YAML."""

from collections.abc import Iterator

from triptych.config import (
    FLAG,
    FOLDERS,
    MAX_BATCH,
    NAMES,
    PATH,
    Config,
    Rule,
    count,
    number,
    one_of,
)

ANSWERS: dict[str, Rule] = {
    **dict.fromkeys(("coverage", "keep"), number(0, 1, above=True).or_null()),
    "sets": one_of("lac", "classwise"),
}

RULES: dict[str, Rule] = {
    "run": FOLDERS,
    "images": FOLDERS,
    "out": PATH.or_null(),
    "grid": PATH.or_null(),
    "grid_images": count(1, 600),  # a picture's side has at most 2^16 pixels
    "top_k": count(1),
    "calibrated": FLAG,
    "tta": one_of("none", "flip"),
    **ANSWERS,
    "batch_size": count(1, MAX_BATCH),
    "num_threads": count(1, 256).or_null(),
    "max_pixels": count(1, 10**9),
    "device": one_of("auto", "cpu", "cuda"),
    "overwrite": FLAG,
    "trusted_targets": NAMES,
}


def find_contradictions(config: Config) -> Iterator[str]:
    if config["sets"] != "lac" and config["coverage"] is None:
        yield f"sets={config['sets']}: the sets' coverage must be given, such as coverage=0.95"
