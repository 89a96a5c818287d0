"""All that the benchmark measures, in an order that lets a drifting machine cancel out."""

import gc
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import Any

import torch
from torch._inductor.utils import clear_caches, fresh_cache

from triptych import build
from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.record import Record, git_commit, library_versions
from triptych.tools.benchmark.alone import LoaderAlone, PipelineAlone
from triptych.tools.benchmark.bound import Bound
from triptych.tools.benchmark.fixed import Empty, tiny
from triptych.tools.benchmark.ours import Ours
from triptych.tools.benchmark.roofline import roofline
from triptych.tools.benchmark.subject import Subject, made_subject
from triptych.tools.benchmark.turns import Plan, Way, ratios, spread, taken_in_turn
from triptych.tools.benchmark.usual import Usual
from triptych.tools.evaluate.cost import measure_peak_bytes

MOST_STEPS = 2000


def measure(config: Config, record: Record) -> dict[str, Any]:
    """What `out` holds; `record` is that of a run which is never finished."""
    subject = made_subject(config, record)
    mode = config["mode"]
    split = subject.data.train if mode == "train" else subject.data.test
    most_steps = min(MOST_STEPS, len(split) // subject.batch_size - config["warm_up_steps"])
    if most_steps < 1:
        raise UserError(
            f"data.batch_size={subject.batch_size}: {len(split)} images are no "
            f"{config['warm_up_steps'] + 1} batches; take more images, or data=many_shapes"
        )
    plan = Plan(
        mode, config["rounds"], config["block_seconds"], config["warm_up_steps"], most_steps
    )
    found = identity(config, subject)
    found["compile_seconds"] = compile_cost(subject, plan)
    found["peak_memory_bytes"] = peaks(subject, record, plan)
    found |= speeds(config, subject, record, plan)
    found["compiling_repaid_after_images"] = repaid_after(found)
    found["fixed_cost_us"] = fixed_cost(subject, record, plan) if mode == "train" else None
    return found


def identity(config: Config, subject: Subject) -> dict[str, Any]:
    return {
        "model": config["model"]["name"],
        "mode": config["mode"],
        "batch_size": subject.batch_size,
        "input_size": subject.task.backbone.preprocessing.input_size,
        "device": build.device_name(subject.device),
        "precision": subject.precision,
        "compile": config["speed"]["compile"],
        "num_threads": torch.get_num_threads(),
        "versions": library_versions(),
        "git_commit": git_commit(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def speeds(config: Config, subject: Subject, record: Record, plan: Plan) -> dict[str, Any]:
    """Images/s of every way, the ratios of interest, the parts of a step of ours, the roofline."""
    bound, ours = Bound(subject), Ours(subject, record)
    plain = bound
    ways: dict[str, Way] = {
        "bound": bound,
        "bound_with_pipeline": Bound(subject, pipeline=True),
        "ours": ours,
        "loader": LoaderAlone(subject),
        "pipeline": PipelineAlone(subject),
    }
    if config["speed"]["compile"] != "none":
        plain = ways["bound_not_compiled"] = Bound(subject, compiled=False)
    if config["usual"]:
        ways["usual"] = Usual(subject, record.folder, config["usual_workers"])
    taken, failed = taken_in_turn(ways, plan, may_fail=["usual"])
    rates = {way: [subject.batch_size / each for each in taken[way]] for way in taken}
    return {
        "images_per_second": {way: spread(values) for way, values in rates.items()},
        "not_measured": failed,
        "ratios": ratios(rates),
        "parts_ms": ours.parts(plan.warm_up_steps, 5) if plan.mode == "train" else None,
        # A compiler would hide from counters what it does.
        "roofline": roofline(plain, plan.mode, median(rates["bound"])),
    }


def peaks(subject: Subject, record: Record, plan: Plan) -> dict[str, int]:
    """Bytes at the peak of two steps of the bound and of ours, each with nothing beside it."""
    found = {}
    for name in ("bound", "ours"):
        way: Way = Bound(subject) if name == "bound" else Ours(subject, record)
        way.seconds(1, 1, plan.mode)  # searches for kernels, and takes memory for that
        gc.collect()
        found[name] = measure_peak_bytes(partial(way.seconds, 1, 1, plan.mode), subject.device)
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


def compile_cost(subject: Subject, plan: Plan) -> dict[str, float] | None:
    """Seconds that compiling takes at first, and again from what torch has kept on disk."""
    if subject.config["speed"]["compile"] == "none":
        return None
    seconds = {}
    with fresh_cache():
        for when in ("first", "again"):
            torch._dynamo.reset()
            clear_caches()
            before = build.compile_seconds(subject.config) or 0.0
            Bound(subject).seconds(1, 1, plan.mode)
            seconds[when] = (build.compile_seconds(subject.config) or 0.0) - before
    return seconds


def fixed_cost(subject: Subject, record: Record, plan: Plan) -> dict[str, float]:
    """Microseconds a step of a network that is next to nothing, in an empty module and in ours."""
    small = tiny(subject)
    ways: dict[str, Way] = {"empty": Empty(small), "ours": Ours(small, record)}
    taken, _ = taken_in_turn(ways, plan)
    each = {name: 1e6 * median(values) for name, values in taken.items()}
    both = zip(taken["ours"], taken["empty"], strict=True)
    return each | {"added": 1e6 * median(ours - empty for ours, empty in both)}
