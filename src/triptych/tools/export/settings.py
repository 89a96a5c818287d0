"""The settings of this command, by the keys of its YAML."""

import re

from triptych.config import FLAG, NAMES, PATH, Rule, count, either, number, one_of
from triptych.tools.export.formats import FORMATS

NO_SWEEP = "takes one run; give its command for each"
FORMAT = one_of(*FORMATS)
SEVERAL = Rule(
    "several of them", lambda v: type(v) is list and v != [] and all(map(FORMAT.holds, v))
)
LICENSE = Rule(
    "an identifier such as apache-2.0",
    lambda v: type(v) is str and re.fullmatch(r"[a-z0-9.-]+", v) is not None,
)
RULES: dict[str, Rule] = {
    "run": PATH,
    "format": either(FORMAT, SEVERAL),
    "out": PATH.or_null(),
    "overwrite": FLAG,
    "min_agreement": number(0),
    "calibration_images": count(1, 100_000),
    "license": LICENSE.or_null(),
    "data_root": PATH.or_null(),
    "device": one_of("cpu", "cuda"),
    "time_seconds": number(0, above=True),
    "trusted_targets": NAMES,
}


def expand_arguments(arguments: list[str]) -> list[str]:
    """Commas between formats make a list."""
    return [re.sub(r"^format=([\w,]+,\w*)$", r"format=[\1]", argument) for argument in arguments]
