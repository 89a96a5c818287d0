"""Compare an exported file with its network: probabilities, and time per image.

Shapes: N images of H x W pixels, C classes.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from triptych.errors import UserError
from triptych.runs.reader import sanitize_log_record
from triptych.tools.compare.formats import pluralize
from triptych.tools.evaluate.cost import NUM_WARM_UPS, time_calls
from triptych.tools.evaluate.rebuild import RebuiltRun, read_data
from triptych.tools.export.formats import Predict

log = logging.getLogger(__name__)
log.addFilter(sanitize_log_record)

TOLERANCE = 1e-3  # of a probability
NUM_TEST_IMAGES = 64  # at most
BATCH_SIZE = 16
PHOTOGRAPHS = "synthetic photographs of 640x480 and other sizes"
# N, H, W: 640x480 alone and as a batch, a tall one, one smaller than any network's input.
SHAPES = ((1, 480, 640), (3, 480, 640), (2, 100, 37), (1, 19, 23))


class Agreement(NamedTuple):
    """By kind of images, the largest difference of a probability; by runtime, milliseconds."""

    differences: dict[str, float]
    milliseconds: dict[str, float]  # median for one image of 640x480
    num_threads: int

    def sentences(self) -> list[str]:
        differences = [f"{value:.1e} over {kind}" for kind, value in self.differences.items()]
        times = [f"{name} {value:.1f} ms" for name, value in self.milliseconds.items()]
        threads = pluralize(self.num_threads, "thread")
        return [
            f"largest difference from the network's probabilities: {', '.join(differences)}",
            f"an image of 640x480 takes {', '.join(times)} (CPU, {threads})",
        ]


def measure_agreement(
    functions: Mapping[str, Predict], batches: Mapping[str, Sequence[Tensor]], seconds: float
) -> Agreement:
    """Of the exported file and the network, in that order, by name; `seconds` to time each.

    Raises UserError where a probability differs by more than the tolerance.
    """
    exported, network = functions.values()
    differences = compare_outputs(network, exported, batches)
    photograph = batches[PHOTOGRAPHS][0]
    times = {name: time_call(each, photograph, seconds) for name, each in functions.items()}
    return Agreement(differences, times, torch.get_num_threads())


def compare_outputs(
    network: Predict, exported: Predict, batches: Mapping[str, Sequence[Tensor]]
) -> dict[str, float]:
    """By kind of images, the largest difference over batches uint8 (N, 3, H, W)."""
    differences = {}
    for kind, of_kind in batches.items():
        gaps = [(network(batch) - exported(batch)).abs().max() for batch in of_kind]
        differences[kind] = value = float(torch.stack(gaps).max())
        if not value <= TOLERANCE:  # nor NaN
            raise UserError(
                f"the exported file differs by {value:.2g} from the network over {kind}; "
                f"{TOLERANCE:g} is allowed\nnothing was written"
            )
    return differences


def time_call(predict: Predict, image: Tensor, seconds: float) -> float:
    """Median milliseconds of one call."""
    times = time_calls(lambda: predict(image), torch.device("cpu"), seconds, NUM_WARM_UPS)
    return 1000 * float(np.median([*times]))


def read_batches(run: RebuiltRun, root: str | None) -> dict[str, list[Tensor]]:
    """Batches uint8 (N, 3, H, W) by kind: test images, and synthetic photographs.

    Without the data there are synthetic ones alone, and a warning. Raises UserError where `root` is
    given and does not hold the data.
    """
    batches = {PHOTOGRAPHS: make_photographs()}
    try:
        part = read_data(run, root).test
    except UserError as error:
        if root is not None:
            raise
        log.warning("checked without test images: %s", " ".join(str(error).split()))
        return batches
    images = part.__getitems__(torch.arange(min(NUM_TEST_IMAGES, len(part)))).inputs
    return {pluralize(len(images), "test image"): [*torch.split(images, BATCH_SIZE)]} | batches


def make_photographs() -> list[Tensor]:
    """The same ones every time, of `SHAPES`; the first is timed."""
    generator = torch.Generator().manual_seed(0)
    return [make_photograph(*shape, generator) for shape in SHAPES]


def make_photograph(num: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Noise with the spectrum of photographs, 1/f (Field, 1987): uint8 (num, 3, height, width)."""
    down, across = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency = (down[:, None] ** 2 + across**2).sqrt()
    frequency[0, 0] = torch.inf  # the mean is set below
    noise = torch.randn(num, 3, height, width, generator=generator)
    pink = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(height, width))
    image: Tensor = (128 + 64 * pink / pink.std()).clamp(0, 255).to(torch.uint8)
    return image
