"""The way in for every command: the environment, Hydra, and what is said of wrong input.

Nothing here imports torch: a refusal and `--help` cost what an empty Hydra program costs.
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


STORAGE = "TRIPTYCH_STORAGE"  # the environment's address of a database


def check_no_password(arguments: Iterable[str]) -> None:
    """Raise UserError at a password in `storage=`: a command line is shown to other users."""
    for argument in arguments:
        key, _, value = argument.lstrip("+").partition("=")
        if key == "storage" and mask_password(value) != value:
            raise UserError(
                f"storage={mask_password(value)}: a password on a command line can be read by "
                f"others\nset {STORAGE} to the address instead, in the environment or in .env"
            )


# What `--help` says of a command, read from its config without Hydra, which would take longer.

CONFIGS = Path(__file__).parents[2] / "configs"


def format_help(command: str) -> str:
    """The first comment of `configs/<command>.yaml`, the choices of its groups, and settings."""
    lines = (CONFIGS / f"{command}.yaml").read_text().splitlines()
    head = [line.lstrip("# ") for line in takewhile(str.strip, lines)]
    if "  - train" in lines:
        lines += (CONFIGS / "train.yaml").read_text().splitlines()
    named = (match[1] for line in lines if (match := re.match(r"  - (\w+): ", line)))
    groups = sorted(CONFIGS / name for name in named)
    choices = [f"  {g.name}={'|'.join(sorted(p.stem for p in g.glob('*.yaml')))}" for g in groups]
    pairs = [*parse_settings(lines)]
    width = max(len(setting) for setting, _ in pairs)
    settings = [f"  {setting:{width}}  # {comment}" for setting, comment in pairs]
    more = "Show the composed config: --cfg job."
    if command == "train":
        more += " Sweep: -m model=alexnet,resnet50 seed=0,1"
    blocks = {"Choices:": choices, "Settings:": settings}
    shown = [line for title, block in blocks.items() if block for line in ["", title, *block]]
    return "\n".join([*head, *shown, "", more])


def format_commands() -> str:
    """What `triptych --help` prints: every command with the first line of its YAML."""
    about = {
        command: (CONFIGS / f"{command}.yaml").read_text().partition("\n")[0].lstrip("# ")
        for command in list_commands()
    }
    lines = [f"  {command:10} {line}" for command, line in about.items()]
    return "\n".join(
        [
            "triptych <command> [setting=value ...]",
            "",
            *lines,
            "",
            "triptych <command> --help shows its settings.",
        ]
    )


def parse_settings(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The settings that have a comment, and it; those of a block by their dotted names.

    A block in one line has a comment for each of its settings, with a semicolon between.
    """
    block = ""
    for line in lines:
        if line[:1].strip():
            opens = re.fullmatch(r"(\w+):", line)
            block = f"{opens[1]}." if opens else ""
        found = re.fullmatch(rf"{'  ' if block else ''}(\w+: .*?) +# (.*)", line)
        in_line = re.fullmatch(r"(\w+): \{(.*)\} +# (.*)", line)
        if in_line:
            pairs = zip(in_line[2].split(", "), in_line[3].split("; "), strict=True)
            yield from ((f"{in_line[1]}.{setting}", comment) for setting, comment in pairs)
        elif found:
            setting = re.sub(r"\$\{oc\.env:(\w+),(\w+)\}", r"\2, or $\1", found[1])
            yield block + setting, found[2]


# Hydra's errors over a command line as refusals of ours.


@contextmanager
def translate_hydra_errors(command: str) -> Iterator[None]:
    """Raise UserError for what Hydra and OmegaConf raise in the block over what was typed."""
    warnings.filterwarnings("ignore", "provider=.*is not available")  # the refusal says so
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_input_error(error):
            raise  # our own bug
        raise UserError(explain(error, command)) from error


