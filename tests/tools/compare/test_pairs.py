"""What a note says of the pairs is what was done."""

import json
from pathlib import Path

from tests.run_folders import change_record, write_run
from triptych.tools.compare.content import Pairs
from triptych.tools.compare.groups import grouped
from triptych.tools.compare.pairs import network_pairs
from triptych.tools.compare.runs import read_runs
from triptych.tools.statistics.intervals import PairedDifference


def pairs_of(folders: list[Path]) -> Pairs:
    return network_pairs(grouped(read_runs(folders)[0]))


def test_many_recipes_of_two_test_sets_are_all_paired_within_these(tmp_path: Path) -> None:
    found = pairs_of(
        [
            write_run(tmp_path, settings={"optim.lr": n + 1}, num_images=20 if n < 6 else 30)
            for n in range(12)
        ]
    )
    assert len(found.pairs) == 2 * 15
    assert "All pairs that can be compared are tested." in found.note


def test_without_a_validation_accuracy_the_first_by_name_is_the_reference(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, f"net{n:02}", num_images=20, skill=n) for n in range(11)]
    for folder in folders:
        metrics = json.loads((folder / "run.json").read_text())["metrics"]
        change_record(folder, metrics={"test/accuracy": metrics["test/accuracy"]})
    found = pairs_of(folders)
    assert {pair.a for pair in found.pairs} == {"net00 seed 0"}
    assert "tested against the first by name" in found.note


def test_the_exact_test_may_tell_nothing_apart_beside_an_interval_without_0() -> None:
    pair = PairedDifference(only_a=17, only_b=7, num_images=1000)
    assert pair.p_value > 0.05
    assert pair.interval().low > 0
