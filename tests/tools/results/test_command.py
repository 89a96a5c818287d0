"""What was measured is never measured again, and every figure of a table is one of a file."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from tests.run_folders import change_record, write_run
from tests.tools.results import imitation
from triptych.cli import prepare
from triptych.config import CONFIGS, check_config, resolve_config
from triptych.errors import UserError
from triptych.runs.storage import lock_run
from triptych.tools.results import process
from triptych.tools.results.command import ROOT, ROWS, TEXTS, Measuring, find_device, results
from triptych.tools.results.parts import read_parts
from triptych.tools.results.rows import find_changed, read_rows
from triptych.tools.results.tables import fill, write_table

PARTS = """
probe: {minutes: 1, command: "python train.py -m model=googlenet seed=0,1,2"}
speed: {minutes: 3, command: triptych benchmark model=resnet50}
scratch: {minutes: 1, command: "python train.py -m model=alexnet optim.lr=1 seed=0,1"}
"""
TEXT = "\n".join(
    f"<!-- results: {name} -->\nold\n<!-- end of results -->"
    for name in ("accuracy", "files", "commands", "benchmark", "deployments", "time", "runs")
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of three parts, whose processes are imitations."""
    monkeypatch.setattr(process, "PROGRAM", imitation.PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    Path("parts.yaml").write_text(PARTS)
    for name in TEXTS:
        Path(name).write_text(TEXT)
    settings = {"log_dir": "logs", "out": str(tmp_path), "parts": "parts.yaml"}
    return settings | {"minutes": None, "trial": False}


def count_starts() -> dict[str, int]:
    return {
        path.parent.name.rpartition("_")[0]: len(path.read_text().splitlines())
        for path in Path("logs").rglob("starts")
    }


def wait_for(pattern: str) -> Path:
    end = time.monotonic() + 60
    while not (found := [*Path("logs").rglob(pattern)]):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found[0]


def test_killed_at_work_and_called_again_it_goes_on_and_its_tables_are_whole(
    config: dict[str, Any],
) -> None:
    command = [*imitation.PROGRAM, "results", json.dumps(config)]
    with subprocess.Popen(command) as killed:
        first = wait_for("scratch_*/shapes/alexnet/seed0/*/metrics.csv").parents[3]
        killed.kill()
    text = Path("README.md").read_text()
    assert text.count("| 3 × 50 |") == 1, "what was done by then is in the table"
    assert re.search(r"\| AlexNet \|.* \| \*not yet measured\* \|.*optim.lr=1", text)
    assert not (first / "alexnet" / "seed1").exists()
    kept = {path: path.stat().st_mtime_ns for path in Path("logs").rglob("run.json")}
    (first.parent / "go").touch()
    results(config)
    assert count_starts() == {"probe": 1, "speed": 1, "scratch": 2}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    results(config)
    assert count_starts() == {"probe": 1, "speed": 1, "scratch": 2}, "nothing is left to do"
    rows = read_rows(Path(ROWS))
    assert [row["part"] for row in rows if row["figures"]] == ["probe", "speed", "scratch"]
    assert Path("BENCHMARKS.md").read_text() == fill(TEXT, rows)
    assert Path("docs/results/index.html").stat().st_size > 10_000
    assert str(Path.cwd()) not in Path("docs/results/index.html").read_text()


def test_at_a_signal_the_part_ends_and_the_tables_are_written(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        wait_for("scratch_*/shapes/alexnet/seed0/*/metrics.csv")
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Measuring, "write_page", lambda _: None)  # which takes seconds
    Path("parts.yaml").write_text(PARTS.splitlines()[-1])
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(SystemExit) as ended:
        results(config)
    thread.join()
    assert ended.value.code == 130
    assert "| 1 × 50 |" in Path("README.md").read_text()
    row = next(row for row in read_rows(Path(ROWS)) if row["part"] == "scratch")
    assert row["figures"]["num_seeds"] == 1
    [run] = Path("logs").rglob("scratch_*/shapes/alexnet/seed0/*")
    change_record(run, git_commit="b" * 40)
    before = Path("BENCHMARKS.md").read_text()
    with pytest.raises(SystemExit) as ended:
        results(config | {"minutes": 0})
    assert ended.value.code == 1, "a record that was edited since"
    assert [Path("logs", name) for name in find_changed([row], Path("logs"))] == [run / "run.json"]
    assert Path("BENCHMARKS.md").read_text() == before
    change_record(run, metrics={"test/accuracy": 0.99})
    Path(ROWS).unlink()
    with pytest.raises(SystemExit) as ended:
        results(config | {"minutes": 0})
    assert ended.value.code == 1, "it contradicts its predictions"
    assert "99.00 %" not in Path("README.md").read_text()


def test_the_device_has_a_column_only_where_rows_are_of_several() -> None:
    rows = [row for row in read_rows(ROOT / ROWS) if row["figures"]]
    one, other = ([row | {"device": name} for row in rows] for name in ("here", "there"))
    assert "| device |" not in write_table("accuracy", one)
    assert "on here with" in write_table("accuracy", one)
    assert "| device |" in write_table("accuracy", [*one, *other])


def test_what_does_not_fit_is_skipped_and_what_fits_is_not(config: dict[str, Any]) -> None:
    long = PARTS.splitlines()[2]
    Path("parts.yaml").write_text(long + long.replace("speed", "\nquick").replace("3", "1"))
    results(config | {"minutes": 2.5})
    assert count_starts() == {"quick": 1}, "the other takes three minutes"
    results(config | {"minutes": 0})
    assert count_starts() == {"quick": 1}
    results(config | {"minutes": 3.5})
    assert count_starts() == {"quick": 1, "speed": 1}


def test_one_at_a_time_measures_but_tables_are_written_meanwhile(config: dict[str, Any]) -> None:
    results(config | {"minutes": 0.5})
    [folder] = [path for path in Path("logs").iterdir() if path.is_dir()]
    with lock_run(folder):
        with pytest.raises(UserError, match="at work"):
            results(config)
        results(config | {"minutes": 0})
    assert count_starts() == {}


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        ("- a", "mapping"),
        ("a: {minutes: 1}", "a.command"),
        ("a: {minutes: 0, command: triptych benchmark model=alexnet}", "a.minutes"),
        ("a: {minutes: 1, command: python train.py model=alexnet}", "a.command"),
        ('a: {minutes: 1, command: "triptych benchmark data.name=\'a"}', "a.command"),
        ("a: {minutes: 1, command: triptych benchmark model=alexnet, tabel: runs}", "a.tabel"),
        ("a: {minutes: 1, command: triptych export run=b format=onnx}", "run= of a part before"),
        ("a: {", "parts.yaml"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path: Path, listed: str, named: str) -> None:
    (tmp_path / "parts.yaml").write_text(listed)
    with pytest.raises(UserError, match=re.escape(named)):
        read_parts(tmp_path / "parts.yaml")


@pytest.mark.parametrize(
    "text", ["", "<<<<<<< HEAD", "{}", '{"rows": 5}', '{"rows": [{"part": 1}]}']
)
def test_a_broken_file_of_rows_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=r"results\.json"):
        read_rows(tmp_path / "results.json")


