"""A finished run's network as one file that needs nothing of ours, and a model card beside it."""

import re
from importlib.util import find_spec
from pathlib import Path

from triptych.config import Config, format_value
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders, read_finished
from triptych.runs.record import Record
from triptych.runs.storage import check_writable

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}
INSTALL = "pip install 'onnx>=1.19' 'onnxscript>=0.5' 'onnxruntime>=1.23'"


def export(config: Config, overrides: list[str]) -> None:
    """Write the file and its card, once they are checked against the network.

    Raises UserError where the run, this machine or what lies there already does not allow it.
    """
    if absent := [name for name in NEEDED[config["format"]] if find_spec(name) is None]:
        raise UserError(f"format=onnx: {', '.join(absent)} not installed; {INSTALL}")
    folder = one_folder(config["run"])
    path = destination(read_finished(folder), config["format"], config["out"])
    for each in (path, card_of(path)):
        check_writable(str(each), each)
        if each.exists() and not config["overwrite"]:
            raise UserError(f"{each}: exists and is kept; overwrite=true replaces it")

    from triptych.tools.export.delivery import deliver  # torch, behind what can be refused

    deliver(folder, path, config)


def one_folder(place: str) -> Path:
    """The one run at or below a place."""
    folders = find_run_folders(place, "run")
    if len(folders) > 1:
        raise UserError(
            f"run={place}: {len(folders)} runs lie there; name one, such as {folders[0]}"
        )
    return folders[0]


def destination(record: Record, form: str, out: str | None) -> Path:
    """Where the file goes; the record may be somebody else's, and names no folder by its model."""
    suffix = SUFFIXES[form]
    if out is None:
        name = re.sub(r"[^\w.-]", "_", record.metadata["model"], flags=re.ASCII)[:100]
        return record.folder / "export" / f"{name.lstrip('.-') or 'network'}{suffix}"
    if Path(out).suffix != suffix:
        raise UserError(f"out={format_value(out)}: must end with {suffix}, as format={form} asks")
    return Path(out)


def card_of(path: Path) -> Path:
    """Where the model card of an exported file lies."""
    return path.with_name(f"{path.name}.md")
