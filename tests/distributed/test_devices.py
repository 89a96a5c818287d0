"""One run on two devices: processes of this machine, which meet through gloo."""

import csv
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed

from tests.composing import composed
from tests.tiny import TARGETS, TINY, StartRun
from triptych import build
from triptych.build import build_trainer
from triptych.callbacks.checkpoint import SaveSchedule
from triptych.cli import prepare
from triptych.config import Config
from triptych.data.datamodule import KeyedBatchSampler
from triptych.distributed import devices, environment, launch, processes, ranks
from triptych.errors import UserError
from triptych.metrics import SplitPredictions, build_metrics, compute_scores
from triptych.runs import lifecycle
from triptych.runs.checkpoint_files import load_checkpoint
from triptych.runs.record import Record, config_hash
from triptych.runs.storage import lock_run
from triptych.tools.evaluate.rebuild import read_data, rebuild_run

ROOT = Path(__file__).parents[2]
ON_TWO = ["trainer=ddp", "++trainer.devices=2"]
EndRanks = Callable[..., tuple[Any, Record]]


def compose_tiny(log_dir: Path, *overrides: str) -> Config:
    return composed("train", *TINY, *map(prepare, overrides), log_dir=str(log_dir))


def open_only_record(log_dir: Path) -> Record:
    [path] = log_dir.rglob("run.json")
    return Record.open(path.parent)


