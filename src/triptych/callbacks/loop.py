"""Where Lightning's training loop is: the one place that reads its private attributes.

`tests/callbacks/test_loop.py` fails where a version of Lightning moves them.
"""

from typing import Any

import lightning.pytorch as pl


def is_accumulating(trainer: pl.Trainer) -> bool:
    """Whether gradients wait for further batches: an optimizer step is under way."""
    is_within_step: bool = trainer.fit_loop.epoch_loop._should_accumulate()
    return is_within_step and not trainer.testing


def is_last_batch(trainer: pl.Trainer) -> bool:
    """Whether the present training batch is the epoch's last."""
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def validates_next(trainer: pl.Trainer) -> bool:
    """Whether a validation follows the present training batch."""
    loop: Any = trainer.fit_loop.epoch_loop
    return bool(loop._should_check_val_fx(trainer.fit_loop._data_fetcher))


def current_step(trainer: pl.Trainer) -> int:
    """The step that something is logged at: one under way counts, no checkpoint has it yet."""
    return trainer.global_step + is_accumulating(trainer)


def dump_checkpoint(trainer: pl.Trainer) -> dict[str, Any]:
    """What `Trainer.save_checkpoint` would write now, with what every callback adds to it."""
    content: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    return content


def resume_by_epochs(trainer: pl.Trainer) -> None:
    """Have a resumed run go on with the epoch after its last, with `trainer.max_steps`, too.

    Lightning would count from the epoch before then, and train in that one's order once more.
    """
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
