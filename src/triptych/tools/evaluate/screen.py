"""What an evaluation prints at its end: a line a run."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from triptych.cli import show_line
from triptych.cli.tables import make_console, make_table
from triptych.runs.predictions import Predictions
from triptych.runs.record import SCORES
from triptych.tools.compare.formats import fixed, interval, percent
from triptych.tools.compare.out_of_set import Measured, write_auroc, write_share
from triptych.tools.evaluate.rebuild import RebuiltRun
from triptych.tools.statistics.groups import share_interval

SHARES = {"ap": "mean AP", "f1": "F1"}
Row = dict[str, str]  # by the heads of the columns


def name_run(run: RebuiltRun) -> str:
    metadata = run.record.metadata
    return f"{metadata.get('name') or metadata['model']} seed {metadata['seed']}"


def describe_run(run: RebuiltRun, document: dict[str, Any], predictions: Predictions) -> Row:
    """What `evaluation.json` says of a run, in percent; losses in nats."""
    values = {"loss": document.get("nll"), **document.get("macro", {})}
    for name, value in document.get("metrics", {}).items():  # of the run's own images
        values[name.partition("/")[2]] = value
    on = f" on {document['name']}" if "name" in document else ""
    own = {name: fixed(values[name], 4) for name in values if name not in (*SCORES, *SHARES)}
    gap = document.get("largest_difference")
    ece = document.get("calibration", {}).get("ece")
    return {
        "run": f"{name_run(run)}{on}",
        "accuracy": f"{percent(float(predictions.correct.mean()))} %",
        "95 % interval": f"({interval(*share_interval(predictions.correct, predictions.groups))})",
        **{head: f"{percent(values[name])} %" for name, head in SHARES.items() if name in values},
        "loss": fixed(values["loss"], 4),
        "ECE": "" if ece is None else fixed(ece, 4),
        **own,
        "as logged": "" if gap is None else f"within {gap:.1g}" if gap else "exactly",
    }


def describe_strange(run: RebuiltRun, measured: Measured) -> Iterator[Row]:
    """On images of none of its classes, by each score."""
    for score, auroc, kept, accepted in measured.separations:
        yield {
            "run": f"{name_run(run)} on {measured.num_images:,} of {measured.name}",
            "by": score,
            "AUROC (95 %)": write_auroc(auroc),
            "answered, of these": write_share(accepted),
            "of its own": f"{percent(kept.value, 1)} %",
        }


def print_rows(rows: Sequence[Row], runs: str | None) -> None:
    """`runs`: what to compare next, if anything."""
    console, heads = make_console(), [*dict.fromkeys(head for row in rows for head in row)]
    show_line(console, "")
    cells = [[row.get(head, "") for head in heads] for row in rows]
    console.print(make_table("<" + ">" * (len(heads) - 1), heads, cells))
    if runs:
        show_line(console, f"\nnext  python compare.py runs={shlex.quote(runs)}")
