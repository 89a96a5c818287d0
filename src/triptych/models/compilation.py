"""Networks that torch compiles (`speed.compile`)."""

import os
import shutil

from triptych.errors import UserError
from triptych.models.backbone import Backbone

COMPILERS = (os.environ.get("CXX", "c++"), "g++", "clang++")  # torch.compile needs one


def compile_network(backbone: Backbone, mode: str) -> None:
    """Have a network compiled when it first runs, in one of torch's modes, or not if it is `none`.

    Its state keeps its names. torch keeps what it compiled for the next process.
    """
    if mode == "none":
        return
    if not any(map(shutil.which, COMPILERS)):
        raise UserError(f"speed.compile={mode}: needs a C++ compiler, such as g++; none was found")
    backbone.network.compile(mode=mode)


def compile_seconds() -> float:
    """What compiling took so far in this process."""
    from torch._dynamo.utils import calculate_time_spent  # half of torch's import again

    return float(calculate_time_spent()["total_wall_time"])
