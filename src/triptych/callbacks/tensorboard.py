"""What TensorBoard and `figures/` show of a run besides its curves.

Shapes: N images of a split, C classes.
"""

import re
from collections.abc import Sequence
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

from triptych import figures
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
        table = format_per_class(trainer.datamodule.classes, pl_module.scores)
        for writer in writers(trainer):
            writer.add_text("test/per_class", table, current_step(trainer))
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
        for writer in writers(trainer):
            writer.add_image(name, pixels, current_step(trainer))


def name_labels(classes: Sequence[str], label: Tensor) -> str:
    """The class of an image by its label (), or all of its classes by theirs (C,)."""
    places = [label] if label.ndim == 0 else label.nonzero().flatten()
    return ", ".join(classes[int(place)] for place in places)


def writers(trainer: pl.Trainer) -> list[SummaryWriter]:
    """The event writers of the run's TensorBoard loggers."""
    return [
        logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)
    ]


def format_per_class(classes: Sequence[str], scores: Scores) -> str:
    """F1, precision and recall of every class, as Markdown; a name is none."""
    num = len(scores.per_class)
    names = [re.sub(r"[^\w ]|_", lambda sign: f"&#{ord(sign[0])};", name) for name in classes]
    columns = (values.tolist() for values in scores.per_class.values())
    rows = [
        f"| {name} | " + " | ".join(f"{value:.4f}" for value in values) + " |"
        for name, *values in zip(names, *columns, strict=True)
    ]
    return "\n".join(
        [f"| class | {' | '.join(scores.per_class)} |", f"| --- |{' --- |' * num}", *rows]
    )


def log_hyperparameters(trainer: pl.Trainer, record: Record) -> None:
    """Fill the HPARAMS tab, a row a run; `best/...` is the scored epoch's validation."""
    # TensorBoard's table shows five hyperparameters, and columns in this order.
    optim = record.config["optim"]
    settings = {name: record.metadata[name] for name in ("model", "data", "seed")}
    settings |= {"optimizer": optim["name"], "lr": optim["lr"]}
    metrics = {name: v for name, v in record.metadata["metrics"].items() if v is not None}
    ordered = sorted(metrics, key=lambda name: ("test/" not in name, "accuracy" not in name))
    columns = {name.replace("val/", "best/"): metrics[name] for name in ordered}
    for writer in writers(trainer):
        for name in columns.keys() - metrics.keys():
            writer.add_scalar(name, columns[name], trainer.global_step)
        for summary in hparams(settings, columns):  # type: ignore[no-untyped-call]
            writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]
        writer.flush()
