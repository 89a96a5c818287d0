"""The settings of this command, besides those of a training."""

import re
from pathlib import Path

from triptych.cli import STORAGE
from triptych.config import (
    CONFIGS,
    FLAG,
    NODE,
    PATH,
    TEXT,
    Config,
    Rule,
    count,
    format_value,
    number,
    one_of,
)
from triptych.errors import UserError

# As SQLAlchemy reads an address, but up to the last @. An interpolation is no password.
PASSWORD = re.compile(
    r"(?P<before>://[^:/@\s]*:)(?!\$\{).*(?=@)|(?P<name>\b\w*(?:password|passwd|pwd)=)[^&\s'\"]+",
    re.IGNORECASE,
)
EXTENDS_TRAINING = True
FILE_NAME = Rule(
    "a name of letters, digits, - _ and .",
    lambda v: TEXT.holds(v) and re.fullmatch(r"[A-Za-z0-9_][\w.-]*", v, re.ASCII) is not None,
)
RULES: dict[str, Rule] = {
    "num_trials": count(1).or_null(),
    "seconds": number(0, above=True).or_null(),
    "searches": count(1, 100),
    "study": FILE_NAME,
    "storage": PATH.or_null(),
    "sampler": one_of("tpe", "random"),
    "sampler_seed": count(0, 2**32 - 1),
    "pruner": NODE.or_null(),
    "timeout_minutes": number(0, above=True).or_null(),
    "recipe_dir": PATH.or_null(),
    "overwrite": FLAG,
    "search": Rule("a mapping of settings", lambda v: type(v) is dict),
}
# Of what is found by a short training (search=range, search=batch), by the names in it.
OF_METHODS = {
    "method": one_of("range", "batch"),
    **dict.fromkeys(("low", "high"), number(0, above=True)),
    "num_steps": count(20, 100_000),
}


def expand_arguments(arguments: list[str]) -> list[str]:
    """The arguments; raises UserError at a password in `storage=`, which other users could see."""
    for argument in arguments:
        key, _, value = argument.lstrip("+").partition("=")
        if key == "storage" and mask_password(value) != value:
            raise UserError(
                f"storage={mask_password(value)}: a password on a command line can be read by "
                f"others\nset {STORAGE} to the address instead, in the environment or in .env"
            )
    return arguments


def check_method(search: Config) -> None:
    """Raise UserError unless a search that names a `method` has what that takes."""
    for name, value in search.items():
        if name not in OF_METHODS or not OF_METHODS[name].holds(value):
            rule = OF_METHODS.get(name, one_of(*OF_METHODS))
            raise UserError(f"search.{name}={format_value(value)}: must be {rule.says}")
    if search["method"] == "range" and search["low"] >= search["high"]:
        raise UserError(f"search.low={search['low']}: must be below search.high={search['high']}")


def recipe_path(config: Config) -> Path:
    return Path(config["recipe_dir"] or CONFIGS / "experiment", f"tuned_{config['study']}.yaml")


def mask_password(text: str) -> str:
    """The text with *** in place of the passwords of databases' addresses."""
    return PASSWORD.sub(lambda match: (match["before"] or match["name"]) + "***", text)
