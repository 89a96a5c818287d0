"""A SLURM of this machine alone, for tests: `with slurm_cluster(folder) as environment: ...`.

Root starts it in two seconds where Debian's slurm-wlm and munge are installed. It has ports, a
socket and a key of its own, so several run side by side and what the machine has is left alone. Its
processes have a PID namespace of their own, which the kernel ends with its first one: when the
block is left, and also when the process that entered it was killed.

By hand: `python -m tests.slurm_cluster FOLDER [NODES]`, until Ctrl-C.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge,cred_expire=5
StateSaveLocation={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
MpiDefault=none
PartitionName=debug Nodes=ALL Default=YES
PartitionName=short Nodes=ALL MaxTime=1
"""
NODE = "NodeName=n{n} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=16000\n"
DAEMONS = """
munged --foreground --force --socket=munge --key-file=key --log-file=munge.log \
    --seed-file=seed --pid-file=munge.pid &
until [ -S munge ]; do sleep 0.05; done
slurmctld -D >slurmctld.log 2>&1 &
for node; do slurmd -D -N "$node" >"$node.log" 2>&1 & done
read
"""


def find_missing() -> str:
    """Why no cluster can be started here; empty where one can."""
    programs = ("munged", "slurmctld", "slurmd", "srun", "unshare")
    if missing := [name for name in programs if not shutil.which(name, path=PATH)]:
        return f"not installed: {', '.join(missing)}"
    refused = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True).stderr
    return refused.strip()


@contextmanager
def slurm_cluster(folder: Path, num_nodes: int = 1) -> Iterator[dict[str, str]]:
    """A cluster of nodes n0, n1, ... of 4 cores and 16 GB below an empty folder.

    Yields the environment in which SLURM's commands are run.
    """
    nodes = write_config(folder, num_nodes)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
    daemons = subprocess.Popen(
        [*NAMESPACE, "bash", "-c", DAEMONS, "bash", *nodes],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the process that waits for them
    )
    with daemons:  # closes their input
        wait_for_nodes(environment, folder, num_nodes)
        yield environment


def write_config(folder: Path, num_nodes: int) -> list[str]:
    host = socket.gethostname().partition(".")[0]
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(num_nodes + 1)]
        ports = [each.getsockname()[1] for each in sockets]
    nodes = [NODE.format(n=n, host=host, port=port) for n, port in enumerate(ports[1:])]
    config = CONFIG.format(folder=folder, host=host, ports=ports)
    (folder / "slurm.conf").write_text("".join([config, *nodes]))
    (folder / "key").touch(0o600)
    (folder / "key").write_bytes(os.urandom(64))
    return [f"n{n}" for n in range(num_nodes)]


def wait_for_nodes(environment: dict[str, str], folder: Path, num_nodes: int) -> None:
    command = ["sinfo", "--noheader", "--Node", "--partition=debug", "--format=%t"]
    for _ in range(150):
        answer = subprocess.run(command, env=environment, capture_output=True, text=True)
        if answer.stdout.split() == ["idle"] * num_nodes:
            return
        time.sleep(0.2)
    logs = "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))
    raise RuntimeError(f"no cluster within 30 seconds: {answer.stdout} {answer.stderr}\n{logs}")


if __name__ == "__main__":
    with slurm_cluster(Path(sys.argv[1]).resolve(), int((sys.argv[2:] or ["1"])[0])) as environment:
        print(f"export SLURM_CONF={environment['SLURM_CONF']}", flush=True)
        sys.stdin.read()