def test_every_command_of_the_lists_composes_and_so_does_its_trial() -> None:
    paths = [CONFIGS / "results" / f"{kind}.yaml" for kind in ("cpu", "gpu")]
    parts = [part for path in paths for part in read_parts(path)]
    trials = [part for path in paths for part in read_parts(path, is_trial=True)]
    assert len(parts) == len(trials) >= 20
    one_each = {(part.program, part.table): part for part in trials}
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for part in [*parts, *one_each.values()]:
            first = [override.partition(",")[0] for override in part.overrides]
            first = [prepare(o) for o in first if not o.startswith("hydra")]
            check_config(resolve_config(compose(part.program, first)), part.program)


def test_files_are_exported_once_from_the_first_run_of_a_part_before(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Measuring, "write_page", lambda _: None)
    export = 'files: {minutes: 1, command: "triptych export run=probe format=onnx,onnx_int8"}'
    Path("parts.yaml").write_text(f"{PARTS.splitlines()[1]}\n{export}\n")
    results(config)
    written = {path: path.stat().st_mtime_ns for path in Path("logs").rglob("deployments/*")}
    results(config)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    [folder] = {path.parents[1] for path in Path("logs").rglob("deployments/*.json")}
    assert folder.parent.name == "seed0"
    rows = [row["figures"] for row in read_rows(Path(ROWS)) if row["part"] == "files"]
    assert [row["format"] for row in rows] == [None, "ONNX", "ONNX INT8"]
    network, onnx, int8 = rows
    assert onnx["accuracy"] == network["accuracy"]
    assert int8["accuracy"] == pytest.approx(network["accuracy"] - 2 / 50)
    assert int8["difference"][0] == pytest.approx(-2 / 50)
    assert onnx["latency_ms_p50"] == network["latency_ms_p50"] / 2
    text = Path("README.md").read_text()
    assert f"| ONNX | {100 * onnx['accuracy']:.2f} %, 5.0 ms |" in text
    assert f"| ONNX INT8 | {100 * int8['accuracy']:.2f} %, 5.0 ms |" in text
    assert re.search(r"\| GoogLeNet \| ONNX INT8 \|.*\| -4\.00 \(", text)


