"""The list of runs, what they take on disk, and what is freed of it."""

import json
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.run_folders import change_record, write_run
from triptych import cli
from triptych.errors import UserError
from triptych.runs.durations import PROGRESS_FILE
from triptych.runs.reader import find_run_folders
from triptych.runs.storage import lock_run
from triptych.tools.runs.command import runs
from triptych.tools.runs.listing import format_age, read_run
from triptych.tools.runs.settings import expand_arguments
from triptych.tools.runs.tensorboard import link_runs

LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A run of every status, each with both checkpoints."""
    for seed, status in enumerate(("finished", "finished", "interrupted", "failed", "running")):
        folder = write_run(tmp_path, "alexnet", seed)
        change_record(folder, status=status, started_at=f"2026-01-0{seed + 1}T00:00:00+00:00")
        (folder / "checkpoints").mkdir()
        (folder / LAST).write_bytes(bytes(2_000_000))
        (folder / BEST).write_bytes(bytes(1_000_000))
        folder.rename(tmp_path / "shapes" / "alexnet" / f"seed{seed}" / "2026-11-27_101112_abcdef")
    return tmp_path


def show(capsys: pytest.CaptureFixture[str], place: Path | str, **settings: Any) -> str:
    plain = {"size": False, "clean": False, "json": False, "sort": "time", "where": []}
    plain |= {"tensorboard": None}
    runs({"runs": str(place), **plain, **settings})
    return capsys.readouterr().out


def checkpoints(logs: Path) -> list[str]:
    return [f"{path.parents[2].name}/{path.name}" for path in sorted(logs.rglob("*.ckpt"))]


def test_a_run_is_listed_in_a_line_of_100_columns_with_what_became_of_it(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(logs)
    change_record(Path("shapes/alexnet/seed0/2026-11-27_101112_abcdef"), metrics={})
    change_record(Path("shapes/alexnet/seed2/2026-11-27_101112_abcdef"), metrics={})
    lines = show(capsys, Path("shapes")).splitlines()
    assert max(map(len, lines)) <= 100
    rows = [line.split() for line in lines if line.startswith("alexnet")]
    assert [row[1:4] for row in rows] == [
        *(["0", "finished", "2"], ["1", "finished", "2"], ["2", "interrupted", "2"]),
        *(["3", "failed", "2"], ["4", "killed", "2"]),
    ]
    folders = [Path("shapes", row[-1]) for row in rows]
    assert [folder.parent.name for folder in folders] == [f"seed{n}" for n in range(5)]
    accuracies = [
        json.loads((folder / "run.json").read_text())["metrics"].get("val/accuracy")
        for folder in folders
    ]
    assert [row[4] for row in rows[1:2] + rows[3:]] == [
        f"{100 * value:.2f}" for value in accuracies if value
    ]
    assert "d" in rows[0][5], "no accuracy, then, but its age"
    assert rows[2][4] != rows[2][5], "of a run without one in its record, that of metrics.csv"
    assert all(row[-2] == "MB" and 3.0 <= float(row[-3]) < 3.1 for row in rows)


def test_what_takes_the_space_is_said_and_nothing_is_deleted_unasked(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checkpoints(logs)
    assert "last.ckpt" not in show(capsys, logs)
    shown = show(capsys, logs, size=True).splitlines()
    sizes = {line.rsplit(None, 2)[0].strip(): line.split()[-2:] for line in shown if " MB" in line}
    assert sizes["last.ckpt"] == ["10.0", "MB"]
    assert sizes["best.ckpt"] == ["5.0", "MB"]
    assert sizes["of it --clean frees"] == ["4.0", "MB"], "of the two that are finished"
    assert checkpoints(logs) == before


def test_cleaning_takes_last_checkpoints_of_finished_runs_that_nobody_works_on(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [at_work] = logs.glob("shapes/alexnet/seed1/*")
    (logs / "shapes/alexnet/seed0/2026-11-27_101112_abcdef/.best.ckpt.123").write_bytes(b"half")
    before = checkpoints(logs)
    with lock_run(at_work):
        shown = show(capsys, logs, clean=True)
    assert before[1] == "seed0/last.ckpt"
    assert checkpoints(logs) == [name for name in before if name != "seed0/last.ckpt"]
    assert not [*logs.rglob(".best*")]
    assert "freed: 2.0 MB" in shown
    assert str(at_work) in shown.partition("left alone")[2]
    assert "freed: 0 bytes of 0" not in show(capsys, logs, clean=True)
    assert "freed: 0 bytes of 0" in show(capsys, logs, clean=True), "nothing is left to free"


def test_cleaning_deletes_nothing_behind_a_link_that_was_not_typed(
    logs: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    strangers = tmp_path_factory.mktemp("strangers")
    (strangers / "mine").symlink_to(logs)
    before = checkpoints(logs)
    for place in (strangers, f"{strangers}/*", f"{strangers}/**/seed0"):
        assert "freed: 0 bytes of 0" in show(capsys, place, clean=True)
    [finished] = logs.glob("shapes/alexnet/seed0/*")
    (finished / "checkpoints").rename(tmp_path / "big disk")
    (finished / "checkpoints").symlink_to(tmp_path / "big disk")
    assert "is a link" in show(capsys, finished, clean=True)
    (finished / "checkpoints").unlink()
    (tmp_path / "big disk").rename(finished / "checkpoints")
    assert checkpoints(logs) == before
    assert "freed: 4.0 MB of 2" in show(capsys, strangers / "mine", clean=True)


def seeds(capsys: pytest.CaptureFixture[str], logs: Path, *typed: str) -> list[int]:
    """The seeds of the runs that are listed for these arguments, in their order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["triptych", str(logs), "--json", *typed])
        cli.main("runs")
    return [run["seed"] for run in json.loads(capsys.readouterr().out)]


