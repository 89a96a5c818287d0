"""The run folder: what is written, when, and what cannot be read."""

import csv
import json
import logging
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from triptych.cli.arguments import check_writable
from triptych.config import CONFIGS, Config, resolve_config
from triptych.errors import UserError
from triptych.runs import record as record_module
from triptych.runs.reader import find_temporary_files
from triptych.runs.record import COLUMNS, Record, config_hash
from triptych.runs.resume import record_changed_code, truncate_metrics
from triptych.runs.storage import atomic_write, make_folder

KEYS = """
    schema status code model data seed split_seed config_hash group_hash batch_size versions
    git_commit command overrides started_at finished_at num_epochs feature_seconds error
    slurm_job_id seconds_total
""".split()


@pytest.fixture(scope="module")
def default() -> Config:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return resolve_config(compose("train", ["data=shapes", "model=alexnet", "seed=3"]))


@pytest.fixture
def config(default: Config, tmp_path: Path) -> Config:
    return default | {"log_dir": str(tmp_path / "logs")}


@pytest.fixture
def record(config: Config) -> Record:
    return Record.create(config, ["seed=3"])


def read_json(record: Record) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in run.json")

    metadata: dict[str, Any] = json.loads(
        (record.folder / "run.json").read_text(), parse_constant=refuse
    )
    return metadata


def test_a_run_has_a_folder_under_data_model_and_seed_with_its_config(
    record: Record, config: Config
) -> None:
    data, model, seed, name = record.folder.relative_to(config["log_dir"]).parts
    assert (data, model, seed) == ("shapes", "alexnet", "seed3")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d{6}_[0-9a-f]{6}", name)
    assert name.endswith(config_hash(config)[:6])
    assert Record.open(record.folder).config == config


def test_a_folder_is_never_shared(tmp_path: Path) -> None:
    names = [make_folder(tmp_path / "deep" / "down", "run").name for _ in range(3)]
    assert names == ["run", "run_2", "run_3"]


def test_run_json_tells_from_the_start_what_runs(record: Record, config: Config) -> None:
    metadata = read_json(record)
    assert sorted(metadata) == sorted(KEYS)
    assert (metadata["schema"], metadata["status"], metadata["seed"]) == (1, "running", 3)
    assert metadata["overrides"] == ["seed=3"]
    assert metadata["finished_at"] is None
    assert metadata["group_hash"] == config_hash(config, less=("seed",))


def test_a_name_is_recorded_and_no_part_of_the_experiment(config: Config) -> None:
    named = config | {"name": "baseline"}
    assert config_hash(named) == config_hash(config)
    record = Record.create(named, [])
    record.begin(named)
    assert read_json(record)["name"] == "baseline"
    record.begin(config)
    assert read_json(record)["name"] == "baseline", "until another one is typed"


def test_run_json_never_holds_nan(record: Record) -> None:
    record.update(metrics={"test/loss": float("nan"), "curve": [1.0, float("inf")]})
    assert read_json(record)["metrics"] == {"test/loss": None, "curve": [1.0, None]}
    (record.folder / "run.json").write_text('{"schema": 1, "metrics": {"test/loss": 1e999}}')
    assert Record.open(record.folder).metadata["metrics"] == {"test/loss": None}


def test_the_end_is_written_with_its_time(record: Record) -> None:
    record.end("failed", error="out of memory")
    metadata = read_json(record)
    assert (metadata["status"], metadata["error"]) == ("failed", "out of memory")
    assert metadata["finished_at"] >= metadata["started_at"]


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half of the new")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_half()
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("new", [path])


def test_a_place_that_another_user_owns_is_refused_before_work_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, how: path != tmp_path)
    for name in ("x", "new/x"):
        with pytest.raises(UserError, match=f"^out: cannot be written .*{tmp_path}"):
            check_writable("out", tmp_path / name)
    (tmp_path / "own").mkdir()
    check_writable("out", tmp_path / "own" / "x")


@pytest.mark.parametrize("name", ["x", "図" * 85])
def test_a_file_of_any_name_is_replaced_and_the_half_of_a_killed_write_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("os.getpid", lambda: 4_194_304)  # Linux has none longer
    check_writable("out", tmp_path / name)
    with atomic_write(tmp_path / name) as temporary:
        temporary.touch()
        assert list(find_temporary_files(tmp_path)) == [temporary]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert list(find_temporary_files(tmp_path)) == []


