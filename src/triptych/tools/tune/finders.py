"""Short trainings before the real one: the rate to begin with, the largest batch that fits.

Nothing that they train is kept, and only training images choose. Each leaves a folder below
`log_dir`, with the config, what was measured and, of rates, the curve.
"""

import logging
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.memory import garbage_collection_cuda
from matplotlib.figure import Figure
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.stats import linregress
from torch.optim.lr_scheduler import LambdaLR

from triptych import build
from triptych.callbacks import figures
from triptych.callbacks.progress import silence_lightning
from triptych.cli.arguments import check_writable
from triptych.config import MAX_BATCH, MAX_PIXELS, Config, format_value, setting_name
from triptych.data.source import Source
from triptych.errors import UserError, summarize_error
from triptych.models.backbone import BackboneFactory
from triptych.models.compilation import compile_network
from triptych.runs.failures import is_out_of_memory
from triptych.runs.record import Record
from triptych.runs.stopping import exit_on_signal, install_handlers, signal_handlers
from triptych.runs.storage import make_folder, translate_write_errors, write_csv
from triptych.tools.evaluate.cost import measure_peak_bytes
from triptych.tools.tune.settings import RULES
from triptych.training import prepare

log = logging.getLogger(__name__)
# Arguments of the Trainer that bear on a single step: its numbers, its memory, where it runs.
OF_A_STEP = """
    accelerator devices precision accumulate_grad_batches gradient_clip_val gradient_clip_algorithm
    deterministic benchmark plugins detect_anomaly
""".split()
QUIET = {"enable_progress_bar": False, "enable_model_summary": False}
DIVERGED = 4  # times the lowest loss so far, as Lightning and fastai have it
DECADES = 1.0  # of rates, over which a fall of the loss is measured
CLEAR = 4  # standard errors: of some tens of lines, few fall so far by chance
BATCH_STEPS = 3  # of a size that is tried: from the second on there is the optimizer's state


class Finding(NamedTuple):
    """The settings that were found, none where there are none; what is said of them, a table of
    what was measured, its head first, and its picture."""

    settings: dict[str, Any]
    comment: str
    rows: list[tuple[Any, ...]]
    figure: Figure | None = None


def find(config: Config, training: Config, overrides: Sequence[str]) -> None:
    """Find what `search.method` names, log it with the command that trains with it, and write what
    was measured.

    `training` is the part of `config` that a training knows. Raises UserError where nothing is
    found.
    """
    method, place = config["search"]["method"], Path(config["log_dir"], "tune", config["study"])
    check_writable(f"log_dir={config['log_dir']}", place / "config.yaml")
    with signal_handlers(exit_on_signal):
        of_a_step = {n: v for n, v in training["trainer"].items() if n in OF_A_STEP} | QUIET
        short = ShortTraining(training | {"trainer": of_a_step}, place, overrides)
        short.module.optim = replace(short.module.optim, schedule="constant", warmup_epochs=0.0)
        compile_network(short.module.backbone, training["speed"]["compile"])
        is_range = method == "range"
        finding = find_rate(short, config["search"]) if is_range else find_batch_size(short)
    with translate_write_errors(f"log_dir={config['log_dir']}"):
        folder = make_folder(place, f"{method}_{datetime.now():%Y-%m-%d_%H%M%S}")
        Record(folder, {}).write_config(training)
        write_csv(folder / f"{method}.csv", finding.rows)
        if finding.figure:
            figures.save(finding.figure, folder / f"{method}.png")
    if not finding.settings:
        raise UserError(f"{finding.comment}\nwhat was measured: {folder}")
    settings = [f"{key}={format_value(value)}" for key, value in finding.settings.items()]
    log.info("%s: %s\nmeasured: %s", " ".join(settings), finding.comment, folder)
    others = {*RULES, *finding.settings}  # of this command, or to be typed otherwise
    names = {override: setting_name(override) for override in overrides}
    same = [o for o, name in names.items() if others.isdisjoint((name, name.partition(".")[0]))]
    log.info("next  %s", shlex.join(["python", "train.py", *same, *settings]))


