"""Paths as they are typed: where Hydra would read a number, a list or a function, they are quoted.

Imported in a sweep, by commands that write a file, and where a path means something to Hydra.
"""

import math
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf, grammar_parser
from omegaconf.errors import GrammarParseError

from triptych.config import (
    CONFIGS,
    PATHS,
    SLOTS,
    extends_training,
    find_node,
    load_settings,
    setting_name,
)
from triptych.errors import UserError

LISTS_OF_PATHS = ("run", "runs", "images", "predictions", "require", "ood")
MAX_JOBS = 10_000  # of a sweep: they are all composed, and checked, before the first starts
SWEEPS = re.compile(r"(choice|range|glob|interval|sort|shuffle|extend_list)\(.*\)", re.DOTALL)


def quote_path(argument: str, *, is_sweep: bool = False) -> str:
    """The argument as Hydra has to be given it; one that sets no path stays as it is.

    What exists under the very name that was typed is meant. Otherwise Hydra's quotes, a list where
    several paths may be given, in a sweep commas and functions, and ${...} keep their meaning.
    Raises UserError where a name cannot be given.
    """
    key, _, typed = argument.partition("=")
    name = setting_name(argument)
    if name not in PATHS or not typed or (typed == "null" and PATHS[name]):
        return argument
    exists = os.path.lexists(os.path.expanduser(typed))
    if "${" in typed:
        check_interpolation(name, typed, exists=exists)
    if exists:
        return f"{key}={quote(typed)}"
    if is_quoted(typed) or (is_sweep and (SWEEPS.fullmatch(typed) or has_quoted_part(typed))):
        return argument
    is_list = name in LISTS_OF_PATHS and typed.startswith("[") and typed.endswith("]")
    parts = (typed[1:-1] if is_list else typed).split(",")
    if is_list:
        quoted = (
            typed if has_quoted_part(typed) else f"[{','.join(map(quote, map(str.strip, parts)))}]"
        )
    elif is_sweep:
        quoted = ",".join("null" if p == "null" and PATHS[name] else quote(p) for p in parts)
    else:
        check_commas(argument, parts)
        quoted = quote(typed)
    return f"{key}={quoted}"


def check_sweep(command: str, overrides: Sequence[str]) -> None:
    """Raise UserError where a command, or a setting, takes no `-m`."""
    takes = "takes a folder with many runs below it, or a list of folders"
    default = "" if extends_training(command) else takes
    if reason := getattr(load_settings(command), "NO_SWEEP", default):
        raise UserError(f"-m: {command} {reason}")
    if resumed := [override for override in overrides if override.startswith("resume=")]:
        raise UserError(
            f"{resumed[0]}: continues one run; without -m\n"
            "a sweep resumes its own interrupted runs: the same command again, without resume="
        )
    check_number_of_jobs(overrides)


def check_experiment(overrides: Sequence[str]) -> None:
    """Raise UserError at a word for what the file of an experiment sets itself, over every word."""
    typed = dict(override.split("=", 1) for override in overrides if "=" in override)
    path = CONFIGS / "experiment" / f"{typed['experiment']}.yaml"
    settings = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    for group in SLOTS.keys() & typed.keys():
        node, name = find_node(dict(settings), SLOTS[group])  # type: ignore[arg-type]
        # Settings alone may suit another choice: the class that is chosen takes them or says no.
        if name in node and not (isinstance(node[name], dict) and "_target_" not in node[name]):
            said = f"experiment={typed['experiment']} sets {SLOTS[group]} itself"
            mend = f"have its defaults say: override /{group}: <choice>"
            raise UserError(f"{group}={typed[group]}: {said}\n{mend}")


def count_jobs(overrides: Iterable[str]) -> float:
    """How many jobs a sweep over them has, without listing them; infinite at an endless range."""
    number = 1.0
    for override in overrides:
        try:
            value = OverridesParser.create().parse_override(override).value()
        except (HydraException, ValueError):  # which Hydra explains
            continue
        if isinstance(value, ChoiceSweep):
            number *= len(value.list)
        elif isinstance(value, RangeSweep):
            start, stop, step = (float(n or 0) for n in (value.start, value.stop, value.step))
            length = (stop - start) / step if step else math.inf
            length = math.ceil(length) if math.isfinite(length) else length
            number *= 0 if length < 0 else length
    return number


def check_number_of_jobs(overrides: Iterable[str]) -> None:
    """Raise UserError at a sweep of more than `MAX_JOBS`, before Hydra lists them."""
    if not count_jobs(overrides) <= MAX_JOBS:
        raise UserError(f"-m: more than {MAX_JOBS:,} jobs; start a sweep for a part of them")


def restore_path(override: str) -> str:
    """The inverse of `quote_path`, for one path: as it was typed, or might have been."""
    name, _, value = override.partition("=")
    if setting_name(override) in PATHS and is_quoted(value):
        typed = f"{name}={OverridesParser.create().parse_override(override).value()}"
        if quote_path(typed) == override:
            return typed
    return override


def quote(path: str) -> str:
    """The path in Hydra's quotes, where it needs them."""
    try:
        override = OverridesParser.create().parse_override(f"path={path}")
        is_same = not override.is_sweep_override() and override.value() == path
        if is_same and override.get_value_element_as_str() == path:
            return path
    except HydraException:
        pass
    quoted: str = QuotedString(path, Quote.single).with_quotes()
    return quoted


def is_quoted(typed: str) -> bool:
    """Whether all of it is one of Hydra's quoted texts."""
    try:
        override = OverridesParser.create().parse_override(f"path={typed}")
        return isinstance(override._value, QuotedString)
    except HydraException:
        return False


def has_quoted_part(typed: str) -> bool:
    """Whether it is one of Hydra's lists or sweeps with quotes in it."""
    try:
        OverridesParser.create().parse_override(f"path={typed}")
        return "'" in typed or '"' in typed
    except HydraException:
        return False


def check_interpolation(name: str, typed: str, *, exists: bool) -> None:
    """Raise UserError where `${` is a part of a name: every config would read a variable there."""
    try:
        grammar_parser.parse(typed)
    except GrammarParseError:
        pass
    else:
        if not exists:
            return
    link = f"\nln -s {shlex.quote(typed)} photos\n{name}=photos" if exists else ""
    raise UserError(f"{name}={typed}: ${{ begins a variable; take another name{link}")


def check_commas(argument: str, parts: list[str]) -> None:
    """Raise UserError where several paths that exist are given to a command that takes one."""
    name = setting_name(argument)
    if len(parts) > 1 and all(os.path.lexists(os.path.expanduser(part)) for part in parts):
        listed = shlex.quote(f"{name}=[{','.join(parts)}]")
        mend = listed if name in LISTS_OF_PATHS else f"-m {shlex.quote(argument)}"
        raise UserError(f"{argument}: {len(parts)} paths; to take each: {mend}")


def check_writable(label: str, path: Path) -> None:
    """Raise UserError, which begins with `label`, where `atomic_write` could never put a file."""
    if os.path.isdir(path):
        raise UserError(f"{label}: is a folder")
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # the name is too long, or a part of the path is no folder
        raise UserError(f"{label}: cannot be written ({error.strerror})") from error
    parent = next(filter(os.path.exists, path.absolute().parents))
    if not os.access(parent, os.W_OK):
        raise UserError(f"{label}: cannot be written (no permission in {parent})")