def table(record: Record) -> list[dict[str, str]]:
    with (record.folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("torn", ["2", "2,1e", "2,1,0.5"])
def test_metrics_behind_a_step_are_cut_half_a_line_of_a_killed_run_included(
    record: Record, torn: str
) -> None:
    truncate_metrics(record.folder / "metrics.csv", 0)
    assert not (record.folder / "metrics.csv").exists()
    record.add_metrics({"epoch": 1, "step": 5, "train/loss": 1.5, "lr": 0.1, "unknown": 3})
    for step in (10, 15, 20):
        record.add_metrics({"epoch": 1, "step": step, "val/accuracy": 0.25})
    with (record.folder / "metrics.csv").open("a") as file:
        file.write(torn)
    truncate_metrics(record.folder / "metrics.csv", 10)
    record.add_metrics({"epoch": 1, "step": 11})
    rows = table(record)
    assert [row["step"] for row in rows] == ["5", "10", "11"]
    assert [tuple(row) for row in rows] == [COLUMNS] * 3
    assert [row["train/loss"] for row in rows] == ["1.5", "", ""]
    assert [row["val/accuracy"] for row in rows] == ["", "0.25", ""]


def test_predictions_are_plain_arrays_in_the_types_they_came_in(record: Record) -> None:
    logits = np.array([[0.5, -1.0], [2.0, 0.0]], dtype=np.float32)
    index = np.array([7, 3], dtype=np.int64)
    record.add_predictions("test", logits=logits, labels=index % 2, index=index)
    with np.load(record.folder / "predictions" / "test.npz", allow_pickle=False) as read:
        assert {name: str(read[name].dtype) for name in read.files} == {
            "logits": "float32",
            "labels": "int64",
            "index": "int64",
        }
        np.testing.assert_array_equal(read["logits"], logits)
        np.testing.assert_array_equal(read["index"], index)


def test_objects_are_no_predictions(record: Record) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        record.add_predictions("val", logits=np.array([{}], dtype=object))
    assert list((record.folder / "predictions").iterdir()) == []


def test_lines_of_the_log_are_kept_while_the_run_lasts(record: Record) -> None:
    log = logging.getLogger("triptych.test")
    with record.log_to_file():
        log.warning("epoch 1 batch 100 loss 1.342")
    log.warning("afterwards")
    [line] = (record.folder / "train.log").read_text().splitlines()
    assert line.endswith(" epoch 1 batch 100 loss 1.342")


def test_a_log_folder_below_a_file_is_refused_by_its_key(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = str(tmp_path / "file" / "logs")
    with pytest.raises(UserError, match=f"^log_dir={below}: cannot be written to"):
        Record.create(config | {"log_dir": below}, [])


@pytest.mark.parametrize(
    "content",
    [
        *(None, b'{"schema": 1', b"[]", b'{"schema": 2}', b"\xff\xfe", b"[" * 100_000),
        b'{"schema": 1, "a": ' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)
def test_a_folder_without_a_record_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match="no run folder") as refused:
        Record.open(tmp_path)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("content", [None, b"- a", b"a: [", b"\xff\xfe\x00"])
def test_a_config_that_cannot_be_read_is_refused(record: Record, content: bytes | None) -> None:
    path = record.folder / "config.yaml"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read"):
        _ = record.config


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, in which the code seems to lie."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@b")
    code = tmp_path / "src" / "triptych" / "runs" / "code.py"
    code.parent.mkdir(parents=True)
    code.write_text("one")
    names = ["config", "core.quotepath", "off"]
    for command in (["init", "-q"], names, ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(record_module, "CONFIGS", tmp_path / "configs")
    return tmp_path


def test_the_commit_says_whether_the_code_was_changed_whoever_owns_the_clone(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (CONFIGS / "train.yaml").is_file()
    assert Path(str(record_module.__file__)).is_relative_to(CONFIGS.parent / "src")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    clean = record_module.git_commit()
    assert clean is not None
    assert re.fullmatch(r"[0-9a-f]{40}", clean)
    (repository / "notes.txt").write_text("not code")
    assert record_module.git_commit() == clean
    (repository / "src" / os.fsdecode(b"\xff.py")).write_text("two")
    assert record_module.git_commit() == f"{clean}+dirty"


def test_outside_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "CONFIGS", tmp_path / "configs")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record_module.git_commit() is None
    monkeypatch.setenv("PATH", "")
    assert record_module.git_commit() is None


def test_a_run_that_goes_on_with_other_code_says_so_and_is_a_run_of_neither(
    record: Record, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    now = record.metadata["code"]
    record_changed_code(record, config)
    assert record.metadata["code"] == now
    assert caplog.messages == []
    before = now | {"triptych/module.py": "old", "triptych/gone.py": "old"}
    record.update(code=before)
    for _ in range(2):  # interrupted and resumed once more
        record_changed_code(record, config)
        mixed = {"triptych/module.py": f"old, {now['triptych/module.py']}"}
        mixed |= {"triptych/gone.py": "old, None"}
        assert record.metadata["code"] == before | mixed
    [message] = caplog.messages
    assert "triptych/gone.py, triptych/module.py" in message
    record.update(code=None)
    caplog.clear()
    record_changed_code(record, config)
    assert len(caplog.messages) == 1, "a run of an earlier version"
    assert record.metadata["code"] is None, "and its code stays unknown"
