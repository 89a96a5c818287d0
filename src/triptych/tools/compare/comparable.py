"""What must be the same for accuracies to stand side by side, and what else differs."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from triptych.config import format_value
from triptych.errors import UserError
from triptych.runs.reader import sanitize
from triptych.runs.record import NOT_THE_EXPERIMENT
from triptych.tools.compare.runs import HARDWARE, TrainedNetwork

# In the order of what explains the rest: other data have other classes, images and splits.
MUST_AGREE: dict[str, Callable[[TrainedNetwork], object]] = {
    "data": lambda run: run.metadata["data"],
    "number of classes": lambda run: run.test.num_classes,
    "test_hash": lambda run: run.metadata["test_hash"],
    "split_hash": lambda run: run.metadata["split_hash"],
    "classes": lambda run: tuple(run.metadata["classes"] or ()),
}
# What a network is, or what the record says better: `weights` as they were resolved.
MODEL_KEYS = (
    *("name", "_target_", "network", "min_input_size", "known_weights"),
    *("weights", "input_size"),
)
LEFT_OUT = {*NOT_THE_EXPERIMENT, "seed", *(f"model.{name}" for name in MODEL_KEYS)}
NOT_SET = "not set"


def find_disagreements(runs: Sequence[TrainedNetwork]) -> list[str]:
    """In a line each, what is not the same for all runs, by the first two that differ."""
    lines = []
    for name, get in MUST_AGREE.items():
        folders: dict[object, list[str]] = defaultdict(list)
        for run in runs:
            folders[get(run)].append(sanitize(str(run.folder)))
        folders.pop((), None)
        if len(folders) > 1:
            usual = max(folders, key=lambda value: len(folders[value]))
            other = next(value for value in folders if value != usual)
            shown = [f"{format_value(each)} in {folders[each][0]}" for each in (other, usual)]
            lines.append(f"{name}: {', '.join(shown)}")
    return lines


def require_comparable(runs: Sequence[TrainedNetwork]) -> None:
    """Raise UserError unless all runs have the same test images, split and classes."""
    lines = find_disagreements(runs)
    if lines:
        raise UserError(
            f"these runs cannot be compared, {lines[0]}\n"
            "name with runs= those that belong together; allow_mixed=true shows all of them and "
            "tests only pairs that can be compared"
        )


def write_banner(runs: Sequence[TrainedNetwork]) -> str | None:
    """What a page must say first whose runs cannot be compared; None where they can."""
    lines = find_disagreements(runs)
    banner = (
        "Not all of these runs can be compared with each other: only pairs that can be compared "
        f"are tested. What differs: {'; '.join(lines)}."
    )
    return banner if lines else None


def list_settings(run: TrainedNetwork) -> dict[str, str]:
    """Every setting of the experiment besides the model, as it would be typed."""
    flat = {key: value for key, value in _flatten(run.config, "") if key not in LEFT_OUT}
    return {
        "weights": format_value(run.metadata["weights"]),
        "input_size": format_value(run.metadata["input_size"]),
        **{key: _format_setting(value) for key, value in flat.items()},
    }


def list_environment(run: TrainedNetwork) -> dict[str, str]:
    """Devices and libraries: not chosen by the experiment, yet able to change its figures."""
    versions = run.metadata["versions"] or {}
    return {name: format_value(run.metadata[name]) for name in HARDWARE} | {
        f"version of {name}": format_value(version) for name, version in versions.items()
    }


def find_differing(recipes: Sequence[Sequence[TrainedNetwork]]) -> dict[str, tuple[str, ...]]:
    """Settings, devices and libraries that are not the same for all recipes: a value for each."""
    differing = {}
    for list_values in (list_settings, list_environment):
        tables = [_merge([list_values(run) for run in runs]) for runs in recipes]
        for name in dict.fromkeys(name for table in tables for name in table):
            values = tuple(table.get(name, NOT_SET) for table in tables)
            if len(set(values)) > 1:
                differing[name] = values
    return differing


def _merge(tables: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """One value a name; where runs of a recipe differ, all of them."""
    return {
        name: " or ".join(sorted({table.get(name, NOT_SET) for table in tables}))
        for name in dict.fromkeys(name for table in tables for name in table)
    }


def _flatten(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in LEFT_OUT:
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def _format_setting(value: Any) -> str:
    """A value as in YAML; lists and their nodes as JSON."""
    return json.dumps(value, default=str) if isinstance(value, list | dict) else format_value(value)
