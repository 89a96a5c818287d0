"""Starts every command: reads the environment, has Hydra compose the config, explains wrong input.

Nothing here imports torch: wrong input and `--help` cost what an empty Hydra program costs.
"""

import logging
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import ENAMETOOLONG
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from triptych.errors import UserError, closest_matches, mask_password, sanitize_text

if TYPE_CHECKING:
    from triptych.config import Config

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
STORAGE = "TRIPTYCH_STORAGE"  # a database's address, with its password
VARIABLES = ("DATA_DIR", "LOG_DIR", "TORCH_HOME", STORAGE)  # that a `.env` may set
# What Hydra reads as a list, a mapping, a number or no text at all: no choice of a group.
NO_CHOICE = re.compile(r"[\[{].*|null|true|false|[-+.\d]*", re.DOTALL | re.IGNORECASE)


def run() -> None:
    """The console script `triptych <command> ...`, also `python -m triptych <command> ...`."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("--help", "-h"):
        print("triptych <command> [setting=value ...]\n")
        for name in list_commands():  # and the first line of its YAML
            first_line, *_ = (CONFIGS / f"{name}.yaml").read_text().partition("\n")
            print(f"  {name:10} {first_line.lstrip('# ')}")
        print("\ntriptych <command> --help shows its settings.")
    elif command in list_commands():
        sys.argv = ["triptych", *arguments]
        main(command)
    else:
        nearest = closest_matches(command, list_commands())
        sys.exit(print_error(UserError(f"{command}: no such command; nearest: {nearest}")))


def main(command: str) -> None:
    """Compose `configs/<command>.yaml` with the command line, check it, and run the command.

    Exits with 2 where the input is wrong, and with the command's own exit code otherwise.
    """
    # OpenMP's threads wait for each other asleep sooner than by themselves: spinning, they took up
    # to twenty times as long for a step on a machine that others use (NOTES.md, 2026-11-25).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    program, *arguments = sys.argv
    if {"--help", "-h"} & set(arguments):
        print(format_help(command))
        return
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        check_password(arguments)
        load_env(ROOT / ".env")
        configure_logging()
        is_script = program.endswith(f"{command}.py")
        typed = ["python", program] if is_script else ["triptych", command]
        os.environ["TRIPTYCH_COMMAND"] = shlex.join([*typed, *arguments])
        check_arguments(command, arguments)
        sys.argv[1:] = [add_plus(argument) for argument in arguments]
        composed = compose(command)
        if composed:
            for setting in {"run", "runs"} & composed[0].keys():  # are there any? before torch
                from triptych.runs.reader import find_run_folders

                find_run_folders(composed[0][setting], setting)
            load_function(command)(*composed)
    except UserError as error:
        if wants_traceback:
            raise
        sys.exit(print_error(error))
    except KeyboardInterrupt:
        sys.exit(130)


def list_commands() -> list[str]:
    """Every command: train, and each package of `tools` that has settings."""
    tools = sorted(path.parent.name for path in Path(__file__).parent.glob("tools/*/settings.py"))
    return ["train", *tools]


def load_function(command: str) -> Callable[..., Any]:
    """The function that does the work of a command: of its name, in its module `command`."""
    name = "triptych.training" if command == "train" else f"triptych.tools.{command}.command"
    function: Callable[..., Any] = getattr(import_module(name), command)
    return function


def check_module_name(typed: list[str]) -> None:
    """Exit with 2 where a command is started as a module of its own (`python -m triptych.tune`)."""
    for command in list_commands():
        if f"triptych.{command}" in typed:
            message = f"python -m triptych.{command}: the command is now `triptych {command}`"
            sys.exit(print_error(UserError(message)))


def print_error(error: UserError) -> int:
    """Print what was wrong with the input, in three lines at most; the exit code."""
    print(sanitize_text("\n".join(str(error).splitlines()[:3])), file=sys.stderr)
    return 2


def load_env(path: Path) -> None:
    """Set `VARIABLES` from a `.env` where the environment does not; an empty value sets nothing."""
    values = {}
    if path.exists():
        from dotenv import dotenv_values

        values = dotenv_values(path)
    for name in VARIABLES:
        if value := os.environ.pop(name, None) or values.get(name):
            os.environ[name] = os.path.expanduser(value)


class ScreenHandler(logging.Handler):
    """Prints a line through rich, above a progress bar where one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich import get_console

        with suppress(OSError):  # where the output is a file, its disk may be full
            get_console().print(
                sanitize_text(self.format(record)), markup=False, highlight=False, soft_wrap=True
            )


def configure_logging() -> None:
    """Send log lines to the screen. Before Lightning is imported: it looks for a handler then."""
    logging.basicConfig(format="%(message)s", handlers=[ScreenHandler()])
    logging.getLogger("triptych").setLevel(logging.INFO)


def check_password(arguments: Iterable[str]) -> None:
    """Raise UserError at a password in `storage=`: other users can see a command line."""
    for argument in arguments:
        key, _, value = argument.lstrip("+").partition("=")
        if key == "storage" and mask_password(value) != value:
            raise UserError(
                f"storage={mask_password(value)}: a password on a command line can be read by "
                f"others\nset {STORAGE} to the address instead, in the environment or in .env"
            )


