"""In what recipes differ besides the network: settings, libraries, devices."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from triptych.config import format_value
from triptych.runs.record import NOT_THE_EXPERIMENT
from triptych.tools.compare.content import Setting
from triptych.tools.compare.runs import Run

# What a network is, or what the record says better: `weights` as they were resolved.
OF_THE_MODEL = (
    *("name", "_target_", "network", "min_input_size", "known_weights"),
    *("weights", "input_size"),
)
LEFT_OUT = {*NOT_THE_EXPERIMENT, "seed", *(f"model.{name}" for name in OF_THE_MODEL)}
NOT_SET = "not set"


def settings_of(run: Run) -> dict[str, str]:
    """Every setting of the experiment besides the model, as it would be typed."""
    flat = {key: value for key, value in _flat(run.config, "") if key not in LEFT_OUT}
    return {
        "weights": format_value(run.metadata["weights"]),
        "input_size": format_value(run.metadata["input_size"]),
        **{key: _typed(value) for key, value in flat.items()},
    }


def surroundings_of(run: Run) -> dict[str, str]:
    """What a run ran on and with: not chosen by the experiment, yet able to move its figures."""
    names = ("device", "precision", "num_threads")
    versions = run.metadata["versions"] or {}
    return {name: format_value(run.metadata[name]) for name in names} | {
        f"version of {name}": format_value(version) for name, version in versions.items()
    }


def differing(groups: Sequence[Sequence[Run]]) -> tuple[Setting, ...]:
    """Settings and surroundings that are not the same for all groups of runs."""
    found = []
    for of in (settings_of, surroundings_of):
        tables = [_merged([of(run) for run in group]) for group in groups]
        for name in dict.fromkeys(name for table in tables for name in table):
            values = tuple(table.get(name, NOT_SET) for table in tables)
            if len(set(values)) > 1:
                found.append(Setting(name, values))
    return tuple(found)


def _merged(tables: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """One value a name; where runs of a group differ, all of them."""
    return {
        name: " or ".join(sorted({table.get(name, NOT_SET) for table in tables}))
        for name in dict.fromkeys(name for table in tables for name in table)
    }


def _flat(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in LEFT_OUT:
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _typed(value: Any) -> str:
    """A value as in YAML; lists and their nodes as JSON."""
    return json.dumps(value, default=str) if isinstance(value, list | dict) else format_value(value)
