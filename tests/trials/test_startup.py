"""The short form of `make startup`: its logic, on commands that take no time."""

from io import StringIO

import pytest
from rich.console import Console

from tests.trials.child import Ended
from tests.trials.startup import Case, make_table, time_cases

QUIET = Case(["-c", ""])


def test_rounds_are_counted_but_for_the_first_and_held_against_the_group_s_first_command() -> None:
    refused = Case(["-c", "import sys; sys.exit(2)"], code=2)
    endless = Case(["-c", "while True: print('a line')"], until="a line")
    groups = {"at most": {"nothing": QUIET, "refused": refused, "endless": endless}}
    every = time_cases(groups, repeats=2)
    assert [len(each) for each in every.values()] == [2, 2, 2]
    seconds = {"nothing": (1, 3), "refused": (4, 4), "endless": (2, 1)}
    ended = {name: [Ended(0, "", s, s / 2, 1.0) for s in each] for name, each in seconds.items()}
    console = Console(width=100, file=StringIO(), record=True)
    console.print(make_table(groups, ended))
    rows = [line.split("│")[1:-1] for line in console.export_text().splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows[-3:]] == [
        ["nothing", "2.00", "1.00", "3.00", "1.00", "+0.00", "1.00"],
        ["refused", "4.00", "4.00", "4.00", "2.00", "+2.00", "2.00"],
        ["endless", "1.50", "1.00", "2.00", "0.75", "-0.50", "0.75"],
    ]


def test_a_command_that_ends_otherwise_than_expected_is_reported_and_not_timed() -> None:
    with pytest.raises(AssertionError, match="training: exit code 0"):
        time_cases({"": {"training": QUIET._replace(until="loss")}}, repeats=1)
