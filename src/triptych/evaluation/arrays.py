"""Arrays out of somebody's file."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from triptych import Refused

Array = NDArray[Any]


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    """The arrays of those names in an npz file, of whatever shapes; nothing in it is run.

    Raises Refused in one line where the file is missing or broken, or lacks one of them.
    """
    try:
        # numpy leaves open what it cannot read, unless it is given an open file.
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as npz:
            arrays = {name: np.asarray(npz[name]) for name in names if name in npz}
    except FileNotFoundError:
        raise Refused(f"{path}: missing") from None
    except Exception as error:  # of numpy, of zipfile, of the system: many kinds
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise Refused(f"{path}: cannot be read as arrays ({reason})") from error
    missing = ", ".join(name for name in names if name not in arrays)
    if missing:
        raise Refused(f"{path}: has no {missing}")
    return arrays
