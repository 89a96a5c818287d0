"""The built-in images: ten classes of small drawings, made here, so that nothing is downloaded.

What a class is lies in its outline alone. Colours, place, size, tilt, stroke, shading and grain are
drawn independently of it, and ink is as often lighter than its ground as darker. Another kind of
processor may round a few pixels to the neighbouring value.

An outline maps coordinates (right, down; -1 to 1 across the drawing) and a stroke in [0, 1) to the
distance from the figure's edge, negative inside. Distances near corners are approximate.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from triptych.data.rng import uniform
from triptych.data.source import ImageSet, LabelledImages, Source
from triptych.errors import UserError

SIDE = 32  # pixels
MAX_DRAWN = 1_000_000  # 3 GB
AT_ONCE = 100  # drawings: what is computed stays in the cache, however many are drawn
COS_30 = math.cos(math.pi / 6)
_TRAIN, _TEST, _GRAIN = range(3)  # keys: the two splits and the grain draw apart

Outline = Callable[[Tensor, Tensor, Tensor], Tensor]


class Shapes(Source):
    """Draws. Image `i` of a split shows class `i % 10`, however many are drawn."""

    def __init__(self, num_train: int, num_test: int, seed: int) -> None:
        for key, num in {"num_train": num_train, "num_test": num_test}.items():
            if not len(OUTLINES) <= num <= MAX_DRAWN:
                raise UserError(f"data.source.{key}={num}: must be from 10 to {MAX_DRAWN} drawings")
        self.num_train, self.num_test, self.seed = num_train, num_test, seed

    def read(self) -> ImageSet:
        train = _draw(self.num_train, self.seed, _TRAIN)
        test = _draw(self.num_test, self.seed, _TEST)
        return ImageSet(train, test, classes=tuple(OUTLINES))


def _draw(num: int, seed: int, split: int) -> LabelledImages:
    index = torch.arange(num)
    images = torch.empty(num, 3, SIDE, SIDE, dtype=torch.uint8)
    # Hashing every pixel would cost more than all else: each drawing takes a stretch of one strip.
    grain = uniform(seed, _GRAIN, torch.arange(2**16)) - 0.5
    for label, outline in enumerate(OUTLINES.values()):
        for some in torch.split(index[label :: len(OUTLINES)], AT_ONCE):
            draws = uniform(seed, split, some, torch.arange(16)[:, None])
            images[some] = _paint(outline, draws[..., None], grain)
    return LabelledImages(images, index % len(OUTLINES))


def _paint(outline: Outline, draws: Tensor, grain: Tensor) -> Tensor:
    """Drawings uint8 (n, 3, SIDE, SIDE) from draws (16, n, 1), uniform in [0, 1)."""
    place, pose, looks, colours = draws[:2], draws[2:5], draws[5:10], draws[10:]
    axis = (torch.arange(SIDE) + 0.5) * (2 / SIDE) - 1
    down, right = (c.reshape(1, -1) for c in torch.meshgrid(axis, axis, indexing="ij"))

    radius, tilt, stroke = 0.6 + 0.25 * pose[0], 0.5 * (pose[1] - 0.5), pose[2]
    centre = (2 * place - 1) * (0.95 - radius)
    cos, sin = torch.cos(tilt) / radius, torch.sin(tilt) / radius
    u, v = right - centre[0], down - centre[1]
    distance = outline(cos * u + sin * v, cos * v - sin * u, stroke)
    coverage = (0.5 - distance * (radius * SIDE / 2)).clamp_(0, 1)  # an edge is one pixel wide

    dark = 0.4 * colours[:3].movedim(0, 1)  # (n, 3, 1)
    light = 1 - 0.4 * colours[3:].movedim(0, 1)
    ink_is_light = looks[2, :, None] < 0.5
    ground, ink = torch.where(ink_is_light, dark, light), torch.where(ink_is_light, light, dark)
    slope = 0.3 * (looks[:2] - 0.5)
    shade = slope[0] * right + slope[1] * down
    start = (looks[3, :, 0] * (len(grain) - 3 * SIDE**2)).long()
    painted = grain.unfold(0, 3 * SIDE**2, 1)[start].view(-1, 3, SIDE**2)
    painted.mul_(0.3 * looks[4, :, None]).add_(shade[:, None]).add_(ground)
    painted.addcmul_(coverage[:, None], ink - ground)
    return painted.mul_(255).clamp_(0, 255).to(torch.uint8).view(-1, 3, SIDE, SIDE)


def _ring(x: Tensor, y: Tensor, stroke: Tensor) -> Tensor:
    width = 0.12 + 0.1 * stroke
    return (torch.hypot(x, y) - (1 - width)).abs() - width


def _cross(x: Tensor, y: Tensor, stroke: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    arm = torch.minimum(x, y) - (0.2 + 0.12 * stroke)
    return torch.maximum(torch.maximum(x, y) - 1, arm)


def _star(x: Tensor, y: Tensor, stroke: Tensor) -> Tensor:
    sector = 2 * math.pi / 5
    from_tip = (torch.atan2(x, -y) + sector / 2).remainder(sector) - sector / 2
    radius = torch.hypot(x, y)
    along, across = radius * from_tip.cos(), radius * from_tip.sin().abs()
    # One straight edge leads from the tip (1, 0) to the notch, half a sector on.
    notch_along, notch_across = 0.42 * math.cos(sector / 2), 0.42 * math.sin(sector / 2)
    length = math.hypot(1 - notch_along, notch_across)
    return ((along - 1) * notch_across + across * (1 - notch_along)) / length


def _crescent(x: Tensor, y: Tensor, stroke: Tensor) -> Tensor:
    bite = (0.8 - 0.1 * stroke) - torch.hypot(x - 0.5, y)
    return torch.maximum(torch.hypot(x, y) - 1, bite)


def _horizontal_bars(x: Tensor, y: Tensor, stroke: Tensor) -> Tensor:
    return torch.maximum(x.abs() - 0.95, _from_line(y, 0.75) - (0.16 + 0.08 * stroke))


def _checkerboard(x: Tensor, y: Tensor, stroke: Tensor) -> Tensor:
    """Four by four cells: three lines each way, half a unit apart."""
    to_line = torch.minimum(_from_line(x, 0.5), _from_line(y, 0.5))
    column, row = ((c / 0.5).floor().clamp(-2, 1) for c in (x, y))
    inked = column % 2 == row % 2
    board = torch.maximum(x.abs(), y.abs()) - 1
    return torch.maximum(board, torch.where(inked, -to_line, to_line))


def _from_line(x: Tensor, spacing: float) -> Tensor:
    """The distance from the nearest of three parallel lines."""
    return (x - spacing * (x / spacing).round().clamp(-1, 1)).abs()


OUTLINES: dict[str, Outline] = {
    "disc": lambda x, y, stroke: torch.hypot(x, y) - 1,
    "ring": _ring,
    "square": lambda x, y, stroke: torch.maximum(x.abs(), y.abs()) - 0.9,
    "triangle": lambda x, y, stroke: torch.maximum(x.abs() * COS_30 - y / 2, y) - 0.6,
    "cross": _cross,
    "star": _star,
    "crescent": _crescent,
    "horizontal bars": _horizontal_bars,
    "vertical bars": lambda x, y, stroke: _horizontal_bars(y, x, stroke),
    "checkerboard": _checkerboard,
}
