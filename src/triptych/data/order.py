"""Which images come in which batch, on which device."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from triptych.data.randomness import permutation


class BatchOrder(Sampler[Tensor]):
    """Positions of every batch on this device: `order[b * B : (b + 1) * B][rank::world_size]`.

    The images of a global batch are the same on any number of devices. In training, the order is
    keyed by seed and epoch, and a last batch of fewer than two images a device is left out:
    BatchNorm cannot normalise one image. In evaluation every image comes once.
    """

    def __init__(
        self, n: int, batch_size: int, rank: int, world_size: int, seed: int | None
    ) -> None:
        self.n, self.batch_size, self.rank, self.world_size = n, batch_size, rank, world_size
        self.seed = seed
        self.epoch = 0
        self.skipped_batches = 0
        self.sampler = self  # where Lightning looks for `set_epoch`

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        rest = self.n % self.batch_size
        too_few = self.seed is not None and 0 < rest < 2 * self.world_size and rest < self.n
        return math.ceil(self.n / self.batch_size) - too_few

    def __iter__(self) -> Iterator[Tensor]:
        # A generator, for a loader with workers calls iter() twice and draws from the second.
        order = torch.arange(self.n)
        if self.seed is not None:
            order = permutation(self.n, self.seed, self.epoch)
        first, self.skipped_batches = self.skipped_batches, 0
        for batch in torch.split(order, self.batch_size)[first : len(self)]:
            yield batch[self.rank :: self.world_size]