class ShortTraining:
    """Images and a module that a config names, to be trained on one device without a run's files.

    What callbacks write goes below `folder`. Raises UserError where data, weights or settings do
    not allow it.
    """

    def __init__(self, config: Config, folder: Path, overrides: Sequence[str] = ()) -> None:
        silence_lightning()
        pl.seed_everything(config["seed"], verbose=False)
        self.config, self.record = config, Record(folder, {})
        self.data, self.module = prepare(config, *check_trainable(config, overrides))

    def fit(self, callback: pl.Callback, **options: Any) -> None:
        """Train with arguments of the Trainer; raises RuntimeError where memory is short."""
        trainer = self.config["trainer"] | {"logger": None, "enable_checkpointing": False} | options
        config = self.config | {"trainer": trainer}
        trainer = build.build_trainer(config, self.record, [callback], self.module)
        build.move_to_device(self.module, trainer.strategy.root_device)
        try:
            trainer.fit(self.module, datamodule=self.data)
        except UserError:
            raise
        except (ValueError, MisconfigurationException) as error:
            raise UserError(f"trainer: {summarize_error(error)}") from error


def check_trainable(training: Config, overrides: Sequence[str]) -> tuple[Source, BackboneFactory]:
    """Source and network; raises UserError unless data and weights are available, and one device
    is requested."""
    if build.count_ranks(training) > 1:
        raise UserError(
            f"trainer.devices={format_value(training['trainer']['devices'])}: a trial takes one "
            "device; for more, start the command once on each (CUDA_VISIBLE_DEVICES)"
        )
    try:
        return build.find_parts(training, overrides)
    except UserError as error:
        raise UserError(str(error).replace("python train.py", "triptych tune")) from None


class StopAtOnce(pl.Callback):
    """Ends a training at a signal, where Lightning's handlers would let it finish the epoch."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        install_handlers(exit_on_signal)


class LossPerStep(StopAtOnce):
    """The training loss of every optimizer step, until it diverges, which ends the training."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._means: list[float] = []
        self._of_step: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._of_step.append(float(outputs["loss"]))
        if trainer.global_step == len(self.values):  # batches are being accumulated
            return
        loss, self._of_step = float(np.mean(self._of_step)), []
        self.values.append(loss)
        self._means.append(float(np.mean(self.values[-5:])))
        trainer.should_stop = not self._means[-1] <= DIVERGED * min(self._means)  # also at NaN


def find_rate(short: ShortTraining, search: Config) -> Finding:
    """The rate at which the loss falls fastest, while it rises from step to step (Smith 2017)."""
    low, high, last = search["low"], search["high"], search["num_steps"] - 1
    optim, losses, num_decades = short.module.optim, LossPerStep(), np.log10(high / low)
    # Every group of parameters keeps its share of the rate, as optim.backbone_lr sets it.
    rise = partial(LambdaLR, lr_lambda=lambda n: low / optim.lr * (high / low) ** (n / last))
    short.module.optim = replace(optim, schedule=rise, interval="step")
    short.fit(losses, max_epochs=-1, max_steps=last + 1, limit_val_batches=0)
    values = np.array([*filter(isfinite, losses.values)])  # but for the last, all are
    rates = low * (high / low) ** (np.arange(len(values)) / last)
    best = find_fastest_fall(values, max(5, round(DECADES * last / num_decades)))
    steps = enumerate(zip(rates.tolist(), values.tolist(), strict=True))
    rows: list[tuple[Any, ...]] = [("step", "optim.lr", "loss", "suggested")]
    rows += [(n, *measured, int(n == best)) for n, measured in steps]
    figure = draw_rates(rates, values, best)
    if best is None:
        comment = (
            f"search.low={low}, search.high={high}: the loss clearly falls at no rate between\n"
            f"more steps may show one, search.num_steps={4 * (last + 1)}"
        )
        return Finding({}, comment, rows, figure)
    found = {"optim.lr": float(f"{rates[best]:.1e}")}
    if optim.backbone_lr is not None:
        found["optim.backbone_lr"] = float(f"{rates[best] * optim.backbone_lr / optim.lr:.1e}")
    return Finding(found, "where the loss falls fastest", rows, figure)


def find_fastest_fall(losses: NDArray[np.float64], width: int) -> int | None:
    """The step around which the loss falls fastest, by a least-squares line over `width` steps;
    None where no line falls by more than `CLEAR` standard errors."""
    if len(losses) < width:
        return None
    windows = sliding_window_view(losses, width)
    lines = [linregress(np.arange(width), window) for window in windows]
    first = int(np.argmin([line.slope for line in lines]))
    is_clear = lines[first].slope < -CLEAR * lines[first].stderr
    return first + width // 2 if is_clear else None


