"""Grad-CAM (Selvaraju et al., 2017): where in an image a convolutional network found a class.

Shapes: B images, K channels and h x w positions of a map, S pixels a side of the input, C classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.errors import UserError
from triptych.models.backbone import Backbone
from triptych.runs.predictions import Predictions
from triptych.runs.reader import sanitize
from triptych.tools.evaluate.rebuild import RebuiltRun


class Explanation(NamedTuple):
    """An image and where a network found two classes in it; heat is scaled by its own maximum."""

    image: NDArray[np.uint8]  # (3, H, W)
    heats: NDArray[np.floating]  # (2, S, S): of the predicted class, of the true one
    names: tuple[str, str]
    probabilities: tuple[float, float]
    name: str  # of the image: its file, or its place in the official set


def grad_cam(backbone: Backbone, images: Tensor, classes: Tensor) -> Tensor:
    """Heat (B, S, S), not negative: one of `classes` (B,) for each of images float (B, 3, S, S).

    The gradients of a class's logit with respect to the network's deepest map, averaged over
    positions, weigh the map's channels; what is positive of their sum is enlarged to the image.
    Raises UserError where the network has no such map. Expects evaluation mode, changes nothing.
    """
    with torch.enable_grad():
        # Of the image, so that the maps of a frozen network have gradients too.
        logits, maps = find_deepest_map(backbone, images.clone().requires_grad_())
        [gradients] = torch.autograd.grad(logits.gather(1, classes.view(-1, 1)).sum(), maps)
    maps, gradients = channels_first(maps), channels_first(gradients)
    weights = gradients.mean((2, 3), keepdim=True)
    heat = (weights * maps.detach()).sum(1, keepdim=True).relu()
    return F.interpolate(heat.float(), images.shape[-2:], mode="bilinear")[:, 0]


def find_deepest_map(backbone: Backbone, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, C), and the last output that any layer before the head gives for h * w > 1
    positions: (B, K, h, w), or (B, h, w, K).

    Adaptive pooling does not count: it makes many positions of one. Raises UserError where no layer
    is left, or where a transformer makes a sequence of patches (B, T, F) of the map.
    """
    deepest: Tensor | None = None
    at_head = False

    def record_output(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal deepest, at_head
        at_head = at_head or module is backbone.head
        pools = isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
        if at_head or pools or not isinstance(output, Tensor):
            return
        if output.ndim == 4 and channels_first(output).shape[2:].numel() > 1:
            deepest = output
        elif output.ndim == 3 and output.shape[1] > 1:
            deepest = None

    handles = [m.register_forward_hook(record_output) for m in backbone.network.modules()]
    try:
        logits = backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    if deepest is None:
        raise UserError("Grad-CAM: this network has no map of an image before its head")
    return logits, deepest


def channels_first(maps: Tensor) -> Tensor:
    """Maps as (B, K, h, w), their channels first or last: of a square image they are square."""
    are_last = maps.shape[2] != maps.shape[3] and maps.shape[1] == maps.shape[2]
    return maps.movedim(-1, 1) if are_last else maps


def choose_rows(images: str | list[int], num_images: int, predictions: Predictions) -> list[int]:
    """Rows of the predictions: of places in the official set, or of the `most_confused`.

    Those are the mistakes that gave the true class the least probability, the worst first.
    """
    if images == "most_confused":
        rows = np.flatnonzero(~predictions.correct)
        worst = predictions.probabilities[rows, predictions.labels[rows]].argsort(kind="stable")
        rows = rows[worst][:num_images]
    else:
        rows = np.searchsorted(predictions.index, images)
    return list(map(int, rows))


def check_places(images: str | list[int], index: NDArray[np.int64]) -> None:
    """Raise UserError where one of `images` is not among the places `index` (N,), which ascend."""
    for place in images if isinstance(images, list) else ():
        if place not in index:
            raise UserError(
                f"grad_cam.images: {place} is not among the {len(index)} images scored, "
                f"whose places are {index[0]} to {index[-1]}"
            )


def explain_image(
    run: RebuiltRun,
    image: Tensor,
    predictions: Predictions,
    row: int,
    files: Sequence[str] | None = None,
) -> Explanation:
    """Where the network found the class it predicted, and the true one, in image (3, H, W).

    `files` are by place.
    """
    place = int(predictions.index[row])
    classes = [int(predictions.classes[row]), int(predictions.labels[row])]
    inputs = run.transforms.evaluation(image[None].to(run.device))
    inputs = inputs.to(next(run.backbone.parameters()).dtype)
    heats = [grad_cam(run.backbone, inputs, torch.tensor([c], device=run.device)) for c in classes]
    return Explanation(
        image.numpy(),
        torch.cat(heats).cpu().numpy(),
        names=(run.classes[classes[0]], run.classes[classes[1]]),
        probabilities=tuple(predictions.probabilities[row, classes]),
        name=sanitize(files[place]) if files else f"image {place}",
    )
