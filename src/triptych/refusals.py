"""Hydra's errors over a command line as refusals of ours."""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENAMETOOLONG
from pathlib import Path
from typing import NoReturn

from triptych import Refused, nearest


@contextmanager
def refusals(verb: str) -> Iterator[None]:
    """Raise Refused for what Hydra and OmegaConf raise in the block over what was typed."""
    warnings.filterwarnings("ignore", "provider=.*is not available")  # the refusal says so
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        if not is_theirs(error):
            raise  # our own bug
        raise Refused(explain(error, verb)) from error


def is_theirs(error: Exception) -> bool:
    """Whether Hydra or OmegaConf raised it, or the system, over what was typed."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    kinds = (HydraException, OmegaConfBaseException, ValueError, OSError)
    return isinstance(error, kinds) or bool({"hydra", "omegaconf"} & set(raised_in.parts))


def check_flags() -> None:
    """Raise Refused at a flag that lacks its value: Hydra would print eight lines."""
    from hydra._internal.utils import get_args_parser

    def refuse_flag(message: str) -> NoReturn:
        raise Refused(f"{message}; --help tells what may be given")

    parser = get_args_parser()
    parser.error = refuse_flag  # type: ignore[method-assign]
    parser.parse_args()


def explain(error: Exception, verb: str) -> str:
    """An error of Hydra's or OmegaConf's, in our words where they are shorter."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
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
        typed = lines[0].split("'")[1]
        return f"{typed}: several values; sweep over them with -m"
    if isinstance(error, OSError) and error.errno:
        return of_the_system(error)
    if isinstance(error, OmegaConfBaseException) and error.full_key and lines:
        return of_omegaconf(error.full_key, lines[0])
    said = "\n".join(lines[:3]) or type(error).__name__
    if isinstance(error, HydraException | OmegaConfBaseException):
        return said
    return f"one of the arguments cannot be set: {said}"


def of_omegaconf(where: str, said: str) -> str:
    _, is_missing, key = said.rpartition("Missing mandatory value: ")
    return f"{key}: must be given" if is_missing else f"{where}: {said}"


def of_the_system(error: OSError) -> str:
    if error.errno == ENAMETOOLONG:  # a choice is a file's name
        return "one of the arguments is too long to be read"
    return f"log_dir: cannot be written to ({error})"  # where Hydra writes a sweep's choices
