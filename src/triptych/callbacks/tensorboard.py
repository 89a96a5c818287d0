"""What loggers and `figures/` show of a run besides its curves.

Shapes: N images of a split, C classes.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from torchvision.transforms import v2

from triptych.callbacks import figures
from triptych.callbacks.loop import current_step
from triptych.data.datamodule import ImageDataModule
from triptych.metrics import Scores
from triptych.module import ImageClassifier
from triptych.runs.record import Record

NUM_TRAINING_IMAGES = 32  # shown
NUM_MISTAKES = 64  # whose images are saved with the predictions
MISTAKE_SIZE = 64  # pixels a side, at most


class TensorBoardCallback(Callback):
    """Training images, confusion matrices, per-class scores, config, head and hyperparameters.

    Figures are saved as PNG, too; images of the most confident mistakes beside the predictions.
    Pictures and scores go to every logger that has the `log_image` and `log_table` of Lightning's
    for W&B.
    """

    def __init__(self, record: Record, module: ImageClassifier) -> None:
        self.record = record
        self.head = str(module.backbone.head)
        self.has_shown_images = False

    def state_dict(self) -> dict[str, Any]:
        return {"has_shown_images": self.has_shown_images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.has_shown_images = state["has_shown_images"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        if not self.has_shown_images:
            self._show_training_images(trainer)
            texts = {"config": f"yaml\n{self.record.config_yaml}", "head": f"\n{self.head}\n"}
            for writer in writers(trainer):
                for name, text in texts.items():
                    writer.add_text(name, f"```{text}```", current_step(trainer))
            self.has_shown_images = True
        self._show_confusion(trainer, pl_module.scores, "val")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        self._show_confusion(trainer, pl_module.scores, "test")
        self._save_mistakes(trainer, *pl_module.predictions)
        self._show_table(trainer, pl_module.scores)
        log_hyperparameters(trainer, self.record)

    def _show_training_images(self, trainer: Any) -> None:
        data: ImageDataModule = trainer.datamodule
        generator = torch.Generator().manual_seed(data.seed)
        positions = torch.randperm(len(data.train), generator=generator)[:NUM_TRAINING_IMAGES]
        index = data.train.index[positions]
        images, labels = (tensor[index] for tensor in data.train.data)
        names = [name_labels(data.classes, each) for each in labels]
        keys = (data.seed, 0, index)
        loaded = data.per_image(images, *keys) if data.per_image else images
        inputs, _ = data.transforms.training(loaded, labels, keys)
        low, high = inputs.amin((1, 2, 3), keepdim=True), inputs.amax((1, 2, 3), keepdim=True)
        inputs = ((inputs - low) / (high - low).clamp(min=1e-6) * 255).byte()
        heading = "The same as the network sees them, contrast stretched"
        stored = figures.image_grid(images.numpy(), names, "Training images as on disk")
        self._show(trainer, "images", stored)
        self._show(trainer, "images_as_seen", figures.image_grid(inputs.numpy(), names, heading))

    def _show_confusion(self, trainer: Any, scores: Scores, split: str) -> None:
        if scores.confusion is None:
            return
        num_images = scores.confusion.sum()
        heading = f"{split}: accuracy {scores.values['accuracy']:.2%}, {num_images} images"
        classes = trainer.datamodule.classes
        figure = figures.confusion_matrix(scores.confusion.numpy(), classes, heading)
        self._show(trainer, f"{split}/confusion", figure)

    def _save_mistakes(self, trainer: Any, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Images of the most confident mistakes: a comparison shows them without the data."""
        if labels.ndim > 1:
            return
        logits, labels, index = logits.cpu(), labels.cpu(), index.cpu()
        losses = F.cross_entropy(logits, labels, reduction="none")
        losses[logits.argmax(1) == labels] = -1
        worst = losses.topk(min(NUM_MISTAKES, int((losses >= 0).sum()))).indices
        images = trainer.datamodule.test.data.images[index[worst]]
        if max(images.shape[-2:]) > MISTAKE_SIZE:
            images = v2.functional.resize(images, [MISTAKE_SIZE, MISTAKE_SIZE])
        mistakes = {"index": index[worst].numpy(), "images": images.numpy()}
        self.record.add_predictions("test_images", **mistakes)

    def _show(self, trainer: pl.Trainer, name: str, figure: Figure) -> None:
        folder = self.record.folder / "figures"
        folder.mkdir(exist_ok=True)
        pixels = figures.save(figure, folder / f"{name.replace('/', '_')}.png")
        step = current_step(trainer)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, pixels, step)
            elif hasattr(logger, "log_image"):
                logger.log_image(name, [pixels.transpose(1, 2, 0)], step=step)

    def _show_table(self, trainer: Any, scores: Scores) -> None:
        """F1, precision and recall of every class, or what else `scores` have of each."""
        step, classes = current_step(trainer), trainer.datamodule.classes
        columns = ["class", *scores.per_class]
        values = (each.tolist() for each in scores.per_class.values())
        rows = [list(row) for row in zip(classes, *values, strict=True)]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("test/per_class", format_table(columns, rows), step)
            elif hasattr(logger, "log_table"):
                logger.log_table("test/per_class", columns=columns, data=rows, step=step)


def name_labels(classes: Sequence[str], label: Tensor) -> str:
    """The class of an image by its label (), or all of its classes by theirs (C,)."""
    places = [label] if label.ndim == 0 else label.nonzero().flatten()
    return ", ".join(classes[int(place)] for place in places)


def writers(trainer: pl.Trainer) -> list[SummaryWriter]:
    """The event writers of the run's TensorBoard loggers."""
    return [each.experiment for each in trainer.loggers if isinstance(each, TensorBoardLogger)]


def format_table(columns: Sequence[str], rows: Sequence[list[Any]]) -> str:
    """A class and its scores in every row, as Markdown; a name is none."""
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for name, *values in rows:
        escaped = re.sub(r"[^\w ]|_", lambda sign: f"&#{ord(sign[0])};", name)
        lines.append(f"| {escaped} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    return "\n".join(lines)


def flatten(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name; what is neither text nor number as JSON."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            is_plain = isinstance(value, str | int | float)
            yield f"{prefix}{name}", value if is_plain else json.dumps(value)


def log_hyperparameters(trainer: pl.Trainer, record: Record) -> None:
    """Fill the HPARAMS tab, a row a run; `best/...` is the scored epoch's validation."""
    # TensorBoard's table shows five hyperparameters until asked for more, in this order.
    config = record.config
    settings = {name: record.metadata[name] for name in ("model", "data", "seed")}
    settings |= {"optimizer": config["optim"]["name"], "lr": config["optim"]["lr"]}
    settings |= dict(flatten(config))
    metrics = {name: v for name, v in record.metadata["metrics"].items() if v is not None}
    ordered = sorted(metrics, key=lambda name: ("test/" not in name, "accuracy" not in name))
    columns = {name.replace("val/", "best/"): metrics[name] for name in ordered}
    for writer in writers(trainer):
        for name in columns.keys() - metrics.keys():
            writer.add_scalar(name, columns[name], trainer.global_step)
        for summary in hparams(settings, columns):  # type: ignore[no-untyped-call]
            writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]
        writer.flush()
