"""What a network costs, measured: size, arithmetic, time, memory.

Not by `torch.utils.benchmark`: it times blocks of calls, which have no percentile of single ones.
"""

import ctypes
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from triptych.build import device_name
from triptych.config import MAX_PIXELS
from triptych.runs.record import library_versions
from triptych.tools.evaluate.rebuild import RebuiltRun

LARGEST_BATCH = 4096
NUM_WARM_UPS = 3
MAX_CALLS = 200  # timed: ten of them above the 95th percentile
LEAST_GAIN = 1.02  # of throughput, for a larger batch to count as faster


def measure_cost(run: RebuiltRun, seconds: float, peak_memory_bytes: int) -> dict[str, Any]:
    """What `cost.json` holds; each measure of time takes `seconds` at most, roughly.

    Inference starts from float images on the device. `macs` counts multiply-accumulates for one
    image: half of what torch's counter, which has two operations to each, reports.
    """
    metadata = run.record.metadata
    train_seconds, num_epochs = metadata["train_seconds"], metadata["num_epochs"]
    call = inference_call(run, 1)
    with torch.inference_mode():
        latencies = 1000 * np.array([*time_calls(call, run.device, seconds, NUM_WARM_UPS)])
        throughput, batch_size = find_best_throughput(run, seconds)
        with FlopCounterMode(display=False) as counter:
            call()
    return {
        "num_params": sum(p.numel() for p in run.backbone.parameters()),
        "macs": int(counter.get_total_flops()) // 2,
        "checkpoint_bytes": run.record.checkpoint_path("best").stat().st_size,
        "train_images_per_second": metadata["images_per_second"],
        "seconds_per_epoch": train_seconds / num_epochs if train_seconds and num_epochs else None,
        "latency_ms_p50": float(np.median(latencies)),
        "latency_ms_p95": float(np.quantile(latencies, 0.95)),
        "throughput_images_per_second": throughput,
        "throughput_batch_size": batch_size,
        "peak_memory_bytes": peak_memory_bytes,
        "device": device_name(run.device),
        "precision": run.precision,
        "num_threads": torch.get_num_threads(),
        "versions": library_versions(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def inference_call(run: RebuiltRun, batch_size: int) -> Callable[[], Tensor]:
    """Inference on a batch of grey images, as a call without arguments."""
    size = run.backbone.preprocessing.input_size
    images = torch.zeros(batch_size, 3, size, size, device=run.device)
    return lambda: run.forward(images)


def time_calls(
    call: Callable[[], Tensor], device: torch.device, seconds: float, num_warm_ups: int
) -> Iterator[float]:
    """Seconds of single calls, each awaited, for about `seconds` in all.

    One call at least, `MAX_CALLS` at most.
    """
    for _ in range(num_warm_ups):
        call()
    synchronize(device)
    end = time.perf_counter() + seconds
    for _ in range(MAX_CALLS):
        start = time.perf_counter()
        call()
        synchronize(device)
        stop = time.perf_counter()
        yield stop - start
        if stop > end:
            break


def synchronize(device: torch.device) -> None:
    """Wait for what the device was given to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def find_best_throughput(run: RebuiltRun, seconds: float) -> tuple[float, int]:
    """Images/s and the batch size of the fastest batches, of sizes that double within `seconds`.

    Ends where memory does, or where two sizes in a row were no faster.
    """
    best, best_size, size = 0.0, 1, 1
    end = time.perf_counter() + seconds
    largest = min(LARGEST_BATCH, MAX_PIXELS // run.backbone.preprocessing.input_size**2)
    while size <= min(largest, 4 * best_size):
        try:
            times = [*time_calls(inference_call(run, size), run.device, seconds / 20, 1)]
        except torch.OutOfMemoryError:
            break
        throughput = size / float(np.median(times))
        if throughput > best * LEAST_GAIN:
            best, best_size = throughput, size
        size *= 2
        if time.perf_counter() + 4 * max(times) > end:
            break
    return best, best_size


def measure_peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Bytes at the peak of a call.

    On a GPU what torch has allocated; elsewhere what the whole process holds, Python and torch
    included. Where that peak cannot be reset (only Linux can) it is the process's since its start.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device)
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what earlier calls have left
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident size
    call()
    synchronize(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2) of either
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
