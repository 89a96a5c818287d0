"""The package as a library: compose a config, train, and read the runs that lie in folders."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import hydra

from triptych import build, training
from triptych.cli import check_arguments, prepare, translate_hydra_errors
from triptych.config import CONFIGS, Config, check_config, resolve_config
from triptych.errors import UserError
from triptych.models.backbone import Backbone, BackboneFactory
from triptych.models.weight_content import check_checkpoint
from triptych.runs.checkpoint_files import load_weights_into
from triptych.runs.predictions import Predictions, read_predictions
from triptych.runs.reader import find_run_folders, read_finished
from triptych.runs.record import Record
from triptych.runs.stopping import DEADLINE
from triptych.runs.trust import check_untrusted_config, drop_training_parts, find_signed_targets


def compose(overrides: Sequence[str] = ()) -> Config:
    """The checked config that `python train.py <overrides>` would train with, as plain dicts.

    Raises UserError where a setting does not exist or cannot be what it is.

    >>> config = triptych.compose(["data=shapes", "model=alexnet", "model.weights=null"])
    >>> config["optim"]["lr"]
    0.001
    """
    with (
        translate_hydra_errors("train"),
        hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"),
    ):
        check_arguments("train", overrides)
        config = resolve_config(hydra.compose("train", [*map(prepare, overrides)]))
    check_config(config)
    return config


def train(config: Config) -> "Run":
    """Train to a complete run folder below `config["log_dir"]`.

    Log lines go to Python's logging, under `triptych`. Raises UserError for what a user can mend,
    also for a `_target_` in the config of a `Run` that neither the installed configs have in its
    place nor its `trusted_targets` name; SystemExit where the run failed, was interrupted, or its
    `minutes` are over: its folder says how.

    >>> run = triptych.train(triptych.compose(["data=shapes", "model.weights=null"]))
    >>> run.metrics["test/accuracy"]
    0.87
    """
    trusted = config.get("trusted_targets", [])  # empty, as composed, or None: `Run.config`
    config = config | {"trusted_targets": trusted or []}
    check_config(config)
    if trusted != []:
        check_untrusted_config(config, trusted or ())
    before = os.environ.get(DEADLINE, "")
    try:
        return Run(training.train(config))
    finally:
        os.environ[DEADLINE] = before  # others that this process trains have none of `minutes`


def load_run(folder: str | Path) -> "Run":
    """A finished run, from its folder alone; raises UserError where the folder is none.

    >>> run = triptych.load_run("logs/shapes/alexnet/seed0/2026-01-01_120000_a1b2c3")
    >>> run.config["model"]["name"]
    'alexnet'
    """
    return Run(read_finished(Path(folder)))


def find_runs(folder: str | Path) -> list["Run"]:
    """Every finished run at or below a folder, in the order of their paths.

    Raises UserError where there is no run at all.

    >>> for run in triptych.find_runs("logs"):
    ...     print(run.folder, run.metrics["test/accuracy"])
    """
    folders = sorted(find_run_folders(str(folder), "folder"))
    finished = (f for f in folders if Record.open(f).metadata.get("status") == "finished")
    return [load_run(folder) for folder in finished]


class Run:
    """A finished run.

    `folder` holds all of it; `metadata` is `run.json`; `metrics` are the scores by the names they
    were logged under (`test/accuracy`, a fraction; `test/loss`, nats).
    """

    def __init__(self, record: Record) -> None:
        self._record = record

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        return self._record.folder

    @property
    def metadata(self) -> dict[str, Any]:
        return self._record.metadata

    @property
    def metrics(self) -> dict[str, float | None]:
        metrics: dict[str, float | None] = self.metadata["metrics"]
        return metrics

    @property
    def config(self) -> Config:
        """The resolved config that the run was trained with; raises UserError if it is damaged.

        Its `trusted_targets` is None: who wrote the folder may not vouch for any.
        """
        return self._record.config | {"trusted_targets": None}

    def network(self, trusted_targets: Iterable[str] = ()) -> Backbone:
        """The network with the weights that were scored, in evaluation mode, on the CPU.

        It takes float images (N, 3, S, S), prepared as its `preprocessing` says, and gives logits
        (N, C). Raises UserError where the checkpoint is damaged or of another network, or where the
        config names a `_target_` that neither the installed configs nor `trusted_targets` do:
        it would be imported and called. Those of training alone, as callbacks, are not looked at.

        >>> network = run.network()
        >>> logits = network(torch.zeros(1, 3, *2 * [network.preprocessing.input_size]))
        """
        config = self._record.config
        trusted = {*trusted_targets, *find_signed_targets(self._record)}
        check_untrusted_config(drop_training_parts(config), trusted)
        factory: BackboneFactory = build.instantiate("model", config["model"])
        if not (classes := self.metadata["classes"]):
            raise UserError(f"{self.folder}/run.json: names no classes")
        recorded = self.metadata.get("preprocessing")
        backbone = factory.build(len(classes), load=False, recorded=recorded)
        check_checkpoint(best := self._record.checkpoint_path("best"))
        load_weights_into(backbone.network, best)
        return backbone.eval()

    def predictions(self, split: str = "test") -> Predictions:
        """Logits, labels and places of every image of a split, `test` or `val`.

        Raises UserError where the file is missing or damaged.

        >>> predictions = run.predictions("test")
        >>> (predictions.logits.argmax(axis=1) == predictions.labels).mean()
        0.87
        """
        path = self.folder / "predictions" / f"{split}.npz"
        return read_predictions(path, self.metadata.get("task"))
