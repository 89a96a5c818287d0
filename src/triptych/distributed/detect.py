"""What started this process: torchrun, SLURM's srun, or neither. Imports no torch.

An allocation's variables say what may be started, and any variable may be left over: in a shell
within a job, in a job submitted from another one, in a notebook. A launcher sets all of its own.
"""

import logging
import os
import socket
from collections.abc import Mapping

from triptych.errors import UserError

log = logging.getLogger(__name__)
TORCHRUN = """
    TORCHELASTIC_RUN_ID TORCHELASTIC_USE_AGENT_STORE RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE
    GROUP_RANK MASTER_ADDR MASTER_PORT
""".split()
STEP = "SLURM_JOB_ID SLURM_STEP_ID SLURM_NODEID SLURM_STEP_TASKS_PER_NODE".split()
SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "JSM_NAMESPACE_SIZE")  # others set one
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")  # scripts for srun choose it
# What Lightning and torch read as well, whoever set it.
OTHERS = ("NODE_RANK", "PL_GLOBAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
RESTARTS = "TORCHELASTIC_RESTART_COUNT"
EARLIER = "TRIPTYCH_EARLIER_FOLDER"  # of the run whose ranks torchrun has started again
JOB = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")


def find_launcher(environ: Mapping[str, str]) -> str:
    """`torchrun` or `srun` where it started this process as one of several ranks, else empty.

    Raises UserError where something else started several processes: each would train alone.
    """
    if is_worker(environ):
        return "torchrun"
    if is_task(environ):
        return "srun"
    for name in SIZES:
        if (size := read_number(environ, name)) > 1:
            raise UserError(
                f"{name}={size}: set, but neither torchrun nor srun started this process\n"
                f"for one process: unset {name}; for several: torchrun --nproc_per_node {size} "
                f"train.py ...,\nor in a job of SLURM: srun -n{size} python train.py ..."
            )
    return ""


def is_worker(environ: Mapping[str, str]) -> bool:
    """Whether all is there, and fits together, that torchrun sets for one of several ranks."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    rank, size, local_rank, local_size, port = (read_number(environ, name) for name in names)
    is_rank = 0 <= rank < size and 0 <= local_rank < local_size <= size
    return size > 1 and is_rank and port > 0 and all(map(environ.get, TORCHRUN))


def is_task(environ: Mapping[str, str]) -> bool:
    """The same of srun's step of several tasks."""
    tasks = read_number(environ, "SLURM_STEP_NUM_TASKS")
    # A job submitted from a step inherits the step's variables, but for this one.
    is_own = read_number(environ, "SLURM_NTASKS", tasks) == tasks
    local_rank, rank = (read_number(environ, f"SLURM_{name}") for name in ("LOCALID", "PROCID"))
    return tasks > 1 and is_own and 0 <= local_rank <= rank < tasks and all(map(environ.get, STEP))


def read_number(environ: Mapping[str, str], name: str, otherwise: int = -1) -> int:
    value = environ.get(name, "")
    return int(value) if value.isascii() and value.isdecimal() else otherwise


def check_launcher(command: str) -> None:
    """Forget what a launcher that did not start this process has left in the environment.

    Commands other than `train` are one process each, whatever started them. Raises UserError as
    `find_launcher` does, and where torchrun's variables outlived it.
    """
    launcher = find_launcher(os.environ) if command == "train" else ""
    if launcher == "torchrun":
        check_agent()
        return
    names = {*TORCHRUN, *OTHERS, RESTARTS, EARLIER}
    if launcher == "srun":
        names -= {*ADDRESS, "SLURM_PROCID"}
    if command != "train":
        names |= {*JOB, *SIZES}
    elif not launcher and (tasks := os.environ.get("SLURM_NTASKS", "1")) != "1":
        log.info("one process, in an allocation of %s tasks; a run on all: srun python ...", tasks)
    for name in names & os.environ.keys():
        del os.environ[name]


def check_agent() -> None:
    """Raise UserError unless the store of torchrun answers, which is there before its ranks are."""
    if os.environ["TORCHELASTIC_USE_AGENT_STORE"] != "True":
        return
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    try:
        socket.create_connection((address, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"TORCHELASTIC_RUN_ID: set, but torchrun does not answer at {address}:{port} "
            f"({error})\nfor one process: unset WORLD_SIZE; for several: torchrun ... train.py ..."
        ) from error
