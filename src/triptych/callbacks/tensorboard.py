"""What loggers and `figures/` show of a run besides its curves.

Shapes: N images of a split, C classes.
"""

import json
import re
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from torchvision.transforms import v2

from triptych.callbacks import figures
from triptych.callbacks.loop import current_step
from triptych.config import MONITORS, find_node, setting_name
from triptych.data.datamodule import ImageDataModule
from triptych.metrics import PER_CLASS, Scores
from triptych.module import ImageClassifier
from triptych.runs.record import Record, experiment_settings

NUM_TRAINING_IMAGES = 16  # shown
NUM_MISTAKES = 64  # whose images are saved with the predictions
MAX_MISTAKES = 128  # with those that the confusion matrix of few classes shows besides
MISTAKE_SIZE = 64  # pixels a side, at most
# What people vary: a run is told from others by these, and by what else was typed for it.
VARIED = """
    model.name model.weights model.freeze data.name data.num_train data.batch_size data.augment
    data.mix optim.name optim.lr optim.weight_decay optim.schedule optim.label_smoothing loss
    trainer.max_epochs seed
""".split()
BESIDES = "num_params input_size num_val num_test device precision git_commit command".split()


class TensorBoardCallback(Callback):
    """What is trained, its images, confusion matrices, scores, config and hyperparameters.

    Figures are saved as PNG, too; images of the most confident mistakes beside the predictions.
    Pictures and scores go to every logger that has the `log_image` and `log_table` of Lightning's
    for W&B.
    """

    def __init__(self, record: Record, module: ImageClassifier) -> None:
        self.record = record
        self.loss = type(module.loss).__name__

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero or trainer.global_step:
            return
        data, known = trainer.datamodule, self.record.metadata
        rows = list_settings(self.record, self.loss) | {n: known.get(n) for n in BESIDES}
        rows["classes"] = describe_balance(data.classes, data.num_per_class)
        texts = [(name, str(value)) for name, value in rows.items()]
        self._show_table(trainer, "about/run", ["name", "value"], texts)
        for writer in writers(trainer):
            writer.add_text("config", f"```yaml\n{self.record.config_yaml}```", 0)
            writer.add_custom_scalars({"training": arrange_charts(pl_module.monitors)})
        self._show_training_images(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._show_confusion(trainer, pl_module.scores, "val")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        scores, metadata = pl_module.scores, self.record.metadata
        self._show_confusion(trainer, scores, "test")
        self._save_mistakes(trainer, *pl_module.predictions)
        columns = ["score", f"validation, epoch {metadata['best_epoch']}", "test"]
        best = [metadata["metrics"].get(f"val/{name}") for name in scores.values]
        rows = [*zip(scores.values, best, scores.values.values(), strict=True)]
        self._show_table(trainer, "about/scores", columns, rows)
        each = (values.tolist() for values in scores.per_class.values())
        columns, rows = (
            ["class", *scores.per_class],
            [*zip(metadata["classes"], *each, strict=True)],
        )
        self._show_table(trainer, "test/per_class", columns, rows)
        log_hyperparameters(trainer, self.record, list_settings(self.record, self.loss))

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
        seen = figures.image_grid(inputs.numpy(), names, heading)
        self._show(trainer, "train/images", stored)
        self._show(trainer, "train/images_as_seen", seen)

    def _show_confusion(self, trainer: Any, scores: Scores, split: str) -> None:
        if scores.confusion is None:
            return
        num_images = int(scores.confusion.sum())
        heading = f"{split}: accuracy {scores.values['accuracy']:.2%}, {num_images:,} images"
        classes = trainer.datamodule.classes
        figure = figures.confusion_matrix(scores.confusion.numpy(), classes, heading)
        self._show(trainer, f"{split}/confusion", figure)

    def _save_mistakes(self, trainer: Any, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Images of the most confident mistakes: a comparison shows them without the data."""
        if labels.ndim > 1:
            return
        logits, labels, index = logits.cpu(), labels.cpu(), index.cpu()
        worst = choose_mistakes(logits, labels)
        images = trainer.datamodule.test.data.images[index[worst]]
        if max(images.shape[-2:]) > MISTAKE_SIZE:
            images = v2.functional.resize(images, [MISTAKE_SIZE, MISTAKE_SIZE])
        mistakes = {"index": index[worst].numpy(), "images": images.numpy()}
        self.record.add_predictions("test_images", **mistakes)

    def _show(self, trainer: pl.Trainer, name: str, figure: Figure) -> None:
        folder = self.record.folder / "figures"
        folder.mkdir(exist_ok=True)
        file_name = name.removeprefix("train/").replace("/", "_")
        pixels = figures.save(figure, folder / f"{file_name}.png")
        step = current_step(trainer)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, pixels, step)
            elif hasattr(logger, "log_image"):
                logger.log_image(name, [pixels.transpose(1, 2, 0)], step=step)

    def _show_table(
        self, trainer: Any, name: str, columns: list[str], rows: list[tuple[Any, ...]]
    ) -> None:
        """Rows of a name and its values."""
        step = current_step(trainer)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text(name, format_table(columns, rows), step)
            elif hasattr(logger, "log_table"):
                logger.log_table(name, columns=columns, data=[*map(list, rows)], step=step)


def choose_mistakes(logits: Tensor, labels: Tensor) -> Tensor:
    """Rows of logits (N, C) and labels (N,) that are wrong, most confident first: 64, and of at
    most 20 classes also the first of each cell of the confusion matrix, 128 in all."""
    predicted, num_classes = logits.argmax(1), logits.shape[1]
    order = F.cross_entropy(logits, labels, reduction="none").argsort(descending=True)
    order = order[predicted[order] != labels[order]]
    if num_classes > figures.MAX_WRITTEN_CLASSES:
        return order[:NUM_MISTAKES]
    cells = (labels * num_classes + predicted)[order]
    _, first = np.unique(cells.numpy(), return_index=True)
    is_chosen = torch.arange(len(order)) < NUM_MISTAKES
    is_chosen[torch.from_numpy(first)] = True
    return order[is_chosen][:MAX_MISTAKES]


def name_labels(classes: Sequence[str], label: Tensor) -> str:
    """The class of an image by its label (), or all of its classes by theirs (C,)."""
    places = [label] if label.ndim == 0 else label.nonzero().flatten()
    return ", ".join(classes[int(place)] for place in places)


def writers(trainer: pl.Trainer) -> list[SummaryWriter]:
    """The event writers of the run's TensorBoard loggers."""
    return [each.experiment for each in trainer.loggers if isinstance(each, TensorBoardLogger)]


def format_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown, fractions with four digits; a text is shown as it is, and is none."""
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = (f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row)
        lines.append(f"| {' | '.join(map(escape, cells))} |")
    return "\n".join(lines)


def escape(text: str) -> str:
    """As a cell of Markdown, in lines that leave room for the cells beside it."""
    lines = (
        re.sub(r"[^\w ]|_", lambda sign: f"&#{ord(sign[0])};", each) for each in wrap(text, 80)
    )
    return "<br>".join(lines)


def list_settings(record: Record, loss: str) -> dict[str, str | float | None]:
    """What people vary, and what else of the experiment was typed, by names as they are typed."""
    config, settings = experiment_settings(record.config), dict[str, Any]()
    for key in (*VARIED, *map(setting_name, record.metadata["overrides"])):
        node, name = find_node(config, key)
        value = node.get(name)
        if isinstance(value, dict) and key in VARIED:
            value = value["_target_"].rpartition(".")[2]
        if name in node and not isinstance(value, dict):
            settings[key] = value if type(value) in (str, int, float) else json.dumps(value)
    known = {n: record.metadata.get(n) or "null" for n in ("weights", "num_train")}
    known = {"model.weights": known["weights"], "data.num_train": known["num_train"]}
    return settings | known | {"loss": loss}


def describe_balance(classes: Sequence[str], counts: Sequence[int]) -> str:
    """In a line, how many training images the classes have."""
    least, most = min(counts), max(counts)
    if least == most:
        return f"{len(classes)} classes, {most} training images each"
    smallest, largest = classes[counts.index(least)], classes[counts.index(most)]
    spread = f"from {least} training images ({smallest}) to {most} ({largest})"
    return f"{len(classes)} classes, {spread}"


def arrange_charts(monitors: Iterable[str]) -> dict[str, list[Any]]:
    """Training and validation in one chart, by its title; `monitors` are logged in validation."""
    charts = {
        "loss": ["train/loss", "val/loss"],
        "accuracy": ["train/accuracy", "val/accuracy"],
        **{name.removeprefix("val/"): [name] for name in monitors if name not in MONITORS},
        ", ".join(PER_CLASS): [f"val/{name}" for name in PER_CLASS],
        "learning rate": ["lr"],
        "images per second": ["train/images_per_second"],
    }
    return {t: ["Multiline", [f"^{name}$" for name in names]] for t, names in charts.items()}


def log_hyperparameters(trainer: pl.Trainer, record: Record, settings: dict[str, Any]) -> None:
    """A row in the table of TensorBoard's HPARAMS tab: settings and what the run is judged by.

    Scores stand there as settings do: as metrics they would be charts of a single dot. The first
    of three summaries, which says what there is, is left out: TensorBoard takes that of any run for
    all of them, and otherwise finds what filters there are and puts first what differs.
    """
    known, metrics = record.metadata, record.metadata["metrics"]
    score = known["monitor"].removeprefix("val/")
    settings[f"{score}, test"] = metrics.get(f"test/{score}")
    settings[f"{score}, validation"] = metrics.get(known["monitor"])
    _, begin, end = hparams(settings, {})  # type: ignore[no-untyped-call]
    data = begin.value[0].metadata.plugin_data
    session = HParamsPluginData.FromString(data.content)
    name = f"{known.get('name') or known['model']} seed{known['seed']} {known['config_hash'][:6]}"
    session.session_start_info.group_name = name
    data.content = session.SerializeToString()
    for writer in writers(trainer):
        for summary in (begin, end):
            writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]
        writer.flush()
