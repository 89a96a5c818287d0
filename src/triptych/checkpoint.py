"""Checkpoints that are whole or not there, and hold nothing but data."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from triptych import Refused
from triptych.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames: what lies there is whole, new or old."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:  # torch's way of saying that a write failed
                raise OSError(f"{path}: could not be written; is the disk full?") from error


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU, its tensors read when used; raises Refused at code."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise Refused(f"{path}: no checkpoint, or damaged; nothing of it was run") from error
    if not isinstance(content, dict):
        raise Refused(f"{path}: no checkpoint")
    return content


def generator_states(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of the global generators that dropout, MixUp and CutMix draw from."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_generators(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