def read_rows(record: Record) -> list[dict[str, str]]:
    with (record.folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A run whose two ranks torchrun started."""
    log_dir = tmp_path_factory.mktemp("logs")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*torchrun, "train.py", *TINY, *ON_TWO, f"log_dir={log_dir}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("epoch 1 val loss") == 1, "one rank prints"
    return open_only_record(log_dir)


def test_a_run_on_two_devices_predicts_every_image_once_as_its_weights_do_on_one(
    finished: Record,
) -> None:
    run = rebuild_run(finished.folder, TARGETS)
    data = read_data(run)
    for split, subset, num in (("val", data.val, 20), ("test", data.test, 25)):
        saved = np.load(finished.folder / "predictions" / f"{split}.npz")
        images, labels, index = subset.__getitems__(torch.arange(len(subset)))
        assert len(index) == len(set(saved["index"].tolist())) == num
        np.testing.assert_array_equal(saved["index"], index)
        np.testing.assert_array_equal(saved["labels"], labels)
        logits = torch.from_numpy(saved["logits"])
        torch.testing.assert_close(logits, run.logits(images), rtol=1e-4, atol=1e-5)
        expected = compute_scores(build_metrics(10), logits, labels).values
        logged = finished.metadata["metrics"]
        assert {name: logged[f"{split}/{name}"] for name in expected} == pytest.approx(expected)


def test_one_rank_writes_one_folder_and_every_line_once(finished: Record) -> None:
    assert finished.metadata["status"] == "finished"
    assert finished.metadata["num_test"] == 25
    assert finished.metadata["config_hash"] == config_hash(compose_tiny(finished.folder))
    lines = read_rows(finished)
    steps = [int(row["step"]) for row in lines if row["train/loss"]]
    assert steps == [2, 4, 5, 7, 9, 10, 12, 14, 15]
    assert Counter(row["epoch"] for row in lines if row["val/accuracy"]) == {"1": 1, "2": 1, "3": 1}
    assert (finished.folder / "train.log").read_text().count("epoch 2 val loss") == 1
    events = list((finished.folder / "tensorboard").glob("events.*"))
    assert len({path.name.split(".")[-2] for path in events}) == 1, "events of one process"
    assert not [path for path in finished.folder.rglob(".*") if path.is_file()]
    every = load_checkpoint(finished.checkpoint_path("last"))["generators"]
    assert len(every) == 2
    assert not every[0]["cpu"].equal(every[1]["cpu"]), "each drops units of its own"


def test_a_stopped_run_goes_on_with_another_number_of_devices(
    start_run: StartRun, tmp_path: Path
) -> None:
    stopping = {"at": "step", "rank": "1", "signal": signal.SIGTERM}
    answer = start_run(*ON_TWO, f"log_dir={tmp_path}", **stopping)
    assert answer["code"] == 143, answer["output"]
    stopped = open_only_record(tmp_path)
    assert stopped.metadata["status"] == "interrupted"
    saved = load_checkpoint(stopped.checkpoint_path("last"))
    assert saved["global_step"] == 1
    assert saved["ImageDataModule"] == {"epoch": 0, "batch": 1}, "within the epoch"

    on_one = ["++trainer.devices=1", "++trainer.strategy=auto"]
    answer = start_run(f"resume={stopped.folder}", *on_one)
    assert answer["code"] == 0, answer["output"]
    record = open_only_record(tmp_path)
    assert record.metadata["status"] == "finished"
    steps = [int(row["step"]) for row in read_rows(record) if row["train/loss"]]
    assert steps == [2, 4, 5, 7, 9, 10, 12, 14, 15]


def run_on_ranks(num: int, work: Callable[[int, int], Any], meet_at: Path) -> list[Any]:
    """What `work(rank, num)` returns in each of `num` processes of one process group."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(num)]

    def main(rank: int) -> None:
        torch.set_num_threads(1)
        distributed.init_process_group(
            "gloo", init_method=f"file://{meet_at}", rank=rank, world_size=num
        )
        pipes[rank][1].send(work(rank, num))
        distributed.destroy_process_group()

    processes = [context.Process(target=main, args=[rank]) for rank in range(num)]
    for process in processes:
        process.start()
    results = [receive.recv() for receive, _ in pipes if receive.poll(60)]
    for process in processes:
        process.join(10)
        process.kill()
    assert len(results) == num
    return results


SIZES = (1, 2, 3, 17, 32, 101)


def score_splits(
    rank: int, world_size: int
) -> list[tuple[np.ndarray, np.ndarray, dict[str, float]]]:
    """Predictions and scores of a split of every size; batches of 8, dealt out."""
    results = []
    for n in SIZES:
        generator = torch.Generator().manual_seed(n)
        logits = torch.randn(n, 4, generator=generator)
        labels = torch.randint(4, (n,), generator=generator)
        gathered = SplitPredictions()
        for batch in KeyedBatchSampler(n, 8, rank, world_size, seed=None):
            gathered.update(logits[batch], labels[batch], batch)
        every, targets, index = gathered.gather()
        results.append(
            (every.numpy(), index.numpy(), compute_scores(build_metrics(4), every, targets).values)
        )
    return results


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_metrics_of_any_number_of_images_are_those_of_one_device(
    tmp_path: Path,
) -> None:
    alone = score_splits(0, 1)
    for results in run_on_ranks(3, score_splits, tmp_path / "meet"):
        for n, one, many in zip(SIZES, alone, results, strict=True):
            np.testing.assert_array_equal(many[0], one[0])
            assert many[1].tolist() == list(range(n))
            assert many[2] == one[2]


def saving_step(rank: int, world_size: int) -> int:
    """The step that one of the ranks saves at, where only the last one heard a signal."""
    due = SaveSchedule(None, None)
    strategy = types.SimpleNamespace(root_device="cpu", reduce=reduce_tensor)
    trainer: Any = types.SimpleNamespace(strategy=strategy, world_size=world_size, global_step=0)
    while not due.should_save(trainer):
        trainer.global_step += 1
        time.sleep(0.001 * (1 + rank))
        if trainer.global_step == 40 and rank == world_size - 1:
            due._request_stop(signal.SIGTERM, None)
    return int(trainer.global_step)


def reduce_tensor(tensor: Tensor, reduce_op: str) -> Tensor:
    distributed.all_reduce(tensor, getattr(distributed.ReduceOp, reduce_op.upper()))
    return tensor


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_ranks_that_get_a_signal_at_different_steps_save_at_the_same(tmp_path: Path) -> None:
    one, other = run_on_ranks(2, saving_step, tmp_path / "meet")
    assert one == other >= 40


# How a run ends whose ranks fail. Programs that cost nothing stand in for the ranks.

RANK = """
import json, os, pathlib, signal, sys, time
place, rank = pathlib.Path(sys.argv[1]), os.environ["RANK"]
config = json.loads((place / "job.json").read_text())[0]
(place / "folder").write_text(config["folder"])
log = pathlib.Path(config["folder"], f"rank{rank}")
def note(number, frame):
    with log.open("a") as file: file.write(f"{number}\\n")
    sys.exit(143)
if rank in config["handles"]:
    signal.signal(signal.SIGTERM, note)
log.touch()
while not all(pathlib.Path(config["folder"], f"rank{r}").exists() for r in (0, 1)):
    time.sleep(0.02)
print(f"words of rank {rank}", flush=True)
code = config["codes"][int(rank)]
if code is None:
    time.sleep(60)
    pathlib.Path(config["folder"], "outlived").touch()
    code = 0
if code < 0: os.kill(os.getpid(), -code)
sys.exit(code)
"""


@pytest.fixture
def end_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EndRanks:
    """Exit code and record of a run whose ranks end with given codes; None: not by themselves."""
    (tmp_path / "rank.py").write_text(RANK)
    monkeypatch.setattr(processes, "COMMAND", [sys.executable, "-IS", str(tmp_path / "rank.py")])
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.3)

    def run(
        *codes: int | None, handles: str = "", resumed: Record | None = None
    ) -> tuple[Any, Record]:
        config = compose_tiny(tmp_path / "logs")
        record = resumed or Record.create(config, [])
        config["resume"] = str(record.folder) if resumed else None
        more = {"folder": str(record.folder), "codes": codes, "handles": handles}
        code: Any = 0
        try:
            launch.launch_ranks(config | more, [], 2, str)
        except SystemExit as stop:
            code = stop.code
        return code, Record.open(record.folder)

    return run


