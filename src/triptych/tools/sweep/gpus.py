"""The GPUs of a sweep, lent to one job at a time. Asks the driver, so that torch stays out."""

import os
import re
import subprocess
from itertools import pairwise, takewhile

from triptych.config import Config

DRIVER_SECONDS = 30  # to answer; one that hangs has no GPU to lend


def visible() -> list[str]:
    """The GPUs this process may use, by names that `CUDA_VISIBLE_DEVICES` takes."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return installed()
    names = (name.strip() for name in listed.split(","))
    return list(takewhile(re.compile(r"\w").match, names))  # CUDA, too, stops at the first -1


def installed() -> list[str]:
    """The UUIDs of the machine's GPUs, of their MIG parts where they are divided."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=DRIVER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    names = re.findall(r"\(UUID: ((?:GPU|MIG)-[\w/-]+)\)", listed.stdout)
    # A divided GPU is followed by its parts, and cannot be used as a whole.
    followed = pairwise([*names, ""])
    return [n for n, after in followed if n.startswith("MIG") or not after.startswith("MIG")]


def num_wanted(config: Config, num_visible: int) -> int:
    """How many GPUs a job borrows: none on a CPU, or where it lists its own."""
    trainer = config["trainer"]
    devices = trainer.get("devices", 1)
    if not num_visible or trainer["accelerator"] not in ("auto", "gpu", "cuda"):
        return 0
    if isinstance(devices, list):
        return 0
    return num_visible if devices == "auto" else int(devices)
