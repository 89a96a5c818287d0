"""`photos.square` in operations that a file can hold: Pillow's filter as two products of matrices.

Shapes: N images of H x W pixels, S pixels a side of a square, L pixels of one of the axes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SUPPORT = 2  # of the cubic filter, in pixels of the coarser grid
SHARPNESS = -0.5  # Keys (1981); Pillow's


class Span(NamedTuple):
    """Along an axis, which part of an image is seen, and which part of the square it fills."""

    start: Tensor
    length: Tensor
    offset: Tensor
    taken: Tensor


def fitted(images: Tensor, side: int, fit: str) -> Tensor:
    """uint8 (N, 3, H, W) as float (N, 3, S, S) of whole numbers, as `photos.square` has them.

    Where a sum lies half between two of them it may be one off: Pillow's are fixed-point.
    """
    high, wide = (torch.scalar_tensor(n, dtype=torch.float64) for n in images.shape[2:])
    across = weights(span(wide, high, side, fit), images.shape[3], side)
    down = weights(span(high, wide, side, fit), images.shape[2], side)
    return whole(down @ whole(images.float() @ across.T))  # as there, rounded twice


def span(num: Tensor, other: Tensor, side: int, fit: str) -> Span:
    """Of an axis of `num` pixels, the other having `other`; see `photos.FITS`."""
    nothing, all_of_it = torch.zeros_like(num), torch.full_like(num, side)
    if fit == "crop":
        length = torch.minimum(num, other)
        return Span((num - length) / 2, length, nothing, all_of_it)
    if fit == "pad":
        taken = (num / torch.maximum(num, other) * side).round()
        return Span(nothing, num, ((side - taken) / 2).round(), taken)
    return Span(nothing, num, nothing, all_of_it)


def weights(seen: Span, num: int, side: int) -> Tensor:
    """Float32 (S, L): of each pixel of the axis in each of the square; 0 beside what is filled."""
    place = torch.arange(side, dtype=torch.float64) - seen.offset
    scale = seen.length / seen.taken.clamp(min=1)
    center = seen.start + (place + 0.5) * scale
    distance = torch.arange(num, dtype=torch.float64) + 0.5 - center[:, None]
    found = cubic(distance.abs() / scale.clamp(min=1))
    found = found / found.sum(dim=1, keepdim=True)
    is_filled = (place >= 0) & (place < seen.taken)
    return torch.where(is_filled[:, None], found, 0.0).float()


def cubic(distance: Tensor) -> Tensor:
    """Keys' kernel of distances of 0 and more."""
    a, x = SHARPNESS, distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < SUPPORT, far, 0.0))


def whole(pixels: Tensor) -> Tensor:
    return (pixels + 0.5).floor().clamp(0, 255)
