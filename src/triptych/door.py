"""The way in for every command: the environment, Hydra, and what is said of wrong input.

Nothing here imports torch: a refusal and `--help` cost what an empty Hydra program costs.
"""

import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triptych import Refused, legible, nearest
from triptych.refusals import check_flags, refusals
from triptych.secret import STORAGE, hidden, put_away
from triptych.usage import usage

if TYPE_CHECKING:
    from triptych.config import Config

MULTIRUN = re.compile(r"-m|--multirun|\+*hydra\.mode=\s*multirun\s*", re.IGNORECASE)
# What Hydra reads as a list, a mapping, a number or no text at all.
NO_CHOICE = re.compile(r"[\[{].*|null|true|false|[-+.\d]*", re.DOTALL | re.IGNORECASE)
ROOT = Path(__file__).parents[2]
SETTINGS = ("DATA_DIR", "LOG_DIR", "TORCH_HOME", STORAGE)
SWEEPS = ("train", "benchmark")
NO_SWEEP = dict.fromkeys(
    ("evaluate", "compare", "predict", "serve"),
    "takes a folder with many runs below it, or a list of folders",
) | {
    "export": "takes one run; give its command for each",
    "tune": "has one network a study; start it once for each",
}
FLAGS = """
    --help -h --hydra-help --version --cfg -c --resolve --package -p --run -r --multirun -m
    --shell-completion -sc --config-path -cp --config-name -cn --config-dir -cd
    --experimental-rerun --info -i
""".split()


def open_door(verb: str, task: str) -> None:
    """Compose `configs/<verb>.yaml` with the command line, check it, call `task` (module:function).

    Exits with 2 where the input is refused, and with what the task asks for otherwise.
    """
    # OpenMP's threads wait for each other asleep sooner than by themselves: spinning, they took up
    # to twenty times as long for a step on a machine that others use (NOTES.md, 2026-11-25).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    arguments = [put_away(argument) for argument in sys.argv[1:]]
    if {"--help", "-h"} & set(arguments):
        print(usage(verb))
        return
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    read_env(ROOT / ".env")
    speak()
    try:
        sys.argv[1:] = [adapted(argument) for argument in arguments]
        if verb not in SWEEPS and any(map(MULTIRUN.fullmatch, arguments)):
            raise Refused(f"-m: {verb} {NO_SWEEP.get(verb, 'is not for a sweep')}")
        os.environ["TRIPTYCH_COMMAND"] = hidden(shlex.join([*program(), *arguments]))
        composed = compose(verb)
        if composed:
            require_runs(composed[0])
            function(task)(*composed)
    except Refused as error:
        if wants_traceback:
            raise
        sys.exit(refuse(error))
    except KeyboardInterrupt:
        sys.exit(130)


def program() -> list[str]:
    """What was typed before the arguments."""
    path = Path(sys.argv[0])
    is_inside = path.parent == Path(__file__).parent
    return ["python", "-m", f"triptych.{path.stem}"] if is_inside else ["python", sys.argv[0]]


def compose(verb: str) -> tuple["Config", list[str]] | None:
    """The checked config and the overrides; None after a sweep, which Hydra's launcher ran."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting with 1
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf

    from triptych.config import CONFIGS, check, plain

    composed: list[tuple[DictConfig, list[str]]] = []

    def keep(config: DictConfig) -> None:
        # Unresolved: an override may be an interpolation, which holds in the config alone.
        overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)
        composed.append((config, as_typed(overrides)))

    with refusals(verb):
        check_flags()
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=verb)(keep)()
        if not composed:
            return None
        if len(composed) > 1:
            raise Refused("hydra/launcher: must be processes, which keeps the jobs apart")
        [(config, overrides)] = composed
        settings = plain(config)
    check(settings, verb)
    return settings, overrides


def require_runs(config: "Config") -> None:
    """Raise Refused where a command is to read runs and there are none: before it is imported."""
    from triptych.folders import find_folders

    for setting in {"run", "runs"} & config.keys():
        find_folders(config[setting], setting)


def function(task: str) -> Callable[["Config", list[str]], Any]:
    """The function that `module:name` names."""
    module, name = task.split(":")
    found: Callable[[Config, list[str]], Any] = getattr(import_module(module), name)
    return found


def refuse(error: Refused) -> int:
    """Say what was wrong with the input, in three lines at most; the exit code."""
    print(legible("\n".join(hidden(str(error)).splitlines()[:3])), file=sys.stderr)
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


class Screen(logging.Handler):
    """Prints a line through rich, above a progress bar where one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich import get_console

        shown = "\n".join(map(legible, self.format(record).split("\n")))
        with suppress(OSError):  # where the output is a file, its disk may be full
            get_console().print(shown, markup=False, highlight=False, soft_wrap=True)


def speak() -> None:
    """Send log lines to the screen. Before Lightning is imported: it looks for a handler then."""
    logging.basicConfig(format="%(message)s", handlers=[Screen()])
    logging.getLogger("triptych").setLevel(logging.INFO)


def adapted(argument: str) -> str:
    """`++trainer.x=` for `trainer.x=`, x any argument of the Trainer; the rest as it is."""
    from triptych.config import CONFIGS, TRAINER_ARGUMENTS

    name, is_set, value = argument.partition("=")
    if argument.startswith("-"):
        if name not in FLAGS:
            raise Refused(f"{argument}: no such flag; near: {nearest(name, FLAGS)}")
        return argument
    if name and is_set and os.path.isdir(CONFIGS / name) and NO_CHOICE.fullmatch(value):
        choices = ", ".join(sorted(path.stem for path in (CONFIGS / name).glob("*.yaml")))
        raise Refused(f"{argument}: must be one of {choices}")
    if not name:
        raise Refused(f"{argument}: must be key=value")
    group, dot, key = name.lstrip("+~").partition(".")
    if group != "trainer" or not dot or key.split(".")[0] not in TRAINER_ARGUMENTS:
        return argument
    return argument if argument.startswith(("+", "~")) else f"++{argument}"


def as_typed(overrides: Iterable[str]) -> list[str]:
    """Overrides without the plus signs that `adapted` put there."""
    return [o.removeprefix("++") if o.startswith("++trainer.") else o for o in overrides]
