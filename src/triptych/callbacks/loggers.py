"""What keeps a logger of the user's from ending a run, or losing what an earlier start logged.

The run's own curves are in `metrics.csv`, whatever happens to a logger.
"""

import copy
import hashlib
import inspect
import json
import logging
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pydoc import locate
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger

from triptych.config import Config, Rule, as_list, count, format_value, number
from triptych.distributed.ranks import get_rank
from triptych.errors import UserError, summarize_error
from triptych.runs.record import Record

log = logging.getLogger(__name__)
FOLDERS = ("save_dir", "root_dir", "log_dir", "dir")  # arguments that say where
IDS = ("id", "run_id", "experiment_key")  # and which run goes on, of W&B, MLflow and Comet
METHODS = ("log_metrics", "log_graph", "save", "finalize", "after_save_checkpoint")
# Of TensorBoard's writer, whose thread would fail behind the run's back.
WRITER = {
    "filename_suffix": Rule(
        "at most 100 letters, digits, - _ and . of a file's name",
        lambda value: type(value) is str and re.fullmatch(r"[\w.-]{0,100}", value) is not None,
    ),
    "max_queue": count(1),
    "flush_secs": number(0, 1e6),
}
SECRET = re.compile(r"key$|token|password|secret", re.IGNORECASE)


def find_arguments(node: dict[str, Any], record: Record) -> dict[str, str]:
    """What a logger gets besides its settings: the run's folder, and its own run that goes on.

    Raises UserError at settings with which TensorBoard cannot write.
    """
    for name in WRITER.keys() & node.keys():
        if not WRITER[name].holds(node[name]):
            shown = f"{name}={format_value(node[name])}"
            raise UserError(f"trainer.logger: {shown}: must be {WRITER[name].says}")
    takes = argument_names(node["_target_"])
    given = {name: str(record.folder / node[name]) for name in FOLDERS if node.get(name)}
    folders = [name for name in FOLDERS if name in takes]
    arguments = given or {name: str(record.folder) for name in folders[:1]}
    begun = read_ids(record).get(identify(node))
    names = [name for name in IDS if name in takes]
    if isinstance(begun, str) and names and not any(node.get(n) for n in (*IDS, "version")):
        arguments[names[0]] = begun
    return arguments


def argument_names(target: str) -> set[str]:
    """The arguments of a class, and those that it passes on to its bases."""
    names: set[str] = set()
    with suppress(Exception):  # what is wrong with the class, its instantiation says
        made: Any = locate(target)
        for each in [made, *getattr(made, "__mro__", ())[1:-1]]:
            arguments = inspect.signature(each).parameters
            names |= arguments.keys()
            if all(a.kind is not inspect.Parameter.VAR_KEYWORD for a in arguments.values()):
                break
    return names


def check_logger(logger: Any, node: dict[str, Any], record: Record) -> None:
    """Raise UserError at what is no logger, and at one that writes out of the run's folder."""
    target = node["_target_"]
    if not isinstance(logger, Logger):
        raise UserError(f"trainer.logger: {target} makes no logger of Lightning's")
    for name in ("log_dir", "save_dir"):
        place = None
        with suppress(Exception):  # somebody's may have no folder, and say so like that
            place = getattr(logger, name)
        is_path = place is not None and "://" not in str(place)
        if is_path and not Path(str(place)).resolve().is_relative_to(record.folder.resolve()):
            raise UserError(
                f"trainer.logger: writes to {place}, which is not in the run's folder\n"
                f"leave out where {target} writes, or name a folder within the run's"
            )


def guard_logger(logger: Logger, node: dict[str, Any], record: Record) -> None:
    """Let a logger that cannot start be refused, and one that fails later be left out."""
    if isinstance(logger, CSVLogger) and get_rank() == 0:
        set_metrics_aside(Path(logger.log_dir), record)
        with warnings.catch_warnings():  # "previous files will be deleted": none is there now
            warnings.filterwarnings("ignore", "Experiment logs directory")
            _ = logger.experiment
    guard = Guard(logger, node, record)
    logger.log_hyperparams = guard.log_hyperparams  # type: ignore[method-assign]
    for name in METHODS:
        setattr(logger, name, guard.tolerate(getattr(logger, name)))


class Guard:
    """What is called in place of a logger's own methods."""

    def __init__(self, logger: Logger, node: dict[str, Any], record: Record) -> None:
        self.logger, self.node, self.record = logger, node, record
        self.log_settings = logger.log_hyperparams
        self.is_broken = False

    def log_hyperparams(self, params: Any, *args: Any, **options: Any) -> None:
        """Log the settings once: a run of the logger's own that goes on has them."""
        target = self.node["_target_"]
        try:
            if identify(self.node) not in read_ids(self.record):
                self.log_settings(hide_secrets(params), *args, **options)
                remember_id(self.logger, self.node, self.record)
        except Exception as error:  # a service's client raises types of its own
            reason = summarize_error(error)
            raise UserError(f"trainer.logger: {target} cannot start ({reason})") from error

    def tolerate(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, but that it does nothing once one of this logger has raised."""

        def call(*args: Any, **options: Any) -> None:
            try:
                if not self.is_broken:
                    method(*args, **options)
            except Exception as error:
                self.is_broken = True
                text = "has failed and is left out from here on (%s); metrics.csv has every figure"
                target, reason = self.node["_target_"], summarize_error(error)
                log.warning("trainer.logger: %s " + text, target, reason)

        return call


def read_ids(record: Record) -> dict[str, Any]:
    """The runs that loggers began in services of theirs, by `identify`."""
    ids = record.metadata.get("logger_ids")
    return ids if isinstance(ids, dict) else {}


def identify(node: dict[str, Any]) -> str:
    """A logger's name in `run.json`; with other settings it is another one."""
    digest = hashlib.sha256(json.dumps(node, sort_keys=True).encode()).hexdigest()
    return f"{node['_target_']} {digest[:8]}"


def remember_id(logger: Logger, node: dict[str, Any], record: Record) -> None:
    """Write down which run of its service a logger has begun, so that a resumed one goes on."""
    if any(name in argument_names(node["_target_"]) for name in IDS):
        version = logger.version
        if isinstance(version, str):
            record.update(logger_ids=read_ids(record) | {identify(node): version})


def set_metrics_aside(folder: Path, record: Record) -> None:
    """Rename the file that Lightning's CSVLogger would delete when it starts again, if any."""
    path = folder / "metrics.csv"
    if folder.resolve() == record.folder.resolve():
        raise UserError(
            "trainer.logger: CSVLogger would write over the run's own metrics.csv\n"
            "give it a name, such as name=csv"
        )
    if path.is_file():
        numbered = (path.with_name(f"metrics_{n}.csv") for n in range(1, 10_000))
        earlier = next(each for each in numbered if not each.exists())
        path.rename(earlier)
        log.info("trainer.logger: CSVLogger begins anew; what it wrote before is %s", earlier)


def hide_secrets(config: Config) -> Config:
    """A copy of the config without the keys and passwords of loggers."""
    hidden = copy.deepcopy(config)
    for node in as_list((hidden.get("trainer") or {}).get("logger")):
        node |= {name: "(hidden)" for name in node if SECRET.search(name) and node[name]}
    return hidden