def test_a_row_of_more_seeds_stays(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Measuring, "write_page", lambda _: None)
    Path("parts.yaml").write_text(PARTS.splitlines()[1])
    results(config)
    shutil.rmtree(next(iter(Path("logs").rglob("probe_*/shapes/googlenet/seed2"))))
    results(config | {"minutes": 0})
    [row] = [row for row in read_rows(Path(ROWS)) if row["figures"]]
    assert row["figures"]["num_seeds"] == 3


def test_a_run_is_killed_once_it_has_saved_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    program = (
        "import pathlib, sys, time; from triptych.runs.storage import lock_run\n"
        "with lock_run(pathlib.Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as training:
        assert training.stdout
        training.stdout.readline()
        assert not process.kill_training(tmp_path)
        (folder / "checkpoints" / "last.ckpt").touch()
        assert process.kill_training(tmp_path)
    assert training.returncode == -signal.SIGKILL
    assert not process.kill_training(tmp_path), "nobody is at work any more"


def test_the_tables_of_this_project_are_those_of_its_rows() -> None:
    rows = read_rows(ROOT / ROWS)
    assert len(rows) >= 20
    for name in TEXTS:
        text = (ROOT / name).read_text()
        assert fill(text, rows) == text
    for row in rows:
        assert bool(row["figures"]) == bool(row["sources"])
        for source, digest in row["sources"].items():
            assert re.fullmatch(r"[\w.-]+(/[\w.-]+)+", source)
            assert re.fullmatch("[0-9a-f]{64}", digest)
    assert find_changed(rows, ROOT / "logs" / "results") == []
    written = (ROOT / ROWS).read_text()
    assert [path for path in (str(ROOT), os.path.expanduser("~/")) if path in written] == []


def test_after_a_change_of_code_the_newest_run_of_a_seed_counts_and_mixed_precisions_are_named(
    config: dict[str, Any],
) -> None:
    Path("parts.yaml").write_text(PARTS.splitlines()[1])
    results(config)
    [run] = Path("logs").rglob("probe_*/shapes/googlenet/seed1/*")
    shutil.copytree(run, run.with_name(f"{run.name}_2"))
    change_record(run, metrics={"test/accuracy": 0.0}, code={"triptych/module.py": "old"})
    change_record(run.with_name(f"{run.name}_2"), precision="bf16-mixed")
    Path(ROWS).unlink()
    Path("BENCHMARKS.md").write_text("text of somebody's own")
    results(config | {"minutes": 0})
    row = next(row for row in read_rows(Path(ROWS)) if row["part"] == "probe")
    assert (row["figures"]["num_seeds"], row["precision"]) == (3, "32-true or bf16-mixed")
    assert "| 3 × 50 |" in Path("README.md").read_text()
    assert Path("BENCHMARKS.md").read_text() == "text of somebody's own"


def test_nothing_is_measured_where_the_tables_cannot_be_written(config: dict[str, Any]) -> None:
    Path("docs").symlink_to("nowhere/docs")
    with pytest.raises(UserError, match="out="):
        results(config)
    assert count_starts() == {}


def test_without_the_program_that_knows_gpus_the_processor_is_measured(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = find_device()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("PATH", "")
    assert find_device() == processor


def test_a_row_is_of_what_was_trained_and_what_another_list_measured_stays(
    config: dict[str, Any],
) -> None:
    """An experiment may choose the network, and a sweep may have several recipes of one."""
    Path("parts.yaml").write_text(PARTS.splitlines()[1])
    results(config)
    before = [row for row in read_rows(Path(ROWS)) if row["figures"]]
    command = "python train.py -m experiment=mine optim.lr=0.1,0.2"
    Path("parts.yaml").write_text(f'own: {{minutes: 1, command: "{command}"}}')
    [part] = read_parts(Path("parts.yaml"))
    [device] = [path for path in Path("logs").iterdir() if path.name != "comparison"]
    for rate in (0.1, 0.2):
        versions = {"triptych": "0", "torch": "2"}
        settings = {"optim.lr": rate}
        write_run(device / part.place, "alexnet", settings=settings, versions=versions)
    results(config | {"minutes": 0})
    after = [row for row in read_rows(Path(ROWS)) if row["figures"]]
    assert [row["model"] for row in after] == ["alexnet", "alexnet", "googlenet"]
    assert after[2:] == before
