"""Three ways of training one network, measured in turn: an upper bound, a real run, the usual one.

`seconds(steps)` of each is what so many steps take, after some that are not counted.
"""

import copy
import gc
import io
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from datetime import UTC, datetime
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import SimpleProfiler
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchmetrics import MetricCollection, classification
from torchvision import transforms

from triptych import build
from triptych.config import Config
from triptych.data.datamodule import ImageSubset
from triptych.distributed.processes import count_cores
from triptych.errors import UserError
from triptych.models.backbone import Backbone, Preprocessing
from triptych.models.compilation import compile_network
from triptych.module import ImageClassifier
from triptych.runs.record import Record, git_commit, library_versions
from triptych.tools.evaluate.cost import measure_peak_bytes, synchronize
from triptych.training import collect_metadata, make_trainer, prepare

MAX_STEPS = 2000
MAX_WORKERS = 16
# What a bare loop does: a run that does otherwise cannot be compared with it.
PLAIN = {"accumulate_grad_batches": 1, "devices": 1, "strategy": "auto", "gradient_clip_val": None}
LIMITS = ("fast_dev_run", "overfit_batches", "limit_train_batches")  # would end it too early
# Parts of a step, by the ends of the names that Lightning's profiler gives them.
PARTS = {
    "load": ".train_dataloader_next",
    "transfer": ".transfer_batch_to_device",
    "pipeline": ".on_after_batch_transfer",
    "forward": "Strategy.training_step",
    "backward": "Strategy.backward",
    "optimizer": ".optimizer_step",  # forward and backward run in it
}


class Subject:
    """What is measured: images and a module that never trains; every way takes copies of it.

    `trainer` is not run: it says on which device, and in what precision. Raises UserError where
    a bare loop would not do what the config asks.
    """

    def __init__(self, config: Config, record: Record) -> None:
        for name, value in (PLAIN | dict.fromkeys(LIMITS)).items():
            if (config["trainer"].get(name) or value) != value:
                raise UserError(f"trainer.{name}: the benchmark measures plain steps on one device")
        self.config, self.record = config, record
        self.warm_up_steps: int = config["warm_up_steps"]
        pl.seed_everything(config["seed"], verbose=False)
        source = build.instantiate("data.source", config["data"]["source"])
        network = build.instantiate("model", config["model"])
        self.data, self.module = prepare(config, source, network)
        self.trainer = build.build_trainer(config, record, [], self.module)
        precision = self.trainer.precision
        if precision not in ("32-true", "bf16-mixed"):
            raise UserError(f"trainer.precision={precision}: may be 32-true or bf16-mixed here")
        self.device = self.trainer.strategy.root_device
        self.data.trainer = self.trainer  # a loader asks it whether to pin memory
        metadata = collect_metadata(config, self.data, self.module, network)  # for callbacks
        record.update(**metadata, device=build.device_name(self.device), precision=precision)

    def network(self) -> Backbone:
        """A copy of the network on the device; compiled where `speed.compile` says so."""
        backbone = copy.deepcopy(self.module.backbone)
        build.move_to_device(backbone, self.device)
        compile_network(backbone, self.config["speed"]["compile"])
        return backbone


class Bound:
    """A bare loop over one batch that lies ready on the device: no run can be faster.

    It has the network, precision, memory format, compiler, loss and optimizer of a run, and no
    loader, Trainer, schedule or log.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject, data = subject, subject.data
        self.backbone = subject.network().train()
        self.loss = subject.module.loss.to(subject.device)
        self.optimizer, _ = subject.module.optim.build(self.backbone, 1, 1)
        stored = next(iter(data.train_dataloader()))
        images, labels, index = (tensor.to(subject.device) for tensor in stored)
        images, self.labels = data.transforms.training(images, labels, (data.seed, 0, index))
        self.images = images.to(memory_format=torch.channels_last)

    def seconds(self, steps: int) -> float:
        for _ in range(self.subject.warm_up_steps):
            self.step()
        synchronize(self.subject.device)
        start = perf_counter()
        for _ in range(steps):
            self.step()
        synchronize(self.subject.device)
        return perf_counter() - start

    def step(self) -> None:
        with self.subject.trainer.precision_plugin.forward_context():
            loss: Tensor = self.loss(self.backbone(self.images), self.labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


class Enough(Exception):
    """Ends a Trainer's loop when the last step was measured: the end of an epoch takes long."""


