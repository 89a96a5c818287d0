"""How far a run is and how long it takes, as a bar: on a terminal."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar

from triptych.callbacks.time_left import find_left
from triptych.runs.durations import format_duration, format_end


class ProgressBar(RichProgressBar):
    """Lightning's bar, counting epochs from 1 as everything else here does."""

    def _get_train_description(self, current_epoch: int) -> str:
        most = self.trainer.max_epochs or -1
        text = f"Epoch {current_epoch + 1}" + f"/{most}" * (most > 0)
        return text.ljust(len(self.validation_description))

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        shown = {name: value for name, value in metrics.items() if name != "v_num"}
        if (seconds := find_left(trainer)) is not None:
            shown["left"] = f"{format_duration(seconds)}{format_end(seconds)}"
        return shown
