"""What Hydra has against a command line, in our words."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENAMETOOLONG
from typing import NoReturn

from triptych import Refused, nearest


@contextmanager
def refusals(verb: str) -> Iterator[None]:
    """What Hydra and OmegaConf have against a command line, as Refused."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    warnings.filterwarnings("ignore", "provider=.*is not available")  # the refusal says so
    theirs = (HydraException, OmegaConfBaseException, ValueError, OSError)
    try:
        yield
    except Refused:
        raise
    except (*theirs, AttributeError, TypeError) as error:
        if not isinstance(error, theirs) and "full_key: " not in str(error):
            raise  # no word of OmegaConf's: our own bug
        raise Refused(explain(error, verb)) from error


def check_flags() -> None:
    """Raise Refused at a flag that lacks its value: Hydra would print eight lines."""
    from hydra._internal.utils import get_args_parser

    def refuse_flag(message: str) -> NoReturn:
        raise Refused(f"{message}; --help tells what may be given")

    parser = get_args_parser()
    parser.error = refuse_flag  # type: ignore[method-assign]
    parser.parse_args()


def explain(error: Exception, verb: str = "train") -> str:
    """What Hydra has against a command line, in our words where they are shorter."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    from triptych.config import unknown

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"{group}={choice}: no such choice; may be {nearest(choice, error.options, 12)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value; quote what has special characters"
    if lines and lines[0].startswith("Could not override '"):
        return unknown(lines[0].split("'")[1], verb)
    if lines and lines[0].startswith("Ambiguous value for argument"):
        return f"{lines[0].split(chr(39))[1]}: several values; sweep over them with -m"
    if isinstance(error, OSError) and error.errno == ENAMETOOLONG:  # a choice is a file's name
        return "one of the arguments is too long to be read"
    if isinstance(error, OSError) and error.errno:  # Hydra writes a sweep's choices into a folder
        return f"log_dir: cannot be written to ({error})"
    if isinstance(error, OmegaConfBaseException) and error.full_key and lines:
        _, is_missing, key = lines[0].rpartition("Missing mandatory value: ")
        return f"{key}: must be given" if is_missing else f"{error.full_key}: {lines[0]}"
    return "\n".join(lines[:3]) or type(error).__name__