def check_arguments(command: str, arguments: Iterable[str]) -> None:
    """Raise UserError at what Hydra would answer with its usage, or understand otherwise."""
    from hydra._internal.utils import get_args_parser

    from triptych.config import load_settings

    def raise_error(message: str) -> NoReturn:
        raise UserError(f"{message}; --help tells what may be given")

    parser = get_args_parser()
    parser.error = raise_error  # type: ignore[method-assign]
    flags = parser.parse_args(arguments)
    if flags.multirun and (reason := getattr(load_settings(command), "NO_SWEEP", "")):
        raise UserError(f"-m: {command} {reason}")
    for override in flags.overrides:
        name, is_set, value = override.partition("=")
        if not name:
            raise UserError(f"{override}: must be key=value")
        if is_set and os.path.isdir(CONFIGS / name) and NO_CHOICE.fullmatch(value):
            raise UserError(f"{override}: must be one of {', '.join(list_choices(name))}")


def list_choices(group: str) -> list[str]:
    """The choices of a config group."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def add_plus(argument: str) -> str:
    """`++trainer.x=` for `trainer.x=`, x any argument of the Trainer: the YAML names only some."""
    from triptych.config import TRAINER_ARGUMENTS

    is_trainer = re.match(r"trainer\.(\w+)", argument)
    return f"++{argument}" if is_trainer and is_trainer[1] in TRAINER_ARGUMENTS else argument


def strip_plus(overrides: Iterable[str]) -> list[str]:
    """Overrides without the plus signs that `add_plus` put there."""
    return [o.removeprefix("++") if o.startswith("++trainer.") else o for o in overrides]


def compose(command: str) -> tuple["Config", list[str]] | None:
    """The checked config and the overrides; None after a sweep, which Hydra's launcher ran."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting with 1
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf

    from triptych.config import check_config, resolve_config

    composed: list[tuple[DictConfig, list[str]]] = []

    def append(config: DictConfig) -> None:
        # Unresolved: an override may be an interpolation, which holds in the config alone.
        overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)
        composed.append((config, strip_plus(overrides)))

    with translate_hydra_errors(command):
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=command)(append)()
        if not composed:
            return None
        if len(composed) > 1:
            raise UserError("hydra/launcher: must be processes, which keeps the jobs apart")
        [(config, overrides)] = composed
        settings = resolve_config(config)
    check_config(settings, command)
    return settings, overrides


@contextmanager
def translate_hydra_errors(command: str) -> Iterator[None]:
    """Raise UserError for what Hydra and OmegaConf raise in the block over the command line."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    warnings.filterwarnings("ignore", "provider=.*is not available")  # the message says so
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        is_input = isinstance(error, HydraException | OmegaConfBaseException | ValueError | OSError)
        if not is_input and {"hydra", "omegaconf"}.isdisjoint(raised_in.parts):
            raise  # our own bug
        raise UserError(explain(error, command)) from error


def explain(error: Exception, command: str) -> str:
    """An error of Hydra's or OmegaConf's, in our words where they are shorter."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    from triptych.config import describe_unknown_key

    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    quoted = lines[0].split("'")
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        choices = closest_matches(choice, error.options, 12)
        return f"{group}={choice}: no such choice; nearest: {choices}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value; quote what has special characters"
    if lines[0].startswith("Could not override '"):
        return describe_unknown_key(quoted[1], command)
    if lines[0].startswith("Ambiguous value for argument"):
        return f"{quoted[1]}: several values; sweep over them with -m"
    if isinstance(error, OSError) and error.errno == ENAMETOOLONG:  # a choice is a file's name
        return "one of the arguments is too long to be read"
    if isinstance(error, OSError) and error.errno:
        return f"log_dir: cannot be written to ({error})"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        _, is_missing, key = lines[0].rpartition("Missing mandatory value: ")
        return f"{key}: must be given" if is_missing else f"{error.full_key}: {lines[0]}"
    message = "\n".join(lines[:3]) or type(error).__name__
    is_clear = isinstance(error, HydraException | OmegaConfBaseException)
    return message if is_clear else f"one of the arguments cannot be set: {message}"


def format_help(command: str) -> str:
    """The first comment of `configs/<command>.yaml`, the choices of its groups, and settings.

    From the files themselves: Hydra takes longer.
    """
    lines = (CONFIGS / f"{command}.yaml").read_text().splitlines()
    head = [line.lstrip("# ") for line in takewhile(str.strip, lines)]
    if "  - train" in lines:
        lines += (CONFIGS / "train.yaml").read_text().splitlines()
    groups = sorted(match[1] for line in lines if (match := re.match(r"  - (\w+): ", line)))
    choices = [f"  {group}={'|'.join(list_choices(group))}" for group in groups]
    comments = dict(parse_settings(lines))
    width = max(map(len, comments))
    settings = [f"  {setting:{width}}  # {comment}" for setting, comment in comments.items()]
    sweep = " Sweep: -m model=alexnet,resnet50 seed=0,1" if command == "train" else ""
    blocks = {"Choices:": choices, "Settings:": settings}
    shown = [line for title, block in blocks.items() if block for line in ["", title, *block]]
    return "\n".join([*head, *shown, "", f"Show the composed config: --cfg job.{sweep}"])


def parse_settings(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The settings that have a comment, and it; those of a block by their dotted names.

    A block in one line has a comment for each of its settings, with a semicolon between.
    """
    block = ""
    for line in lines:
        if line[:1].strip():
            opening = re.fullmatch(r"(\w+):", line)
            block = f"{opening[1]}." if opening else ""
        setting = re.fullmatch(rf"{'  ' if block else ''}(\w+: .*?) +# (.*)", line)
        one_line = re.fullmatch(r"(\w+): \{(.*)\} +# (.*)", line)
        if one_line:
            pairs = zip(one_line[2].split(", "), one_line[3].split("; "), strict=True)
            yield from ((f"{one_line[1]}.{setting}", comment) for setting, comment in pairs)
        elif setting:
            default = re.sub(r"\$\{oc\.env:(\w+),(\w+)\}", r"\2, or $\1", setting[1])
            yield block + default, setting[2]
