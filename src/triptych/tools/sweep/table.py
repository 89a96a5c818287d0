"""What a sweep came to, as a table on the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from triptych.errors import sanitize_text
from triptych.tools.sweep.worker import Outcome


def show(outcomes: Sequence[tuple[str, Outcome]]) -> None:
    """A row a job, by its label; below, why those failed that did."""
    table = Table(title="On the test images, every one once; 95 % Wilson intervals")
    for heading in ("job", "status", "accuracy", "interval", "F1", "loss", "seconds", "folder"):
        table.add_column(heading, overflow="fold")
    for label, outcome in outcomes:
        row = cells(outcome.metadata) if outcome.status == "finished" else [""] * 5
        status = f"{outcome.status}{' before' if outcome.is_earlier else ''}"
        folder = sanitize_text(str(outcome.folder or ""))
        table.add_row(*map(escape, (label, status)), *row, escape(folder))
    console = Console()
    console.width = console.width if console.is_terminal else 160
    console.print(table)
    for label, outcome in outcomes:
        if outcome.error:
            said = sanitize_text(f"{label}: {outcome.error}")
            console.print(said, markup=False, highlight=False)
    if any(outcome.is_earlier and outcome.status == "failed" for _, outcome in outcomes):
        console.print("failed before: retry_failed=true goes on with them", highlight=False)


def cells(metadata: Mapping[str, Any]) -> list[str]:
    """Accuracy, its interval, macro F1, loss and training seconds of a finished run."""
    from scipy.stats import binomtest  # takes seconds, which a sweep that is stopped has not

    accuracy, num_test = metadata["metrics"]["test/accuracy"], metadata["num_test"]
    interval = binomtest(round(accuracy * num_test), num_test).proportion_ci(method="wilson")
    return [
        f"{accuracy:.2%}",
        f"{interval.low:.2%} to {interval.high:.2%}",
        f"{metadata['metrics']['test/f1']:.4f}",
        "" if (loss := metadata["metrics"]["test/loss"]) is None else f"{loss:.4f}",
        f"{metadata['train_seconds']:.0f}",
    ]
