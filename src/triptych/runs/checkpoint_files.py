"""Checkpoints on disk: whole or not there, and nothing but data (`weights_only=True`)."""

from pathlib import Path
from pickle import PickleError
from typing import Any
from zipfile import ZipFile

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from triptych.errors import UserError
from triptych.models import is_mappable
from triptych.runs.storage import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames: what lies there is whole, new or old."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(path)) as temporary:
            try:
                torch.save(checkpoint, temporary)
                torch.load(temporary, weights_only=True, mmap=is_mappable(temporary))
            except RuntimeError as error:  # torch's way of saying that a write failed
                raise OSError(f"{path}: could not be written; is the disk full?") from error
            except (PickleError, AttributeError, TypeError) as error:
                from triptych.runs.failures import explain_state

                raise explain_state(error) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU, its tensors read when used.

    Raises UserError where it holds code, and where a byte has changed: torch writes checksums, but
    does not look at them.
    """
    try:
        with ZipFile(path) as archive:
            if changed := archive.testzip():
                raise ValueError(f"{changed} is not what was written")
        mapped = is_mappable(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise UserError(f"{path}: no checkpoint, or damaged; nothing of it was run") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: no checkpoint")
    return content


def load_weights_into(network: nn.Module, path: Path) -> None:
    """Give a network the weights of `best.ckpt`; raises UserError where they do not fit."""
    content = load_checkpoint(path)
    try:
        network.load_state_dict(content["state_dict"])
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).splitlines()[:2])[:200]  # torch lists every tensor
        raise UserError(f"{path}: of another network, or damaged\n{reason}") from error
