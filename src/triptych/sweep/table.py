"""What a sweep came to, as a table on the screen."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest


def show(outcomes: Iterable[tuple[list[str], dict[str, Any]]]) -> None:
    """A row a job, from the overrides in which the jobs differ and its record."""
    outcomes = list(outcomes)
    shared = set.intersection(*(set(overrides) for overrides, _ in outcomes))
    if len(outcomes) == 1:
        shared = set()
    table = Table(title="On the test images, every one once; 95 % Wilson intervals")
    for heading in ("job", "status", "accuracy", "interval", "F1", "loss", "seconds", "folder"):
        table.add_column(heading, overflow="fold")
    for overrides, facts in outcomes:
        row = cells(facts) if facts.get("status") == "finished" else [""] * 5
        status, folder = facts.get("status", "refused"), facts.get("folder", "")
        job = " ".join(override for override in overrides if override not in shared)
        table.add_row(job, status, *row, folder)
    console = Console()
    console.width = console.width if console.is_terminal else 160
    console.print(table)


def cells(facts: dict[str, Any]) -> list[str]:
    """Accuracy, its interval, macro F1, loss and training seconds of a finished run."""
    accuracy, num_test = facts["metrics"]["test/accuracy"], facts["num_test"]
    interval = binomtest(round(accuracy * num_test), num_test).proportion_ci(method="wilson")
    return [
        f"{accuracy:.2%}",
        f"{interval.low:.2%} to {interval.high:.2%}",
        f"{facts['metrics']['test/f1']:.4f}",
        f"{facts['metrics']['test/loss']:.4f}",
        f"{facts['train_seconds']:.0f}",
    ]
