import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.run_folders import change_predictions, change_record, write_run
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders
from triptych.tools.compare.runs import (
    TrainedNetwork,
    read_cost,
    read_curve,
    read_image_types,
    read_pixels,
    read_run,
    read_runs,
)


def read(root: Path) -> tuple[list[TrainedNetwork], dict[str, str]]:
    """The usable runs, and what is wrong with the others."""
    runs, problems = read_runs(find_run_folders([str(root)]))
    return runs, {problem.folder: problem.what for problem in problems}


@pytest.mark.parametrize("status", ["running", "failed", None, 3])
def test_an_unfinished_run_is_named_and_left_out(tmp_path: Path, status: object) -> None:
    usable, other = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    change_record(other, status=status, error="loss is NaN")
    runs, problems = read(tmp_path)
    assert [run.folder for run in runs] == [usable]
    assert f"status is {'null' if status is None else status} (loss is NaN)" in problems[str(other)]


def record(**metadata: object) -> Callable[[Path], None]:
    return lambda folder: change_record(folder, **metadata)


BROKEN = {
    "truncated record": (lambda f: (f / "run.json").write_text("{"), "run.json cannot be read"),
    "other schema": (record(schema=2), "schema"),
    "seed is a text": (record(seed="0"), "seed must be a whole number"),
    "metrics are a list": (record(metrics=[]), "metrics must be a mapping"),
    "no accuracy": (record(metrics={}), "test/accuracy is null"),
    "accuracy is NaN": (record(metrics={"test/accuracy": float("nan")}), "test/accuracy is null"),
    "an accuracy too high": (record(metrics={"test/accuracy": 0.99}), "its predictions give 0."),
    "a speed without end": (record(images_per_second=1.7e308), "images_per_second must be"),
    "too few classes": (record(classes=["a", "b"]), "names 2 classes, its predictions have 4"),
    "no config": (lambda f: (f / "config.yaml").unlink(), "config.yaml: cannot be read"),
    "no predictions": (lambda f: (f / "predictions/test.npz").unlink(), "test.npz: missing"),
    "an empty file": (lambda f: (f / "predictions/test.npz").write_bytes(b""), "cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_named_in_one_line_and_the_rest_goes_on(tmp_path: Path, name: str) -> None:
    usable, other = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    spoil, says = BROKEN[name]
    spoil(other)
    runs, problems = read(tmp_path)
    assert [run.folder for run in runs] == [usable]
    assert list(problems) == [str(other)]
    assert says in problems[str(other)]
    assert "\n" not in problems[str(other)]


@pytest.mark.parametrize("name", ["labels", "index"])
def test_a_run_on_other_images_of_the_same_test_hash_is_named(tmp_path: Path, name: str) -> None:
    usable = {write_run(tmp_path, seed=seed) for seed in (1, 2)}
    other = write_run(tmp_path, seed=0)
    with np.load(other / "predictions" / "test.npz") as file:
        values = file[name].copy()
    values[-1] += 1 if name == "index" or values[-1] == 0 else -1
    change_predictions(other, **{name: values})
    with np.load(other / "predictions" / "test.npz") as file:
        accuracy = float((file["logits"].argmax(axis=1) == file["labels"]).mean())
    change_record(other, metrics={"test/accuracy": accuracy})
    runs, problems = read(tmp_path)
    assert {run.folder for run in runs} == usable
    assert "test.npz: index, labels or groups differ" in problems[str(other)]


def test_of_the_same_config_and_seed_the_newest_finished_run_counts(tmp_path: Path) -> None:
    old, new = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    same = {"config_hash": "c", "group_hash": "g"}
    change_record(old, **same, finished_at="2026-01-01T00:00:00+00:00")
    change_record(new, **same, finished_at="2026-01-02T00:00:00+00:00")
    runs, problems = read(tmp_path)
    assert [run.folder for run in runs] == [new]
    assert f"{new} has the same config and seed and finished later" in problems[str(old)]
    assert "code" not in problems[str(old)]
    change_record(old, code={"triptych/module.py": "old", "gone.py": "a"})
    change_record(new, code={"triptych/module.py": "new"})
    assert read(tmp_path)[1][str(old)].endswith("finished later, by other code: triptych/module.py")
    change_record(old, finished_at="2026-01-02T00:00:00+00:00")
    assert "at the same time" in read(tmp_path)[1].popitem()[1]


def test_metrics_as_float32_rounds_them_are_not_at_odds_with_the_predictions(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path)
    metrics = json.loads((folder / "run.json").read_text())["metrics"]
    change_record(folder, metrics={name: float(np.float32(v)) for name, v in metrics.items()})
    assert len(read(tmp_path)[0]) == 1


def test_what_is_read_can_be_printed_and_written_as_utf8(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    change_record(folder, model="a\ud800\x1b[31m\nb", classes=["x\u202e", "b", "c", "d"])
    [run], _ = read(tmp_path)
    assert run.metadata["model"] == "a��[31m b"
    assert run.metadata["classes"][0] == "x�"


@pytest.fixture
def network(tmp_path: Path) -> TrainedNetwork:
    return read_run(write_run(tmp_path, num_images=20))


EPOCH = "epoch,train/loss,val/loss,val/accuracy\n"
LEVEL = "type,severity,num_images,accuracy,accuracy_low,accuracy_high\n"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("metrics.csv", f"{EPOCH}{'9' * 20},1,1,0.5", "epoch must be"),
        ("metrics.csv", f"{EPOCH}-1,1,1,0.5", "epoch must be"),
        ("metrics.csv", f"{EPOCH}1,1e308,1,0.5", "train/loss must be"),
        ("metrics.csv", f"{EPOCH}1,1,nan,0.5", "cannot be read"),
        ("image_types.csv", f"{LEVEL}noise,{'9' * 400},50,0.5,0.4,0.6", "severity must be"),
        ("image_types.csv", f"{LEVEL}noise,1,-50,0.5,0.4,0.6", "num_images must be"),
        ("image_types.csv", f"{LEVEL}noise,1,50,0.5,0.4,6", "accuracy_high must be"),
        ("image_types.csv", LEVEL + 301 * "noise,1,50,0.5,0.4,0.6\n", "more than 300"),
        ("cost.json", '{"latency_ms_p50": 1.7e308}', "latency_ms_p50 must be"),
        ("cost.json", '{"a": ' + 900 * "[" + 900 * "]" + "}", "cannot be read"),
    ],
)
def test_numbers_of_optional_files_have_bounds(
    network: TrainedNetwork, name: str, text: str, says: str
) -> None:
    readers = {"metrics.csv": read_curve, "image_types.csv": read_image_types}
    (network.folder / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}: {says}"):
        readers.get(name, read_cost)(network)


def test_pictures_have_pixels(network: TrainedNetwork) -> None:
    path = network.folder / "predictions" / "test_images.npz"
    np.savez(path, index=np.arange(2), images=np.zeros((2, 3, 0, 0), np.uint8))
    with pytest.raises(UserError, match="must have images"):
        read_pixels(network)
