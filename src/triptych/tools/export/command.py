"""Export a finished run's network as files that need nothing of ours, checked and measured."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from triptych.cli.arguments import check_writable
from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders, read_finished
from triptych.runs.record import Record
from triptych.runs.stopping import exit_on_signal, signal_handlers
from triptych.tools.export.formats import FORMATS, check_packages


def export(config: Config, overrides: list[str]) -> None:
    """Write a folder of files and its README, once the files are checked against the network.

    Raises UserError where the run, this machine or an existing file does not allow it.
    """
    names = [config["format"]] if isinstance(config["format"], str) else config["format"]
    for name in names:
        check_packages(name)
        if config["device"] == "cuda" and not FORMATS[name].on_gpu:
            able = ", ".join(each for each, form in FORMATS.items() if form.on_gpu)
            raise UserError(f"format={name}: is measured by device=cpu; on a GPU are {able}")
    folder, *others = find_run_folders(config["run"], "run")
    if others:
        number = len(others) + 1
        raise UserError(f"run={config['run']}: {number} runs there; give one, such as {folder}")
    record = read_finished(folder)
    out = Path(config["out"]) if config["out"] else record.folder / "export"
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out}: is a file; give a folder")
    files = {name: [*list_files(record, out, name)] for name in names}
    for path in (path for paths in files.values() for path in paths):
        check_writable(str(path), path)
        if path.exists() and not config["overwrite"]:
            raise UserError(f"{path}: exists; overwrite=true replaces it")
    if any(files.values()) and not config["overwrite"]:
        check_documents(out, record)

    from triptych.tools.export.artifact import write_export  # torch, behind the checks

    with signal_handlers(exit_on_signal):  # which deletes unfinished files
        write_export(folder, out, files, config)


def check_documents(out: Path, record: Record) -> None:
    """Raise UserError at a README.md or config.json that no export of this run wrote."""
    try:
        content = json.loads((out / "config.json").read_text())
        is_ours = content["triptych"] and content["config_hash"] == record.metadata["config_hash"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        is_ours = False
    for path in (out / "README.md", out / "config.json"):
        if path.exists() and not is_ours:
            raise UserError(
                f"{path}: exists, and is of no export of this run; give another out=<folder>, "
                "or overwrite=true"
            )


def list_files(record: Record, out: Path, name: str) -> Iterator[Path]:
    """A format's files. A model's name, maybe somebody else's, leads out of no folder."""
    model = re.sub(r"[^\w.-]", "_", record.metadata["model"], flags=re.ASCII)[:100]
    for suffix in FORMATS[name].suffixes:
        yield out / f"{model.lstrip('.-') or 'network'}{suffix}"
