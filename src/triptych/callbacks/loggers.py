"""What loggers of the user's get: settings, pictures and tables, and their own run that goes on.

None ends a run by a fault: the run's own curves are in `metrics.csv`, whatever happens to a logger.
"""

import csv
import hashlib
import inspect
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from pydoc import locate
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger
from matplotlib.image import imsave
from omegaconf import OmegaConf

from triptych.config import Config, Rule, count, format_value, number
from triptych.data.disk_cache import lock_file
from triptych.distributed.ranks import get_rank
from triptych.errors import HIDDEN, UserError, summarize_error
from triptych.runs import storage
from triptych.runs.record import Record, hide_logger_secrets

log = logging.getLogger(__name__)
FOLDERS = ("save_dir", "root_dir", "log_dir", "dir")  # arguments that say where
IDS = ("id", "run_id", "experiment_key")  # and which run goes on, of W&B, MLflow and Comet
METHODS = """
    log_metrics log_graph log_image log_table save finalize after_save_checkpoint
""".split()
# Of TensorBoard's writer, whose thread would fail behind the run's back.
WRITER = {
    "filename_suffix": Rule(
        "at most 100 letters, digits, - _ and . of a file's name",
        lambda value: type(value) is str and re.fullmatch(r"[\w.-]{0,100}", value) is not None,
    ),
    "max_queue": count(1),
    "flush_secs": number(0, 1e6),
}


def build_logger(node: dict[str, Any], record: Record, instantiate: Callable[..., Any]) -> Logger:
    """What `build.instantiate` makes of a node, told where to write, checked and guarded."""
    node = {name: value for name, value in node.items() if value != HIDDEN}  # the service asks
    arguments = find_arguments(node, record)
    with lock_database(arguments.get("tracking_uri", "")):
        logger = instantiate("trainer.logger", node, **arguments)
    if not isinstance(logger, Logger):
        raise UserError(f"trainer.logger: {type(logger).__name__} is no logger of Lightning's")
    check_logger(logger, node, record)
    guard_logger(logger, node, record)
    return logger


def find_arguments(node: dict[str, Any], record: Record) -> dict[str, str]:
    """What a logger gets besides its settings: where to write, and its own run that goes on.

    Raises UserError at settings with which TensorBoard cannot write.
    """
    for name in WRITER.keys() & node.keys():
        if not WRITER[name].holds(node[name]):
            shown = f"{name}={format_value(node[name])}"
            raise UserError(f"trainer.logger: {shown}: must be {WRITER[name].says}")
    takes = list_arguments(node["_target_"])
    given = {name: str(record.folder / node[name]) for name in FOLDERS if node.get(name)}
    folders = [name for name in FOLDERS if name in takes]
    arguments = given or {name: str(record.folder) for name in folders[:1]}
    if "tracking_uri" in takes and not node.get("tracking_uri"):
        arguments = find_tracking(record)
    begun = read_ids(record).get(identify(node))
    names = [name for name in IDS if name in takes]
    if isinstance(begun, str) and names and not any(node.get(n) for n in (*IDS, "version")):
        arguments[names[0]] = begun
    return arguments


def find_tracking(record: Record) -> dict[str, str]:
    """Where MLflow writes: MLFLOW_TRACKING_URI, else a database of all runs beside their folders.

    MLflow no longer writes into plain folders, and compares what one database holds.
    """
    if address := os.environ.get("MLFLOW_TRACKING_URI"):
        return {"tracking_uri": address}
    folder, data = record.folder.absolute(), record.metadata["data"]
    log_dir = next((p.parent for p in folder.parents if p.name == data), folder.parent)
    place = {"artifact_location": (log_dir / "mlartifacts").as_uri()}
    return {"tracking_uri": f"sqlite:///{log_dir}/mlflow.db", **place}


def lock_database(address: str) -> AbstractContextManager[None]:
    """Let one process at a time make what is missing in a file of MLflow's: jobs begin together."""
    scheme, _, path = address.partition(":///")
    return lock_file(Path(path), "log_dir") if scheme == "sqlite" else nullcontext()


def list_arguments(target: str) -> set[str]:
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
    """Raise UserError at a logger that writes out of the run's folder."""
    for name in ("log_dir", "save_dir"):
        place = None
        with suppress(Exception):  # somebody's may have no folder, and say so like that
            place = getattr(logger, name)
        is_path = place is not None and "://" not in str(place)
        if is_path and not Path(str(place)).resolve().is_relative_to(record.folder.resolve()):
            raise UserError(
                f"trainer.logger: writes to {place}, which is not in the run's folder\n"
                f"leave out where {node['_target_']} writes, or name a folder within the run's"
            )


def guard_logger(logger: Logger, node: dict[str, Any], record: Record) -> None:
    """Let a logger show pictures, be refused where it cannot start, and left out where it fails."""
    if isinstance(logger, CSVLogger):
        keep_metrics(logger, record)
    for kind, methods in ADDED.items():
        if isinstance(logger, kind):
            vars(logger).update({name: partial(method, logger) for name, method in methods.items()})
    if isinstance(logger, WandbLogger):
        vars(logger).update(finalize=partial(end_wandb_run, logger, logger.finalize, record))
    guard = Guard(logger, node, record)
    logger.log_hyperparams = guard.log_hyperparams  # type: ignore[method-assign]
    for name in filter(partial(hasattr, logger), METHODS):
        setattr(logger, name, guard.tolerate(getattr(logger, name)))