class StepClock(pl.Callback):
    """Measures from the end of step `first` to the end of step `last`; then raises `Enough`.

    It has to be the last callback, or what the others do at the end of a step is not counted.
    """

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.seconds = self.start = math.nan

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 in (self.first, self.last):
            synchronize(trainer.strategy.root_device)
            if batch_idx + 1 == self.last:
                self.seconds = perf_counter() - self.start
                raise Enough
            self.start = perf_counter()


class Ours:
    """A real training run, cut off after some steps of its first epoch, without validation.

    Its loader, transforms, Trainer, callbacks and loggers are those of `train.py`; the loss is
    read and logged at the run's interval, and after the last step.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject, data, optim = subject, subject.data, subject.module.optim
        num_classes = len(data.classes)
        self.module = ImageClassifier(
            subject.network(), optim, num_classes, loss=subject.module.loss
        )
        self.module.to(subject.device)

    def seconds(self, steps: int) -> float:
        first = self.subject.warm_up_steps
        clock = StepClock(first, first + steps)
        self._run(first + steps, clock)
        return clock.seconds

    def parts(self, steps: int) -> dict[str, float]:
        """Median milliseconds of each part of a training step, and of a checkpoint.

        The device is waited for at both ends of a part, so that none overlap: their sum may exceed
        a step's time. "reading the loss" is what callbacks take more in a step that is logged.
        """
        profiler, first = PartsProfiler(self.subject.device), self.subject.warm_up_steps
        self._run(first + steps, profiler=profiler)
        recorded = profiler.recorded_durations
        seconds = {
            part: median(
                next(taken for name, taken in recorded.items() if name.endswith(end))[first:]
            )
            for part, end in PARTS.items()
        }
        seconds["optimizer"] -= seconds["forward"] + seconds["backward"]
        callbacks = [(name, taken) for name, taken in recorded.items() if "[Callback]" in name]
        *usual, logged = map(
            sum, zip(*(taken[first:] for name, taken in callbacks if "batch" in name), strict=True)
        )
        seconds["callbacks"] = median(usual)
        seconds["reading the loss"] = logged - seconds["callbacks"]
        ends = [sum(taken) for name, taken in callbacks if name.endswith("on_train_epoch_end")]
        return {part: 1000 * each for part, each in (seconds | {"checkpoint": sum(ends)}).items()}

    def _run(self, steps: int, *callbacks: pl.Callback, **settings: Any) -> None:
        limits = {"max_steps": steps, "limit_val_batches": 0}
        config = self.subject.config
        # Cached features would leave the head alone to be trained; the bound trains the network.
        config = config | {"speed": config["speed"] | {"cache_features": False}}
        config = config | {"trainer": config["trainer"] | limits | settings}
        with redirect_stdout(io.StringIO()), suppress(Enough):
            trainer = make_trainer(config, self.subject.record, self.module)
            trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
            trainer.fit(self.module, datamodule=self.subject.data)
        # The module keeps its trainer until the next one: without its optimizer's state.
        trainer.strategy.optimizers, trainer.strategy.lr_scheduler_configs = [], []
        gc.collect()  # a Trainer and its parts refer to each other: nothing of it stays beside


class PartsProfiler(SimpleProfiler):
    """Lightning's profiler, waiting for the device at both ends of every part."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def start(self, action_name: str) -> None:
        synchronize(self.device)
        super().start(action_name)

    def stop(self, action_name: str) -> None:
        synchronize(self.device)
        super().stop(action_name)


class PilImages(Dataset[tuple[Tensor, int]]):
    """One image at a time, as torchvision's data sets give them."""

    def __init__(self, split: ImageSubset, preprocessing: Preprocessing) -> None:
        images, labels = split.data
        self.images = images[split.index].permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels[split.index].tolist()
        resize = transforms.Resize((preprocessing.input_size,) * 2)
        normalize = transforms.Normalize(preprocessing.mean, preprocessing.std)
        self.transform = transforms.Compose([resize, transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[position])), self.labels[position]


