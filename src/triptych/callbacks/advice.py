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
    config, metadata = record.config, record.metadata
    found: dict[str, str] = {}
    num_train = int(metadata["num_train"] * AIM / seconds)
    num_train -= num_train % 10 ** max(0, len(str(num_train)) - 1)  # a round number
    if num_train >= 10 * len(metadata["classes"]):
        share = num_train / metadata["num_train"]
        found[f"data.num_train={num_train}"] = f"about {format_duration(share * seconds)}"
    has_size = "input_size" in config["model"]  # not of every network of one's own
    if has_size and (size := choose_size(config, metadata["input_size"], seconds)):
        share = (size / metadata["input_size"]) ** 2
        found[f"model.input_size={size}"] = f"about {format_duration(share * seconds)}"
    model = config["model"]
    if model.get("weights") and model.get("freeze", "none") == "none":
        found["experiment=probe"] = "the head alone is trained"
    return found


def choose_size(config: Config, now: int, seconds: float) -> int | None:
    """The largest input that takes `AIM` at most, or the smallest of all; None if that is none."""
    least = config["model"].get("min_input_size") or 32
    smaller = [size for size in SIZES if least <= size < now]
    quick = [size for size in smaller if (size / now) ** 2 * seconds <= AIM]
    return next(iter([*quick, *reversed(smaller)]), None)
