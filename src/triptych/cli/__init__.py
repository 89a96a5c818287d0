"""Starts every command: reads the environment, has Hydra compose the config, explains wrong input.

Nothing here imports torch: wrong input and `--help` cost what an empty Hydra program costs.
"""

import io
import locale
import logging
import os
import re
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import ENAMETOOLONG
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from triptych.errors import UserError, closest_matches, hide_secrets, sanitize_text
from triptych.runs.stopping import STARTED, is_launched

if TYPE_CHECKING:
    from rich.console import Console

    from triptych.config import Config

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
STORAGE = "TRIPTYCH_STORAGE"  # a database's address, with its password
VARIABLES = ("DATA_DIR", "LOG_DIR", "TORCH_HOME", STORAGE)  # that a `.env` may set
# What Hydra reads as a list, a mapping, a number or no text at all: no choice of a group.
NO_CHOICE = re.compile(r"[\[{].*|null|true|false|[-+.\d]*", re.DOTALL | re.IGNORECASE)
# glibc's M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD: large blocks from the heap, which shrinks
# above 2 GiB alone, and grows by 256 MiB.
MALLOC_OPTIONS = {-4: 0, -1: 2**31 - 1, -2: 2**28}
# What `prepare` adds: it is not typed, nor recorded.
ADDED = re.compile(
    r"\+\+(trainer|data\.augment|optim\.schedule|loss|metrics|callbacks|logger|module)\."
)
FREE = ("trainer.", "data.augment.", "optim.schedule.")  # settings of these are not all in YAML
PLAIN_PATH = re.compile(r"[\w.-]*/[\w/.-]*", re.ASCII)  # means to Hydra what it says


def run() -> None:
    """The console script `triptych <command> ...`, also `python -m triptych <command> ...`."""
    command, *arguments = sys.argv[1:] or ["--help"]
    sys.path += [os.getcwd(), str(ROOT)]  # for classes of one's own, as `python train.py` has it
    if command in list_commands():
        sys.argv = ["triptych", *arguments]
        return main(command)
    open_screen()
    if command in ("--help", "-h"):
        from triptych.cli.help import format_overview

        print(format_overview(list_commands()))
    else:
        nearest = closest_matches(command, list_commands(), cutoff=0.6)
        known = f"nearest: {nearest}" if nearest else f"one of: {', '.join(list_commands())}"
        sys.exit(print_error(UserError(f"{command}: no such command; {known}")))


def main(command: str) -> None:
    """Compose `configs/<command>.yaml` with the command line, check it, and run the command.

    Exits with 2 where the input is wrong, and with the command's own exit code otherwise.
    """
    os.environ[STARTED] = str(time.time())
    program, *arguments = sys.argv
    open_screen(is_result=command == "predict" and {"--help", "-h"}.isdisjoint(arguments))
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        if {"--help", "-h"} & set(arguments):
            from triptych.cli.help import format_help

            print(format_help(command, arguments))
            return
        load_env(ROOT / ".env")
        configure_process()
        configure_logging()
        check_launcher(command)
        expanded = expand_arguments(command, arguments)
        is_script = program.endswith(f"{command}.py")
        typed = ["python", program] if is_script else ["triptych", command]
        os.environ["TRIPTYCH_COMMAND"] = shlex.join([*typed, *map(hide_secrets, arguments)])
        is_sweep = check_arguments(command, expanded)
        sys.argv[1:] = [prepare(argument, is_sweep=is_sweep) for argument in expanded]
        if composed := compose(command):
            for setting in {"run", "runs"} & composed[0].keys():  # are there any? before torch
                from triptych.runs.reader import find_run_folders

                find_run_folders(composed[0][setting], setting)
            if command == "train" and composed[0]["resume"]:
                from triptych.runs.resume_request import check_request

                check_request(*composed)
            load_function(command)(*composed)
    except (UserError, OSError) as error:
        if wants_traceback or getattr(error, "errno", ENAMETOOLONG) != ENAMETOOLONG:
            raise
        sys.exit(print_error(error))
    except KeyboardInterrupt:
        sys.exit(130)


