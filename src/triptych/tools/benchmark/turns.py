"""Several ways of taking steps, measured in turn, so that a drifting machine cancels out."""

import gc
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple, Protocol

from triptych.errors import summarize_error


class Way(Protocol):
    """A way of taking steps, `seconds` of which are measured after some that are not."""

    def seconds(self, warm_up_steps: int, steps: int, mode: str) -> float: ...


class Plan(NamedTuple):
    """How often and how long each way is measured; `mode` is train or inference."""

    mode: str
    rounds: int
    block_seconds: float
    warm_up_steps: int
    most_steps: int

    def steps(self, seconds: float, once: float) -> int:
        """As many steps of that length as the seconds hold, one at least."""
        return max(1, min(self.most_steps, round(seconds / max(once, 1e-6))))


class Taken(NamedTuple):
    seconds: dict[str, list[float]]  # a step of each way, once a round
    failed: dict[str, str]  # why a way that may fail could not be measured


def taken_in_turn(ways: Mapping[str, Way], plan: Plan, may_fail: Sequence[str] = ()) -> Taken:
    """Measure every way once a round; each round begins with another."""
    steps, failed = {}, {}
    for name, way in ways.items():
        try:
            steps[name] = steps_of_a_block(way, plan)
        except RuntimeError as error:  # of memory, or of a loader's workers
            if name not in may_fail:
                raise
            failed[name] = summarize_error(error)
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(plan.rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(a_step(ways[name], plan, steps[name]))
    return Taken(seconds, failed)


def steps_of_a_block(way: Way, plan: Plan) -> int:
    """How many steps take about `plan.block_seconds`."""
    a_step(way, plan, 1)  # searches, allocates, compiles
    once = a_step(way, plan, 1)
    some = plan.steps(plan.block_seconds / 10, once)
    if some > 1:  # a single one says little of what comes once in many
        once = a_step(way, plan, some)
    return plan.steps(plan.block_seconds, once)


def a_step(way: Way, plan: Plan, steps: int) -> float:
    """Seconds a step, of some steps in a row."""
    gc.collect()  # a Trainer and its optimizer refer to each other: none of before lies beside
    return way.seconds(plan.warm_up_steps, steps, plan.mode) / steps


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratios(rates: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Ours over the others, round by round, so that both saw the machine in the same state."""
    others = [name for name in ("bound", "bound_with_pipeline", "usual") if name in rates]
    return {
        f"ours/{name}": spread([a / b for a, b in zip(rates["ours"], rates[name], strict=True)])
        for name in others
    }
