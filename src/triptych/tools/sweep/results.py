"""How the jobs of a sweep ended, on the screen."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from triptych.cli import show_line
from triptych.cli.tables import make_console, make_table
from triptych.runs.durations import format_duration
from triptych.tools.sweep.jobs import Job, Outcome, label_jobs

MAX_ROWS = 20
HEADS = ("job", "status", "val", "test", "time")


def print_results(jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
    """A line a job, the best in validation first; below, why some did not finish, where the runs
    are, and what to type next."""
    console, labels = make_console(), label_jobs(jobs)
    data = {job.config["data"]["name"] for job in jobs}
    place = Path(jobs[0].config["log_dir"], *data if len(data) == 1 else ())
    counts = Counter(outcome.status for outcome in outcomes)
    finished = f"{counts.pop('finished', 0)} of {len(jobs)} jobs finished"
    others = (f"{num} {status}" for status, num in counts.items())
    show_line(console, f"\n{', '.join([finished, *others])}; accuracy in validation and test:")
    order = sorted(range(len(jobs)), key=lambda n: -(read_accuracy(outcomes[n], "val") or 0))
    rows = ((labels[n], *describe(outcomes[n])) for n in order[:MAX_ROWS])
    console.print(make_table("<<>>>", HEADS, rows))
    if len(jobs) > MAX_ROWS:
        show_line(console, f"and {len(jobs) - MAX_ROWS} more: triptych runs runs={place}")
    show_line(console, "")
    print_failures(jobs, outcomes, console)
    if any(outcome.is_earlier and outcome.status == "failed" for outcome in outcomes):
        show_line(console, "failed before: retry_failed=true resumes them")
    if any(outcome.status == "finished" for outcome in outcomes):
        show_line(console, f"runs  {place}\nnext  python compare.py runs={shlex.quote(str(place))}")


def read_accuracy(outcome: Outcome, split: str) -> float | None:
    """Of a finished run; None of others, and where it was not measured."""
    if outcome.record is None or outcome.status != "finished":
        return None
    value = outcome.record.metadata["metrics"].get(f"{split}/accuracy")
    return value if isinstance(value, float) else None


def describe(outcome: Outcome) -> list[str]:
    """The cells of a job, after its name."""
    accuracies = (read_accuracy(outcome, split) for split in ("val", "test"))
    shown = ["" if value is None else f"{100 * value:.2f} %" for value in accuracies]
    run = outcome.record
    return [outcome.status, *shown, format_duration(run.seconds_total) if run else ""]


def print_failures(jobs: Sequence[Job], outcomes: Sequence[Outcome], console: Console) -> None:
    """Why jobs did not finish, once where it is the same, and where to look."""
    failures: dict[tuple[str, str], list[tuple[str, str, list[Path]]]] = {}
    for job, label, outcome in zip(jobs, label_jobs(jobs), outcomes, strict=True):
        if outcome.status not in ("finished", "not started", "not begun"):
            places = [outcome.record.folder] if outcome.record else []
            places += [outcome.log_file] if outcome.log_file else []
            error = outcome.error
            for override in job.overrides:  # some name their job
                error = error.replace(override, "")
            failures.setdefault((outcome.status, error), []).append((label, outcome.error, places))
    for (status, _), same in failures.items():
        (first, error, _), *others = same
        more = f" and {len(others)} more" if others else ""
        show_line(console, f"{first}{more}: {status}{': ' * bool(error)}{error}")
        for place in (place for *_, places in same for place in places):
            show_line(console, f"  {place}")