def list_commands() -> list[str]:
    """Every command: train, and each package of `tools` that has settings."""
    tools = Path(__file__).parents[1].glob("tools/*/settings.py")
    return ["train", *sorted(path.parent.name for path in tools)]


def load_function(command: str) -> Callable[..., Any]:
    """The function that does the work of a command: of its name, in its module `command`."""
    name = "triptych.training" if command == "train" else f"triptych.tools.{command}.command"
    function: Callable[..., Any] = getattr(import_module(name), command)
    return function


def print_error(error: Exception) -> int:
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


def configure_process() -> None:
    """Have threads wait and memory stay as suits a training. Before torch is imported.

    OpenMP's threads fall asleep sooner than by themselves: spinning, they took up to twenty times
    as long for a step on a machine that others use. glibc keeps what large tensors leave, and torch
    takes it in huge pages: a step of ResNet50 else waits for 400,000 page faults (NOTES.md,
    2026-11-25 and 27). `TRIPTYCH_ALLOCATOR=system` leaves memory as it is.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    with suppress(ValueError, OSError):  # another C library
        is_glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
        if is_glibc and os.environ.get("TRIPTYCH_ALLOCATOR") != "system":
            import ctypes

            os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
            for option, value in MALLOC_OPTIONS.items():
                ctypes.CDLL(None).mallopt(option, value)


class Screen(io.FileIO):
    """A standard stream whose reader may be gone, or its disk full: what it cannot take is lost."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def open_screen(*, is_result: bool = False) -> None:
    """Have what is printed end no command: letters that the screen lacks become `?`, a broken pipe
    and a full disk lose lines, and what is closed is /dev/null.

    `is_result`: standard output is what the command is for, and must not be lost without a word.
    In a locale that is not UTF-8 the program starts again in Python's UTF-8 mode, for its files.
    """
    is_program = sys.stdout in (None, sys.__stdout__) and os.environ.get("PYTHONUTF8") != "1"
    if is_program and not sys.flags.utf8_mode and locale.getencoding().lower() != "utf-8":
        encoding = sys.stdout.encoding if sys.stdout else "ascii"
        os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{encoding}:replace"}
        os.execv(sys.executable, sys.orig_argv)
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # else a file gets the closed number
        pass
    os.close(number)
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115
    for number, name in enumerate(("stdout", "stderr"), 1):
        old = getattr(sys, name)
        if old and ((is_result and number == 1) or old is not getattr(sys, f"__{name}__")):
            continue
        writer = io.BufferedWriter(Screen(number, "w", closefd=False))
        encoding, is_line = (old.encoding, old.line_buffering) if old else ("utf-8", False)
        new = io.TextIOWrapper(writer, encoding, "replace", line_buffering=is_line)
        setattr(sys, name, new)