class Guard:
    """What is called in place of a logger's own methods."""

    def __init__(self, logger: Logger, node: dict[str, Any], record: Record) -> None:
        self.logger, self.node, self.record = logger, node, record
        self.log_settings = logger.log_hyperparams
        self.is_broken = False

    def log_hyperparams(self, params: Any, *args: Any, **options: Any) -> None:
        """Log the settings, where a run of the logger's own goes on as far as they may change."""
        target, settings = self.node["_target_"], hide_logger_secrets(params)
        try:
            is_new = identify(self.node) not in read_ids(self.record)
            with lock_database(getattr(self.logger, "_tracking_uri", "")):
                if is_new or isinstance(self.logger, WandbLogger):
                    self.log_settings(settings, *args, **options)
            if isinstance(self.logger, MLFlowLogger) and get_rank() == 0:
                begin_mlflow_run(self.logger, settings)
            if is_new:
                remember_id(self.logger, self.node, self.record)
        except Exception as error:  # a service's client raises types of its own
            reason = summarize_error(error)
            raise UserError(
                f"trainer.logger: {target} cannot start ({reason})\nlogger=none trains without it"
            ) from error

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
    """A logger's name in `run.json`; with other settings, but for keys, it is another one."""
    hidden = hide_logger_secrets({"trainer": {"logger": node}})["trainer"]["logger"]
    settings = {name: value for name, value in hidden.items() if value != HIDDEN}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{node['_target_']} {digest[:8]}"


def remember_id(logger: Logger, node: dict[str, Any], record: Record) -> None:
    """Write down which run of its service a logger has begun, so that a resumed one goes on."""
    if any(name in list_arguments(node["_target_"]) for name in IDS):
        version = logger.version
        if isinstance(version, str):
            record.update(logger_ids=read_ids(record) | {identify(node): version})


def keep_metrics(logger: CSVLogger, record: Record) -> None:
    """Start Lightning's CSVLogger, which deletes what it wrote before, and bring that back.

    Raises UserError where it would write over the run's own metrics.csv.
    """
    path = Path(logger.log_dir) / "metrics.csv"
    if path.parent.resolve() == record.folder.resolve():
        raise UserError(
            "trainer.logger: CSVLogger would write over the run's own metrics.csv\n"
            "give it a name, such as name=csv"
        )
    if get_rank() > 0:
        return
    before = path.with_name("metrics_before.csv")  # there until now if a start was killed
    if path.is_file():
        path.rename(before)
    with warnings.catch_warnings():  # "previous files will be deleted": none is there now
        warnings.filterwarnings("ignore", "Experiment logs directory")
        experiment: Any = logger.experiment
    if before.is_file():
        before.rename(path)
        with path.open(newline="", errors="replace") as file:
            experiment.metrics_keys = [*(csv.DictReader(file).fieldnames or [])]


def log_csv_image(logger: CSVLogger, key: str, images: list[Any], step: int) -> None:
    """Write pictures beside the figures, the latest of a name."""
    for image in images:
        imsave(Path(logger.log_dir) / f"{key.replace('/', '_')}.png", image)


def log_csv_table(
    logger: CSVLogger, key: str, columns: list[str], data: list[list[Any]], step: int
) -> None:
    storage.write_csv(Path(logger.log_dir) / f"{key.replace('/', '_')}.csv", [columns, *data])


def begin_mlflow_run(logger: MLFlowLogger, settings: Config) -> None:
    """Have a run of MLflow's say that it is at work, with all settings: it cuts off long ones."""
    text = OmegaConf.to_yaml(OmegaConf.create(settings))
    logger.experiment.log_text(logger.run_id, text, "config.yaml")
    logger.experiment.update_run(logger.run_id, status="RUNNING")


def log_mlflow_image(logger: MLFlowLogger, key: str, images: list[Any], step: int) -> None:
    for image in images:
        logger.experiment.log_image(logger.run_id, image, key=key, step=step)


def log_mlflow_table(
    logger: MLFlowLogger, key: str, columns: list[str], data: list[list[Any]], step: int
) -> None:
    """Write a CSV, which MLflow's page shows as a table."""
    rows = map(storage.escape_formulas, [columns, *data])
    csv.writer(text := io.StringIO(newline="")).writerows(rows)
    logger.experiment.log_text(logger.run_id, text.getvalue(), f"{key}.csv")


def end_wandb_run(
    logger: WandbLogger, finalize: Callable[[str], None], record: Record, status: str
) -> None:
    """End a run of W&B's with ours: Lightning leaves it open, and the next of this process would
    be logged into it."""
    finalize(status)
    is_tested = any(name.startswith("test/") for name in record.metadata.get("metrics") or ())
    if logger._experiment and (is_tested or status != "success"):
        logger.experiment.finish(exit_code=int(status != "success"))


ADDED: dict[type[Logger], dict[str, Callable[..., None]]] = {  # what W&B's has
    MLFlowLogger: {"log_image": log_mlflow_image, "log_table": log_mlflow_table},
    CSVLogger: {"log_image": log_csv_image, "log_table": log_csv_table},
}
