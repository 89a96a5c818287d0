"""What must be the same for accuracies to stand side by side."""

from collections import Counter
from collections.abc import Callable, Sequence

from triptych.config import format_value
from triptych.errors import UserError
from triptych.runs.reader import sanitize
from triptych.tools.compare.groups import Group, TrainedNetwork
from triptych.tools.compare.runs import Run

# In the order of what explains the rest: other data have other classes, images and splits.
SAME: dict[str, Callable[[Run], object]] = {
    "data": lambda run: run.metadata["data"],
    "number of classes": lambda run: run.test.num_classes,
    "test_hash": lambda run: run.metadata["test_hash"],
    "split_hash": lambda run: run.metadata["split_hash"],
    "classes": lambda run: tuple(run.metadata["classes"] or ()),
}


def differences(runs: Sequence[Run]) -> list[str]:
    """In a line each, what is not the same for all runs, by the first two that differ."""
    lines = []
    for name, of in SAME.items():
        values = Counter(of(run) for run in runs if of(run) != ())
        if len(values) > 1:
            usual = values.most_common(1)[0][0]
            one = next(run for run in runs if of(run) == usual)
            other = next(run for run in runs if of(run) not in (usual, ()))
            folders = [sanitize(str(run.folder)) for run in (other, one)]
            lines.append(
                f"{name}: {format_value(of(other))} in {folders[0]}, "
                f"{format_value(usual)} in {folders[1]}"
            )
    return lines


def require_comparable(runs: list[Run]) -> None:
    """Raise UserError unless all runs answer for the same images, learned from the same split."""
    lines = differences(runs)
    if lines:
        raise UserError(
            f"these runs cannot be compared, {lines[0]}\n"
            "name with runs= those that belong together; allow_mixed=true shows all of them, and "
            "tests pairs only within what is comparable"
        )


def blocks(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups, apart where they cannot be compared."""
    found: list[list[Group]] = []
    for group in groups:
        fitting = (block for block in found if not differences(_networks(*block, group)))
        block = next(fitting, None)
        if block is None:
            found.append([group])
        else:
            block.append(group)
    return found


def _networks(*groups: Group) -> list[TrainedNetwork]:
    return [network for group in groups for network in group.networks]


def banner(runs: list[Run]) -> str | None:
    """What a page must say first whose runs cannot be compared; None where they can."""
    lines = differences(runs)
    if not lines:
        return None
    return (
        "These runs cannot be compared all with each other: pairs are tested only within what is "
        f"comparable. What differs: {'; '.join(lines)}."
    )