def is_input_error(error: Exception) -> bool:
    """Whether Hydra or OmegaConf raised it, or the system, over what was typed."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    kinds = (HydraException, OmegaConfBaseException, ValueError, OSError)
    return isinstance(error, kinds) or bool({"hydra", "omegaconf"} & set(raised_in.parts))


def check_flags() -> None:
    """Raise UserError at a flag that lacks its value: Hydra would print eight lines."""
    from hydra._internal.utils import get_args_parser

    def refuse_flag(message: str) -> NoReturn:
        raise UserError(f"{message}; --help tells what may be given")

    parser = get_args_parser()
    parser.error = refuse_flag  # type: ignore[method-assign]
    parser.parse_args()


def explain(error: Exception, command: str) -> str:
    """An error of Hydra's or OmegaConf's, in our words where they are shorter."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    from triptych.config import describe_unknown_key

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return (
            f"{group}={choice}: no such choice; may be {closest_matches(choice, error.options, 12)}"
        )
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value; quote what has special characters"
    if lines and lines[0].startswith("Could not override '"):
        return describe_unknown_key(lines[0].split("'")[1], command)
    if lines and lines[0].startswith("Ambiguous value for argument"):
        typed = lines[0].split("'")[1]
        return f"{typed}: several values; sweep over them with -m"
    if isinstance(error, OSError) and error.errno:
        return explain_os_error(error)
    if isinstance(error, OmegaConfBaseException) and error.full_key and lines:
        return explain_omegaconf(error.full_key, lines[0])
    said = "\n".join(lines[:3]) or type(error).__name__
    if isinstance(error, HydraException | OmegaConfBaseException):
        return said
    return f"one of the arguments cannot be set: {said}"


def explain_omegaconf(where: str, said: str) -> str:
    _, is_missing, key = said.rpartition("Missing mandatory value: ")
    return f"{key}: must be given" if is_missing else f"{where}: {said}"


def explain_os_error(error: OSError) -> str:
    if error.errno == ENAMETOOLONG:  # a choice is a file's name
        return "one of the arguments is too long to be read"
    return f"log_dir: cannot be written to ({error})"  # where Hydra writes a sweep's choices


MULTIRUN = re.compile(r"-m|--multirun|\+*hydra\.mode=\s*multirun\s*", re.IGNORECASE)
# What Hydra reads as a list, a mapping, a number or no text at all.
NO_CHOICE = re.compile(r"[\[{].*|null|true|false|[-+.\d]*", re.DOTALL | re.IGNORECASE)
ROOT = Path(__file__).parents[2]
SETTINGS = ("DATA_DIR", "LOG_DIR", "TORCH_HOME", STORAGE)
FLAGS = """
    --help -h --hydra-help --version --cfg -c --resolve --package -p --run -r --multirun -m
    --shell-completion -sc --config-path -cp --config-name -cn --config-dir -cd
    --experimental-rerun --info -i
""".split()


def run() -> None:
    """The console script `triptych <command> ...`, also `python -m triptych <command> ...`."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("--help", "-h"):
        print(format_commands())
    elif command not in list_commands():
        known = ", ".join(list_commands())
        sys.exit(print_error(UserError(f"{command}: no such command; must be one of {known}")))
    else:
        sys.argv = ["triptych", *arguments]
        main(command)


def main(command: str) -> None:
    """Compose `configs/<command>.yaml` with the command line, check it, and run the command.

    Exits with 2 where the input is wrong, and with the command's own exit code otherwise.
    """
    # OpenMP's threads wait for each other asleep sooner than by themselves: spinning, they took up
    # to twenty times as long for a step on a machine that others use (NOTES.md, 2026-11-25).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(format_help(command))
        return
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    read_env(ROOT / ".env")
    configure_logging()
    try:
        check_no_password(arguments)
        check_multirun(command, arguments)
        os.environ["TRIPTYCH_COMMAND"] = shlex.join([*typed_program(command), *arguments])
        sys.argv[1:] = [normalize_argument(argument) for argument in arguments]
        composed = compose(command)
        if composed:
            check_runs_exist(composed[0])
            load_function(command)(*composed)
    except UserError as error:
        if wants_traceback:
            raise
        sys.exit(print_error(error))
    except KeyboardInterrupt:
        sys.exit(130)


def check_module_name(typed: list[str]) -> None:
    """Exit with 2 where a command is started as a module of its own (`python -m triptych.tune`)."""
    name = typed[typed.index("-m") + 1]
    command = name.removeprefix("triptych.")
    if command in list_commands()[1:]:
        sys.exit(
            print_error(UserError(f"python -m {name}: the command is now `triptych {command}`"))
        )


def list_commands() -> list[str]:
    """Every command: train, and each package of `tools` that has settings."""
    tools = sorted(path.parent.name for path in Path(__file__).parent.glob("tools/*/settings.py"))
    return ["train", *tools]


def check_multirun(command: str, arguments: Iterable[str]) -> None:
    from triptych.config import no_sweep_reason

    if any(map(MULTIRUN.fullmatch, arguments)) and (reason := no_sweep_reason(command)):
        raise UserError(f"-m: {command} {reason}")


def typed_program(command: str) -> list[str]:
    """What was typed before the arguments."""
    if sys.argv[0].endswith(f"{command}.py"):
        return ["python", sys.argv[0]]
    return ["triptych", command]


def compose(command: str) -> tuple["Config", list[str]] | None:
    """The checked config and the overrides; None after a sweep, which Hydra's launcher ran."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting with 1
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf

    from triptych.config import CONFIGS, check_config, resolve_config

    composed: list[tuple[DictConfig, list[str]]] = []

    def keep(config: DictConfig) -> None:
        # Unresolved: an override may be an interpolation, which holds in the config alone.
        overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)
        composed.append((config, strip_added_plus(overrides)))

    with translate_hydra_errors(command):
        check_flags()
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=command)(keep)()
        if not composed:
            return None
        if len(composed) > 1:
            raise UserError("hydra/launcher: must be processes, which keeps the jobs apart")
        [(config, overrides)] = composed
        settings = resolve_config(config)
    check_config(settings, command)
    return settings, overrides


