"""Checkpoints that are whole or not there, and hold nothing but data."""

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import distributed, nn

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


def load_into(network: nn.Module, path: Path) -> None:
    """Give a network the weights of `best.ckpt`; raises Refused where they are another's."""
    content = load(path)
    try:
        network.load_state_dict(content["state_dict"])
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise Refused(f"{path}: of another network, or damaged") from error


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU, its tensors read when used; raises Refused at code, and
    where a byte has changed: torch writes checksums, but does not look at them."""
    try:
        with ZipFile(path) as archive:
            if changed := archive.testzip():
                raise ValueError(f"{changed} is not what was written")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise Refused(f"{path}: no checkpoint, or damaged; nothing of it was run") from error
    if not isinstance(content, dict):
        raise Refused(f"{path}: no checkpoint")
    return content


def step_of(path: Path) -> int:
    """The step that `last.ckpt` was saved at; raises Refused where it is not whole."""
    content = load(path)
    try:
        place, progress = content["ImageData"], content["loops"]["fit_loop"]
        counts = [content["global_step"], place["epoch"], place["batch"]]
        counts.append(progress["epoch_loop.batch_progress"]["current"]["ready"])
        kept = content["callbacks"]["Journal"]
        counts += [kept["num_images"], kept["num_epochs"], kept["best"]["epoch"]]
        if not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError("no place in the training")
        measured = [kept["train_seconds"], kept["best"]["accuracy"], *content["epoch_loss"]]
        if not all(type(n) in (int, float) for n in measured):
            raise ValueError("no account of the training")
        if len(content["optimizer_states"]) != 1 or len(content["lr_schedulers"]) != 1:
            raise ValueError("no optimizer, or no schedule")
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"{path}: no checkpoint of a training") from error
    return int(content["global_step"])


def generator_states(device: torch.device) -> list[dict[str, torch.Tensor]]:
    """The states of the global generators that dropout draws from, of every rank."""
    states = {"cpu": torch.get_rng_state()}
    states |= {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    if not distributed.is_initialized():
        return [states]
    every: list[dict[str, torch.Tensor]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(every, states)
    return every


def restore_generators(every: list[dict[str, torch.Tensor]], device: torch.device) -> None:
    """Go on with this rank's generators; a rank that had none yet gets its own seed."""
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    if rank >= len(every):
        torch.manual_seed(torch.initial_seed() + rank)  # else all ranks would drop the same units
        return
    torch.set_rng_state(every[rank]["cpu"])
    if "cuda" in every[rank] and device.type == "cuda":
        torch.cuda.set_rng_state(every[rank]["cuda"], device)
