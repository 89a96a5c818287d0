"""The trial of published networks, on a few drawn ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.composing import composed
from tests.run_folders import draw_labels, draw_logits
from tests.trials import published
from triptych.tools.compare.command import compare


def test_what_is_counted_apart_equals_the_verdict_and_a_wrong_count_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare_here(folder: Path, labels: Path, suspects: Path | None) -> dict[str, Any]:
        places = {"predictions": folder, "labels": labels, "suspects": suspects, "out": tmp_path}
        chosen = {name: str(place) for name, place in places.items()}
        verdict = compare(composed("compare", runs=None, **chosen)).with_name("verdict.json")
        return dict(json.loads(verdict.read_text()))

    labels = draw_labels(300)
    (tmp_path / "answers").mkdir()
    for seed, skill in enumerate((1.0, 2.0, 2.0, 4.0)):
        classes = draw_logits(labels, skill, seed, 4).argmax(axis=1)
        (tmp_path / "answers" / f"net{skill}{seed}.json").write_text(json.dumps(classes.tolist()))
    (tmp_path / "labels.json").write_text(json.dumps(labels.tolist()))
    (tmp_path / "list.csv").write_text("image\n3\n7\n200\n")
    monkeypatch.setattr(published, "compare", compare_here)
    typed = [str(tmp_path / name) for name in ("answers", "labels.json", "list.csv")]
    monkeypatch.setattr("sys.argv", ["published", *typed[:2], "--without", typed[2]])
    assert published.main() == 0
    monkeypatch.setattr(published, "adjust", lambda p_values: p_values)
    assert published.main() == 1
