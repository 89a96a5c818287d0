"""The ranks that torchrun or srun started: where they are, how they meet, which are lost, and what
those above 0 hold of the run's record."""

import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import DistError, Store, default_pg_timeout  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from triptych.config import Config
from triptych.distributed.detect import EARLIER, RESTARTS, find_launcher
from triptych.errors import UserError, summarize_error
from triptych.runs.record import Record
from triptych.runs.stopping import SIGNALS, install_handlers, requeues_on_sigusr1
from triptych.runs.storage import replace_non_finite

log = logging.getLogger(__name__)
WAIT = "TRIPTYCH_RENDEZVOUS_SECONDS"  # a variable: how long the ranks wait for each other
HINT_SECONDS = 30.0
LOST_SECONDS = 3.0  # for the ranks that are left to say so


class SlurmTask(SLURMEnvironment):
    """A task of srun's step, or the only process of a job.

    Lightning's own takes the allocation's variables for the step's.
    """

    def __init__(self) -> None:
        super().__init__(auto_requeue=requeues_on_sigusr1())
        self.is_rank = find_launcher(os.environ) == "srun"

    @staticmethod
    def _validate_srun_used() -> None: ...

    @staticmethod
    def _validate_srun_variables() -> None: ...

    def validate_settings(self, num_devices: int, num_nodes: int) -> None: ...

    def world_size(self) -> int:
        return int(os.environ["SLURM_STEP_NUM_TASKS"]) if self.is_rank else 1

    def global_rank(self) -> int:
        return super().global_rank() if self.is_rank else 0

    def local_rank(self) -> int:
        return super().local_rank() if self.is_rank else 0

    def node_rank(self) -> int:
        return super().node_rank() if self.is_rank else 0

    @property
    def main_address(self) -> str:
        if count_places()[1] == 1:
            return os.environ.get("MASTER_ADDR", "127.0.0.1")
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_NODELIST"]
        return os.environ.get("MASTER_ADDR") or self.resolve_root_node_address(nodes)

    @property
    def main_port(self) -> int:
        job, step = (int(os.environ[f"SLURM_{name}_ID"]) for name in ("JOB", "STEP"))
        return int(os.environ.get("MASTER_PORT", 15_000 + (job + 101 * step) % 10_000))


def find_environment() -> ClusterEnvironment | None:
    """Lightning's view of what started this process as one rank of several, if anything did."""
    kinds = {"torchrun": TorchElasticEnvironment, "srun": SlurmTask}
    launcher = find_launcher(os.environ)
    return kinds[launcher]() if launcher else None


def count_places() -> tuple[int, int]:
    """How many ranks are on this machine, and on how many machines there are some."""
    if find_launcher(os.environ) == "torchrun":
        num_local = int(os.environ["LOCAL_WORLD_SIZE"])
        return num_local, int(os.environ["WORLD_SIZE"]) // num_local
    counts = re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ["SLURM_STEP_TASKS_PER_NODE"])
    nodes = [int(tasks) for tasks, times in counts for _ in range(int(times or 1))]
    return nodes[int(os.environ["SLURM_NODEID"])], len(nodes)


def place_ranks(devices: Any, num_nodes: int) -> dict[str, Any]:
    """The Trainer's `devices` and `num_nodes` as the launcher has placed the ranks.

    Raises UserError where they were set to something else.
    """
    num_local, num_machines = count_places()
    typed = len(devices) if isinstance(devices, list) else devices
    for name, value, num in (("devices", typed, num_local), ("num_nodes", num_nodes, num_machines)):
        if value not in (1, "auto", num):
            raise UserError(
                f"trainer.{name}={value}: {find_launcher(os.environ)} has started {num_local} "
                f"ranks on each of {num_machines} machines\nleave it out, or set it to {num}"
            )
    is_list = isinstance(devices, list) and typed == num_local
    return {"devices": devices if is_list else num_local, "num_nodes": num_machines}


