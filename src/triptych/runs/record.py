"""The run folder and its record, `run.json`: all that later work needs. Knows nothing of torch."""

import copy
import csv
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from triptych.config import (
    CONFIGS,
    MONITOR,
    Config,
    as_list,
    find_node,
    find_nodes,
    find_targets,
    number,
)
from triptych.errors import HIDDEN, UserError, hide_secrets
from triptych.runs import storage
from triptych.runs.stopping import read_start
from triptych.runs.training_code import hash_training_code

log = logging.getLogger(__name__)
SCHEMA = 1
MAX_DEPTH = 50  # of nested lists and mappings: no run comes near it
SCORES = ("loss", "accuracy", "f1", "precision", "recall", "undefined_classes")
COLUMNS = (
    *("epoch", "step", "train/loss", "train/accuracy", "lr", "train/images_per_second"),
    *(f"{split}/{name}" for split in ("val", "test") for name in SCORES),
)
PLAIN_SOURCE = ("_target_", "root", "num_train", "num_test", "num_classes", "seed")  # of ours
KNOWN = re.compile(  # `_target_`s of a plain run
    r"triptych\.(data|models)\.|torch\.optim\.\w+$|lightning\.pytorch\.loggers\.TensorBoardLogger$"
)
LIBRARIES = ("triptych", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")
OPTIONAL_LIBRARIES = ("timm",)  # recorded where this process has imported them

# Settings that are not part of the experiment: two runs that differ in these alone are the same.
NOT_THE_EXPERIMENT = """
    name log_dir resume trusted_targets retry_failed fresh same_code minutes tuned
    data.root data.num_workers data.source.root
    checkpoint.keep_last checkpoint.every_n_steps checkpoint.every_minutes
    speed.compile speed.cache_features
    trainer.accelerator trainer.strategy trainer.devices trainer.num_nodes trainer.logger
    trainer.log_every_n_steps trainer.enable_progress_bar trainer.enable_model_summary
    trainer.enable_checkpointing trainer.profiler trainer.default_root_dir
    trainer.num_sanity_val_steps trainer.benchmark trainer.on_oom
""".split()


def experiment_settings(config: Config, *, less: Iterable[str] = ()) -> Config:
    """A copy of the config without `NOT_THE_EXPERIMENT` and the settings named in `less`."""
    settings: Config = json.loads(json.dumps(config))
    for key in (*NOT_THE_EXPERIMENT, *less):
        node, name = find_node(settings, key)
        node.pop(name, None)
    if settings["checkpoint"].get("monitor") == MONITOR:  # as before there was a choice
        del settings["checkpoint"]["monitor"]
    return settings


def config_hash(config: Config, *, less: Iterable[str] = ()) -> str:
    """SHA-256 of the `experiment_settings` as canonical JSON."""
    settings = experiment_settings(config, less=less)
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def hide_logger_secrets(config: Config) -> Config:
    """A copy of the config without the keys and passwords of loggers."""
    hidden: Config = copy.deepcopy(config)
    for node in as_list((hidden.get("trainer") or {}).get("logger")):
        typed = {name: f"logger.{name}={value}" for name, value in node.items() if value}
        node |= dict.fromkeys((n for n, t in typed.items() if hide_secrets(t) != t), HIDDEN)
    return hidden


def hash_code(config: Config) -> dict[str, str]:
    """`hash_training_code` of the `_target_`s of the experiment."""
    return hash_training_code(find_targets(experiment_settings(config)))


def library_versions() -> dict[str, str | None]:
    """Versions of the libraries that results depend on; None where one is not installed."""
    names = [*LIBRARIES, *(name for name in OPTIONAL_LIBRARIES if name in sys.modules)]
    versions: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def git_commit() -> str | None:
    """The commit of code and configs, `+dirty` where they differ from it; None outside git."""
    # Also where somebody else owns the clone, as in a group's folder: its code runs already.
    git = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(CONFIGS.parent)]
    run = partial(subprocess.run, capture_output=True, errors="replace", check=True)
    try:
        commit = run([*git, "rev-parse", "HEAD"]).stdout.strip()
        is_dirty = run([*git, "status", "--porcelain", "src", "configs"]).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+dirty" if is_dirty else commit


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write an npz file, whole or not at all."""
    with storage.atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_prediction_table(
    path: Path,
    classes: Sequence[str],
    files: Sequence[str] | None,
    *,
    logits: np.ndarray,
    labels: np.ndarray,
    index: np.ndarray,
) -> None:
    """The predictions of a split, for people: a row an image, by its file or else its index.

    But for validation, the wrong rows lie beside it in `mistakes.csv`, most confident first, with
    the probability of the true class. `files` are by index.
    """
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    predicted, rows = logits.argmax(axis=1), np.arange(len(labels))
    table = zip(
        [files[i] for i in index] if files else index.tolist(),
        [classes[label] for label in labels],
        [classes[label] for label in predicted],
        shares[rows, predicted].round(6).tolist(),
        shares[rows, labels].round(6).tolist(),
        strict=True,
    )
    head = ("file" if files else "id", "label", "prediction", "probability", "label_probability")
    lines = list(table)
    storage.write_csv(path, [head[:4], *(line[:4] for line in lines)])
    if path.stem != "val":
        wrong = [line for line, label in zip(lines, predicted != labels, strict=True) if label]
        wrong.sort(key=lambda line: -line[3])
        storage.write_csv(path.with_name("mistakes.csv"), [head, *wrong])


def read_yaml(path: Path) -> Config:
    """The mapping in anybody's file; raises UserError where it cannot be read."""
    try:
        text, depth = storage.check_regular_file(path).read_text(), 0
        for event in yaml.parse(text):  # aliases unfold into any size, depth exhausts OmegaConf
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            is_more = isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None)
            if is_more or depth > MAX_DEPTH:
                raise ValueError(f"has aliases or tags, or is nested deeper than {MAX_DEPTH}")
        config = OmegaConf.to_container(OmegaConf.create(text))
        json.dumps(config)  # refuses numbers of thousands of digits
        if not isinstance(config, dict):
            raise ValueError("no mapping")
        return {str(key): value for key, value in config.items()}
    except Exception as error:  # yaml, omegaconf and the system raise many types
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot be read ({reason})") from error


