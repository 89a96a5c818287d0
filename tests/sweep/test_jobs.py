"""Sweeps: checked as a whole, run apart, told in a table."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from triptych import Refused
from triptych.config import CONFIGS
from triptych.sweep import jobs, table
from triptych.sweep.jobs import Job, freeze


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def frozen(*overrides: list[str]) -> list[Job]:
    return freeze(lambda job: compose("train", job), overrides)


def test_every_job_has_the_config_of_its_overrides() -> None:
    first, second = frozen(["model=alexnet", "seed=1"], ["model=resnet50", "seed=2"])
    assert (first.config["model"]["name"], first.config["seed"]) == ("alexnet", 1)
    assert (second.config["model"]["name"], second.config["seed"]) == ("resnet50", 2)
    assert first.overrides == ["model=alexnet", "seed=1"]


def test_jobs_share_nothing_and_keep_the_environment_they_were_asked_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOG_DIR", "before")
    first, second = frozen(["seed=1"], ["seed=2"])
    monkeypatch.setenv("LOG_DIR", "after")
    first.config["trainer"]["max_epochs"] = 1
    assert second.config["trainer"]["max_epochs"] == 40
    assert second.config["log_dir"] == "before"
    assert "${" not in json.dumps(second.config)


@pytest.mark.parametrize(
    "wrong",
    [
        ["seed=abc"],
        ["optim.lr=-1", "seed=-1", "data.batch_size=0"],
        ["model=nope"],
        ["optim.learning_rate=1"],
        ["log_dir=${oc.env:NOT_SET_ANYWHERE}"],
        ["experiment=demo", "model=torchvision"],
    ],
)
def test_a_refusal_names_the_job_in_its_last_line_of_three(wrong: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        frozen(["seed=0"], wrong)
    lines = str(refused.value).splitlines()
    assert lines[-1] == f"in the job {' '.join(wrong)}"
    assert 2 <= len(lines) <= 3


# Stands in for a run: ends as its seed says, and leaves the record such an end leaves.
STAND_IN = """
import json, os, pathlib, signal, sys
report, asked = pathlib.Path(sys.argv[1]), json.load(sys.stdin)
seed, folder = asked["config"]["seed"], report.parent / "run"
if seed != 2:
    folder = pathlib.Path(asked["config"]["log_dir"], str(seed))
    folder.mkdir(parents=True)
    report.write_text(str(folder))
    scores = {"test/accuracy": 0.875, "test/f1": 0.5, "test/loss": 1.25}
    finished = {"status": "finished", "metrics": scores, "num_test": 16, "train_seconds": 2.5}
    facts = [finished, {"status": "failed"}, None, {"status": "running"}][seed]
    (folder / "run.json").write_text(json.dumps(facts))
if seed == 3:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(seed)
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    start = subprocess.run

    def start_stand_in(command: list[str], **options: Any) -> Any:
        assert command[:3] == [sys.executable, "-m", "triptych.sweep.job"]
        return start([sys.executable, "-IS", str(program), *command[3:]], **options)

    monkeypatch.setattr(jobs.subprocess, "run", start_stand_in)
    return tmp_path


@pytest.mark.parametrize("num_jobs", [1, 3])
def test_a_job_that_fails_stops_no_other_and_makes_the_exit_code_1(
    stand_in: Path, capfd: pytest.CaptureFixture[str], num_jobs: int
) -> None:
    asked = [[f"seed={seed}", f"log_dir={stand_in / 'logs'}"] for seed in (1, 2, 3, 0)]
    with pytest.raises(SystemExit) as ended:
        jobs.run(frozen(*asked), num_jobs)
    assert ended.value.code == 1
    assert sorted(path.name for path in (stand_in / "logs").iterdir()) == ["0", "1", "3"]
    shown = capfd.readouterr().out
    for number, overrides in enumerate(asked, start=1):
        assert f"[{number}/4] {' '.join(overrides)}" in shown
    assert [shown.count(word) for word in ("finished", "failed", "refused", "killed")] == [1] * 4


def test_a_sweep_in_which_all_finish_ends_as_usual(stand_in: Path) -> None:
    jobs.run(frozen(["seed=0", f"log_dir={stand_in / 'logs'}"]), 1)


def test_the_interval_of_14_in_16_is_wilsons() -> None:
    # By hand: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.96, is 0.640 and 0.965.
    scores = {"test/accuracy": 14 / 16, "test/f1": 0.81234, "test/loss": 0.5}
    facts = {"metrics": scores, "num_test": 16, "train_seconds": 61.4}
    accuracy, interval, *rest = table.cells(facts)
    assert accuracy == "87.50%"
    low, high = (float(bound.rstrip("%")) / 100 for bound in interval.split(" to "))
    assert (low, high) == (pytest.approx(0.640, abs=5e-4), pytest.approx(0.965, abs=5e-4))
    assert rest == ["0.8123", "0.5000", "61"]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({}, "refused"),
        ({"status": "failed", "folder": "logs/a"}, "failed"),
        ({"status": "interrupted", "folder": "logs/a", "metrics": {}}, "interrupted"),
    ],
)
def test_a_job_without_result_shows_its_status_and_no_figures(
    facts: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table.show([(["seed=0"], facts)])
    [row] = [line for line in capsys.readouterr().out.splitlines() if "seed=0" in line]
    told = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert [cell for cell in told if cell] == [
        "seed=0",
        says,
        *([facts["folder"]] if facts else []),
    ]
