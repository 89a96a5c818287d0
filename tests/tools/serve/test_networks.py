"""Which of many runs are shown, and what is said of the others."""

from pathlib import Path

import pytest

from tests.tools.serve.conftest import CLASSES, Plant, configure
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders
from triptych.runs.record import Record
from triptych.tools.serve.networks import NetworkGroup, rank_runs, read_groups


def read(root: Path, **settings: object) -> tuple[list[NetworkGroup], list[str]]:
    groups, problems = read_groups(find_run_folders([str(root)]), configure(**settings))
    return groups, [problem.what for problem in problems]


def record(model: str, seed: int, val_accuracy: float | None, finished_at: str = "1") -> Record:
    metrics = {"val/accuracy": val_accuracy, "test/accuracy": 1 - (val_accuracy or 0)}
    metadata = {"model": model, "seed": seed, "metrics": metrics, "finished_at": finished_at}
    return Record(Path(f"{model}{seed}"), metadata)


def test_of_each_model_the_run_of_highest_validation_accuracy_is_first_and_the_last_of_equals() -> (
    None
):
    records = [record("a", 0, 0.25), record("b", 0, 0.5), record("a", 1, 0.75), record("b", 1, 0.5)]
    records += [record("b", 2, 0.5, finished_at="2"), record("c", 0, None)]
    seeds = {name: [r.metadata["seed"] for r in runs] for name, runs in rank_runs(records, "best")}
    assert seeds == {"a": [1, 0], "b": [2, 0, 1], "c": [0]}
    assert [*seeds] == ["a", "b", "c"], "models by their best runs"


def test_every_run_has_a_name_of_its_own_with_which_all() -> None:
    records = [record("a", 0, 0.5), record("a", 1, 0.75), record("b", 0, 0.25)]
    names = [name for name, [_] in rank_runs(records, "all")]
    assert names == ["a seed=1", "a seed=0", "b"]


def test_networks_stand_by_name_and_of_fewer_than_there_are_the_best(
    logs: Path, group: NetworkGroup
) -> None:
    assert [network.name for network in group.networks] == ["alpha", "beta"]
    assert (group.classes, group.data, group.num_runs) == (CLASSES, ("shapes",), 2)
    [small], _ = read(logs, num_networks=1)
    assert [network.name for network in small.networks] == ["beta"]
    assert small.num_runs == 2


def test_where_the_best_run_is_damaged_the_next_one_stands_in_and_the_damage_is_told(
    tmp_path: Path, plant: Plant
) -> None:
    plant(tmp_path, seed=1, val_accuracy=0.25)
    best = plant(tmp_path, seed=2, val_accuracy=0.75)
    (best / "checkpoints" / "best.ckpt").write_bytes(b"no checkpoint")
    plant(tmp_path, seed=3, status="failed")
    plant(tmp_path, seed=4, classes=CLASSES[::-1])
    groups, problems = read(tmp_path)
    [group] = [group for group in groups if group.classes == CLASSES]
    assert len(groups) == 2, "networks of other classes are apart"
    assert [network.record.metadata["seed"] for network in group.networks] == [1]
    assert ["not finished" in problems[0], "best.ckpt" in problems[1]] == [True, True]


def test_where_no_run_can_be_shown_the_reason_of_the_first_is_given(
    tmp_path: Path, plant: Plant
) -> None:
    folder = plant(tmp_path)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("triptych.data.shapes.Shapes", "os.system"))
    with pytest.raises(UserError, match=r"^runs: none of 1 .*\n.*_target_=os\.system"):
        read(tmp_path)


def test_a_run_that_cannot_be_calibrated_is_left_out_where_answers_are_asked_for(
    tmp_path: Path, plant: Plant
) -> None:
    plant(tmp_path, seed=1, val_accuracy=0.25)
    best = plant(tmp_path, seed=2, val_accuracy=0.75)
    (best / "predictions" / "val.npz").unlink()
    [group], problems = read(tmp_path, coverage=0.9)
    [network] = group.networks
    assert network.record.metadata["seed"] == 1
    assert network.thresholds
    assert network.thresholds.num_candidates == 2, "the best of two runs"
    assert any("val.npz" in problem for problem in problems)
    with pytest.raises(UserError, match=r"coverage=0\.9.*val\.npz"):
        read(best, coverage=0.9)
