"""The table at the end of a sweep."""

from pathlib import Path

import pytest

from triptych.tools.sweep import table
from triptych.tools.sweep.board import Board
from triptych.tools.sweep.worker import Outcome


def test_the_interval_of_14_in_16_is_wilsons() -> None:
    # By hand: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.96, is 0.640 and 0.965.
    scores = {"test/accuracy": 14 / 16, "test/f1": 0.81234, "test/loss": 0.5}
    metadata = {"metrics": scores, "num_test": 16, "train_seconds": 61.4}
    accuracy, interval, *rest = table.cells(metadata)
    assert accuracy == "87.50%"
    low, high = (float(bound.rstrip("%")) / 100 for bound in interval.split(" to "))
    assert (low, high) == (pytest.approx(0.640, abs=5e-4), pytest.approx(0.965, abs=5e-4))
    assert rest == ["0.8123", "0.5000", "61"]


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (Outcome("refused"), ["refused"]),
        (Outcome("failed", {"status": "failed"}, Path("logs/a")), ["failed", "logs/a"]),
        (Outcome("interrupted", {"metrics": {}}, Path("logs/[a]")), ["interrupted", "logs/[a]"]),
        (Outcome("failed", {}, Path("a"), is_earlier=True), ["failed before", "a"]),
    ],
)
def test_a_job_without_result_shows_its_status_and_no_figures(
    outcome: Outcome, says: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    table.show([("seed=0", outcome)])
    [row] = [line for line in capsys.readouterr().out.splitlines() if "seed=0" in line]
    told = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert [cell for cell in told if cell] == ["seed=0", *says]


def test_below_the_table_stands_why_a_job_failed(capsys: pytest.CaptureFixture[str]) -> None:
    table.show([("seed=0", Outcome("refused", error="data.root: not there\nfetch it"))])
    assert capsys.readouterr().out.endswith("seed=0: data.root: not there\nfetch it\n")


def test_no_control_codes_of_somebody_elses_folder_reach_the_screen(
    capsys: pytest.CaptureFixture[str],
) -> None:
    foreign = Outcome("failed", {}, Path("logs/\x1b]0;a\x07"), error="\x1b[31mred")
    table.show([("seed=0", foreign)])
    Board(total=1).say(f"seed=0: {foreign.error} {foreign.folder}")
    shown = capsys.readouterr().out
    assert shown.count("red") == 2
    assert all(letter.isprintable() or letter == "\n" for letter in shown)
