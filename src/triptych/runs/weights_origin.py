"""Where a run's first weights come from: a file, and the run of ours that wrote it, if one did."""

import hashlib
import os
import re
from pathlib import Path

from triptych.errors import UserError
from triptych.models.backbone import BackboneFactory
from triptych.runs.reader import read_finished
from triptych.runs.record import Record


def describe_weights(factory: BackboneFactory) -> dict[str, str | None]:
    """What `run.json` says of the file of weights that a run starts from.

    `weights_sha256` is of its bytes, `weights_run` the `config_hash` of the run in whose folder it
    lies. Raises UserError where `factory.weights` is the folder of a run that is not finished: its
    weights may still change.
    """
    path = factory.weights_path
    assert path
    is_folder = path != Path(os.path.expanduser(str(factory.weights)))
    try:
        run = read_finished(path.parent.parent) if is_folder else Record.open(path.parent.parent)
    except UserError as error:
        if is_folder:
            hint = f"its weights as they are now: model.weights={path}"
            raise UserError(f"model.weights={error}\n{hint}") from error
        run = None
    if not (path.is_file() and os.access(path, os.R_OK)):  # what it is instead is said by who reads
        return {}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    recorded = str(run.metadata.get("config_hash")) if run else ""
    is_hash = re.fullmatch("[0-9a-f]{64}", recorded)
    return {"weights_sha256": digest, "weights_run": recorded if is_hash else None}
