"""What a network costs: the name, the words and the unit of each cost, wherever it is shown."""

from typing import Literal, NamedTuple


class Cost(NamedTuple):
    """A cost that stands in a `Row` by its `name`, as it does in `cost.json` where that has it.

    `form` writes a value with its unit. `least` says in a verdict what the best has; None, and the
    verdict is silent. `of` is the field of a `Row` that says what the cost was measured on.
    """

    name: str
    words: str
    form: str
    least: str | None = None
    unit: str = ""  # of an axis, to which a prefix may be put
    sign: int = 1  # -1 where more is better
    of: Literal["measured_on", "trained_on"] | None = None


COSTS = (
    Cost("num_params", "parameters", "{:,}", least="fewest parameters"),
    Cost(
        "macs",
        "multiply-accumulates an image",
        "{:,}",
        least="fewest multiply-accumulates an image",
    ),
    Cost("checkpoint_bytes", "checkpoint size", "{:,} bytes", unit="B"),
    Cost(
        "train_images_per_second",
        "training, images/s",
        "{:,.0f} images/s",
        sign=-1,
        of="trained_on",
    ),
    Cost("seconds_per_epoch", "training, seconds an epoch", "{:.1f} s", of="trained_on"),
    Cost(
        "latency_ms_p50",
        "median latency at batch 1, ms",
        "{:.1f} ms",
        least="shortest median latency at batch 1",
        of="measured_on",
    ),
    Cost(
        "latency_ms_p95",
        "95th percentile of the latency at batch 1, ms",
        "{:.1f} ms",
        of="measured_on",
    ),
    Cost(
        "throughput_images_per_second",
        "throughput, images/s",
        "{:,.0f} images/s",
        least="highest throughput",
        sign=-1,
        of="measured_on",
    ),
    Cost(
        "peak_memory_bytes",
        "peak memory (on a CPU: of the whole process)",
        "{:,} bytes",
        unit="B",
        of="measured_on",
    ),
)
