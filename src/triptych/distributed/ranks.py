"""One run on several devices: every rank, a process with a device of its own, runs the same code.

torchrun or SLURM's srun start the ranks; where neither did, `launch.py` does, as torchrun would.
Rank 0 makes the run folder and writes into it; the others are told which one it is.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.record import Record
from triptych.runs.storage import replace_non_finite

LOCALHOST = "127.0.0.1"


@cache
def cluster_environment() -> ClusterEnvironment | None:
    """What started this process as one rank of several; None where it is alone."""
    for kind in (TorchElasticEnvironment, SLURMEnvironment):
        try:
            if kind.detect() and kind().world_size() > 1:
                return kind()
        except RuntimeError as error:  # about the options of srun
            raise UserError(f"SLURM: {str(error).partition(chr(10))[0]}") from error
    return None


def rank() -> int:
    here = cluster_environment()
    return here.global_rank() if here else 0


@cache
def store() -> Store:
    """What every rank can write to and read from before Lightning connects them."""
    here = cluster_environment()
    assert here
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = here.main_address, str(here.main_port)
    found: Store = next(rendezvous("env://", here.global_rank(), here.world_size()))[0]
    return found


def local_store() -> TCPStore:
    """A store that only this machine reaches; torch itself would listen on every interface."""
    listening = socket.create_server((LOCALHOST, 0))
    port = listening.getsockname()[1]
    fd = listening.detach()
    return TCPStore(LOCALHOST, port, None, True, wait_for_workers=False, master_listen_fd=fd)


def tell(what: str, text: str = "") -> None:
    """Let the other ranks `hear` a text under a name that is used once a run."""
    if cluster_environment():
        store().set(f"triptych/{what}", text)


def hear(what: str) -> str:
    """What rank 0 tells; waits until it does."""
    return str(store().get(f"triptych/{what}").decode())


def create_on_rank_zero(make: Callable[[], Record]) -> Record:
    """The record that rank 0 makes or reopens; on every other rank one that writes nothing."""
    if rank() > 0:
        return ReadOnlyRecord.open(Path(hear("folder")))
    record = make()
    tell("folder", str(record.folder))
    return record


class ReadOnlyRecord(Record):
    """The record on a rank above 0: it knows the facts, and leaves the folder to rank 0."""

    def update(self, **metadata: Any) -> None:
        self.metadata = replace_non_finite(self.metadata | metadata)

    def begin(self, config: Config, **metadata: Any) -> None:
        self.update(status="running", **metadata)

    def add_metrics(self, row: dict[str, float]) -> None: ...

    def add_predictions(self, split: str, **arrays: Any) -> None: ...

    def drop_predictions(self, split: str) -> None: ...

    @contextmanager
    def log_kept(self) -> Iterator[None]:
        """Rank 0 says how the run goes; of the others, only what goes wrong is heard."""
        logging.getLogger("triptych").setLevel(logging.WARNING)
        yield
