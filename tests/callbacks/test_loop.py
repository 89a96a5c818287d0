"""Where the training loop is, asked of Lightning's private attributes."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from triptych.callbacks import loop


class Linear(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Seen(Callback):
    """What `loop` says after each batch."""

    def __init__(self) -> None:
        self.rows: list[tuple[bool, bool, bool, int]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        state = loop.is_accumulating, loop.is_last_batch, loop.validates_next, loop.current_step
        self.rows.append(tuple(read(trainer) for read in state))  # type: ignore[arg-type]
        if len(self.rows) == 1:
            self.content = loop.dump_checkpoint(trainer)


def test_lightnings_private_attributes_say_where_the_loop_is() -> None:
    """Two epochs of five batches: a step for two batches, a validation after three."""
    images = DataLoader(torch.ones(5, 2), num_workers=0)  # type: ignore[arg-type]
    seen = Seen()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        accumulate_grad_batches=2,
        val_check_interval=3,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[seen],
    )
    trainer.fit(Linear(), images, images)
    epoch = [
        (True, False, False, 1),
        (False, False, False, 1),
        (True, False, True, 2),
        (False, False, False, 2),
        (False, True, False, 3),
    ]
    later = [(*flags, step + 3) for *flags, step in epoch]
    assert seen.rows == [*epoch, *later]
    assert {"state_dict", "optimizer_states", "loops", "global_step"} <= seen.content.keys()
