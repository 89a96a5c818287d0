"""What the optional files of run folders come to; `problems` gains those that are broken."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from triptych import Refused
from triptych.comparison import optional
from triptych.comparison.content import Problem, Row
from triptych.comparison.exhibits import Curve, GradCam, ImageTypes
from triptych.comparison.groups import Group, Network
from triptych.comparison.runs import problem
from triptych.comparison.tables import row
from triptych.evaluation.calibration import Calibration, calibrate

MAX_CALIBRATED = 10  # recipes: as many diagrams as can be read

Read = TypeVar("Read")


def rows(networks: Iterable[Network], problems: list[Problem]) -> tuple[Row, ...]:
    """A line each, with its cost where that was measured."""
    return tuple(
        row(network, _read(optional.cost, network, problems) or {}) for network in networks
    )


def curves(networks: Iterable[Network], problems: list[Problem]) -> tuple[Curve, ...]:
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
    found = (_found(optional.image_types, group.networks, problems) for group in groups)
    return tuple(first for each in found if (first := next(each, None)))


def grad_cams(groups: Iterable[Group], problems: list[Problem]) -> tuple[GradCam, ...]:
    """Of each group that of the lowest seed that has one."""
    found = (_found(optional.grad_cam, group.networks, problems) for group in groups)
    return tuple(first for each in found if (first := next(each, None)))


def pixels(networks: Iterable[Network], problems: list[Problem]) -> dict[int, NDArray[np.uint8]]:
    """Test images (3, H, W) that any of the runs kept, by their index in the official set."""
    kept: dict[int, NDArray[np.uint8]] = {}
    for images in _found(optional.pixels, networks, problems):
        kept |= images
    return kept


def _found(
    read: Callable[[Network], Read | None], networks: Iterable[Network], problems: list[Problem]
) -> Iterator[Read]:
    for network in networks:
        found = _read(read, network, problems)
        if found is not None:
            yield found


def _read(
    read: Callable[[Network], Read | None], network: Network, problems: list[Problem]
) -> Read | None:
    """What `read` finds; None, and a problem more, where it is refused."""
    try:
        return read(network)
    except Refused as refused:
        problems.append(problem(network.folder, refused))
        return None
