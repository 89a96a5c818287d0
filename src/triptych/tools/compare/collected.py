"""What the optional files of run folders come to; `problems` gains those that are broken."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from triptych.errors import UserError
from triptych.tools.compare import optional
from triptych.tools.compare.content import Problem, Row
from triptych.tools.compare.exhibits import Curve, GradCam, ImageTypes, Slices
from triptych.tools.compare.groups import Group, TrainedNetwork
from triptych.tools.compare.runs import problem
from triptych.tools.compare.tables import row
from triptych.tools.statistics.calibration import Calibration, calibrate

MAX_CALIBRATED = 10  # recipes: of each images are drawn a thousand times

Read = TypeVar("Read")


def rows(networks: Iterable[TrainedNetwork], problems: list[Problem]) -> tuple[Row, ...]:
    """A line each, with its cost where that was measured."""
    return tuple(row(network, _read(optional.cost, network, problems)) for network in networks)


def curves(networks: Iterable[TrainedNetwork], problems: list[Problem]) -> tuple[Curve, ...]:
    return tuple(_found(optional.curve, networks, problems))


def calibrations(groups: Sequence[Group], problems: list[Problem]) -> list[Calibration | None]:
    """Of each group's first network; None behind the first 10 groups."""
    found: list[Calibration | None] = [None] * len(groups)
    for place, group in enumerate(groups[:MAX_CALIBRATED]):
        val = _read(optional.validation, group.first, problems)
        found[place] = calibrate(group.first.test, val)
    return found


def image_types(groups: Iterable[Group], problems: list[Problem]) -> tuple[ImageTypes, ...]:
    """Of each group the network of the lowest seed that was tried on them."""
    return tuple(_of_each(optional.image_types, groups, problems))


def slices(groups: Iterable[Group], problems: list[Problem]) -> tuple[Slices, ...]:
    """Of each group those of the lowest seed that was evaluated."""
    return tuple(_of_each(optional.slices, groups, problems))


def grad_cams(groups: Iterable[Group], problems: list[Problem]) -> tuple[GradCam, ...]:
    """Of each group that of the lowest seed that has one."""
    return tuple(_of_each(optional.grad_cam, groups, problems))


def pixels(
    networks: Iterable[TrainedNetwork], problems: list[Problem]
) -> dict[int, NDArray[np.uint8]]:
    """Test images (3, H, W) that any of the runs kept, by their index in the official set."""
    kept: dict[int, NDArray[np.uint8]] = {}
    for images in _found(optional.pixels, networks, problems):
        kept |= images
    return kept


def _of_each(
    read: Callable[[TrainedNetwork], Read | None], groups: Iterable[Group], problems: list[Problem]
) -> Iterator[Read]:
    """What is found of the first network of each group that has it."""
    for group in groups:
        yield from islice(_found(read, group.networks, problems), 1)


def _found(
    read: Callable[[TrainedNetwork], Read | None],
    networks: Iterable[TrainedNetwork],
    problems: list[Problem],
) -> Iterator[Read]:
    for network in networks:
        found = _read(read, network, problems)
        if found is not None:
            yield found


def _read(
    read: Callable[[TrainedNetwork], Read | None], network: TrainedNetwork, problems: list[Problem]
) -> Read | None:
    """What `read` finds; None, and a problem more, where it is refused."""
    try:
        return read(network)
    except UserError as refused:
        problems.append(problem(network.folder, refused))
        return None
