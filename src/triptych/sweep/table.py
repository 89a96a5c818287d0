"""What a sweep came to, as a table on the screen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

if TYPE_CHECKING:
    from triptych.sweep.launcher import Outcome


def show(outcomes: Sequence["Outcome"]) -> None:
    """A row a job: accuracy on the test images with its 95 % Wilson interval, macro F1, time."""
    table = Table(title="Test images, every one once; 95 % Wilson intervals")
    for heading in ("job", "status", "accuracy", "interval", "F1", "loss", "seconds", "folder"):
        table.add_column(heading, overflow="fold")
    for outcome in outcomes:
        table.add_row(" ".join(outcome.job.overrides), *cells(outcome.facts, outcome.exit_code))
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(table)


def cells(facts: dict[str, Any], exit_code: int) -> list[str]:
    """Status, accuracy, interval, F1, loss, seconds, folder; empty where not measured."""
    status = facts.get("status", f"refused ({exit_code})")
    scores = facts.get("metrics", {})
    if "test/accuracy" not in scores:
        return [status, "", "", "", "", "", facts.get("folder", "")]
    num_test = facts["num_test"]
    interval = binomtest(round(scores["test/accuracy"] * num_test), num_test).proportion_ci(
        method="wilson"
    )
    return [
        status,
        f"{scores['test/accuracy']:.2%}",
        f"{interval.low:.2%} to {interval.high:.2%}",
        f"{scores['test/f1']:.4f}",
        f"{scores['test/loss']:.4f}",
        f"{facts['train_seconds']:.0f}",
        facts["folder"],
    ]
