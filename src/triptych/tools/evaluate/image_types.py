"""A network on the same test images, unmodified and made harder.

Shapes: N test images of H x W pixels, B of a batch, C classes, V variants of the images.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triptych.data.rng import split_stratified
from triptych.tools.evaluate.degradation import UNMODIFIED, Outcomes, degradations
from triptych.tools.evaluate.distortions import distort
from triptych.tools.evaluate.levels import LEVELS, check_types

CHOICE_SEED = 0  # not the run's: every run is tried on the same images


def choose(labels: Tensor, num_images: int | None) -> Tensor:
    """Positions of so many images in the classes' proportions, ascending; all where None or fewer.

    The same for the same labels, whatever the run.
    """
    num = len(labels) if num_images is None else min(num_images, len(labels))
    [chosen] = split_stratified(labels, [num], CHOICE_SEED)
    return chosen


def score_image_types(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    index: Tensor,
    types: list[str],
    num_images: int | None,
    batch_size: int,
) -> Outcomes:
    """Which of the chosen images a network gets right, unmodified and at every severity of types.

    `images` are uint8 (N, 3, H, W) on the CPU, `index` (N,) their places in the official set;
    `predict` takes uint8 (B, 3, H, W) to logits (B, C) on any device. Raises UserError for a type
    that there is not.
    """
    check_types(types)
    chosen = choose(labels, num_images)
    images, labels, index = images[chosen], labels[chosen], index[chosen]
    variants = [(UNMODIFIED, 0), *((name, s) for name in types for s in severities(name))]
    correct = torch.empty(len(variants), len(chosen), dtype=torch.bool)
    for variant, (name, severity) in enumerate(variants):
        for batch in torch.split(torch.arange(len(chosen)), batch_size):
            shown = images[batch]
            if severity:
                shown = distort(shown, name, severity, index[batch])
            correct[variant, batch] = predict(shown).argmax(dim=1).cpu() == labels[batch]
    names, numbers = zip(*variants, strict=True)
    return Outcomes(np.array(names), np.array(numbers), index.numpy(), correct.numpy())


def examples(
    images: Tensor, labels: Tensor, index: Tensor, types: list[str], num_classes: int = 5
) -> dict[str, NDArray[np.uint8]]:
    """The first image of each of the first classes in every type, uint8 (4, K, 3, H, W).

    Unmodified first, then by severity; arguments as of `score_image_types`.
    """
    classes = sorted(set(labels.tolist()))[:num_classes]
    first = torch.stack([torch.nonzero(labels == c)[0, 0] for c in classes])
    shown, places = images[first], index[first]
    return {
        name: torch.stack(
            [shown, *(distort(shown, name, s, places) for s in severities(name))]
        ).numpy()
        for name in types
    }


def severities(name: str) -> range:
    return range(1, len(LEVELS[name]) + 1)


def summary(outcomes: Outcomes) -> dict[str, Any]:
    """What `evaluation.json` keeps of them: accuracy lost by type, and over all."""
    lost = {name: each._asdict() for name, each in degradations(outcomes).items()}
    return {"num_images": len(outcomes.index), "degradation": lost}
