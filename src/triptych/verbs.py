"""The settings of the commands besides train, a table each; the keys are those of their YAML."""

import re
from collections.abc import Iterator
from typing import Any

from triptych.evaluation.levels import check_types
from triptych.rules import FLAG, NAMES, NODE, TEXT, Rule, count, number, one_of

FOLDERS = Rule(
    "a folder, a glob in quotes, or a list of them",
    lambda value: TEXT.holds(value) or (value and NAMES.holds(value)),
)
FILE_NAME = Rule(
    "a name of letters, digits, - _ and .",
    lambda v: TEXT.holds(v) and re.fullmatch(r"[A-Za-z0-9_][\w.-]*", v, re.ASCII) is not None,
)
PLACES = Rule("a list of whole numbers", lambda v: type(v) is list and all(map(count(0).holds, v)))

VERBS: dict[str, dict[str, Rule]] = {
    "evaluate": {
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
    },
    "compare": {
        "runs": FOLDERS,
        "out": TEXT.or_null(),
        "allow_mixed": FLAG,
    },
    "predict": {
        "run": FOLDERS,
        "images": FOLDERS,
        "out": TEXT.or_null(),
        "grid": TEXT.or_null(),
        "grid_images": count(1, 600),  # a picture's side has at most 2^16 pixels
        "top_k": count(1),
        "calibrated": FLAG,
        "batch_size": count(1),
        "num_threads": count(1, 256).or_null(),
        "max_pixels": count(1),
        "device": one_of("auto", "cpu", "cuda"),
        "overwrite": FLAG,
        "trusted_targets": NAMES,
    },
    "serve": {
        "runs": FOLDERS,
        "which": one_of("best", "all"),
        "num_networks": count(1),
        "host": TEXT,
        "port": count(0, 65535),
        "device": one_of("auto", "cpu", "cuda"),
        "max_bytes": count(1),
        "max_pixels": count(1),
        "trusted_targets": NAMES,
    },
    "export": {
        "run": TEXT,
        "format": one_of("onnx", "torch"),
        "out": TEXT.or_null(),
        "overwrite": FLAG,
        "data_root": TEXT.or_null(),
        "time_seconds": number(0, above=True),
        "trusted_targets": NAMES,
    },
    "benchmark": {  # besides those of a training
        "mode": one_of("train", "inference"),
        "rounds": count(1),
        "block_seconds": number(0, above=True),
        "warm_up_steps": count(1),
        "usual": FLAG,
        "usual_workers": count(0).or_null(),
        "out": TEXT.or_null(),
    },
    "tune": {  # besides those of a training
        "num_trials": count(1),
        "study": FILE_NAME,
        "storage": TEXT.or_null(),
        "sampler_seed": count(0, 2**32 - 1),
        "pruner": NODE,
        "timeout_minutes": number(0, above=True).or_null(),
        "recipe_dir": TEXT.or_null(),
        "overwrite": FLAG,
        "search": Rule("a mapping of settings", lambda v: type(v) is dict),
    },
}


def at_odds(config: dict[str, Any]) -> Iterator[str]:
    """What no setting of these commands shows by itself, in words for a refusal."""
    types = config.get("image_types", {}).get("types", [])
    if config.get("split") == "val" and types:
        yield "image_types: are made of test images; leave split=test"
    if config.get("split") == "val" and config.get("protocol") == "paper":
        yield "protocol=paper: is over the last test images; leave split=test"
    check_types(types)