def check_runs_exist(config: "Config") -> None:
    """Raise UserError where a command is to read runs and there are none: before it is imported."""
    from triptych.runs.reader import find_run_folders

    for setting in {"run", "runs"} & config.keys():
        find_run_folders(config[setting], setting)


def load_function(command: str) -> Callable[["Config", list[str]], Any]:
    """The function that does the work of a command: of its name, in its module `command`."""
    name = "triptych.training" if command == "train" else f"triptych.tools.{command}.command"
    function: Callable[[Config, list[str]], Any] = getattr(import_module(name), command)
    return function


def print_error(error: UserError) -> int:
    """Say what was wrong with the input, in three lines at most; the exit code."""
    print(sanitize_text("\n".join(str(error).splitlines()[:3])), file=sys.stderr)
    return 2


def read_env(path: Path) -> None:
    """Take `SETTINGS` from a `.env` where the environment lacks them; an empty value is none."""
    for name in SETTINGS:
        if os.environ.get(name) == "":
            del os.environ[name]
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        name, _, value = line.strip().removeprefix("export ").partition("=")
        name, value = name.strip(), value.strip()
        quoted = value.startswith(("'", '"'))
        value = value[1:].partition(value[0])[0] if quoted else value.partition(" #")[0].strip()
        if value and name in SETTINGS:
            os.environ.setdefault(name, value if quoted else os.path.expanduser(value))


class ScreenHandler(logging.Handler):
    """Prints a line through rich, above a progress bar where one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich import get_console

        shown = "\n".join(map(sanitize_text, self.format(record).split("\n")))
        with suppress(OSError):  # where the output is a file, its disk may be full
            get_console().print(shown, markup=False, highlight=False, soft_wrap=True)


def configure_logging() -> None:
    """Send log lines to the screen. Before Lightning is imported: it looks for a handler then."""
    logging.basicConfig(format="%(message)s", handlers=[ScreenHandler()])
    logging.getLogger("triptych").setLevel(logging.INFO)


def normalize_argument(argument: str) -> str:
    """`++trainer.x=` for `trainer.x=`, x any argument of the Trainer; the rest as it is."""
    from triptych.config import CONFIGS, TRAINER_ARGUMENTS

    name, is_set, value = argument.partition("=")
    if argument.startswith("-"):
        if name not in FLAGS:
            raise UserError(f"{argument}: no such flag; near: {closest_matches(name, FLAGS)}")
        return argument
    if name and is_set and os.path.isdir(CONFIGS / name) and NO_CHOICE.fullmatch(value):
        choices = ", ".join(sorted(path.stem for path in (CONFIGS / name).glob("*.yaml")))
        raise UserError(f"{argument}: must be one of {choices}")
    if not name:
        raise UserError(f"{argument}: must be key=value")
    group, dot, key = name.lstrip("+~").partition(".")
    if group != "trainer" or not dot or key.split(".")[0] not in TRAINER_ARGUMENTS:
        return argument
    return argument if argument.startswith(("+", "~")) else f"++{argument}"


def strip_added_plus(overrides: Iterable[str]) -> list[str]:
    """Overrides without the plus signs that `adapted` put there."""
    return [o.removeprefix("++") if o.startswith("++trainer.") else o for o in overrides]