class ScreenHandler(logging.Handler):
    """Prints a line through rich, above a progress bar where one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich import get_console

        # A file's disk may be full; and a signal's handler may log while a line is being written.
        with suppress(OSError, RuntimeError):
            show_line(get_console(), self.format(record))


def show_line(console: "Console", text: str) -> None:
    """Print text as it is, on one line however long: rich would colour and wrap it."""
    console.print(sanitize_text(text), markup=False, highlight=False, soft_wrap=True)


def configure_logging() -> None:
    """Send log lines to the screen. Before Lightning is imported: it looks for a handler then."""
    logging.basicConfig(format="%(message)s", handlers=[ScreenHandler()])
    logging.getLogger("triptych").setLevel(logging.INFO)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it raises as well


def check_launcher(command: str) -> None:
    """Forget what launchers that did not start this process have left in the environment."""
    if is_launched():
        from triptych.distributed import detect

        detect.check_launcher(command)


def expand_arguments(command: str, arguments: list[str]) -> list[str]:
    """The settings that arguments stand for which a command takes besides."""
    from triptych.config import load_settings

    return list(getattr(load_settings(command), "expand_arguments", list)(arguments))


def check_arguments(command: str, arguments: Iterable[str]) -> bool:
    """Raise UserError at what Hydra would answer with its usage, or understand otherwise.

    Returns whether it is a sweep.
    """
    from hydra._internal.utils import get_args_parser

    def raise_error(message: str) -> NoReturn:
        raise UserError(f"{message}; --help tells what may be given")

    parser = get_args_parser()
    parser.error = raise_error  # type: ignore[method-assign]
    flags = parser.parse_args(arguments)
    if flags.multirun:
        from triptych.cli.arguments import check_sweep

        check_sweep(command, flags.overrides)
    if any(o.startswith("experiment=") for o in flags.overrides):
        from triptych.cli.arguments import check_experiment

        check_experiment(flags.overrides)
    for override in flags.overrides:
        name, is_set, value = override.partition("=")
        if not name or (not is_set and not name.startswith("~")):
            from triptych.cli.help import suggest_setting

            raise UserError(suggest_setting(command, override))
        if is_set and NO_CHOICE.fullmatch(value) and os.path.isdir(CONFIGS / name):
            from triptych.cli.help import check_choice

            check_choice(name, value)
    return bool(flags.multirun)


def prepare(argument: str, *, is_sweep: bool = False) -> str:
    """What Hydra is given for an argument: a path is quoted where Hydra would read another value,
    and any argument of the Trainer, of which the YAML names some, has `++` before it, as have the
    settings of what research changes (`SLOTS`), where the config has them.
    """
    from triptych.config import PATHS, SLOTS, setting_name

    name, path = setting_name(argument), argument.partition("=")[2]
    is_plain = PLAIN_PATH.fullmatch(path) or (path == "null" and PATHS.get(name))
    if name in PATHS and not is_plain:
        from triptych.cli.arguments import quote_path

        argument = quote_path(argument, is_sweep=is_sweep)
    group, dot, rest = argument.partition(".")
    if dot and group in SLOTS:  # its settings are its own
        return f"++{SLOTS[group]}.{rest}"
    return f"++{argument}" if argument.startswith(FREE) else argument


def restore(overrides: Iterable[str]) -> list[str]:
    """Overrides as they were typed, before `prepare`."""
    typed = [o.removeprefix("++") if ADDED.match(o) else o for o in overrides]
    if any("'" in override for override in typed):
        from triptych.cli.arguments import restore_path

        typed = [*map(restore_path, typed)]
    return typed


def compose(command: str) -> tuple["Config", list[str]] | None:
    """The checked config and the overrides; None after a sweep, which Hydra's launcher ran."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting with 1
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf

    from triptych.config import check_config, is_plain_trainer, resolve_config

    composed: list[tuple[DictConfig, list[str]]] = []

    def append(config: DictConfig) -> None:
        # Unresolved: an override may be an interpolation, which holds in the config alone.
        overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)
        composed.append((config, restore(overrides)))

    with translate_hydra_errors(command):
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=command)(append)()
        if not composed:
            return None
        if len(composed) > 1:
            raise UserError("hydra/launcher: must be processes, which keeps the jobs apart")
        [(config, overrides)] = composed
        settings = resolve_config(config)
    check_config(settings, command)
    if not is_plain_trainer(settings.get("trainer")):
        from triptych.callbacks.trainer_rules import check_packages

        check_packages(settings)
    return settings, overrides


@contextmanager
def translate_hydra_errors(command: str) -> Iterator[None]:
    """Raise UserError for what Hydra and OmegaConf raise in the block over the command line."""
    warnings.filterwarnings("ignore", "provider=.*is not available")  # the message says so
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        from triptych.cli.help import explain_composing

        if explained := explain_composing(error, command):
            raise explained from error
        raise  # our own bug