class UsualModule(pl.LightningModule):
    """Loss and metrics are computed and logged in every step."""

    def __init__(self, network: nn.Module, num_classes: int, lr: float) -> None:
        super().__init__()
        self.network, self.lr = network, lr
        self.metrics = MetricCollection(
            classification.MulticlassAccuracy(num_classes, average="micro"),
            classification.MulticlassF1Score(num_classes),
            classification.MulticlassPrecision(num_classes),
            classification.MulticlassRecall(num_classes),
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        self.metrics.update(logits, labels)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log_dict(self.metrics, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Usual:
    """A Trainer as most templates have it, for comparison: images are PIL images, resized and
    normalised one at a time in a loader's workers, and the network computes in float32."""

    def __init__(self, subject: Subject) -> None:
        self.subject, module = subject, subject.module
        network = copy.deepcopy(module.backbone.network)
        self.module = UsualModule(network, len(subject.data.classes), module.optim.lr)
        self.images = PilImages(subject.data.train, module.backbone.preprocessing)
        num_workers: int | None = subject.config["usual_workers"]
        self.num_workers = min(count_cores(), MAX_WORKERS) if num_workers is None else num_workers

    def seconds(self, steps: int) -> float:
        # Workers have two batches each ready before the clock starts, and finish the next together:
        # the former are not counted, and the latter in whole turns of all workers.
        turn = max(1, self.num_workers)
        counted = math.ceil(steps / turn) * turn
        first = max(2, math.ceil(self.subject.warm_up_steps / turn)) * turn
        clock = StepClock(first, first + counted)
        batch_size = self.subject.data.batch_size
        loader = DataLoader(
            self.images,
            batch_size,
            sampler=RandomSampler(self.images, num_samples=clock.last * batch_size),
            num_workers=self.num_workers,
            pin_memory=self.subject.device.type == "cuda",
        )
        # torch's own defaults, which a run of ours has set for the process
        precision, search = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
        torch.set_float32_matmul_precision("highest")
        trainer = pl.Trainer(
            accelerator=self.subject.config["trainer"]["accelerator"],
            devices=1,
            max_epochs=1,
            benchmark=False,
            logger=TensorBoardLogger(self.subject.record.folder, "usual"),
            callbacks=[clock],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[LightningEnvironment()],  # whatever the process's variables say
        )
        with suppress(Enough):
            trainer.fit(self.module, loader)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = search
        gc.collect()
        return clock.seconds * steps / counted


def measure(config: Config, record: Record) -> dict[str, Any]:
    """What the JSON file holds; `record` is that of a run which is never finished.

    Raises UserError where a bare loop would not do what the config asks.
    """
    subject = Subject(config, record)
    batch_size, num_images = subject.data.batch_size, len(subject.data.train)
    max_steps = min(MAX_STEPS, num_images // batch_size - subject.warm_up_steps)
    if max_steps < 1:
        raise UserError(
            f"data.batch_size={batch_size}: {num_images} images are fewer than "
            f"{subject.warm_up_steps + 1} batches; take more images, or data=many_shapes"
        )
    peak = {name: peak_memory(way, subject) for name, way in (("bound", Bound), ("ours", Ours))}
    ours = Ours(subject)
    ways: dict[str, Bound | Ours | Usual] = {"bound": Bound(subject), "ours": ours}
    if config["usual"]:
        ways["usual"] = Usual(subject)
    seconds = measure_in_turn(ways, config["rounds"], config["block_seconds"], max_steps)
    rates = {way: [batch_size / each for each in steps] for way, steps in seconds.items()}
    return {
        "model": config["model"]["name"],
        "batch_size": batch_size,
        "input_size": subject.module.backbone.preprocessing.input_size,
        "device": build.device_name(subject.device),
        "precision": str(subject.trainer.precision),
        "compile": config["speed"]["compile"],
        "num_threads": torch.get_num_threads(),
        "versions": library_versions(),
        "git_commit": git_commit(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "peak_memory_bytes": peak,
        "images_per_second": {way: spread(values) for way, values in rates.items()},
        "ratios": ratios(rates),
        "parts_ms": ours.parts(min(5, max_steps)),
    }


def peak_memory(kind: type[Bound] | type[Ours], subject: Subject) -> int:
    """Bytes at the peak of a step of one way, with no other beside it."""
    way = kind(subject)
    way.seconds(1)  # the search for kernels takes memory, too
    return measure_peak_bytes(partial(way.seconds, 1), subject.device)


def measure_in_turn(
    ways: Mapping[str, Any], rounds: int, block_seconds: float, max_steps: int
) -> dict[str, list[float]]:
    """Seconds a step of every way, once a round; each round begins with another way.

    A block takes about `block_seconds`: 1 to `max_steps` steps.
    """
    steps = {}
    for name, way in ways.items():
        way.seconds(1)  # searches for kernels, allocates, compiles
        steps[name] = max(1, min(max_steps, round(block_seconds / max(way.seconds(1), 1e-6))))
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(ways[name].seconds(steps[name]) / steps[name])
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratios(rates: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Ours over the others, round by round, so that both saw the machine in the same state."""
    return {
        f"ours/{name}": spread([a / b for a, b in zip(rates["ours"], values, strict=True)])
        for name, values in rates.items()
        if name != "ours"
    }
