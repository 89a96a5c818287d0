"""Pickled arrays and strings, decoded without running what else a pickle may ask for."""

import io
import pickle
from typing import Any

import numpy as np

from triptych import Refused

_RECONSTRUCT = np.empty(0).__reduce__()[0]  # what numpy itself calls, under any of its names
_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def unpickled(data: bytes) -> Any:
    """What Python 2 pickled, its strings as bytes; raises Refused where that would import more."""
    return _Unpickler(io.BytesIO(data), encoding="bytes").load()


class _Unpickler(pickle.Unpickler):
    """Decodes arrays, strings, numbers, lists and dicts; imports nothing and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise Refused(
                f"A data file asks for {module}.{name}, but images need arrays and strings only.\n"
                "It was not run. Delete the file and fetch the official one."
            ) from None
