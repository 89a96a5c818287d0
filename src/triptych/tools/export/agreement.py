"""Does the file answer as the network does, and how long does it take?

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
from triptych.tools.compare.runs import TrainedNetwork, read_pixels
from triptych.tools.evaluate.cost import NUM_WARM_UPS, time_calls
from triptych.tools.evaluate.rebuild import RebuiltRun, read_data
from triptych.tools.export.formats import Predict
from triptych.tools.report.formats import pluralize

log = logging.getLogger(__name__)
log.addFilter(sanitize_log_record)

TOLERANCE = 1e-3  # of a probability
NUM_TEST_IMAGES = 64  # at most
BATCH_SIZE = 16
PHOTOGRAPHS = "made photographs of 640x480 and other sizes"
# N, H, W: 640x480 alone and as a batch; then higher than wide, and smaller than any input.
SHAPES = ((1, 480, 640), (3, 480, 640), (2, 100, 37), (1, 19, 23))


class Agreement(NamedTuple):
    """By kind of images, the largest difference of a probability; by runtime, milliseconds."""

    differences: dict[str, float]
    milliseconds: dict[str, float]  # for one image of 640x480, the median
    num_threads: int

    def sentences(self) -> list[str]:
        found = [f"{value:.1e} over {kind}" for kind, value in self.differences.items()]
        times = [f"{name} {value:.1f} ms" for name, value in self.milliseconds.items()]
        threads = pluralize(self.num_threads, "thread")
        return [
            f"largest difference from the network's probabilities: {', '.join(found)}",
            f"an image of 640x480 takes {', '.join(times)} (CPU, {threads})",
        ]


def differences(
    network: Predict, exported: Predict, shown: Mapping[str, Sequence[Tensor]]
) -> dict[str, float]:
    """By kind, the largest over batches uint8 (N, 3, H, W); raises UserError above the tolerance."""
    found = {kind: largest(network, exported, batches) for kind, batches in shown.items()}
    for kind, value in found.items():
        if not value <= TOLERANCE:  # NaN neither
            raise UserError(
                f"the exported file differs by {value:.2g} from the network over {kind}: "
                f"{TOLERANCE:g} is allowed, nothing was written"
            )
    return found


def largest(network: Predict, exported: Predict, batches: Sequence[Tensor]) -> float:
    gaps = [(network(batch) - exported(batch)).abs().max() for batch in batches]
    return float(torch.stack(gaps).max())


def milliseconds(predict: Predict, image: Tensor, seconds: float) -> float:
    """Of one call, the median over about so many seconds."""
    taken = time_calls(lambda: predict(image), torch.device("cpu"), seconds, NUM_WARM_UPS)
    return 1000 * float(np.median([*taken]))


def images_to_try(
    run: RebuiltRun, network: TrainedNetwork, root: str | None
) -> dict[str, list[Tensor]]:
    """Batches uint8 (N, 3, H, W) by kind: test images where there are any, and made photographs.

    Without the data, the test images that the run kept, and a line on the screen that says why.
    Raises UserError where `root` is not None and does not hold the data.
    """
    kind = "test image"
    try:
        part = read_data(run, root).test
        tested = part.__getitems__(torch.arange(min(NUM_TEST_IMAGES, len(part)))).inputs
    except UserError as refused:
        if root is not None:
            raise
        log.warning("tried without the data: %s", " ".join(str(refused).split()))
        kind = "kept test image"
        kept = [*(read_pixels(network) or {}).values()][:NUM_TEST_IMAGES]
        tested = torch.from_numpy(np.stack(kept)) if kept else torch.empty(0)
    batches = [*torch.split(tested, BATCH_SIZE)] if len(tested) else []
    found = {pluralize(len(tested), kind): batches} if batches else {}
    return found | {PHOTOGRAPHS: photographs()}


def photographs() -> list[Tensor]:
    """The same ones always, of `SHAPES`; the first is timed."""
    generator = torch.Generator().manual_seed(0)
    return [photograph(*shape, generator) for shape in SHAPES]


def photograph(num: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Noise with the spectrum of photographs, 1/f (Field, 1987): uint8 (num, 3, height, width)."""
    down, across = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency = (down[:, None] ** 2 + across**2).sqrt()
    frequency[0, 0] = torch.inf  # the mean is set below
    noise = torch.randn(num, 3, height, width, generator=generator)
    pink = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(height, width))
    pixels: Tensor = (128 + 64 * pink / pink.std()).clamp(0, 255).to(torch.uint8)
    return pixels
