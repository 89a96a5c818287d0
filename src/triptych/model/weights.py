"""Weights from a file of one's own."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from triptych import Refused


def load_weights(network: nn.Module, head: str, path: Path, ignored: tuple[str, ...] = ()) -> None:
    """Load a state dict, bare or under `state_dict`; without a head of this size ours stays.

    Parameters whose names start with one of `ignored` are passed over. Raises Refused where the
    file cannot be read, holds code, or belongs to another network.
    """
    own = network.state_dict()
    head_names = {f"{head}.weight", f"{head}.bias"} & own.keys()
    try:
        checkpoint = read(path)
        stored = checkpoint.get("state_dict", checkpoint)
        named = within_network(stored)
        if not all(isinstance(value, Tensor) for value in named.values()):
            raise TypeError("not all that it names are tensors")
        state = OrderedDict((n, v) for n, v in named.items() if not n.startswith(ignored))
        if any(name not in state or state[name].shape != own[name].shape for name in head_names):
            state |= {name: own[name] for name in head_names}
        state._metadata = within_network(getattr(stored, "_metadata", {}))  # type: ignore[attr-defined]
    except Exception as error:
        raise Refused(f"weights {path}: no file of weights ({first_line(error)})") from error
    try:
        network.load_state_dict(state)
    except (RuntimeError, ValueError) as error:  # MNASNet's over a version
        reason = " ".join(str(error).splitlines()[1:2]).strip()
        raise Refused(f"weights {path}: of another network\n{reason[:200]}") from error


def read(path: Path) -> Any:
    """What a file of tensors holds; anything but tensors in it raises."""
    if path.suffix == ".safetensors":
        return import_module("safetensors.torch").load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def within_network(named: Mapping[str, Any]) -> dict[str, Any]:
    """By the network's own names, also where they are those of `last.ckpt`."""
    prefix = re.compile(r"^backbone\.network(\.|$)")
    return {prefix.sub("", name): value for name, value in named.items()}


def first_line(error: BaseException) -> str:
    """What an exception says, in one line, less torch's advice to lift its guard against code."""
    if isinstance(error, UnpicklingError):
        return "it holds more than tensors, or is damaged"
    return (str(error) or type(error).__name__).splitlines()[0][:200]
