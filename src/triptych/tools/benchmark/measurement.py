"""All that the benchmark measures, in an order that lets a drifting machine cancel out."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import Any

import torch

from triptych.build import device_name
from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.record import Record, git_commit, library_versions
from triptych.tools.benchmark.ways import Bound, Ours, Subject, Usual
from triptych.tools.evaluate.cost import measure_peak_bytes

MAX_STEPS = 2000


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
        "input_size": subject.task.backbone.preprocessing.input_size,
        "device": device_name(subject.device),
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
