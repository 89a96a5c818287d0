"""Image backbones side by side: fine-tune, compare, and say what holds.

run = triptych.train(triptych.compose(["data=shapes", "model.weights=null"]))
for run in triptych.find_runs("logs"):
    print(run.config["model"]["name"], run.metrics["test/accuracy"])
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from triptych.errors import UserError

if TYPE_CHECKING:
    from triptych.library import Run, compose, find_runs, load_run, train

__all__ = ["Run", "UserError", "compose", "find_runs", "load_run", "train"]

if sys.argv[:1] == ["-m"]:  # `python -m triptych...`, before its module is looked for
    from triptych.cli.help import check_module_name

    check_module_name(sys.orig_argv)


def __getattr__(name: str) -> Any:
    """The names of `__all__`, when they are first used: they import torch."""
    if name in __all__:
        return getattr(import_module("triptych.library"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
