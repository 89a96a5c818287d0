"""A batch shared out among threads, each of which takes its images through the whole network.

On a CPU no core then waits for the others at the end of every layer, as torch's own threads do.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from triptych.tools.predict.images import DecodedImage

LEAST_IMAGES = 8  # of a batch for a thread of its own

Classify = Callable[[Sequence[DecodedImage]], Tensor]  # B images to (B, ...)


@contextmanager
def share_batches(classify: Classify, device: torch.device, batch_size: int) -> Iterator[Classify]:
    """`classify` for batches of up to `batch_size` images, by as many threads as torch has.

    Where they are more than parts of the batch, each of these uses several.
    """
    num_threads = torch.get_num_threads() if device.type == "cpu" else 1
    num_parts = max(1, min(num_threads, batch_size // LEAST_IMAGES))
    if num_parts == 1:
        yield classify
        return

    def classify_parts(images: Sequence[DecodedImage]) -> Tensor:
        size = -(-len(images) // num_parts)
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        return torch.cat([*pool.map(classify, parts)])

    own_threads = num_threads // num_parts
    with ThreadPoolExecutor(num_parts, "network", torch.set_num_threads, (own_threads,)) as pool:
        yield classify_parts
