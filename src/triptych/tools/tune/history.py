"""The trials of a search as a figure, in the order they were begun."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import optuna
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import TrialState

from triptych import figures
from triptych.errors import UserError


class Outcome(NamedTuple):
    number: int
    accuracy: float  # of validation; the last one seen where the trial was pruned


def draw(study: optuna.Study, folder: Path) -> None:
    """Draw `figures/history.png` of a study, once a trial is done."""
    trials = study.get_trials(deepcopy=False)
    complete, pruned = (
        [Outcome(t.number, t.value) for t in trials if t.state == state and t.value is not None]
        for state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    if not complete and not pruned:
        return
    figure = history(complete, pruned, study.study_name)
    try:
        (folder / "figures").mkdir(exist_ok=True)
        figures.save(figure, folder / "figures" / "history.png")
    except OSError as error:
        raise UserError(f"log_dir: cannot be written to ({error})") from error


def history(complete: Sequence[Outcome], pruned: Sequence[Outcome], name: str) -> Figure:
    """Accuracy by trial; a line joins the best so far of the complete ones."""
    figure = Figure(figsize=(7.2, 4.2), dpi=100, layout="constrained")
    axes = figure.subplots()
    heading = f"{name}: {len(complete) + len(pruned)} trials"
    if complete:
        numbers, accuracies = zip(*complete, strict=True)
        best = [*accumulate(accuracies, max)]
        axes.step(numbers, best, where="post", color="C0", label="best so far")
        axes.plot(numbers, accuracies, "o", color="C0", label="complete")
        heading += f", best validation accuracy {best[-1]:.4f}"
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "x", color="0.5", label="pruned, last value")
    axes.set(title=heading, xlabel="trial", ylabel="validation accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    return figure
