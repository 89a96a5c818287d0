"""A network with its preprocessing and softmax, as a program that takes photographs of any size.

Shapes: N images of H x W pixels, S pixels a side of the network's input, C classes; L pixels along
one axis of an image.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from triptych.errors import UserError, summarize_error
from triptych.models.backbone import Backbone
from triptych.module import ImageClassifier
from triptych.tools.evaluate.rebuild import RebuiltRun
from triptych.tools.predict.images import View, cubic

IMAGES, PROBABILITIES = "images", "probabilities"  # the names of input and output
DYNAMIC = {0: "batch", 2: "height", 3: "width"}
# Torch takes an axis of 0 or 1, and two equal axes, for constants: all differ here.
EXAMPLE = (2, 3, 61, 83)
SUPPORT = 2  # of the cubic filter, in pixels of the coarser grid


class Portable(nn.Module):
    """uint8 images (N, 3, H, W) to probabilities float32 (N, C): `DeviceTransforms.evaluation`
    without its shortcut for images of the right size, then the network and its task's
    `probabilities`.

    Where training stored its photos as squares, `stored` is their side and fit, and images are
    first made such squares.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        stored: tuple[int, str] | None = None,
        probabilities: Callable[[Tensor], Tensor] = ImageClassifier.probabilities,
    ) -> None:
        super().__init__()
        self.probabilities = probabilities
        preprocessing = backbone.preprocessing
        self.network = backbone.network
        self.stored = stored
        self.size = [preprocessing.input_size, preprocessing.input_size]
        self.interpolation = preprocessing.interpolation
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        pixels = fit_square(images, *self.stored) if self.stored else images.float()
        pixels = F.interpolate(pixels / 255, self.size, mode=self.interpolation, antialias=True)
        logits: Tensor = self.network((pixels - self.mean) / self.std)
        return self.probabilities(logits)


def trace_program(run: RebuiltRun) -> ExportedProgram:
    """The network, in float32, for any N, H and W; raises UserError where torch cannot trace it."""
    stored, probabilities = View.from_run(run).stored, run.module.probabilities
    module = Portable(run.backbone, stored, probabilities).eval().float()
    axes = {IMAGES: {axis: Dim(name) for axis, name in DYNAMIC.items()}}
    try:
        with torch.no_grad():
            example = torch.zeros(EXAMPLE, dtype=torch.uint8)
            program = torch.export.export(module, (example,), dynamic_shapes=axes)
    except Exception as error:  # a user's own network may raise anything
        model, reason = run.record.metadata["model"], summarize_error(error)
        raise UserError(f"{run.record.folder}: {model} cannot be exported\n{reason}") from error
    for node in program.graph.nodes:  # what else torch notes names files of this machine
        node.meta = {name: value for name, value in node.meta.items() if name == "val"}
    return program


def fit_square(images: Tensor, side: int, fit: str) -> Tensor:
    """uint8 (N, 3, H, W) to float (N, 3, S, S) of whole numbers, S = `side`.

    `photos.square` in operations that a file can hold: Pillow's filter as two matrix products.
    Where a sum lies half between two numbers it may be one off, as Pillow's are fixed-point.
    """
    height, width = (torch.scalar_tensor(n, dtype=torch.float64) for n in images.shape[2:])
    across = filter_weights(find_span(width, height, side, fit), images.shape[3], side)
    down = filter_weights(find_span(height, width, side, fit), images.shape[2], side)
    return round_pixels(down @ round_pixels(images.float() @ across.T))  # twice, as Pillow does


def find_span(length: Tensor, other: Tensor, side: int, fit: str) -> tuple[Tensor, ...]:
    """For an axis of `length` pixels, the other having `other`; see `photos.FITS`.

    Start and length of the part of the image that is used, then of the part of the square it fills.
    """
    zero, whole_side = torch.zeros_like(length), torch.full_like(length, side)
    if fit == "crop":
        shorter = torch.minimum(length, other)
        return (length - shorter) / 2, shorter, zero, whole_side
    if fit == "pad":
        filled = (length / torch.maximum(length, other) * side).round()
        return zero, length, ((side - filled) / 2).round(), filled
    return zero, length, zero, whole_side


def filter_weights(span: tuple[Tensor, ...], num_pixels: int, side: int) -> Tensor:
    """Float32 (S, L): of each of the axis' pixels in each of the square; 0 outside the filled."""
    start, length, offset, filled = span
    place = torch.arange(side, dtype=torch.float64) - offset
    scale = length / filled.clamp(min=1)
    center = start + (place + 0.5) * scale
    distance = torch.arange(num_pixels, dtype=torch.float64) + 0.5 - center[:, None]
    weights = cubic(distance.abs() / scale.clamp(min=1))
    weights = weights / weights.sum(dim=1, keepdim=True)
    is_filled = (place >= 0) & (place < filled)
    return torch.where(is_filled[:, None], weights, 0.0).float()


def round_pixels(pixels: Tensor) -> Tensor:
    return (pixels + 0.5).floor().clamp(0, 255)
