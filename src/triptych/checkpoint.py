"""Checkpoints that are whole or not there, and hold nothing but data."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from triptych.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames: what lies there is whole, new or old."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU, its tensors read when they are used; code is refused."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return content