def test_runs_are_chosen_and_ordered_by_what_record_metrics_and_config_say(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = [0.5, 0.9, None, 0.7, 0.1]
    for seed, score in enumerate(scores):
        [folder] = logs.glob(f"shapes/alexnet/seed{seed}/*")
        change_record(folder, metrics={} if score is None else {"test/accuracy": score})
    assert seeds(capsys, logs) == [0, 1, 2, 3, 4]
    assert seeds(capsys, logs, "sort=test/accuracy") == [2, 4, 0, 3, 1]
    assert seeds(capsys, logs, "sort=-test/accuracy") == [1, 3, 0, 4, 2]
    assert seeds(capsys, logs, "where=test/accuracy>=0.7") == [1, 3]
    assert seeds(capsys, logs, "where=status=finished", "where=seed!=0") == [1]
    assert seeds(capsys, logs, "where=status=killed") == [4]
    assert seeds(capsys, logs, "where=optim.lr=1e-3", "sort=-seed") == [4, 3, 2, 1, 0]
    assert seeds(capsys, logs, "where=model=resnet50") == []
    assert "0.9" in show(capsys, logs, sort="test/accuracy").splitlines()[-1]
    with pytest.raises(UserError, match=r"sort=tset/accuracy: .*nearest: test/accuracy"):
        show(capsys, logs, sort="tset/accuracy")
    with pytest.raises(UserError, match="where="):
        seeds(capsys, logs, "where=seed")


def test_a_run_at_work_says_how_far_it_is_and_when_it_ends(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [at_work] = logs.glob("shapes/alexnet/seed4/*")
    (at_work / PROGRESS_FILE).write_text(f"{time.time() + 7200} 0.25")
    assert "ends" not in show(capsys, logs).splitlines()[0], "it was killed"
    with lock_run(at_work):
        head, *_, last = show(capsys, logs).splitlines()
        [run] = json.loads(show(capsys, at_work, json=True))
        assert "done ends" in " ".join(head.split())
        assert "25 %" in last
        assert (run["status"], run["progress"]) == ("running", 0.25)
        ends_at = datetime.fromisoformat(run["ends_at"]).timestamp()
        assert ends_at == pytest.approx(time.time() + 7200, abs=5)
        for wrong in ("", "5", "nan nan", "1e300 0.5", f"{time.time() - 60} 0.5", "9" * 400):
            (at_work / PROGRESS_FILE).write_text(wrong)
            assert json.loads(show(capsys, at_work, json=True))[0]["ends_at"] is None
    assert not (at_work / PROGRESS_FILE).exists(), "it is at work no more"


def test_a_folder_that_is_no_run_any_more_hides_no_other(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = logs / "broken\x1b[31m"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    change_record(next(logs.glob("shapes/alexnet/seed0/*")), metrics=[], model=None, seed={})
    (next(logs.glob("shapes/alexnet/seed2/*")) / "metrics.csv").write_bytes(b"epoch\n\xff,x\n")
    shown = show(capsys, logs, size=True)
    assert shown.count("abcdef") == 5
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["logs"], ["runs=logs"]),
        (["logs", "--size"], ["runs=logs", "size=true"]),
        (["--clean", "logs"], ["runs=logs", "clean=true"]),
        (["logs/a", "logs/b", "size=true"], ["runs=[logs/a,logs/b]", "size=true"]),
        (["runs=logs"], ["runs=logs"]),
        (["--cfg", "job"], ["--cfg", "job"]),
        (["--clean", "job", "-c", "all"], ["runs=job", "clean=true", "-c", "all"]),
        (["lr=0.1"], ["runs=lr=0.1"]),
        (["lr=0.2"], ["lr=0.2"]),
        (["logs", "where=seed=0", "--json"], ["runs=logs", "json=true", "where=['seed=0']"]),
        (["where=[a=1,b<2]", "where=c=it's"], [r"where=['a=1','b<2','c=it\'s']"]),
        ([], []),
    ],
)
def test_a_folder_and_flags_are_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str], meant: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1").mkdir()
    assert expand_arguments(typed) == meant


