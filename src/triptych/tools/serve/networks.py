"""The networks of the page: chosen among the runs, rebuilt, and warmed up."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from triptych.build import device_name
from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import check_task, read_finished, sanitize
from triptych.runs.record import Record
from triptych.tools.compare.runs import (
    Problem,
    describe_hardware,
    describe_problem,
    find_val_accuracy,
)
from triptych.tools.evaluate.cost import inference_call
from triptych.tools.evaluate.rebuild import RebuiltRun, find_device, rebuild_run
from triptych.tools.predict.answers import Thresholds, calibrate
from triptych.tools.predict.ensemble import name_runs
from triptych.tools.predict.images import View

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Network:
    """A rebuilt run on its device, with a name that is unique in its group."""

    name: str
    run: RebuiltRun
    view: View
    thresholds: Thresholds | None = None  # that its answers are made by, where these are asked for

    @property
    def record(self) -> Record:
        return self.run.record

    @property
    def val_accuracy(self) -> float | None:
        return find_val_accuracy(self.record.metadata)


@dataclass(frozen=True, eq=False)
class NetworkGroup:
    """Networks with the same classes, by name, chosen among `num_runs` finished runs."""

    data: tuple[str, ...]  # the names of their data sets
    classes: tuple[str, ...]
    networks: tuple[Network, ...]
    num_runs: int

    @property
    def device(self) -> str:
        """As `cpu, 2 threads`."""
        device = device_name(self.networks[0].run.device)
        return describe_hardware(device, None, torch.get_num_threads() if device == "cpu" else None)


def read_groups(
    folders: Iterable[Path], config: Config
) -> tuple[list[NetworkGroup], list[Problem]]:
    """The groups, and the runs that could not be shown; raises UserError where none can."""
    problems: list[Problem] = []
    by_classes: dict[tuple[str, ...], list[Record]] = {}
    for folder in folders:
        try:
            record = read_finished(folder)
            check_task(record)
            classes = tuple(record.metadata["classes"] or ())
            by_classes.setdefault(classes, []).append(record)
        except UserError as error:
            problems.append(describe_problem(folder, error))
    device, groups = find_device(config["device"]), []
    for classes, records in by_classes.items():
        networks: list[Network] = []
        for name, candidates in rank_runs(records, config["which"]):
            if len(networks) == config["num_networks"]:
                break
            network = load_first(name, candidates, config, device, problems)
            networks += [network] if network else []
        if networks:
            networks.sort(key=lambda network: network.name)
            data = {sanitize(network.record.metadata["data"]) for network in networks}
            names = tuple(sanitize([*classes]))
            groups.append(NetworkGroup(tuple(sorted(data)), names, tuple(networks), len(records)))
    if not groups:
        first = f"{problems[0].folder}: {problems[0].what}"
        raise UserError(f"runs: none of {len(problems)} can be shown\n{first}")
    return sorted(groups, key=lambda group: group.data), problems


def rank_runs(records: Iterable[Record], which: str) -> list[tuple[str, list[Record]]]:
    """A name and the runs it may stand for, both by validation accuracy, the highest first.

    `best` has a name for each model, `all` for each run. Of equal accuracies the run that finished
    last is first.
    """
    ranked = sorted(
        records,
        key=lambda r: (find_val_accuracy(r.metadata) or 0.0, r.metadata["finished_at"]),
        reverse=True,
    )
    if which == "all":
        return [(n, [r]) for n, r in zip(name_runs(ranked), ranked, strict=True)]
    by_model: dict[str, list[Record]] = {}
    for record in ranked:
        by_model.setdefault(sanitize(record.metadata["model"]), []).append(record)
    return [*by_model.items()]


def load_first(
    name: str,
    records: Sequence[Record],
    config: Config,
    device: torch.device,
    problems: list[Problem],
) -> Network | None:
    """The first run that can be rebuilt, on the device, after its first and slowest inference."""
    for record in records:
        try:
            run = rebuild_run(record.folder, config["trusted_targets"])
            thresholds = calibrate([run], [1.0], config, num_rivals=len(records))
            network = Network(name, run, View.from_run(run), thresholds)
            run.to(device)
            with torch.inference_mode():
                inference_call(run, 1)()
        except (UserError, torch.OutOfMemoryError) as error:
            problems.append(describe_problem(record.folder, error))
        else:
            if thresholds:
                log.info("%s: %s", name, thresholds.promise)
            return network
    return None
