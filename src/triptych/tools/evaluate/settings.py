"""The settings of `evaluate`, by the keys of its YAML. Imports no torch."""

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
    describe_unknown_key,
    format_value,
    iterate_settings,
    number,
    one_of,
)
from triptych.config import RULES as TRAINING_RULES
from triptych.errors import closest_matches

# The types of test images, and how much each of three severities does. Where it says CIFAR-10-C,
# these are that benchmark's levels 1, 3 and 5 (Hendrycks & Dietterich, 2019); the others were
# chosen by eye, so that a person still names almost every object at the last.
LEVELS: dict[str, tuple[float, float, float]] = {
    "small_object_plain": (3 / 4, 1 / 2, 1 / 3),  # of the image's sides
    "small_object_blurred": (3 / 4, 1 / 2, 1 / 3),
    "complex_scene": (16, 48, 144),  # pieces of clutter around the image at 3/4 of its sides
    "occlusion": (1 / 4, 3 / 8, 1 / 2),  # of the sides; the last as DeVries & Taylor (2017)
    "noise": (0.04, 0.08, 0.10),  # standard deviation, of the range: CIFAR-10-C
    "blur": (0.4, 0.7, 1.0),  # standard deviation in pixels where a side has 32: CIFAR-10-C
    "low_contrast": (0.75, 0.4, 0.15),  # of the contrast is left: CIFAR-10-C
    "brightness": (1 / 3, 2 / 3, 1),  # stops up or down
    "jpeg": (80, 58, 40),  # quality: CIFAR-10-C
    "rotation": (15, 30, 45),  # degrees either way
}
# Published images from elsewhere, for networks of CIFAR-10's classes.
SHIFTS = {"cifar10_1": "CIFAR-10.1", "cifar10_c": "CIFAR-10-C", "svhn": "SVHN"}
MAX_MAPS = 100  # of a figure of Grad-CAM
PLACES = Rule(
    f"a list of at most {MAX_MAPS} whole numbers",
    lambda v: type(v) is list and len(v) <= MAX_MAPS and all(map(count(0).holds, v)),
)
RULES: dict[str, Rule] = {
    "run": FOLDERS,
    "data": Rule(
        "other labelled images, such as data=folder", lambda v: v is None or type(v) is dict
    ),
    "split": one_of("test", "val", "all"),
    "protocol": one_of("full", "paper"),
    "device": one_of("auto", "cpu", "cuda"),
    "tta": one_of("none", "flip"),
    "batch_size": count(1, MAX_BATCH).or_null(),
    "data_root": PATH.or_null(),
    "cost": FLAG,
    "cost_seconds": number(0, above=True),
    "image_types.types": NAMES,
    "image_types.num_images": count(1).or_null(),
    "grad_cam.images": Rule(
        f"none, most_confused, or {PLACES.says}",
        lambda v: v in ("none", "most_confused") or PLACES.holds(v),
    ),
    "grad_cam.num_images": count(1, MAX_MAPS),
    "shifts": Rule("all, or a list of sets", lambda v: type(v) is str or NAMES.holds(v)),
    "ood": FOLDERS._replace(says="a folder of images, a data set, or a list of these").or_null(),
    "shift_images": count(2).or_null(),
    **dict.fromkeys(("duplicates", "suspect_labels"), FLAG),
    "trusted_targets": NAMES,
}


def find_contradictions(config: Config) -> Iterator[str]:
    """What no setting shows by itself."""
    types = config["image_types"]["types"]
    if config["data"] is not None:
        yield from find_problems_of_data(config)
    elif config["split"] == "all":
        yield "split=all: of other images, with data=; of a run's own it is test or val"
    of_test = {
        "image_types: made of test images": types,
        "protocol=paper: over the last test images": config["protocol"] == "paper",
        "shifts: compared with test images": config["shifts"],
        "ood: compared with test images": config["ood"],
    }
    if config["split"] == "val":
        yield from (f"{what}; leave split=test" for what, asked in of_test.items() if asked)
    for name in sorted({*types} - {*LEVELS}):
        nearest = closest_matches(name, LEVELS)
        yield f"image_types.types={name}: no type of images; nearest: {nearest}"
    if len(set(types)) < len(types):
        yield f"image_types.types={types}: each once"
    for name in sorted({*list_shifts(config)} - {*SHIFTS}):
        yield f"shifts={name}: no such set; all, or of {', '.join(SHIFTS)}"


def list_shifts(config: Config) -> list[str]:
    """The sets that are asked for, in words, or one in a word."""
    return [*SHIFTS] if config["shifts"] == "all" else list_words(config["shifts"])


def list_words(asked: str | list[str] | None) -> list[str]:
    return [asked] if isinstance(asked, str) else asked or []


def find_problems_of_data(config: Config) -> Iterator[str]:
    """What is wrong with `data=`: in its own settings, and beside those for a run's own images."""
    for key, value in iterate_settings({"data": config["data"]}, TRAINING_RULES):
        if key not in TRAINING_RULES:
            yield describe_unknown_key(key, "train")
        elif value == "???" or not TRAINING_RULES[key].holds(value):
            yield f"{key}={format_value(value)}: must be {TRAINING_RULES[key].says}"
    for key in ("data.name", "data.source", "data.num_test", "data.split_seed"):
        if key.partition(".")[2] not in config["data"]:
            yield f"{key}: missing; choose a set, such as data=folder data.root=<folder>"
    own = {
        "split=val": config["split"] == "val",
        "protocol=paper": config["protocol"] == "paper",
        "data_root": config["data_root"] is not None,
        "image_types": bool(config["image_types"]["types"]),
        "grad_cam.images": config["grad_cam"]["images"] != "none",
        **{name: bool(config[name]) for name in ("shifts", "ood")},
        **{name: config[name] for name in ("duplicates", "suspect_labels")},
    }
    yield from (f"{name}: is of a run's own images; leave data= out" for name in own if own[name])