class Record:
    """One run's folder and the content of its `run.json`, which every change rewrites whole."""

    def __init__(self, folder: Path, metadata: dict[str, Any]) -> None:
        self.folder = folder
        self.metadata = metadata
        self._started = read_start()

    @classmethod
    def create(cls, config: Config, overrides: list[str]) -> Self:
        """Make a new folder with its `config.yaml`; raises UserError where that cannot be."""
        now, commit, versions = datetime.now(UTC), git_commit(), library_versions()
        name = f"{now:%Y-%m-%d_%H%M%S}_{config_hash(config)[:6]}"
        parent = Path(config["log_dir"], config["data"]["name"], config["model"]["name"])
        with storage.translate_write_errors(f"log_dir={config['log_dir']}"):
            record = cls(storage.make_folder(parent / f"seed{config['seed']}", name), {})
            record.write_config(config)
        record.update(
            **record.sign(config),
            schema=SCHEMA,
            status="running",
            num_epochs=None,
            feature_seconds=None,
            seconds_total=0.0,
            model=config["model"]["name"],
            data=config["data"]["name"],
            seed=config["seed"],
            split_seed=config["data"]["split_seed"],
            config_hash=config_hash(config),
            group_hash=config_hash(config, less=("seed",)),
            code=hash_code(config),
            batch_size=config["data"]["batch_size"],
            versions=versions,
            git_commit=commit,
            command=os.environ.get("TRIPTYCH_COMMAND", ""),
            slurm_job_id=os.environ.get("SLURM_JOB_ID"),
            overrides=[*map(hide_secrets, overrides)],
            started_at=now.isoformat(timespec="seconds"),
            finished_at=None,
            error=None,
        )
        return record

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The record of an existing folder; raises UserError where it has none."""
        path = folder / "run.json"
        try:
            text = storage.check_regular_file(path).read_text()
            metadata = storage.replace_non_finite(json.loads(text))
            if not isinstance(metadata, dict) or metadata.get("schema") != SCHEMA:
                raise ValueError(f"no record of schema {SCHEMA}")
        except (OSError, ValueError, RecursionError) as error:
            problem = f"no run folder, its run.json cannot be read ({error})"
            raise UserError(f"{folder}: {problem}") from error
        return cls(folder, metadata)

    @property
    def config(self) -> Config:
        return read_yaml(self.folder / "config.yaml")  # as it was resolved

    @property
    def seconds_total(self) -> float:
        """Seconds of every process that has worked on the run, from its start to its end."""
        before = self.metadata.get("seconds_total")
        is_running = self.metadata.get("status") == "running"
        here = max(0.0, time.time() - self._started) if is_running else 0.0
        return (before if number(0).holds(before) else 0.0) + here  # type: ignore[operator]

    @property
    def config_yaml(self) -> str:
        return (self.folder / "config.yaml").read_text()

    @property
    def weights_metadata(self) -> dict[str, Any]:
        """What a checkpoint says of its weights: the images they expect, the head's classes."""
        return {name: self.metadata.get(name) for name in ("preprocessing", "classes")}

    @property
    def metric_columns(self) -> list[str]:
        """The head of `metrics.csv`."""
        names = self.metadata.get("more_metrics") or []
        return [*COLUMNS, *(f"{split}/{name}" for name in names for split in ("val", "test"))]

    def checkpoint_path(self, name: str) -> Path:
        """The path of the checkpoint `best` or `last`."""
        return self.folder / "checkpoints" / f"{name}.ckpt"

    def write_config(self, config: Config) -> None:
        with storage.atomic_write(self.folder / "config.yaml") as path:
            path.write_text(OmegaConf.to_yaml(OmegaConf.create(hide_logger_secrets(config))))

    def update(self, **metadata: Any) -> None:
        """Set entries of `run.json`; NaN and infinities become null."""
        changed = storage.replace_non_finite(self.metadata | metadata)
        with storage.atomic_write(self.folder / "run.json") as path:
            path.write_text(json.dumps(changed, indent=2, allow_nan=False) + "\n")
        self.metadata = changed

    def begin(self, config: Config, **metadata: Any) -> None:
        """Record that the run starts or goes on; how it ended before is forgotten."""
        if config != self.config:
            self.write_config(config)
        (self.folder / "traceback.txt").unlink(missing_ok=True)
        name = config.get("name") or self.metadata.get("name")
        metadata = {"name": name, **metadata, **self.sign(config)}
        self.update(status="running", finished_at=None, error=None, **metadata)

    def sign(self, config: Config) -> dict[str, Any]:
        """What `run.json` says of a config with places or classes of its owner's: `trust.sign`."""
        source = {"root": "data"} | config["data"]["source"]
        is_plain = source.keys() <= {*PLAIN_SOURCE} and source["root"] == "data"
        is_name = not {*"/."} & {*str(config["model"].get("weights"))}  # no file of weights
        nodes = [node for _, node in find_nodes(config["trainer"])]
        is_known = all(map(KNOWN.match, find_targets(config)))
        is_known = is_known and not any("dir" in name for node in nodes for name in node)
        if is_plain and is_name and is_known and source["_target_"].startswith("triptych."):
            return {}
        from triptych.runs.trust import sign  # a default run needs nothing of it

        return {"signature": sign(self.folder)}

    def end(self, status: str, **metadata: Any) -> None:
        finished_at = datetime.now(UTC).isoformat(timespec="seconds")
        metadata["seconds_total"] = self.seconds_total
        self.update(status=status, finished_at=finished_at, **metadata)

    def add_metrics(self, row: dict[str, float]) -> None:
        """Append a line to `metrics.csv`; columns that `row` lacks stay empty."""
        with (self.folder / "metrics.csv").open("a", newline="") as file:
            writer = csv.DictWriter(file, self.metric_columns, extrasaction="ignore")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)

    def add_predictions(self, split: str, **arrays: np.ndarray) -> None:
        """Write `logits` float32 (N, C), `labels`, `index`, perhaps `groups` int64 (N,) of a split;
        labels of any number of classes an image are uint8 (N, C) of 0 and 1.

        A table of what they were before is deleted.

        As `test_images`: `images` uint8 (K, 3, H, W) and `index` of the most confident mistakes.
        """
        folder = self.folder / "predictions"
        folder.mkdir(exist_ok=True)
        (folder / f"{split}.csv").unlink(missing_ok=True)
        write_arrays(folder / f"{split}.npz", **arrays)

    def drop_predictions(self, split: str) -> None:
        for suffix in (".npz", ".csv"):
            (self.folder / "predictions" / f"{split}{suffix}").unlink(missing_ok=True)

    def write_prediction_tables(
        self, files: Sequence[str] | None, write: Callable[..., None] = write_prediction_table
    ) -> None:
        """`predictions/<split>.csv` beside each npz that there is."""
        for split in ("val", "test"):
            path = self.folder / "predictions" / f"{split}.csv"
            if path.with_suffix(".npz").exists():
                with np.load(path.with_suffix(".npz")) as arrays:
                    shown = {name: array for name, array in arrays.items() if name != "groups"}
                    write(path, self.metadata["classes"], files, **shown)

    @contextmanager
    def log_to_file(self) -> Iterator[None]:
        """Append log lines to `train.log` as well; raises UserError where it cannot be written."""
        with storage.translate_write_errors(str(self.folder)):
            handler = logging.FileHandler(
                self.folder / "train.log", encoding="utf-8", errors="backslashreplace"
            )
        # Silent on a full disk: the run ends at its next write of a result, with one message.
        handler.handleError = lambda record: None  # type: ignore[method-assign]
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logging.getLogger("triptych").setLevel(logging.INFO)
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)
            with suppress(OSError):
                handler.close()
