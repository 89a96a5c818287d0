import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.run_folders import change_predictions, change_record, write_run
from triptych.runs.reader import find_run_folders
from triptych.tools.compare.runs import Run, read_runs


def read(root: Path) -> tuple[list[Run], dict[str, str]]:
    """The usable runs, and what is wrong with the others."""
    runs, problems = read_runs(find_run_folders([str(root)]))
    return runs, {problem.folder: problem.what for problem in problems}


@pytest.mark.parametrize("status", ["running", "failed", "interrupted", None, 3])
def test_an_unfinished_run_is_named_and_left_out(tmp_path: Path, status: object) -> None:
    kept, other = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    change_record(other, status=status, error="loss is NaN")
    runs, problems = read(tmp_path)
    assert [run.folder for run in runs] == [kept]
    assert f"status is {'null' if status is None else status} (loss is NaN)" in problems[str(other)]


def truncate(folder: Path) -> None:
    path = folder / "run.json"
    path.write_text(path.read_text()[:100])


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def record(**metadata: object) -> Callable[[Path], None]:
    return lambda folder: change_record(folder, **metadata)


def predictions(**change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Change arrays of `test.npz`."""

    def apply(folder: Path) -> None:
        with np.load(folder / "predictions" / "test.npz") as file:
            arrays = {name: alter(file[name]) for name, alter in change.items()}
        change_predictions(folder, **arrays)

    return apply


def with_nan(logits: np.ndarray) -> np.ndarray:
    logits[3, 1] = np.nan
    return logits


def nest(path: Path) -> None:
    path.write_text(path.read_text().rstrip("}") + '}, "deep": ' + 100 * "[" + 100 * "]" + "}")


BROKEN = {
    "truncated record": (truncate, "run.json cannot be read"),
    "a record that is no mapping": (lambda f: (f / "run.json").write_text("[]"), "run.json"),
    "other schema": (record(schema=2), "schema"),
    "seed is a text": (record(seed="0"), "seed must be a whole number"),
    "seed is NaN": (record(seed=float("nan")), "seed must be a whole number"),
    "model is a mapping": (record(model={"a": 1}), "model must be a text"),
    "metrics are a list": (record(metrics=[]), "metrics must be a mapping"),
    "no accuracy": (record(metrics={}), "test/accuracy is null"),
    "accuracy is NaN": (record(metrics={"test/accuracy": float("nan")}), "test/accuracy is null"),
    "an accuracy too high": (record(metrics={"test/accuracy": 0.99}), "its predictions give 0."),
    "an accuracy without end": (
        record(metrics={"test/accuracy": 10**400}),
        "test/accuracy is ...",
    ),
    "a speed without end": (record(images_per_second=1.7e308), "images_per_second must be"),
    "nested far too deep": (lambda f: nest(f / "run.json"), "nested deeper than 50"),
    "classes are a number": (record(classes=4), "classes must be a list"),
    "too few classes": (record(classes=["a", "b"]), "names 2 classes, its predictions 4"),
    "versions are a list": (record(versions=["torch"]), "versions must be a mapping"),
    "no config": (remove("config.yaml"), "config.yaml: cannot be read"),
    "no predictions": (remove("predictions/test.npz"), "test.npz: missing"),
    "NaN among the logits": (predictions(logits=with_nan), "not finite"),
    "logits of one image": (predictions(logits=lambda a: a[:1]), "labels must be int64 (1,)"),
    "labels of a float type": (predictions(labels=lambda a: a.astype(float)), "labels must be"),
    "a pickle": (predictions(labels=lambda a: a.astype(object)), "cannot be read"),
    "an empty file": (lambda f: (f / "predictions/test.npz").write_bytes(b""), "cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_is_named_in_one_line_and_the_rest_goes_on(tmp_path: Path, name: str) -> None:
    kept, other = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    spoil, says = BROKEN[name]
    spoil(other)
    runs, problems = read(tmp_path)
    assert [run.folder for run in runs] == [kept]
    assert list(problems) == [str(other)]
    assert says in problems[str(other)]
    assert "\n" not in problems[str(other)]


@pytest.mark.parametrize("name", ["labels", "index"])
def test_a_run_on_other_images_of_the_same_test_hash_is_named(tmp_path: Path, name: str) -> None:
    kept = {write_run(tmp_path, seed=seed) for seed in (1, 2)}
    other = write_run(tmp_path, seed=0)
    with np.load(other / "predictions" / "test.npz") as file:
        values = file[name].copy()
    values[-1] += 1 if name == "index" or values[-1] == 0 else -1
    change_predictions(other, **{name: values})
    with np.load(other / "predictions" / "test.npz") as file:
        accuracy = float((file["logits"].argmax(axis=1) == file["labels"]).mean())
    change_record(other, metrics={"test/accuracy": accuracy})
    runs, problems = read(tmp_path)
    assert {run.folder for run in runs} == kept
    assert f"test.npz: not the {name} of " in problems[str(other)]


def test_of_the_same_config_and_seed_the_newest_finished_run_counts(tmp_path: Path) -> None:
    old, new = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    same = {"config_hash": "c", "group_hash": "g"}
    change_record(old, **same, finished_at="2026-01-01T00:00:00+00:00")
    change_record(new, **same, finished_at="2026-01-02T00:00:00+00:00")
    runs, problems = read(tmp_path)
    assert [run.folder for run in runs] == [new]
    assert f"{new} has the same config and seed and finished later" in problems[str(old)]
    change_record(old, finished_at="2026-01-02T00:00:00+00:00")
    [said] = read(tmp_path)[1].values()
    assert said.endswith("finished at the same time, as a copy does")


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