def draw_rates(rates: NDArray[np.float64], losses: NDArray[np.float64], best: int | None) -> Figure:
    figure = Figure(figsize=(7, 4.5), dpi=100)
    axes = figure.subplots()
    axes.plot(rates, losses, ".-", linewidth=0.5)
    if best is not None:
        axes.axvline(rates[best], color="C1", label=f"falls fastest: {rates[best]:.2g}")
        axes.legend()
    axes.set(xscale="log", xlabel="optim.lr", ylabel="training loss (nats)")
    axes.xaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    fall = max(losses[0] - losses.min(), losses[0] / 10)
    axes.set_ylim(losses.min() - fall / 10, losses[0] + fall)  # not up to where it diverges
    return figure


def find_batch_size(short: ShortTraining) -> Finding:
    """The largest batch that fits into memory, of sizes that double, and one between them."""
    size = short.module.backbone.preprocessing.input_size
    most = min(len(short.data.train), MAX_BATCH, MAX_PIXELS // size**2)
    tried = try_sizes(BatchTrial(short), short.data.batch_size, most)
    rows: list[tuple[Any, ...]] = [("batch_size", "fits", "peak_memory_bytes")]
    rows += [(n, int(peak is not None), peak) for n, peak in sorted(tried.items())]
    fitting = {n: peak for n, peak in tried.items() if peak is not None}
    if not fitting:
        comment = f"data.batch_size={min(tried)}: out of memory; try a smaller model.input_size"
        return Finding({}, comment, rows)
    gigabytes = fitting[largest := max(fitting)] / 1e9
    limit = "fits" if len(fitting) < len(tried) else "there are images for"
    comment = f"the largest tried that {limit}, {gigabytes:.1f} GB at its peak"
    return Finding({"data.batch_size": largest}, comment, rows)


def try_sizes(peak_of: Callable[[int], int | None], start: int, most: int) -> dict[int, int | None]:
    """The peak of sizes from `start` on, doubled while they fit, or else halved until one does,
    and of one halfway to the first that does not; None where a size does not fit."""
    size = min(start, most)
    tried = {size: peak_of(size)}
    while tried[size] is not None and size < most:
        size = min(2 * size, most)
        tried[size] = peak_of(size)
    while tried[least := min(tried)] is None and least > 2:
        size = max(2, least // 2)
        tried[size] = peak_of(size)
    largest = max((n for n, peak in tried.items() if peak is not None), default=0)
    first_without = min((n for n, peak in tried.items() if peak is None), default=0)
    if largest < (between := largest * 3 // 2) < first_without:
        tried[between] = peak_of(between)
    return tried


class BatchTrial(StopAtOnce):
    """Trains with batches of a size: called with it, the bytes at the peak, None where it is not
    to be had.

    A GPU refuses what it has not. Elsewhere the system may kill a process that takes too much: so
    no size is tried that would need more than is free, going by the one before.
    """

    def __init__(self, short: ShortTraining) -> None:
        self.short, self.bytes_per_image = short, 0.0
        on_cuda = build.on_cuda(short.config)
        self.device, self.free = torch.device("cuda" if on_cuda else "cpu"), inf
        self.before = measure_peak_bytes(lambda: None, self.device)
        if not on_cuda:
            self.free = measure_free_memory()

    def __call__(self, size: int) -> int | None:
        short, peak = self.short, None
        accumulated = short.config["trainer"].get("accumulate_grad_batches", 1)
        options = {"max_epochs": BATCH_STEPS, "limit_train_batches": accumulated}
        fit = partial(short.fit, self, limit_val_batches=1, **options)
        short.data.batch_size = size
        try:
            if size * self.bytes_per_image <= self.free:
                peak = measure_peak_bytes(fit, self.device)
                self.bytes_per_image = (peak - self.before) / size
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        short.module.zero_grad()
        short.module.split_predictions.reset()
        garbage_collection_cuda()
        described = "out of memory" if peak is None else f"{peak / 1e9:.2f} GB at its peak"
        log.info("data.batch_size=%d: %s", size, described)
        return peak


def measure_free_memory() -> float:
    """Bytes that this process may still take, as the system and its control group have it;
    infinite where they do not say."""
    free = inf
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * next(int(n.split()[1]) for n in lines if n.startswith("MemAvailable"))
    with suppress(OSError, ValueError):  # no such group, or no limit: "max"
        most, used = (Path(f"/sys/fs/cgroup/memory.{n}").read_text() for n in ("max", "current"))
        free = min(free, int(most) - int(used))
    return free
