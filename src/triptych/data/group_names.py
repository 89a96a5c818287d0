"""Which photos belong together, as those of one object: what `data.groups` says. No torch."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from triptych.data.names import escape_name
from triptych.errors import UserError, list_first

if TYPE_CHECKING:
    from triptych.data.squares import Photo

LEAK = "in train and in test: "  # begins what is said of groups there
COLUMN = "column:"  # before the name of a column that would be taken for something else


class Grouping(NamedTuple):
    """Where a group's name stands; one of the three, the others are None."""

    level: int | None = None  # in so many folders below that of the class
    pattern: str | None = None  # in the file's name, or its path where the pattern has a /
    column: str | None = None  # in the table of labels


def parse(groups: int | str) -> Grouping:
    """`folder` or a number of folders, a text with a parenthesis, any other text."""
    if isinstance(groups, int) or groups == "folder":
        return Grouping(level=1 if groups == "folder" else int(groups))
    if "(" in groups and not groups.startswith(COLUMN):
        return Grouping(pattern=groups)
    return Grouping(column=groups.removeprefix(COLUMN))


def find_problems(groups: int | str, labels: str | None) -> Iterator[str]:
    """What is wrong with the setting by itself, in a line."""
    _, pattern, column = parse(groups)
    if column and not labels:
        yield (
            f"data.groups={groups}: a column needs data.labels, the table that has it; photos in "
            "folders take folder, a number, or a regular expression with a part in ( )"
        )
    try:
        if pattern and not re.compile(pattern).groups:
            yield f"data.groups={groups}: names no part in ( ), as '(.*)_\\d+' does"
    except re.error as error:
        yield f"data.groups={groups}: no regular expression ({error})"


def name_groups(
    groups: int | str, photos: Iterable["Photo"], levels: Mapping[str, int]
) -> list["Photo"]:
    """The photos with their groups' names; equal names are one group, in whatever class and split.

    `levels`, by split, are how many folders lead to the photos of a class. Raises UserError where
    a photo is in no group.
    """
    grouping = parse(groups)
    named = [p._replace(group=_name_group(grouping, p, levels[p.split])) for p in photos]
    if without := [escape_name(photo.name) for photo in named if not photo.group]:
        hint = "they lie in no folder, or in too few, below that of their class"
        if grouping.pattern:
            hint = "the pattern must match the whole name, without its ending"
        elif grouping.column:
            hint = "their cells in that column are empty"
        raise UserError(
            f"data.groups={groups}: {len(without)} of {len(named)} photos are in no group: "
            f"{list_first(without, 5)}\n{hint}"
        )
    return named


def _name_group(grouping: Grouping, photo: "Photo", level: int) -> str:
    """Empty where it has none."""
    *folders, file = photo.name.split("/")
    if grouping.level:
        below = folders[level : level + grouping.level]
        return "/".join(below) if len(below) == grouping.level else ""
    if not grouping.pattern:
        return photo.group
    name = photo.name if "/" in grouping.pattern else file
    match = re.fullmatch(grouping.pattern, os.path.splitext(name)[0])
    return "/".join(filter(None, match.groups())) if match else ""