@pytest.mark.parametrize(
    ("codes", "status", "error"),
    [
        ((None, 1), "failed", "rank 1 ended with exit code 1"),
        ((1, None), "failed", "rank 0 ended with exit code 1"),
        ((None, -9), "interrupted", "rank 1 was killed by SIGKILL"),
        ((1, -9), "interrupted", "rank 1 was killed by SIGKILL"),
    ],
)
def test_a_rank_that_ends_takes_the_run_down_which_can_go_on_where_it_was_killed(
    codes: tuple[int | None, int | None],
    status: str,
    error: str,
    end_ranks: EndRanks,
    caplog: pytest.LogCaptureFixture,
) -> None:
    code, record = end_ranks(*codes)
    assert code == 1
    assert not (record.folder / "outlived").exists(), "the other rank was not waited for"
    assert (record.metadata["status"], record.metadata["error"]) == (status, error)
    command = f"to go on: python train.py resume={record.folder}"
    assert (command in caplog.text) is (status == "interrupted")


def test_a_run_that_its_ranks_cannot_resume_stays_as_it_was(
    end_ranks: EndRanks, tmp_path: Path
) -> None:
    killed = Record.create(compose_tiny(tmp_path / "logs"), [])
    assert killed.metadata["status"] == "running"
    code, after = end_ranks(2, None, resumed=killed)
    assert (code, after.metadata) == (2, killed.metadata)


def test_ranks_that_find_another_process_at_work_leave_its_run_alone(
    end_ranks: EndRanks, tmp_path: Path
) -> None:
    record = Record.create(compose_tiny(tmp_path / "logs"), [])
    with lock_run(record.folder):
        for codes in ((1, None), (-9, None)):
            record.update(num_epochs=-codes[0])  # it goes on meanwhile
            assert end_ranks(*codes, resumed=record)[1].metadata == record.metadata


def test_the_output_of_the_failing_rank_is_shown_and_no_other(
    end_ranks: EndRanks, capfd: pytest.CaptureFixture[str]
) -> None:
    end_ranks(None, 1)
    shown = capfd.readouterr()
    assert shown.out == "words of rank 0\n"
    assert shown.err == "words of rank 1\n"
    end_ranks(1, None)
    assert capfd.readouterr().err == ""


def test_a_signal_reaches_every_rank_once(end_ranks: EndRanks, tmp_path: Path) -> None:
    def send_signal() -> None:
        while len(list(tmp_path.glob("logs/**/rank*"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send_signal)
    sender.start()
    code, record = end_ranks(None, None, handles="01")
    sender.join()
    assert code == 143
    assert record.metadata["status"] == "interrupted"
    assert [(record.folder / f"rank{rank}").read_text() for rank in (0, 1)] == ["15\n", "15\n"]


def test_of_several_ranks_the_error_of_the_first_to_fail_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record.create(compose_tiny(tmp_path), [])
    ending = (ZeroDivisionError, SystemExit)
    monkeypatch.setattr(ranks, "cluster_environment", lambda: "two ranks")
    monkeypatch.setattr(environment, "find_lost_ranks", lambda: [])
    for rank, error in ((1, ZeroDivisionError("why")), (0, RuntimeError("[gloo/transport/tcp] x"))):
        monkeypatch.setattr(ranks, "get_rank", lambda rank=rank: rank)
        with pytest.raises(ending), lifecycle.record_status(record, resumed=False):
            raise error
    metadata = Record.open(record.folder).metadata
    assert (metadata["status"], metadata["error"]) == ("failed", "rank 1: ZeroDivisionError: why")
    assert "ZeroDivisionError: why" in (record.folder / "traceback.txt").read_text()


@pytest.mark.parametrize(("devices", "num"), [(1, 1), (3, 3), ([2], 1), ([0, 3], 2), ("auto", 1)])
def test_a_rank_is_started_for_every_device(devices: Any, num: int) -> None:
    config = {"trainer": {"accelerator": "gpu" if isinstance(devices, list) else "cpu"}}
    config["trainer"]["devices"] = devices
    assert build.count_ranks(config) == num
    if num > 1:
        with pytest.raises(UserError, match="torchrun"):
            build.count_ranks({"trainer": config["trainer"] | {"num_nodes": 2}})


@pytest.mark.parametrize("tiny", [["data.batch_size=1"], ["data.num_train=1"]])
def test_a_batch_smaller_than_the_devices_that_share_it_is_refused(
    tiny: list[str], tmp_path: Path
) -> None:
    config, message = compose_tiny(tmp_path, *tiny), r"of a batch of 1 images 2 devices"
    trainer = types.SimpleNamespace(world_size=2)
    with pytest.raises(UserError, match=message):
        devices.check_ranks(trainer, config)
    with pytest.raises(UserError, match=message):
        launch.launch_ranks(config, [], 2, print)


def test_synchronised_batchnorm_is_refused_on_a_cpu(tmp_path: Path) -> None:
    config = compose_tiny(tmp_path, "trainer.sync_batchnorm=true")
    with pytest.raises(UserError, match="GPUs only"):
        build_trainer(config, Record.create(config, []), [])
