"""Loggers with the arguments, the links and the faults of those that people use."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger


class Service(Logger):
    """As W&B's: links to nowhere and to itself, a run of its own by `id`; all calls in a file."""

    def __init__(
        self, dir: str, id: str | None = None, api_key: str = "", fails: str = "", **_: Any
    ) -> None:
        super().__init__()
        self.id, self.fails = id or "first-run", fails
        self.folder = Path(dir) / "service"

    @property
    def name(self) -> str:
        return "service"

    @property
    def version(self) -> str:
        return self.id

    @property
    def log_dir(self) -> str:
        raise RuntimeError("call .experiment first")

    def write(self, what: str, value: Any) -> None:
        if what == self.fails:
            raise ConnectionError(f"the network is down: {what}")
        self.folder.mkdir(exist_ok=True)
        for name, target in {"debug.log": "/nowhere/at/all", "latest": str(self.folder)}.items():
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(target)
        with (self.folder / "calls.jsonl").open("a") as file:
            file.write(json.dumps([self.id, what, value]) + "\n")

    def log_hyperparams(self, params: Any, *_: Any) -> None:
        self.write("settings", params)
        params["seed"] = "changed by the logger"

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.write("metrics", metrics)

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        self.write("pictures", [key, [image.shape[2] for image in images], step])

    def log_table(self, key: str, columns: list[str], data: list[Any], step: int) -> None:
        self.write("table", [key, columns, len(data), step])

    def finalize(self, status: str) -> None:
        self.write("end", status)


class Passing(TensorBoardLogger):
    """Its own arguments are its base's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
