"""Which runs of an experiment exist already below a folder, and how `train` resumes one."""

from collections.abc import Iterator
from pathlib import Path

from triptych.config import Config, Rule, count, format_value, number, setting_name
from triptych.errors import UserError
from triptych.runs.reader import MEASURED, read_finished, walk_run_folders
from triptych.runs.record import NOT_THE_EXPERIMENT, Record
from triptych.runs.trust import find_targets

STATUSES = ("running", "interrupted", "failed", "finished")
SCORES: dict[str, Rule] = {
    "num_test": count(1),
    "train_seconds": MEASURED,
    **dict.fromkeys(("test/accuracy", "test/f1"), number(0, 1 + 1e-9)),
    "test/loss": MEASURED.or_null(),  # infinite, if float32 cannot hold it
}


def find_runs_of_config(log_dir: Path, config_hash: str) -> Iterator[Record]:
    """The runs of a config below a folder, but for those whose record cannot be trusted."""
    for folder in walk_run_folders(log_dir):
        try:
            run = Record.open(folder)
            status = run.metadata.get("status")
            if run.metadata.get("config_hash") == config_hash and status in STATUSES:
                yield read_scored(folder) if status == "finished" else run
        except UserError:
            continue


def read_scored(folder: Path) -> Record:
    """The record of a finished run; raises UserError where a score is missing or impossible."""
    run = read_finished(folder)
    for name, rule in SCORES.items():
        if not rule.holds(value := (run.metadata | run.metadata["metrics"]).get(name)):
            raise UserError(
                f"{folder}/run.json: {name} must be {rule.says}, it is {format_value(value)}"
            )
    return run


def resume_arguments(
    config: Config, overrides: list[str], folder: Path
) -> tuple[Config, list[str]]:
    """Config and overrides with which `train` resumes a run, as a person would with `resume=`."""
    # Whoever starts a job trusts the targets of its config.
    trusted = sorted({*config["trusted_targets"], *find_targets(config)})
    resumed = config | {"resume": str(folder), "trusted_targets": trusted}
    return resumed, [o for o in overrides if setting_name(o) in NOT_THE_EXPERIMENT]