def test_a_folder_of_any_name_may_be_typed_as_it_is(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (logs / "shapes").rename(logs / "my logs, ü=1")
    monkeypatch.chdir(logs)
    monkeypatch.setattr(sys, "argv", ["triptych", "my logs, ü=1", "--clean"])
    cli.main("runs")
    assert "freed: 4.0 MB of 2 finished runs" in capsys.readouterr().out


def test_the_age_is_in_the_largest_unit() -> None:
    assert format_age("1970-01-01T00:00:00+00:00").endswith(" d")
    assert format_age("2999-01-01T00:00:00+00:00") == "now"
    for wrong in ("None", "2026", "2026-01-01T00:00:00"):
        assert format_age(wrong) == ""


def test_tensorboard_gets_runs_by_model_and_seed_and_what_tells_them_apart(tmp_path: Path) -> None:
    logs, links = tmp_path / "logs", tmp_path / "links"
    links.mkdir()
    for model, seed in (("alexnet", 0), ("resnet50", 0), ("resnet50", 1)):
        (write_run(logs, model, seed) / "tensorboard").mkdir()
    link_runs([*map(read_run, find_run_folders(str(logs)))], links)
    assert {path.name for path in links.iterdir()} == {
        *("alexnet seed0", "resnet50 seed0", "resnet50 seed1")
    }
    typed = ["optim.lr=0.01", "log_dir=elsewhere"]  # of one that begins later
    again = write_run(logs, "alexnet", 0, settings={"optim.lr": 0.01}, overrides=typed)
    (again / "tensorboard").mkdir()
    link_runs([*map(read_run, find_run_folders(str(logs)))], links)
    names = sorted(path.name for path in links.iterdir())
    assert names[1:] == ["alexnet seed0 lr=0.01", "resnet50 seed0", "resnet50 seed1"]
    assert (links / names[1]).readlink() == again / "tensorboard"
