"""What makes a run this run: its experiment, its code, its libraries."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from triptych.config import Config

LIBRARIES = ("triptych", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")
WHERE_USED = ("timm",)

# Settings that are not part of the experiment: two runs that differ in these alone are the same.
NOT_THE_EXPERIMENT = """
    log_dir resume trusted_targets retry_failed fresh data.root data.num_workers data.source.root
    data.source.urls checkpoint.keep_last checkpoint.every_n_steps checkpoint.every_minutes
    speed.compile speed.cache_features
    trainer.accelerator trainer.strategy trainer.devices trainer.num_nodes trainer.logger
    trainer.log_every_n_steps trainer.enable_progress_bar trainer.enable_model_summary
    trainer.enable_checkpointing trainer.profiler trainer.default_root_dir
    trainer.num_sanity_val_steps trainer.benchmark
""".split()


def experiment(config: Config, *, less: Iterable[str] = ()) -> Config:
    """A copy of the config without what is not part of the experiment, and what `less` names."""
    kept: Config = json.loads(json.dumps(config))
    for key in (*NOT_THE_EXPERIMENT, *less):
        *path, last = key.split(".")
        node = kept
        for name in path:
            node = node.get(name) or {}
        node.pop(last, None)
    return kept


def config_hash(config: Config, *, less: Iterable[str] = ()) -> str:
    """SHA-256 of the experiment, as canonical JSON, without the settings named in `less`."""
    kept = experiment(config, less=less)
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def library_versions() -> dict[str, str | None]:
    """Versions of what the figures depend on; None where a library is not installed."""

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    used = (name for name in WHERE_USED if name in sys.modules)
    return {name: installed(name) for name in (*LIBRARIES, *used)}


def git_commit() -> str | None:
    """The commit of code and configs, `+dirty` where they differ from it; None outside git."""
    git = ["git", "-C", str(Path(__file__).parents[2])]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        status = subprocess.run(
            [*git, "status", "--porcelain", "src", "configs"], capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+dirty" if status.stdout.strip() else "")
