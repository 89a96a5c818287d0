"""The settings of this command, besides those of a training."""

import re

from triptych.config import FLAG, NODE, PATH, TEXT, Rule, count, number

EXTENDS_TRAINING = True
NO_SWEEP = "has one network a study; start it once for each"
FILE_NAME = Rule(
    "a name of letters, digits, - _ and .",
    lambda v: TEXT.holds(v) and re.fullmatch(r"[A-Za-z0-9_][\w.-]*", v, re.ASCII) is not None,
)
RULES: dict[str, Rule] = {
    "num_trials": count(1),
    "study": FILE_NAME,
    "storage": PATH.or_null(),
    "sampler_seed": count(0, 2**32 - 1),
    "pruner": NODE,
    "timeout_minutes": number(0, above=True).or_null(),
    "recipe_dir": PATH.or_null(),
    "overwrite": FLAG,
    "search": Rule("a mapping of settings", lambda v: type(v) is dict),
}
