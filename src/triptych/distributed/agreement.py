"""What the ranks of a run decide together."""

import time
from typing import Any

import torch

AGREE_SECONDS = 1.0  # between two exchanges of the ranks: each waits for all of them


class Agreement:
    """Whether something is due on any rank; they exchange a word once a second, counted in steps,
    so that all ask at the same one."""

    def __init__(self) -> None:
        self.at, self.step = time.monotonic(), 0
        self.num_steps = 1  # from one exchange to the next, the same on every rank

    def is_due(self, trainer: Any, is_due_here: bool) -> bool:
        """Whether it is due on any rank; False until `AGREE_SECONDS` have passed, in steps."""
        steps = trainer.global_step - self.step
        if 0 <= steps < self.num_steps:
            return False
        step_seconds = (time.monotonic() - self.at) / max(1, steps)
        here = torch.tensor([float(is_due_here), step_seconds], device=trainer.strategy.root_device)
        is_due, slowest = trainer.strategy.reduce(here, reduce_op="max").tolist()
        # Doubled at most: a few fast steps say little of those to come.
        num_steps = min(2 * self.num_steps, int(AGREE_SECONDS / max(slowest, 1e-6)))
        self.num_steps = max(1, num_steps)
        self.at, self.step = time.monotonic(), trainer.global_step
        return bool(is_due)
