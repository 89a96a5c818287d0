"""What an evaluation prints at its end: a line a run."""

import shlex
from collections.abc import Sequence
from typing import Any

from triptych.cli import show_line
from triptych.cli.tables import make_console, make_table
from triptych.runs.predictions import Predictions
from triptych.runs.record import SCORES
from triptych.tools.compare.formats import fixed, interval, percent
from triptych.tools.evaluate.rebuild import RebuiltRun
from triptych.tools.statistics.groups import share_interval

SHARES = {"ap": "mean AP", "f1": "F1"}
Row = dict[str, str]  # by the heads of the columns


def describe_run(run: RebuiltRun, document: dict[str, Any], predictions: Predictions) -> Row:
    """What `evaluation.json` says of a run, in percent; losses in nats."""
    metadata = run.record.metadata
    values = {"loss": document.get("nll"), **document.get("macro", {})}
    for name, value in document.get("metrics", {}).items():  # of the run's own images
        values[name.partition("/")[2]] = value
    on = f" on {document['name']}" if "name" in document else ""
    own = {name: fixed(values[name], 4) for name in values if name not in (*SCORES, *SHARES)}
    gap = document.get("largest_difference")
    ece = document.get("calibration", {}).get("ece")
    return {
        "run": f"{metadata.get('name') or metadata['model']} seed {metadata['seed']}{on}",
        "accuracy": f"{percent(float(predictions.correct.mean()))} %",
        "95 % interval": f"({interval(*share_interval(predictions.correct, predictions.groups))})",
        **{head: f"{percent(values[name])} %" for name, head in SHARES.items() if name in values},
        "loss": fixed(values["loss"], 4),
        "ECE": "" if ece is None else fixed(ece, 4),
        **own,
        "as logged": "" if gap is None else f"within {gap:.1g}" if gap else "exactly",
    }


def print_rows(rows: Sequence[Row], runs: str | None) -> None:
    """`runs`: what to compare next, if anything."""
    console, heads = make_console(), [*dict.fromkeys(head for row in rows for head in row)]
    show_line(console, "")
    cells = [[row.get(head, "") for head in heads] for row in rows]
    console.print(make_table("<" + ">" * (len(heads) - 1), heads, cells))
    if runs:
        show_line(console, f"\nnext  python compare.py runs={shlex.quote(runs)}")
