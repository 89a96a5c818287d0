"""How the code that trains differs from that of a run: hashes by `training_code`."""

from collections.abc import Mapping


def find_changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The files that say something else, or that only one has."""
    names = sorted(before.keys() | after.keys())
    return [name for name in names if before.get(name) != after.get(name)]


def merge_hashes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Hashes of a run that several states of the code trained, equal to those of none: the last
    one of a file is that of `after`."""
    latest = {name: str(each).rpartition(", ")[2] for name, each in before.items()}
    present = dict.fromkeys(before, "None") | dict(after)
    changed = find_changed(latest, present)
    return {**before, **{name: f"{before.get(name)}, {present[name]}" for name in changed}}
