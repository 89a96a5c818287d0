"""What an exported file answers beside its network, and what that costs.

Shapes: N images of H x W pixels, C classes.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from triptych.build import device_name
from triptych.config import Config
from triptych.data.datamodule import ImageDataModule
from triptych.errors import UserError
from triptych.runs.predictions import Predictions
from triptych.runs.record import library_versions
from triptych.tools.compare.formats import percent, pluralize
from triptych.tools.compare.runs import TrainedNetwork, describe_hardware
from triptych.tools.evaluate.rebuild import RebuiltRun, find_device
from triptych.tools.export.formats import FORMATS
from triptych.tools.export.measurement import (
    LARGEST_BATCH,
    Array,
    FileProcess,
    Measures,
    Opened,
    measure_files,
    start_processes,
)
from triptych.tools.export.writers import Written
from triptych.tools.predict.images import View

TOLERANCE = 1e-3  # of a probability of a file that computes in float32
NUM_COMPARED = 64  # test images at most whose probabilities are
COMPARED_AT_ONCE, ANSWERED_AT_ONCE = 16, 64
CHUNK = 4096  # images that go to a file's process through one file
PHOTOGRAPHS = "synthetic photographs of 640x480 and other sizes"
# N, H, W: 640x480 alone and as a batch, a tall one, one smaller than any network's input.
SHAPES = ((1, 480, 640), (3, 480, 640), (2, 100, 37), (1, 19, 23))
LEAST = np.finfo(np.float32).tiny  # probability whose logarithm is kept


@dataclass(frozen=True, eq=False)
class Network:
    """The run whose files are written."""

    run: RebuiltRun
    trained: TrainedNetwork | None  # None of another task than one label an image
    data: ImageDataModule | None  # None where it is not on this machine
    precision: str  # as `predict` runs it


@dataclass(frozen=True, eq=False)
class Deployment:
    """Files in one format, and what they answer and cost.

    `record` is that of `deployments/<key>.json`; where there are no test images, or the network is
    of another task, the files are not measured, and it is empty.
    """

    name: str
    files: Sequence[Path]
    checks: list[str]  # in sentences
    record: Mapping[str, Any]
    answers: Predictions | None

    @property
    def key(self) -> str:
        """Of its record: of a GPU another one."""
        return self.name if self.record.get("device") == "cpu" else f"{self.name}_gpu"


def check_files(
    network: Network,
    files: Mapping[str, Sequence[Path]],
    written: Mapping[str, Written],
    config: Config,
) -> list[Deployment]:
    """Each format's files, checked and measured.

    Raises UserError where probabilities or answers differ by more than is allowed.
    """
    folder, data = network.run.record.folder, network.data
    opened = [
        Opened(name, paths[0] if paths else folder, FORMATS[name].runtime)
        for name, paths in files.items()
    ]
    images = read_test_images(data, LARGEST_BATCH) if data else make_photographs()[0]
    with tempfile.TemporaryDirectory() as scratch:
        start = partial(start_processes, scratch=Path(scratch), image=images[:1], config=config)
        with start(opened) as processes:
            checks = [check_probabilities(network, each) for each in processes]
            if network.trained is None or data is None:
                each = zip(files.items(), checks, strict=True)
                return [Deployment(*files_of, [words], {}, None) for files_of, words in each]
            answers = [answer_test_images(data, each) for each in processes]
            for name, own in zip(files, answers, strict=True):
                check_agreement(network.trained, own, name, config["min_agreement"])
            with start([Opened("network", folder, "torch")]) as reference:
                both = [*processes, *reference]
                *measures, of_network = measure_files(both, images, config["time_seconds"])
    shared = describe_machine(config["device"])
    shared |= {"network": of_network._asdict() | {"precision": network.precision}}
    deployments = []
    for process, words, own, costs in zip(processes, checks, answers, measures, strict=True):
        name = process.opened.format
        agreement = find_agreement(network.trained, own)
        record = describe(process, written.get(name, Written()), files[name]) | shared
        record |= {"num_images": len(own.labels), "agreement": agreement} | costs._asdict()
        record["precision"] = record["precision"] or network.precision  # compiled: as the run's
        sentences = [words, *write_sentences(agreement, costs, of_network, shared)]
        deployments.append(Deployment(name, files[name], sentences, record, own))
    return deployments


def describe_machine(device: str) -> dict[str, Any]:
    return {"device": device_name(find_device(device)), "num_threads": torch.get_num_threads()}


def describe(process: FileProcess, written: Written, files: Sequence[Path]) -> dict[str, Any]:
    """What is recorded of files besides answers and costs."""
    form = FORMATS[process.opened.format]
    return {
        "schema": 1,
        "format": process.opened.format,
        "file_bytes": sum(path.stat().st_size for path in files) or None,
        "runtime": f"{form.runtime} {process.version}",
        "precision": form.precision,
        "float_layers": written.float_layers,
        "calibration_images": written.calibration_images,
        "versions": library_versions() | {form.runtime: process.version},
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_sentences(
    agreement: float, file: Measures, network: Measures, machine: Mapping[str, Any]
) -> list[str]:
    """For the screen and the README."""
    place = describe_hardware(machine["device"], None, machine["num_threads"])
    return [
        f"names the network's class for {percent(agreement)} % of the test images",
        f"an image takes {file.latency_ms_p50:.1f} ms, the network in torch "
        f"{network.latency_ms_p50:.1f} ms (median, {place})",
    ]


def answer_test_images(data: ImageDataModule, process: FileProcess) -> Predictions:
    """The file's own answers for the whole test set; logits are logarithms of probabilities."""
    test = data.test
    parts = torch.split(torch.arange(len(test)), CHUNK)
    words, console = f"{FORMATS[process.opened.format].words} answers", Console(stderr=True)
    answers: list[Array] = []
    for part in track(parts, words, console=console, disable=not console.is_terminal):
        answers.append(process.answer(test.__getitems__(part).inputs, ANSWERED_AT_ONCE))
    probabilities = np.concatenate(answers)
    if not np.isfinite(probabilities).all():
        raise UserError(f"{process.opened.path.name}: probabilities that are not finite")
    labels, index = (t.numpy() for t in (test.data.labels[test.index], test.index))
    return Predictions(np.log(probabilities.clip(LEAST)), labels, index)


