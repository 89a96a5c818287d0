"""One run on several devices: every rank, a process with a device of its own, runs the same code.

torchrun or SLURM's srun start the ranks; where neither did, `launch.py` does, as torchrun would.
Rank 0 makes the run folder and writes into it; the others learn its path from rank 0.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from triptych.config import Config
from triptych.runs.record import Record
from triptych.runs.stopping import is_launched, requeues_on_sigusr1
from triptych.runs.storage import replace_non_finite


@cache
def cluster_environment() -> ClusterEnvironment | None:
    """Lightning's view of what started this process as one rank of several; None if nothing did."""
    if not is_launched():
        return None
    from triptych.distributed.environment import find_environment

    return find_environment()


def trainer_environment() -> ClusterEnvironment:
    """What the Trainer is to take this process for: Lightning itself would believe variables."""
    if requeues_on_sigusr1():
        from triptych.distributed.environment import SlurmTask

        return SlurmTask()
    return cluster_environment() or LightningEnvironment()


def get_rank() -> int:
    environment = cluster_environment()
    return environment.global_rank() if environment else 0


def broadcast_from_rank_zero(name: str, make: Callable[[], str]) -> str:
    """What `make` returns on rank 0, on every rank; the other ranks wait for it.

    A `name` is used once a run. The first call is where the ranks meet.
    """
    if not cluster_environment():
        return make()
    from triptych.distributed.environment import connect_store

    store, key = connect_store(), f"triptych/{name}"
    if get_rank() > 0:
        return str(store.get(key).decode())
    text = make()
    store.set(key, text)
    return text


def create_on_rank_zero(make: Callable[[], Record]) -> Record:
    """The record that rank 0 makes or reopens; on every other rank one that writes nothing."""
    if get_rank() > 0:
        return ReadOnlyRecord.open(Path(broadcast_from_rank_zero("folder", str)))
    record = make()
    broadcast_from_rank_zero("folder", lambda: str(record.folder))
    return record


class ReadOnlyRecord(Record):
    """The record on a rank above 0: it holds the metadata and leaves the folder to rank 0."""

    def update(self, **metadata: Any) -> None:
        self.metadata = replace_non_finite(self.metadata | metadata)

    def begin(self, config: Config, **metadata: Any) -> None:
        self.update(status="running", **metadata)

    def add_metrics(self, row: dict[str, float]) -> None: ...

    def add_predictions(self, split: str, **arrays: Any) -> None: ...

    def drop_predictions(self, split: str) -> None: ...

    def write_prediction_tables(self, files: Sequence[str] | None) -> None: ...

    @contextmanager
    def log_to_file(self) -> Iterator[None]:
        """Rank 0 logs how the run goes; the other ranks log warnings and errors only."""
        logging.getLogger("triptych").setLevel(logging.WARNING)
        yield
