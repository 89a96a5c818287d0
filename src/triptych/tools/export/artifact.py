"""From a run folder to an exported file, checked against the network, and its model card.

Shapes: N images of H x W pixels, C classes.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from triptych.callbacks.progress import silence_lightning
from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import read_finished, sanitize
from triptych.runs.record import library_versions
from triptych.runs.storage import atomic_write, translate_write_errors
from triptych.tools.compare.formats import pluralize
from triptych.tools.compare.runs import TrainedNetwork, read_run
from triptych.tools.evaluate.cost import NUM_WARM_UPS, time_calls
from triptych.tools.evaluate.rebuild import RebuiltRun, read_data, rebuild_run
from triptych.tools.export.card import describe_file, list_scores, render_card, render_task_card
from triptych.tools.export.formats import FORMATS, Format, Predict
from triptych.tools.export.program import trace_program
from triptych.tools.predict.images import View

log = logging.getLogger(__name__)

TOLERANCE = 1e-3  # of a probability
NUM_TEST_IMAGES = 64  # at most
BATCH_SIZE = 16
PHOTOGRAPHS = "synthetic photographs of 640x480 and other sizes"
# N, H, W: 640x480 alone and as a batch, a tall one, one smaller than any network's input.
SHAPES = ((1, 480, 640), (3, 480, 640), (2, 100, 37), (1, 19, 23))


def write_artifact(folder: Path, path: Path, card: Path, config: Config) -> None:
    """Write the run's network to `path` and its card, both or neither.

    Raises UserError where the run cannot be read, its network cannot be exported, the file's
    probabilities differ from the network's, or a file cannot be written.
    """
    silence_lightning()
    record = read_finished(folder)
    network = None if record.metadata.get("task") else read_run(folder)
    rebuilt = rebuild_run(folder, config["trusted_targets"])
    model, seed, data = (sanitize(record.metadata[name]) for name in ("model", "seed", "data"))
    log.info("%s seed %d on %s: exporting", model, seed, data)
    metadata = describe_network(rebuilt, network)
    batches = read_batches(rebuilt, config["data_root"])
    program = trace_program(rebuilt)
    form = FORMATS[config["format"]]
    with translate_write_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(card) as temporary_card, atomic_write(path) as temporary:
            form.write(program, temporary, metadata)
            checks = check_file(form, temporary, rebuilt, batches, config["time_seconds"])
            file = describe_file(temporary, path.name, config["format"])
            render = partial(render_card, network) if network else partial(render_task_card, record)
            text = render(metadata, checks, file)
            temporary_card.write_text(text, encoding="utf-8")
    for sentence in checks:
        log.info("%s", sentence)
    log.info("written: %s (%s) and %s", path, file["size"], card.name)


def describe_network(rebuilt: RebuiltRun, network: TrainedNetwork | None) -> dict[str, Any]:
    """The metadata inside the file; `network` has its scores where an image has one label."""
    view, record = View.from_run(rebuilt), sanitize(rebuilt.record.metadata)
    scores = {"accuracy": network.scores.accuracy} if network else list_scores(record)
    names = ("model", "weights", "data", "seed", "config_hash")
    return {
        "classes": sanitize(list(rebuilt.classes)),
        **{name: record[name] for name in names},
        **scores,
        "num_test": record["num_test"] if network is None else network.num_test,
        "input_size": view.input_size,
        "fit": view.stored[1] if view.stored else "stretch",
        "triptych": library_versions()["triptych"],
    }


def check_file(
    form: Format,
    path: Path,
    run: RebuiltRun,
    batches: Mapping[str, Sequence[Tensor]],
    seconds: float,
) -> list[str]:
    """The largest difference and the time per image, in sentences; `seconds` to time each.

    Raises UserError where a probability differs by more than the tolerance.
    """
    exported = form.open(path)
    reference = partial(predict_as_network, run, View.from_run(run))
    gaps = compare_outputs(reference, exported, batches)
    differences = ", ".join(f"{gap:.1e} over {kind}" for kind, gap in gaps.items())
    functions: dict[str, Predict] = {form.runtime: exported, "the network in torch": reference}
    times = []
    for name, function in functions.items():
        call = partial(function, batches[PHOTOGRAPHS][0])
        all_seconds = time_calls(call, torch.device("cpu"), seconds, NUM_WARM_UPS)
        times.append(f"{name} {1000 * float(np.median([*all_seconds])):.1f} ms")
    threads = pluralize(torch.get_num_threads(), "thread")
    return [
        f"largest difference from the network's probabilities: {differences}",
        f"an image of 640x480 takes {', '.join(times)} (CPU, {threads})",
    ]


def predict_as_network(run: RebuiltRun, view: View, images: Tensor) -> Tensor:
    """Probabilities as `predict` has them, of images uint8 (N, 3, H, W)."""
    photos = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in images]
    return run.module.probabilities(run.logits(torch.stack([view(photo) for photo in photos])))


def compare_outputs(
    network: Predict, exported: Predict, batches: Mapping[str, Sequence[Tensor]]
) -> dict[str, float]:
    """By kind of images, the largest difference over batches uint8 (N, 3, H, W)."""
    differences = {}
    for kind, of_kind in batches.items():
        gaps = [(network(batch) - exported(batch)).abs().max() for batch in of_kind]
        differences[kind] = value = float(torch.stack(gaps).max())
        if not value <= TOLERANCE:  # nor NaN
            raise UserError(
                f"the exported file differs by {value:.2g} from the network over {kind}; "
                f"{TOLERANCE:g} is allowed\nnothing was written"
            )
    return differences


def read_batches(run: RebuiltRun, root: str | None) -> dict[str, list[Tensor]]:
    """Batches uint8 (N, 3, H, W) by kind: test images, and synthetic photographs.

    Without the data there are synthetic ones alone, and a warning. Raises UserError where `root` is
    given and does not hold the data.
    """
    batches: dict[str, list[Tensor]] = {}
    try:
        part = read_data(run, root).test
        images = part.__getitems__(torch.arange(min(NUM_TEST_IMAGES, len(part)))).inputs
        batches[pluralize(len(images), "test image")] = [*torch.split(images, BATCH_SIZE)]
    except UserError as error:
        if root is not None:
            raise
        log.warning("checked without test images: %s", " ".join(str(error).split()))
    return batches | {PHOTOGRAPHS: make_photographs()}


def make_photographs() -> list[Tensor]:
    """Batches uint8 (N, 3, H, W) of `SHAPES`, the same every time; the first is timed.

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
