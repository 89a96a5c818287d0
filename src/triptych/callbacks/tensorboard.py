"""What TensorBoard and `figures/` show of a run besides its curves."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from torchvision.transforms import v2

from triptych import figures
from triptych.callbacks.checkpoint import logged_step
from triptych.data.datamodule import ImageDataModule
from triptych.metrics import PER_CLASS
from triptych.module import ImageClassifier
from triptych.runs.record import Record

NUM_SHOWN = 32
NUM_KEPT = 64  # mistakes whose pictures stay with the predictions
LARGEST_KEPT = 64  # pixels a side


class TensorBoardCallback(Callback):
    """Training images, confusion matrices, per-class scores, config and head."""

    def __init__(self, record: Record, head: str) -> None:
        self.record = record
        self.folder = record.folder / "figures"
        self.head = head
        self.has_shown_images = False

    def state_dict(self) -> dict[str, Any]:
        return {"has_shown_images": self.has_shown_images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.has_shown_images = state["has_shown_images"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        if not self.has_shown_images:
            self._show_images(trainer)
            self.has_shown_images = True
        self._show_confusion(trainer, pl_module, "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self._show_confusion(trainer, pl_module, "test")
            self._keep_mistakes(trainer, pl_module)
            table = per_class_table(trainer, pl_module)
            for writer in find_writers(trainer):
                writer.add_text("test/per_class", table, logged_step(trainer))

    def _show_images(self, trainer: pl.Trainer) -> None:
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(data.seed))
        index = data.train.index[chosen[:NUM_SHOWN]]
        images, labels = (tensor[index] for tensor in data.train.data)
        names = [data.classes[label] for label in labels]
        seen, _ = data.transforms.training(images, labels, (data.seed, 0, index))
        low, high = seen.amin((1, 2, 3), keepdim=True), seen.amax((1, 2, 3), keepdim=True)
        seen = ((seen - low) / (high - low).clamp(min=1e-6) * 255).byte()
        shown = {
            "images": (images, "Training images as on disk"),
            "images_as_seen": (seen, "The same as the network sees them, contrast stretched"),
        }
        for name, (grid, heading) in shown.items():
            self._show(trainer, name, figures.image_grid(grid.numpy(), names, heading))
        texts = {"config": f"yaml\n{self.record.config_yaml}", "head": f"\n{self.head}\n"}
        for writer in find_writers(trainer):
            for name, text in texts.items():
                writer.add_text(name, f"```{text}```", logged_step(trainer))

    def _show_confusion(self, trainer: pl.Trainer, task: ImageClassifier, split: str) -> None:
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        scores = task.scores
        heading = (
            f"{split}: accuracy {scores.values['accuracy']:.2%}, {scores.confusion.sum()} images"
        )
        figure = figures.confusion_matrix(scores.confusion.numpy(), data.classes, heading)
        self._show(trainer, f"{split}/confusion", figure)

    def _keep_mistakes(self, trainer: pl.Trainer, task: ImageClassifier) -> None:
        """Keep images of the most confident mistakes: a comparison shows them without the data."""
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        logits, labels, index = (tensor.cpu() for tensor in task.predictions)
        losses = F.cross_entropy(logits, labels, reduction="none")
        losses[logits.argmax(1) == labels] = -1
        worst = losses.topk(min(NUM_KEPT, int((losses >= 0).sum()))).indices
        images = data.test.data.images[index[worst]]
        if max(images.shape[-2:]) > LARGEST_KEPT:
            images = v2.functional.resize(images, [LARGEST_KEPT, LARGEST_KEPT])
        kept = {"index": index[worst].numpy(), "images": images.numpy()}
        self.record.add_predictions("test_images", **kept)

    def _show(self, trainer: pl.Trainer, name: str, figure: Figure) -> None:
        self.folder.mkdir(exist_ok=True)
        drawn = figures.save(figure, self.folder / f"{name.replace('/', '_')}.png")
        for writer in find_writers(trainer):
            writer.add_image(name, drawn, logged_step(trainer))


def find_writers(trainer: pl.Trainer) -> list[SummaryWriter]:
    """The event writers of the run's TensorBoard loggers."""
    return [
        logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)
    ]


def per_class_table(trainer: pl.Trainer, task: ImageClassifier) -> str:
    """F1, precision and recall of every class, as Markdown."""
    rows = zip(
        trainer.datamodule.classes,  # type: ignore[attr-defined]
        *(task.scores.per_class[name].tolist() for name in PER_CLASS),
        strict=True,
    )
    lines = [
        f"| {name} | " + " | ".join(f"{v:.4f}" for v in values) + " |" for name, *values in rows
    ]
    return "\n".join([f"| class | {' | '.join(PER_CLASS)} |", "| --- |" + " --- |" * 3, *lines])


def log_hyperparameters(
    trainer: pl.Trainer, metadata: dict[str, Any], optim: dict[str, Any]
) -> None:
    """Fill the HPARAMS tab, a row a run; `best/...` is the scored epoch's validation."""
    # TensorBoard's table shows five hyper-parameters, and columns in this order.
    settings = {name: metadata[name] for name in ("model", "data", "seed")}
    settings |= {"optimizer": optim["name"], "lr": optim["lr"]}
    metrics = metadata["metrics"]
    ordered = sorted(metrics, key=lambda name: ("test/" not in name, "accuracy" not in name))
    shown = {name.replace("val/", "best/"): metrics[name] for name in ordered}
    for writer in find_writers(trainer):
        for name in shown.keys() - metrics.keys():
            writer.add_scalar(name, shown[name], trainer.global_step)
        for summary in hparams(settings, shown):  # type: ignore[no-untyped-call]
            writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]
        writer.flush()
