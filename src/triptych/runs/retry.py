"""A run that was out of memory, once more with half the batch: `trainer.on_oom=halve`."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning.pytorch.utilities.memory import garbage_collection_cuda

from triptych.config import Config, setting_name
from triptych.distributed.ranks import cluster_environment
from triptych.errors import UserError
from triptych.runs.failures import NO_MEMORY, delete_run, is_untrained
from triptych.runs.record import Record, config_hash
from triptych.runs.resume_request import resume_arguments

log = logging.getLogger(__name__)


def train_or_halve(
    train: Callable[..., Record],
    config: Config,
    overrides: Sequence[str],
    report: Callable[[str], object],
) -> Record:
    """As `train`; where the run is out of memory, it is tried once more, with half of
    `data.batch_size` and twice `trainer.accumulate_grad_batches`.

    That is a run of its own, whose `config.yaml` has these numbers, and whose `run.json` says what
    was requested. The first one's folder is deleted unless it holds a checkpoint.
    """
    environment = cluster_environment()
    if environment and environment.world_size() > 1:
        raise UserError(
            "trainer.on_oom=halve: torchrun or srun started these processes, and would have to "
            "start them again\nleave it out, or let one process start them: trainer.devices=2"
        )
    trainer = {name: value for name, value in config["trainer"].items() if name != "on_oom"}
    config, folders = config | {"trainer": trainer}, list[Path]()

    def note(folder: str) -> None:
        folders.append(Path(folder))
        report(folder)

    try:
        return train(config, overrides, note)
    except SystemExit:
        if not folders or not may_halve(folders[-1], is_new=not config["resume"]):
            raise
    garbage_collection_cuda()  # of what the exception held
    failed = Record.open(folders[-1])
    record = halve(failed, overrides)
    if is_untrained(failed):
        delete_run(failed.folder)
    return train(*resume_arguments(config, record.metadata["overrides"], record.folder), report)


def may_halve(folder: Path, *, is_new: bool) -> bool:
    """Whether a run has failed for lack of memory, for the first time, and less would do.

    One that was resumed is not started anew where it has learned something.
    """
    record = Record.open(folder)
    error = str(record.metadata.get("error"))
    is_first = "requested_hash" not in record.metadata and (is_new or is_untrained(record))
    is_out = record.metadata["status"] == "failed" and any(text in error for text in NO_MEMORY)
    return is_out and is_first and record.config["data"]["batch_size"] > 1


def halve(failed: Record, overrides: Sequence[str]) -> Record:
    """A new run, not yet begun, as one that failed, with half the batch, accumulated twice."""
    config, requested = failed.config | {"resume": None}, failed.config["data"]["batch_size"]
    accumulated = config["trainer"].get("accumulate_grad_batches") or 1
    config["data"]["batch_size"] = requested // 2
    config["trainer"]["accumulate_grad_batches"] = 2 * accumulated
    names = ("data.batch_size", "trainer.accumulate_grad_batches")
    changed = [f"{names[0]}={requested // 2}", f"{names[1]}={2 * accumulated}"]
    log.warning("once more, with %s", " ".join(changed))
    typed = [*(o for o in overrides if setting_name(o) not in names), *changed]
    record = Record.create(config, typed)
    before = {"requested_hash": config_hash(failed.config), "requested_batch_size": requested}
    record.end("interrupted", **before)
    return record
