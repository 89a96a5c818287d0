"""What started a process, by any variables that it may find."""

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore  # type: ignore[attr-defined]

from triptych import cli
from triptych.distributed import environment, ranks
from triptych.distributed.detect import JOB, SIZES, check_launcher, find_launcher
from triptych.errors import UserError
from triptych.runs import stopping

# As torchrun and SLURM 22.05 set them: of the second process of two.
WORKER = {
    **{"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_RANK": "0"},
    **{"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
}
BATCH = {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
BATCH |= {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "train"}
STEP = {"SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"}
TASK = {**BATCH, **STEP, "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
OTHERS = {"PL_GLOBAL_RANK": "1", "NODE_RANK": "1", "PMI_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in filter(stopping.LAUNCHED.match, [*os.environ]):
        monkeypatch.delenv(name)
    ranks.cluster_environment.cache_clear()
    yield
    ranks.cluster_environment.cache_clear()


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def find(environ: dict[str, str]) -> str:
    try:
        return find_launcher(environ)
    except UserError:
        return "refused"


EVERY = {**OTHERS, **TASK, **WORKER}
NEEDED = TASK.keys() - {"SLURM_NTASKS", "SLURM_NNODES", "SLURM_JOB_NAME"}


@given(st.sets(st.sampled_from([*EVERY])), st.sampled_from(["0", "2", "-1", "x", ""]))
def test_a_part_of_what_launchers_set_is_never_taken_for_one(names: set[str], odd: str) -> None:
    for chosen in (names, EVERY.keys() - names):
        environ = {name: EVERY[name] for name in chosen}
        expected = "refused" if chosen & {*SIZES} else ""
        expected = "srun" if chosen >= NEEDED else expected
        expected = "torchrun" if chosen >= WORKER.keys() else expected
        assert find(environ) == expected
        assert find(environ | dict.fromkeys(names, odd)) in ("", "srun", "torchrun", "refused")


@pytest.mark.parametrize(
    ("environ", "launcher"),
    [
        (BATCH, ""),  # a batch script that calls python
        ({**BATCH, "SLURM_NTASKS_PER_NODE": "2"}, ""),
        ({"SLURM_NTASKS": "8"}, ""),
        ({**TASK, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"}, ""),  # srun --pty bash
        ({**TASK, "SLURM_NTASKS": "4"}, ""),  # sbatch -n4 out of a step of two tasks
        ({**TASK, "SLURM_JOB_NAME": "interactive"}, "srun"),  # salloc, then srun
        ({**TASK, "PMI_SIZE": "2", "PMI_RANK": "1"}, "srun"),  # srun --mpi=pmi2
        ({**TASK, **WORKER}, "torchrun"),  # srun torchrun
        ({**WORKER, "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "RANK": "0"}, ""),
        ({**WORKER, "RANK": "2"}, "refused"),
        ({**BATCH, "WORLD_SIZE": "8"}, "refused"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "refused"),
        ({"WORLD_SIZE": "many"}, ""),
    ],
)
def test_a_launcher_is_known_by_all_that_it_sets(environ: dict[str, str], launcher: str) -> None:
    assert find(environ) == launcher


def test_what_an_earlier_launcher_left_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, {**WORKER, **OTHERS, **TASK, "SLURM_NTASKS": "4"})
    for name in SIZES:
        monkeypatch.delenv(name, raising=False)
    cli.check_launcher("train")
    assert os.environ["SLURM_JOB_ID"] == "77"
    assert not {"RANK", "LOCAL_RANK", "MASTER_ADDR", "PL_GLOBAL_RANK"} & os.environ.keys()
    assert type(ranks.trainer_environment()) is environment.SlurmTask


@pytest.mark.parametrize("variables", [WORKER, TASK, OTHERS])
def test_other_commands_are_one_process_whatever_started_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    set_variables(monkeypatch, variables)
    check_launcher("tune")
    assert not {*JOB, *SIZES, "RANK", "SLURM_PROCID"} & os.environ.keys()
    assert find_launcher(os.environ) == ""
    assert not stopping.requeues_on_sigusr1()


def test_variables_that_outlived_torchrun_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        set_variables(monkeypatch, {**WORKER, "MASTER_PORT": str(server.getsockname()[1])})
        check_launcher("train")
        assert WORKER.keys() <= os.environ.keys()
    with pytest.raises(UserError, match="does not answer"):
        check_launcher("train")


def test_ranks_that_wait_in_vain_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_variables(monkeypatch, TASK | {"TRIPTYCH_RENDEZVOUS_SECONDS": "1"})
    monkeypatch.setattr(environment, "HINT_SECONDS", 0.3)
    environment.connect_store.cache_clear()
    began = time.monotonic()
    with pytest.raises(UserError, match=r"rank 1 of 2 .* 127\.0\.0\.1:15380"):
        ranks.broadcast_from_rank_zero("anything", str)
    assert "rank 1 of 2 waits at 127.0.0.1:15380" in caplog.text
    assert 0.9 < time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("tasks", "devices", "placed"),
    [
        ({}, 1, (2, 1)),
        ({}, [0, 2], ([0, 2], 1)),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_NODEID": "1"}, 1, (1, 2)),
        ({"SLURM_STEP_TASKS_PER_NODE": "4,2(x3),1", "SLURM_NODEID": "3"}, "auto", (2, 5)),
        ({}, 4, None),
    ],
)
def test_the_trainer_gets_the_devices_that_srun_started_ranks_for(
    monkeypatch: pytest.MonkeyPatch,
    tasks: dict[str, str],
    devices: Any,
    placed: tuple[Any, int] | None,
) -> None:
    set_variables(monkeypatch, TASK | tasks)
    if placed is None:
        with pytest.raises(UserError, match=r"trainer\.devices=4: srun has started 2"):
            environment.place_ranks(devices, 1)
    else:
        expected = dict(zip(("devices", "num_nodes"), placed, strict=True))
        assert environment.place_ranks(devices, 1) == expected


def test_ranks_that_are_gone_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, TASK | {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"})
    store = HashStore()
    store.set("triptych/left/2", "")
    monkeypatch.setattr(environment, "connect_store", lambda: store)
    monkeypatch.setattr(environment, "LOST_SECONDS", 0.1)
    with stopping.signal_handlers(stopping.exit_on_signal, stopping.SIGNALS):
        assert environment.find_lost_ranks() == [0, 3]
    assert store.check(["triptych/left/1"]), "the others learn that this one is left"
