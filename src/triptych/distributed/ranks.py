"""One run on several devices: every rank, a process with a device of its own, runs the same code.

torchrun or SLURM's srun start the ranks; where neither did, `launch.py` does, as torchrun would.
Rank 0 makes the run folder and writes into it; the others learn its path from rank 0.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from triptych.runs.record import Record
from triptych.runs.stopping import is_launched, requeues_on_sigusr1


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
        from triptych.distributed.environment import ReadOnlyRecord

        return ReadOnlyRecord.open(Path(broadcast_from_rank_zero("folder", str)))
    record = make()
    broadcast_from_rank_zero("folder", lambda: str(record.folder))
    return record
