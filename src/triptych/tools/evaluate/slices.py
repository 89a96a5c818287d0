"""Accuracy on thirds of the unmodified test images, by how busy and how colourful they are.

Shapes: N images of H x W pixels, C classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import rgb_to_grayscale

from triptych.tools.evaluate.findings import Slice
from triptych.tools.statistics.intervals import wilson

AT_ONCE = 256  # images
THIRDS = ("low", "middle", "high")


def edge_density(images: Tensor) -> Tensor:
    """Mean length of the Sobel gradient of the grey image, in grey levels a pixel, (N,)."""
    grey = F.pad(rgb_to_grayscale(images.float()), [1] * 4, mode="replicate")[:, 0]
    columns = grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
    rows = grey[..., :-2] + 2 * grey[..., 1:-1] + grey[..., 2:]
    across, down = columns[..., 2:] - columns[..., :-2], rows[:, 2:] - rows[:, :-2]
    return (torch.hypot(across, down) / 8).mean(dim=(1, 2))


def colourfulness(images: Tensor) -> Tensor:
    """Hasler and Suesstrunk's (2003) measure of opponent colours, (N,): 0 of a grey image."""
    red, green, blue = images.float().flatten(2).unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue])
    spread: Tensor = torch.linalg.vector_norm(opponents.std(dim=-1, correction=0), dim=0)
    strength: Tensor = torch.linalg.vector_norm(opponents.mean(dim=-1), dim=0)
    return spread + 0.3 * strength


MEASURES = {"edge_density": edge_density, "colourfulness": colourfulness}


def measured(images: Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """A measure of every image (N,), of some at a time: as floats all may exceed memory."""
    return torch.cat([measure(some) for some in torch.split(images, AT_ONCE)])


def thirds(values: Tensor) -> list[Tensor]:
    """Positions of the lowest, the middle and the highest third; among equals the earlier first."""
    return list(torch.argsort(values, stable=True).tensor_split(len(THIRDS)))


def slices(
    images: Tensor, labels: NDArray[np.int64], correct: NDArray[np.bool_], num_classes: int
) -> list[Slice]:
    """Thirds by every measure of images uint8 (N, 3, H, W), N >= 3, whose correctness is (N,)."""
    ordered = {name: thirds(measured(images, measure)) for name, measure in MEASURES.items()}
    return [
        _slice(name, third, labels[part], correct[part], num_classes)
        for name, parts in ordered.items()
        for third, part in zip(THIRDS, (p.numpy() for p in parts), strict=True)
    ]


def _slice(
    measure: str,
    third: str,
    labels: NDArray[np.int64],
    correct: NDArray[np.bool_],
    num_classes: int,
) -> Slice:
    """The interval is Wilson's, at Kish's effective number of images: 1 / sum of squared weights.

    An image weighs 1 / (occurring classes x images of its class).
    """
    mix = np.bincount(labels, minlength=num_classes)
    there = mix > 0
    standardised = float((np.bincount(labels, correct, num_classes)[there] / mix[there]).mean())
    effective = float(there.sum() ** 2 / (1 / mix[there]).sum())
    interval = wilson(standardised * effective, effective)
    overall = float(correct.mean())
    return Slice(measure, third, len(labels), overall, standardised, *interval, tuple(mix.tolist()))
