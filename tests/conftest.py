"""What every test stands on: no network, and no trace outside the tests' own folders."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.tiny import StartRun

# Tiny batches gain little from threads, and other tests run beside. Here, so that torch finds it on
# import, and programs that a test starts inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nor does a test depend on a cluster's allocation that the suite may run in.
for name in [name for name in os.environ if name.startswith(("SLURM_", "PMI_"))]:
    del os.environ[name]

DATA_DIR = os.environ.get("DATA_DIR")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_cifar10() -> Path:
    """The folder that holds `cifar-10-batches-py/`; skips where `DATA_DIR` names none."""
    if not DATA_DIR:
        pytest.skip("DATA_DIR is not set: no real CIFAR-10")
    if not (Path(DATA_DIR) / "cifar-10-batches-py" / "test_batch").is_file():
        pytest.skip("DATA_DIR holds no cifar-10-batches-py/test_batch: no real CIFAR-10")
    return Path(DATA_DIR).resolve()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m real` selects what asks for the real data."""
    for item in items:
        if "real_cifar10" in getattr(item, "fixturenames", ()):
            item.add_marker("real")


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """Runs, data and weights of the person who runs the tests are neither read nor written.

    Yields the names of the variables that there are then.
    """
    with pytest.MonkeyPatch.context() as patch:
        for key in ("DATA_DIR", "LOG_DIR", "TORCH_HOME", "XDG_STATE_HOME"):
            patch.setenv(key, str(tmp_path_factory.mktemp(key.lower())))
        patch.delenv("TRIPTYCH_STORAGE", raising=False)
        yield set(os.environ)


@pytest.fixture(autouse=True)
def _own_process(_own_folders: set[str]) -> None:
    """A command leaves what the next test would take for its own: variables of a launcher, and a
    screen that is standard error where standard output is its result."""
    for name in os.environ.keys() - _own_folders:
        del os.environ[name]
    if "rich" in sys.modules:
        sys.modules["rich"].reconfigure()


@pytest.fixture(scope="session")
def start_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator["StartRun"]:
    """A function that starts a tiny run, to its end or to a fault: tests/trials/faults.py."""
    output = tmp_path_factory.mktemp("faults") / "output"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.trials.faults", str(output)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def start(*overrides: str, **fault: Any) -> dict[str, Any]:
        assert server.stdin
        assert server.stdout
        print(json.dumps({"overrides": overrides, **fault}), file=server.stdin, flush=True)
        answer: dict[str, Any] = json.loads(server.stdout.readline())
        return answer

    with server:
        yield start
        server.kill()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment for the commands of a real SLURM of one node; skips where there is none."""
    from tests.slurm_cluster import find_missing, slurm_cluster

    if missing := find_missing():
        pytest.skip(f"no SLURM: {missing}")
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of `tests.tiny.Tiny`. Copy it before you change anything."""
    from tests.composing import composed
    from tests.tiny import TINY
    from triptych.training import train

    config = composed("train", *TINY, f"log_dir={tmp_path_factory.mktemp('trained')}")
    return train(config, list(TINY)).folder


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw nothing, for drawing takes longer than all else in a tiny one."""
    from tests.tiny import draw_nothing

    draw_nothing(monkeypatch.setattr)


@pytest.fixture(scope="session", autouse=True)
def _offline() -> Iterator[None]:
    """Only this machine answers, so a test that reaches further fails wherever it runs."""
    resolve = socket.getaddrinfo

    def resolve_local(host: str | bytes | None, *args: object, **options: object) -> object:
        if host in (None, "", "localhost", "127.0.0.1", "::1", socket.gethostname()):
            return resolve(host, *args, **options)  # type: ignore[arg-type]
        raise socket.gaierror(f"tests are offline: {host!r} was asked for")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve_local)
        yield
