"""What a file of weights holds, and why a file holds none.

Nothing in a file is run: what is no tensor, number or text is read as an inert `Placeholder`.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from triptych.errors import list_first, summarize_error

MAX_DEPTH = 4  # of mappings in a file: {"ema": {"module": {...}}}
SAFETENSORS_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}


class Placeholder:
    """Stands in for an object of any class but a tensor; its class is not even imported."""

    state: Any = None

    def __init__(self, *args: Any, **options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_content(path: Path) -> Any:
    """What a file holds, on the CPU. Raises many types of errors where that is not weights."""
    if path.suffix.lower() == ".safetensors":
        return read_safetensors(path)
    is_zip = is_zipfile(path)
    if is_zip and "constants.pkl" in list_entries(path):
        raise ValueError("TorchScript")  # which torch would run
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True, "mmap": is_zip}
    try:
        return torch.load(path, **options)
    except UnpicklingError:
        if not is_zip:  # before torch 1.6
            raise
    # Neither import nor call what they name: a placeholder takes its place.
    names = get_unsafe_globals_in_checkpoint(path)
    with safe_globals([(Placeholder, name) for name in names]):
        return torch.load(path, **options)


def list_entries(path: Path) -> set[str]:
    """The names in a zip archive, below its one folder."""
    with ZipFile(path) as archive:
        return {name.partition("/")[2] or name for name in archive.namelist()}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The length of a JSON header, the header, the tensors: github.com/huggingface/safetensors."""
    content = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8:end]).items():
        if name == "__metadata__":
            continue
        dtype, (start, stop) = SAFETENSORS_DTYPES[entry["dtype"]], entry["data_offsets"]
        if not 0 <= start <= stop <= len(content) - end:
            raise ValueError(f"{name} is cut off")
        data = content[end + start : end + stop]
        tensor = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        tensors[name] = tensor.reshape(entry["shape"])
    return tensors


def explain_unreadable(path: Path, error: Exception) -> str:
    """What a file is that holds no weights, and what to give instead."""
    if path.is_dir():
        inside = next(path.rglob("best.ckpt"), path / "<file>")
        return f"a folder; give the file in it, as model.weights={inside}"
    if not path.exists():
        return summarize_error(error)
    if is_zipfile(path):
        return explain_archive(path, error)
    with path.open("rb") as file:
        start = file.read(200)
    if not start:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself; 'git lfs pull' fetches that"
    if start.lstrip().startswith(b"<"):
        return "a web page, not weights; download the file itself"
    if start.startswith(b"\x1f\x8b"):
        return "compressed; unpack it first"
    is_text = all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start)
    return "a text, not weights" if is_text else f"no file of weights ({summarize_error(error)})"


def explain_archive(path: Path, error: Exception) -> str:
    names = list_entries(path)
    if "constants.pkl" in names:
        return (
            "a TorchScript program; save its weights: "
            "torch.save(torch.jit.load(file).state_dict(), 'weights.pth')"
        )
    if names & {"archive_format", "serialized_exported_program.json"}:
        return "an exported program; give the run's checkpoints/best.ckpt instead"
    if "data.pkl" not in names:
        return f"a zip archive of other files ({list_first(sorted(names))}), not weights"
    return (
        f"no file of weights ({summarize_error(error)})\n"
        "its owner can save them alone: torch.save(network.state_dict(), 'weights.pth')"
    )


def find_tensors(
    content: Any, place: str = "", depth: int = MAX_DEPTH
) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Every mapping of names to tensors in a file, and the tensors of every network, by place."""
    if isinstance(content, Placeholder) and isinstance(content.state, dict):
        content = OrderedDict(iterate_module(content.state)) or content.state
    if not isinstance(content, Mapping) or not depth:
        return
    tensors = OrderedDict(
        (name, value)
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    )
    if tensors:
        tensors._metadata = getattr(content, "_metadata", None)  # type: ignore[attr-defined]
        yield place, tensors
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping | Placeholder):
            yield from find_tensors(value, f"{place}.{name}" if place else name, depth - 1)


def iterate_module(state: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a network that was pickled whole, named as `state_dict` names them."""
    own = [state.get(kind) or {} for kind in ("_parameters", "_buffers")]
    left_out = state.get("_non_persistent_buffers_set") or ()
    for name, value in (item for part in own if isinstance(part, dict) for item in part.items()):
        if isinstance(value, Tensor) and name not in left_out:
            yield f"{prefix}{name}", value
    modules = state.get("_modules")
    for name, module in (modules if isinstance(modules, dict) else {}).items():
        if isinstance(module, Placeholder) and isinstance(module.state, dict):
            yield from iterate_module(module.state, f"{prefix}{name}.")