@cache
def connect_store() -> Store:
    """torch's key-value store of the run's ranks, usable before Lightning connects them.

    Raises UserError unless all of them are there within `TRIPTYCH_RENDEZVOUS_SECONDS`.
    """
    environment = find_environment()
    assert environment
    rank, num = environment.global_rank(), environment.world_size()
    address, port = environment.main_address, environment.main_port
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    name = f"rank {rank} of {num}"
    limit = timedelta(seconds=float(os.environ.get(WAIT, "600")))
    message = "%s waits at %s:%s until all are started, for %d s at most (%s)"
    waited = [message, name, address, port, limit.seconds, WAIT]
    hint = threading.Timer(HINT_SECONDS, log.warning, waited)
    hint.daemon = True
    hint.start()
    try:
        if rank > 0:
            wait_for_answer(address, port, limit.total_seconds())
        store: Store = next(rendezvous("env://", rank, num, timeout=limit))[0]
        if os.environ.get(RESTARTS, "0") != "0":
            leave_used_store(store, rank)
            store = next(rendezvous("env://", rank, num, timeout=limit))[0]
        store.set(f"triptych/there/{rank}", "")
        store.wait([f"triptych/there/{other}" for other in range(num)], limit)
    except (DistError, OSError) as error:
        raise UserError(
            f"{name} has not met the others at {address}:{port} ({summarize_error(error)})\n"
            "start all of them: srun python train.py ..., or torchrun on every machine;\n"
            f"{WAIT} is how long they wait, MASTER_ADDR and MASTER_PORT where"
        ) from error
    finally:
        hint.cancel()
    store.set_timeout(default_pg_timeout)
    return store


def wait_for_answer(address: str, port: int, seconds: float) -> None:
    """Raises OSError where there is none in time; torch alone would wait longer."""
    until = time.monotonic() + seconds
    while True:
        left = until - time.monotonic()
        try:
            socket.create_connection((address, port), timeout=max(left, 0.1)).close()
            return
        except OSError:  # nobody listens yet, or its name is not known yet
            if left <= 0:
                raise
        time.sleep(0.2)


def leave_used_store(store: Store, rank: int) -> None:
    """Have rank 0 open a store, and all use it: torchrun's holds what the ranks left there before
    it started them again, which gloo, too, would take for these ranks' words."""
    key = f"triptych/port/{os.environ[RESTARTS]}"
    if rank == 0:
        with socket.create_server(("", 0)) as server:
            store.set(key, str(server.getsockname()[1]))
        if store.check(["triptych/folder"]):
            os.environ[EARLIER] = store.get("triptych/folder").decode()
    os.environ |= {"MASTER_PORT": store.get(key).decode(), "TORCHELASTIC_USE_AGENT_STORE": "False"}


def find_lost_ranks() -> list[int]:
    """The ranks that do not answer within `LOST_SECONDS`, where a connection between some broke.

    To be called on every rank that is left; signals that end them are ignored meanwhile.
    """
    install_handlers(signal.SIG_IGN, SIGNALS)
    environment = find_environment()
    assert environment
    waiting = set(range(environment.world_size())) - {environment.global_rank()}
    until = time.monotonic() + LOST_SECONDS
    try:
        store = connect_store()
        store.set(f"triptych/left/{environment.global_rank()}", "")
        while waiting and time.monotonic() < until:
            waiting = {rank for rank in waiting if not store.check([f"triptych/left/{rank}"])}
            time.sleep(0.1)
    except DistError:  # rank 0 holds the store, if torchrun does not
        return [0]
    return sorted(waiting)


class ReadOnlyRecord(Record):
    """The record on a rank above 0: it holds the metadata and leaves the folder to rank 0."""

    def update(self, **metadata: Any) -> None:
        self.metadata = replace_non_finite(self.metadata | metadata)

    def begin(self, config: Config, **metadata: Any) -> None:
        self.update(status="running", **metadata)

    def add_metrics(self, row: dict[str, float]) -> None: ...

    def add_predictions(self, split: str, **arrays: Any) -> None: ...

    def drop_predictions(self, split: str) -> None: ...

    def write_prediction_tables(self, files: Sequence[str] | None, write: Any = None) -> None: ...

    @contextmanager
    def log_to_file(self) -> Iterator[None]:
        """Rank 0 logs how the run goes; the other ranks log warnings and errors only."""
        logging.getLogger("triptych").setLevel(logging.WARNING)
        yield
