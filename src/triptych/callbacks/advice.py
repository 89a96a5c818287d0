"""What would be quicker than a training that takes hours on a CPU, as commands."""

import shlex

from triptych.config import Config, setting_name
from triptych.runs.durations import format_duration
from triptych.runs.record import Record

AIM = 3600.0  # seconds that what is advised takes at most, where that can be
SIZES = (224, 160, 128, 96, 64, 32)  # pixels a side


def advise(record: Record, seconds: float) -> str:
    """A line, and below it commands, built from what was typed."""
    overrides = record.metadata.get("overrides") or []
    lines = [f"{format_duration(seconds)} on a CPU; quicker are a GPU, or smaller experiments:"]
    for setting, guess in find_quicker(record, seconds).items():
        same = [o for o in overrides if setting_name(o) != setting.partition("=")[0]]
        lines.append(f"python train.py {shlex.join([*same, setting])}  # {guess}")
    return "\n".join(lines)


def find_quicker(record: Record, seconds: float) -> dict[str, str]:
    """Settings, each with what it would take instead of so many seconds."""
    model, metadata = record.config["model"], record.metadata
    shares: dict[str, float] = {}  # of the time, in proportion to images or to their area
    num_train = int(metadata["num_train"] * AIM / seconds)
    num_train -= num_train % 10 ** max(0, len(str(num_train)) - 1)  # a round number
    if num_train >= 10 * len(metadata["classes"]):
        shares[f"data.num_train={num_train}"] = num_train / metadata["num_train"]
    if "input_size" in model:  # not of every network of one's own
        now = metadata["input_size"]
        if size := choose_size(model, now, seconds):
            shares[f"model.input_size={size}"] = (size / now) ** 2
    quicker = {name: f"about {format_duration(part * seconds)}" for name, part in shares.items()}
    if model.get("weights") and model.get("freeze", "none") == "none":
        quicker["experiment=probe"] = "the head alone is trained"
    return quicker


def choose_size(model: Config, now: int, seconds: float) -> int | None:
    """The largest input that takes `AIM` at most, or the smallest of all; None if that is none."""
    least = model.get("min_input_size") or 32
    smaller = [size for size in SIZES if least <= size < now]
    quick = [size for size in smaller if (size / now) ** 2 * seconds <= AIM]
    return next(iter([*quick, *reversed(smaller)]), None)
