"""What this device can do at most, measured, and what a step asks of it, counted.

A step can be no faster than its arithmetic at the rate of a large matrix product, nor than its
bytes at the rate of a large copy. Bytes are those that eager kernels read and write; a compiler
that fuses kernels moves fewer.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from triptych.tools.benchmark.bound import Bound
from triptych.tools.evaluate.cost import time_calls
from triptych.tools.evaluate.rebuild import AUTOCAST

MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}
COPIED_BYTES = {"cuda": 2**30, "cpu": 2**27}  # far more than a cache holds
SECONDS = 0.5
MOVES_NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view"}


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that operators read and write; views read and write nothing."""

    num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ not in MOVES_NOTHING:
            written = result
            if result is None:  # all in place, as a fused optimizer works
                given = zip(func._schema.arguments, args, strict=False)
                written = [value for argument, value in given if argument.is_write]
            tensors = [t for t in tree_leaves((args, kwargs, written)) if isinstance(t, Tensor)]
            self.num_bytes += sum(t.numel() * t.element_size() for t in tensors)
        return result


def counted(step: Callable[[], object]) -> tuple[int, int]:
    """Floating-point operations of a step (two to a multiply-accumulate), and bytes moved."""
    with FlopCounterMode(display=False) as flops:
        step()
    with Traffic() as traffic:  # type: ignore[no-untyped-call]
        step()
    return int(flops.get_total_flops()), traffic.num_bytes


def rates(device: torch.device, precision: str) -> tuple[float, float]:
    """FLOP/s of a matrix product in the precision, and bytes/s of a copy: the best of many."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    side = MATRIX_SIDE[kind]
    # Of random numbers: a GPU multiplies ones with less power, and so faster.
    matrix = torch.randn(side, side, device=device, dtype=AUTOCAST.get(precision, torch.float32))
    source = torch.ones(COPIED_BYTES[kind], device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    product = min(time_calls(lambda: matrix @ matrix, device, SECONDS, 2))
    copy = min(time_calls(lambda: target.copy_(source), device, SECONDS, 2))
    return 2 * side**3 / product, 2 * COPIED_BYTES[kind] / copy


def roofline(bound: Bound, mode: str, images_per_second: float) -> dict[str, float]:
    """Where a step of the bound stands below the device's two rates."""
    step = bound.train if mode == "train" else bound.infer
    flops, num_bytes = counted(step)
    flops_per_second, bytes_per_second = rates(bound.subject.device, bound.subject.precision)
    steps_per_second = images_per_second / bound.subject.batch_size
    return {
        "flops_per_step": flops,
        "bytes_per_step": num_bytes,
        "device_flops_per_second": flops_per_second,
        "device_bytes_per_second": bytes_per_second,
        "share_of_flops": flops * steps_per_second / flops_per_second,
        "share_of_bytes": num_bytes * steps_per_second / bytes_per_second,
    }
