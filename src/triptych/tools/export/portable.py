"""A network with all that surrounds it, as a program that takes photographs as they are.

Shapes: N images of H x W pixels, S pixels a side of the network's input, C classes.
"""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from triptych.errors import UserError, summarize_error
from triptych.models.backbone import Backbone
from triptych.tools.evaluate.rebuild import RebuiltRun
from triptych.tools.export.fitted import fitted
from triptych.tools.predict.images import View

IMAGES, PROBABILITIES = "images", "probabilities"  # the names of what goes in and comes out
DYNAMIC = {0: "batch", 2: "height", 3: "width"}
# Torch takes an axis of 0 or 1, and two that are equal, for constants: all differ here.
EXAMPLE = (2, 3, 61, 83)
KEPT = ("val",)  # of what torch notes at each step; the rest names files and folders of ours


class Portable(nn.Module):
    """uint8 images (N, 3, H, W) to probabilities float32 (N, C): `Pipeline.evaluation`, without
    its case for images that have the right size already, then the network and the softmax.

    Where training stored its photos as squares, `stored` is their side and fit: images first become
    such squares.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, stored: tuple[int, str] | None = None) -> None:
        super().__init__()
        preprocessing = backbone.preprocessing
        self.network = backbone.network
        self.stored = stored
        self.size = [preprocessing.input_size, preprocessing.input_size]
        self.interpolation = preprocessing.interpolation
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        pixels = fitted(images, *self.stored) if self.stored else images.float()
        pixels = F.interpolate(pixels / 255, self.size, mode=self.interpolation, antialias=True)
        logits: Tensor = self.network((pixels - self.mean) / self.std)
        return logits.softmax(dim=1)


def program(run: RebuiltRun) -> ExportedProgram:
    """The network, in float32, for any N, H and W; raises UserError where torch cannot trace it."""
    module = Portable(run.backbone, View.from_run(run).stored).eval().float()
    axes = {IMAGES: {axis: Dim(name) for axis, name in DYNAMIC.items()}}
    try:
        with torch.no_grad():
            example = torch.zeros(EXAMPLE, dtype=torch.uint8)
            traced = torch.export.export(module, (example,), dynamic_shapes=axes)
    except Exception as error:  # whatever a network of somebody's own runs into
        raise untraceable(run, error) from error
    for node in traced.graph.nodes:
        node.meta = {name: value for name, value in node.meta.items() if name in KEPT}
    return traced


def untraceable(run: RebuiltRun, error: Exception) -> UserError:
    model = run.record.metadata["model"]
    return UserError(f"{run.record.folder}: {model} cannot be exported\n{summarize_error(error)}")
