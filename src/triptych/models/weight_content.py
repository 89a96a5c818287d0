"""What a file of weights holds, and why a file holds none.

Nothing in a file is run: what is no tensor, number or text is read as an inert `Placeholder`.
"""

import json
import mmap
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from triptych.errors import UserError, list_first, summarize_error
from triptych.models import is_mappable

MAX_DEPTH = 4  # of mappings in a file: {"ema": {"module": {...}}}
MAX_INDEX = 10_000_000  # bytes that say what a file holds: those of 50,000 tensors
MAX_NAME = 500  # letters of a tensor's name
NO_WEIGHTS = (b"bytearray", b"_rebuild_sparse")  # in a pickle: of any size in a few letters
MAX_PARTS = 100_000  # of the networks that were pickled whole: modules, and their tensors
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


class NoRows(TorchFunctionMode):
    """No tensor is taken apart, as a pickle may by `OrderedDict(tensor)`: a few bytes are expanded
    to any number of rows."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.unbind:
            raise ValueError("a list of a tensor's rows")
        return func(*args, **(kwargs or {}))


def read_content(path: Path) -> Any:
    """What a file holds, on the CPU. Raises many types of errors where that is not weights."""
    if path.exists() and not path.is_file():
        raise OSError("no regular file")  # a device may never end, a FIFO never begin
    if path.suffix.lower() == ".safetensors":
        return read_safetensors(path)
    is_zip = is_zipfile(path)
    if is_zip and "constants.pkl" in list_entries(path):
        raise ValueError("TorchScript")  # which torch would run
    mapped = is_zip and is_mappable(path)
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True, "mmap": mapped}
    check_pickle(path)
    try:
        with NoRows():
            content = torch.load(path, **options)
    except UnpicklingError:
        if not is_zip:  # before torch 1.6
            raise
        # Neither import nor call what they name: a placeholder takes its place.
        names = get_unsafe_globals_in_checkpoint(path)
        with safe_globals([(Placeholder, name) for name in names]), NoRows():
            content = torch.load(path, **options)
    check_tensors(content, path.stat().st_size)
    return content


def check_checkpoint(path: Path) -> None:
    """Raise UserError where a checkpoint of a run would take more than its size lets one think."""
    try:
        check_pickle(path)
        mapped = is_mappable(path)
        with NoRows():
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        check_tensors(content, path.stat().st_size)
    except Exception as error:
        raise UserError(f"{path}: no checkpoint, or damaged; nothing of it was run") from error


def check_pickle(path: Path) -> None:
    """Raise ValueError at a file of torch's that would take more memory, or longer, than its size
    lets one think: compressed, with a long index, or one that has torch make a long array of zeros.
    """
    if not is_zipfile(path):  # before torch 1.6, or no file of torch's at all
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            has_more = any(data.find(word) >= 0 for word in NO_WEIGHTS)
    else:
        with ZipFile(path) as archive:
            infos = archive.infolist()
            pickles = [i for i in infos if i.filename.endswith(".pkl")]
            if any(i.compress_type != ZIP_STORED for i in infos):
                raise ValueError("compressed, as torch writes no file")
            if any(i.file_size > MAX_INDEX for i in pickles):
                raise ValueError("an index of more tensors than any network has")
            texts = [archive.read(i) for i in pickles]
        has_more = any(word in text for word in NO_WEIGHTS for text in texts)
    if has_more:
        raise ValueError("a bytearray or a sparse tensor")


def check_tensors(content: Any, num_bytes: int) -> None:
    """Raise ValueError at a tensor that is no plain array, or that views a few of a file's
    `num_bytes` as many more."""
    waiting, seen = [content], set[int]()
    while waiting:
        each = waiting.pop()
        if isinstance(each, Tensor):
            is_plain = each.layout is torch.strided and each.device.type == "cpu"
            if not is_plain or each.is_quantized or each.is_nested or each.nbytes > num_bytes:
                raise ValueError("a tensor larger than its file, or no plain array")
        elif isinstance(each, Mapping | list | tuple | Placeholder) and id(each) not in seen:
            seen.add(id(each))
            each = [each.state] if isinstance(each, Placeholder) else each
            waiting += each.values() if isinstance(each, Mapping) else each


def list_entries(path: Path) -> set[str]:
    """The names in a zip archive, below its one folder."""
    with ZipFile(path) as archive:
        return {name.partition("/")[2] or name for name in archive.namelist()}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The length of a JSON header, the header, the tensors: github.com/huggingface/safetensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_INDEX:
            raise ValueError(f"a header of {length} bytes")
        header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors, place = {}, 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, (start, stop) = SAFETENSORS_DTYPES[entry["dtype"]], entry["data_offsets"]
            if start != place or not start <= stop <= path.stat().st_size:
                raise ValueError(f"{name} is cut off, or lies over another tensor")
            data, place = bytearray(file.read(stop - start)), stop
            tensor = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            tensors[name] = tensor.reshape(entry["shape"])
    return {name: tensors[name] for name in header}


def explain_unreadable(path: Path, error: Exception) -> str:
    """What a file is that holds no weights, and what to give instead."""
    if path.is_dir():
        best = next(path.rglob("checkpoints/best.ckpt"), None)
        example = best.parents[1] if best else path / "<file>"
        return f"a folder, not that of a run with weights; give one, as model.weights={example}"
    if isinstance(error, OSError):
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
    content: Any,
    place: str = "",
    depth: int = MAX_DEPTH,
    seen: set[int] | None = None,
    parts: Iterator[int] | None = None,
) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Every mapping of names to tensors in a file, once, and the tensors of every network, by
    place. `parts` are those that may still be looked at."""
    seen, parts = set() if seen is None else seen, parts or iter(range(MAX_PARTS))
    if id(content) in seen:
        return
    seen.add(id(content))
    if isinstance(content, Placeholder) and isinstance(content.state, dict):
        content = OrderedDict(iterate_module(content.state, parts)) or content.state
    if not isinstance(content, Mapping) or not depth:
        return
    tensors = OrderedDict(
        (name, value)
        for name, value in content.items()
        if isinstance(name, str) and len(name) <= MAX_NAME and isinstance(value, Tensor)
    )
    if tensors:
        tensors._metadata = getattr(content, "_metadata", None)  # type: ignore[attr-defined]
        yield place, tensors
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping | Placeholder):
            inner = f"{place}.{name}" if place else name
            yield from find_tensors(value, inner, depth - 1, seen, parts)


def iterate_module(state: dict[str, Any], parts: Iterator[int]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a network that was pickled whole, named as `state_dict` names them; modules
    may be shared, so that the names grow beyond any bound."""
    waiting = [("", state)]
    while waiting and next(parts, None) is not None:
        prefix, state = waiting.pop()
        kinds = ("_parameters", "_buffers", "_modules")
        parameters, buffers, modules = (as_type(dict, state.get(kind)) for kind in kinds)
        left_out = as_type(set, state.get("_non_persistent_buffers_set"))
        for name, value in (*parameters.items(), *buffers.items()):
            is_one = next(parts, None) is not None and isinstance(value, Tensor)
            if is_one and name not in left_out and len(prefix) + len(str(name)) <= MAX_NAME:
                yield f"{prefix}{name}", value
        waiting += [
            (f"{prefix}{name}.", module.state)
            for name, module in reversed(modules.items())
            if isinstance(module, Placeholder)
            and isinstance(module.state, dict)
            and len(prefix) + len(str(name)) < MAX_NAME
        ]


def as_type(kind: type[Any], value: Any) -> Any:
    """The value, or an empty one where it is of another type."""
    return value if isinstance(value, kind) else kind()
