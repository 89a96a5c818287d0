"""The settings of `evaluate`, by the keys of its YAML. Imports no torch."""

from collections.abc import Iterator

from triptych.config import FLAG, FOLDERS, NAMES, TEXT, Config, Rule, count, number, one_of
from triptych.tools.evaluate.levels import check_types

PLACES = Rule("a list of whole numbers", lambda v: type(v) is list and all(map(count(0).holds, v)))
NO_SWEEP = "takes a folder with many runs below it, or a list of folders"
RULES: dict[str, Rule] = {
    "run": FOLDERS,
    "split": one_of("test", "val"),
    "protocol": one_of("full", "paper"),
    "device": one_of("auto", "cpu", "cuda"),
    "batch_size": count(1).or_null(),
    "data_root": TEXT.or_null(),
    "cost": FLAG,
    "cost_seconds": number(0, above=True),
    "image_types.types": NAMES,
    "image_types.num_images": count(1).or_null(),
    "grad_cam.images": Rule(
        f"none, most_confused, or {PLACES.says}",
        lambda v: v in ("none", "most_confused") or PLACES.holds(v),
    ),
    "grad_cam.num_images": count(1),
    "trusted_targets": NAMES,
}


def find_contradictions(config: Config) -> Iterator[str]:
    """What no setting shows by itself."""
    types = config["image_types"]["types"]
    if config["split"] == "val" and types:
        yield "image_types: made of test images; leave split=test"
    if config["split"] == "val" and config["protocol"] == "paper":
        yield "protocol=paper: over the last test images; leave split=test"
    check_types(types)