def find_agreement(network: TrainedNetwork, answers: Predictions) -> float:
    """The share of test images with the network's class."""
    return float((answers.classes == network.test.classes).mean())


def check_agreement(network: TrainedNetwork, answers: Predictions, name: str, least: float) -> None:
    """Raise UserError where file and network agree on a smaller share than `least`."""
    agreement = find_agreement(network, answers)
    if agreement < least:
        raise UserError(
            f"format={name}: the file names the network's class for {percent(agreement)} % of "
            f"{len(answers.labels):,} test images, min_agreement={least:g} asks for more\n"
            "nothing was written"
        )


def check_probabilities(network: Network, process: FileProcess) -> str:
    """The largest difference from the network's probabilities, in a sentence.

    Raises UserError where a file of float32 differs by more than the tolerance.
    """
    run, name = network.run, process.opened.format
    view = View.from_run(run)
    gaps = {}
    for kind, batches in read_batches(network).items():
        own = [predict_as_network(run, view, batch) for batch in batches]
        of_file = [torch.from_numpy(process.answer(batch, len(batch))) for batch in batches]
        gaps[kind] = gap = find_largest_gap(own, of_file)
        if FORMATS[name].precision == "float32" and not gap <= TOLERANCE:  # nor NaN
            raise UserError(
                f"format={name}: the file differs by {gap:.2g} from the network over {kind}; "
                f"{TOLERANCE:g} is allowed\nnothing was written"
            )
    differences = ", ".join(f"{gap:.1e} over {kind}" for kind, gap in gaps.items())
    return f"largest difference from the network's probabilities: {differences}"


def find_largest_gap(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(torch.stack([(x - y).abs().max() for x, y in zip(a, b, strict=True)]).max())


def predict_as_network(run: RebuiltRun, view: View, images: Tensor) -> Tensor:
    """Probabilities as `predict` has them, of images uint8 (N, 3, H, W)."""
    photos = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in images]
    return run.module.probabilities(run.logits(torch.stack([view(photo) for photo in photos])))


def read_batches(network: Network) -> dict[str, list[Tensor]]:
    """Batches uint8 (N, 3, H, W) by kind: test images, where they are here, and photographs."""
    photographs = {PHOTOGRAPHS: make_photographs()}
    if network.data is None:
        return photographs
    images = read_test_images(network.data, NUM_COMPARED)
    batches = [*torch.split(images, COMPARED_AT_ONCE)]
    return {pluralize(len(images), "test image"): batches} | photographs


def read_test_images(data: ImageDataModule, most: int) -> Tensor:
    """The first ones, uint8 (N, 3, H, W)."""
    return data.test.__getitems__(torch.arange(min(most, len(data.test)))).inputs


def make_photographs() -> list[Tensor]:
    """Batches uint8 (N, 3, H, W) of `SHAPES`, the same every time.

    They are noise with the spectrum of photographs, 1/f (Field, 1987).
    """
    generator = torch.Generator().manual_seed(0)
    batches = []
    for num, height, width in SHAPES:
        down, across = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
        frequency = (down[:, None] ** 2 + across**2).sqrt()
        frequency[0, 0] = torch.inf  # the mean is set below
        noise = torch.randn(num, 3, height, width, generator=generator)
        pink = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(height, width))
        batches.append((128 + 64 * pink / pink.std()).clamp(0, 255).to(torch.uint8))
    return batches
