"""All that the benchmark measures, in an order that lets a drifting machine cancel out."""

import gc
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import Any, NamedTuple, Protocol

import torch

from triptych import building
from triptych.config import Config
from triptych.evaluation.cost import peak_bytes
from triptych.identity import git_commit, library_versions
from triptych.record import Record
from triptych.speed.alone import LoaderAlone, PipelineAlone
from triptych.speed.bound import Bound
from triptych.speed.fixed import Empty, tiny
from triptych.speed.ours import Ours
from triptych.speed.roofline import roofline
from triptych.speed.subject import Subject, subject
from triptych.speed.usual import Usual

MOST_STEPS = 2000


class Way(Protocol):
    """A way of taking steps, `seconds` of which are measured after some that are not."""

    def seconds(self, warm_up_steps: int, steps: int, mode: str) -> float: ...


class Plan(NamedTuple):
    """How often and how long each way is measured."""

    mode: str
    rounds: int
    block_seconds: float
    warm_up_steps: int
    most_steps: int


def measure(config: Config, record: Record) -> dict[str, Any]:
    """What `out` holds; `record` is that of a run which is never finished."""
    measured = subject(config, record)
    mode = config["mode"]
    split = measured.data.train if mode == "train" else measured.data.test
    most_steps = min(MOST_STEPS, len(split) // measured.batch_size - config["warm_up_steps"])
    plan = Plan(
        mode, config["rounds"], config["block_seconds"], config["warm_up_steps"], most_steps
    )
    found = identity(config, measured)
    found["compile_seconds"] = compile_cost(measured, plan)
    found["peak_memory_bytes"] = peaks(measured, record, plan)
    found |= speeds(config, measured, record, plan)
    found["compiling_repaid_after_images"] = repaid_after(found)
    found["fixed_cost_us"] = fixed_cost(measured, record, plan) if mode == "train" else None
    return found


def identity(config: Config, measured: Subject) -> dict[str, Any]:
    return {
        "model": config["model"]["name"],
        "mode": config["mode"],
        "batch_size": measured.batch_size,
        "input_size": measured.task.backbone.expects.input_size,
        "device": building.device_name(measured.device),
        "precision": measured.precision,
        "compile": config["speed"]["compile"],
        "num_threads": torch.get_num_threads(),
        "versions": library_versions(),
        "git_commit": git_commit(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def speeds(config: Config, measured: Subject, record: Record, plan: Plan) -> dict[str, Any]:
    """Images/s of every way, the ratios of interest, the parts of a step of ours, the roofline."""
    bound, ours = Bound(measured), Ours(measured, record)
    ways: dict[str, Way] = {
        "bound": bound,
        "bound_with_pipeline": Bound(measured, pipeline=True),
        "ours": ours,
        "loader": LoaderAlone(measured),
        "pipeline": PipelineAlone(measured),
    }
    if config["speed"]["compile"] != "none":
        ways["bound_not_compiled"] = Bound(measured, compiled=False)
    if config["usual"]:
        ways["usual"] = Usual(measured, record.folder, config["usual_workers"])
    taken = taken_in_turn(ways, plan)
    rates = {way: [measured.batch_size / each for each in taken[way]] for way in taken}
    plain_bound = Bound(measured, compiled=False)  # a compiler hides what it does from counters
    return {
        "images_per_second": {way: spread(values) for way, values in rates.items()},
        "ratios": ratios(rates),
        "parts_ms": ours.parts(plan.warm_up_steps, 5) if plan.mode == "train" else None,
        "roofline": roofline(plain_bound, plan.mode, median(rates["bound"])),
    }


def taken_in_turn(ways: Mapping[str, Way], plan: Plan) -> dict[str, list[float]]:
    """Seconds a step of every way, once a round; each round begins with another way."""
    steps = {}
    for name, way in ways.items():
        way.seconds(plan.warm_up_steps, 1, plan.mode)  # searches, allocates, compiles
        once = way.seconds(plan.warm_up_steps, 1, plan.mode)
        steps[name] = max(1, min(plan.most_steps, round(plan.block_seconds / max(once, 1e-6))))
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(plan.rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds = ways[name].seconds(plan.warm_up_steps, steps[name], plan.mode)
            taken[name].append(seconds / steps[name])
    return taken


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratios(rates: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Ours over the others, round by round, so that both saw the machine in the same state."""
    others = [name for name in ("bound", "bound_with_pipeline", "usual") if name in rates]
    return {
        f"ours/{name}": spread([a / b for a, b in zip(rates["ours"], rates[name], strict=True)])
        for name in others
    }


def peaks(measured: Subject, record: Record, plan: Plan) -> dict[str, int]:
    """Bytes at the peak of two steps of the bound and of ours, each with nothing beside it."""
    found = {}
    for name in ("bound", "ours"):
        way: Way = Bound(measured) if name == "bound" else Ours(measured, record)
        found[name] = peak_bytes(partial(way.seconds, 1, 1, plan.mode), measured.device)
        del way
        gc.collect()
    return found


def repaid_after(found: Mapping[str, Any]) -> float | None:
    """Images after which compiling has saved the time it took; None where it saves none."""
    rates, seconds = found["images_per_second"], found["compile_seconds"]
    if seconds is None:
        return None
    saved = 1 / rates["bound_not_compiled"]["median"] - 1 / rates["bound"]["median"]
    return seconds["first"] / saved if saved > 0 else None


def compile_cost(measured: Subject, plan: Plan) -> dict[str, float] | None:
    """Seconds that compiling takes, and takes again from what torch keeps on disk."""
    if measured.config["speed"]["compile"] == "none":
        return None
    seconds = []
    for _ in range(2):
        torch._dynamo.reset()
        before = building.compile_seconds(measured.config) or 0.0
        Bound(measured).seconds(1, 1, plan.mode)
        seconds.append((building.compile_seconds(measured.config) or 0.0) - before)
    return dict(zip(("first", "again"), seconds, strict=True))


def fixed_cost(measured: Subject, record: Record, plan: Plan) -> dict[str, float]:
    """Microseconds a step of a network that is next to nothing, in an empty module and in ours."""
    small = tiny(measured)
    ways: dict[str, Way] = {"empty": Empty(small), "ours": Ours(small, record)}
    taken = taken_in_turn(ways, plan)
    each = {name: 1e6 * median(values) for name, values in taken.items()}
    both = zip(taken["ours"], taken["empty"], strict=True)
    return each | {"added": 1e6 * median(ours - empty for ours, empty in both)}
