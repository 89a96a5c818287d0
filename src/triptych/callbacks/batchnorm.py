"""Whether BatchNorm's running statistics have forgotten the values that they began with."""

import logging

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

log = logging.getLogger(__name__)


def count_batches(network: nn.Module) -> int | None:
    """How many batches the statistics are of, where their start still weighs more than 0.1 %."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.momentum]
    counts = [(int(m.num_batches_tracked or 0), m.momentum or 0.0) for m in norms]
    return min((n for n, momentum in counts if n and (1 - momentum) ** n > 0.001), default=None)


def note_few_batches(network: nn.Module) -> None:
    """Log it where a network trained from scratch cannot be scored as it should be."""
    if few := count_batches(network):
        log.info(
            "BatchNorm's running statistics come from %d batches alone, too few, so scores may be "
            "far too low: train for more epochs, or with a smaller data.batch_size",
            few,
        )
