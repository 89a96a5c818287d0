"""Export a finished run's network as one file that needs nothing of ours, with a model card."""

import re
from importlib.util import find_spec
from pathlib import Path

from triptych.cli.arguments import check_writable
from triptych.config import Config, format_value
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders, read_finished
from triptych.runs.record import Record

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}
INSTALL = "pip install 'onnx>=1.19' 'onnxscript>=0.5' 'onnxruntime>=1.23'"


def export(config: Config, overrides: list[str]) -> None:
    """Write the file and its card, once the file is checked against the network.

    Raises UserError where the run, this machine or an existing file does not allow it.
    """
    if missing := [name for name in PACKAGES[config["format"]] if find_spec(name) is None]:
        raise UserError(f"format=onnx: {', '.join(missing)} not installed; {INSTALL}")
    folder, *others = find_run_folders(config["run"], "run")
    if others:
        number = len(others) + 1
        raise UserError(f"run={config['run']}: {number} runs there; give one, such as {folder}")
    path = choose_path(read_finished(folder), config["format"], config["out"])
    card = path.with_name(f"{path.name}.md")
    for each in (path, card):
        check_writable(str(each), each)
        if each.exists() and not config["overwrite"]:
            raise UserError(f"{each}: exists; overwrite=true replaces it")

    from triptych.tools.export.artifact import write_artifact  # torch, behind the checks

    write_artifact(folder, path, card, config)


def choose_path(record: Record, form: str, out: str | None) -> Path:
    """The path of the file. A model's name, maybe somebody else's, leads out of no folder."""
    suffix = SUFFIXES[form]
    if out is None:
        name = re.sub(r"[^\w.-]", "_", record.metadata["model"], flags=re.ASCII)[:100]
        return record.folder / "export" / f"{name.lstrip('.-') or 'network'}{suffix}"
    if Path(out).suffix != suffix:
        raise UserError(f"out={format_value(out)}: must end with {suffix} for format={form}")
    return Path(out)
