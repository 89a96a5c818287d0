"""The networks of a page: out of many runs those that are shown, rebuilt and warmed up."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from triptych.build import device_name
from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.reader import read_finished, sanitize
from triptych.runs.record import Record
from triptych.tools.compare.content import Problem
from triptych.tools.compare.recipes import make_labels
from triptych.tools.compare.runs import FRACTION, describe_problem
from triptych.tools.evaluate.cost import inference_call
from triptych.tools.evaluate.rebuild import RebuiltRun, number_classes, rebuild_run
from triptych.tools.evaluate.rescore import find_device
from triptych.tools.predict.images import View
from triptych.tools.report.formats import pluralize


@dataclass(frozen=True, eq=False)
class Network:
    """A run at work, under a name that no other of its group has."""

    name: str
    run: RebuiltRun
    view: View

    @property
    def record(self) -> Record:
        return self.run.record

    @property
    def val_accuracy(self) -> float | None:
        return val_accuracy(self.record)


@dataclass(frozen=True, eq=False)
class Group:
    """Networks that choose among the same classes, by name; out of so many finished runs."""

    data: tuple[str, ...]  # what they were trained on
    classes: tuple[str, ...]
    networks: tuple[Network, ...]
    num_runs: int

    @property
    def device(self) -> str:
        """As `cpu, 2 threads`."""
        device = device_name(self.networks[0].run.device)
        threads = f", {pluralize(torch.get_num_threads(), 'thread')}"
        return device + (threads if device == "cpu" else "")


def val_accuracy(record: Record) -> float | None:
    value = record.metadata["metrics"].get("val/accuracy")
    return value if FRACTION.holds(value) else None


def read_groups(folders: Iterable[Path], config: Config) -> tuple[list[Group], list[Problem]]:
    """The groups, and in a line each what is wrong with the runs that could not be shown.

    Raises UserError where none can be.
    """
    problems: list[Problem] = []
    of_classes: dict[tuple[str, ...], list[Record]] = {}
    for folder in folders:
        try:
            record = read_finished(folder)
            names = tuple(record.metadata["classes"] or number_classes(record))
            of_classes.setdefault(names, []).append(record)
        except UserError as refused:
            problems.append(describe_problem(folder, refused))
    found = [_group(classes, same, config, problems) for classes, same in of_classes.items()]
    groups = sorted((group for group in found if group.networks), key=lambda group: group.data)
    if not groups:
        first = f"{problems[0].folder}: {problems[0].what}"
        raise UserError(f"runs: none of {len(problems)} can be shown\n{first}")
    return groups, problems


def _group(
    classes: Sequence[str], records: list[Record], config: Config, problems: list[Problem]
) -> Group:
    """The networks of highest validation accuracy, no more than asked for."""
    device = find_device(config["device"])
    networks: list[Network] = []
    for name, likes in named(records, config["which"]):
        working = _working(name, likes, config["trusted_targets"], device, problems)
        networks += islice(working, 1)
        if len(networks) == config["num_networks"]:
            break
    networks.sort(key=lambda network: network.name)
    data = sorted({sanitize(network.record.metadata["data"]) for network in networks})
    return Group(tuple(data), tuple(sanitize([*classes])), tuple(networks), len(records))


def named(records: Iterable[Record], which: str) -> list[tuple[str, list[Record]]]:
    """A name and the runs that may stand for it, each list and they themselves best first.

    `best` gives a name to a model, `all` to each run. Of equal validation accuracy the run that
    finished last is first.
    """

    def rank(record: Record) -> tuple[float, str]:
        return val_accuracy(record) or 0.0, record.metadata["finished_at"]

    ranked = sorted(records, key=rank, reverse=True)
    if which == "all":
        told = [f"{sanitize(r.metadata['model'])} seed {r.metadata['seed']}" for r in ranked]
        unique = make_labels([(name, {}) for name in told])
        return [(name, [record]) for name, record in zip(unique, ranked, strict=True)]
    of_model: dict[str, list[Record]] = {}
    for record in ranked:
        of_model.setdefault(sanitize(record.metadata["model"]), []).append(record)
    return [*of_model.items()]


def _working(
    name: str,
    records: Iterable[Record],
    trusted: Iterable[str],
    device: torch.device,
    problems: list[Problem],
) -> Iterator[Network]:
    """Each run that can be rebuilt, on the device, behind its first and slowest answer."""
    for record in records:
        try:
            run = rebuild_run(record.folder, trusted)
            network = Network(name, run, View.from_run(run))
            run.to(device)
            with torch.inference_mode():
                inference_call(run, 1)()
        except (UserError, torch.OutOfMemoryError) as error:
            problems.append(describe_problem(record.folder, error))
        else:
            yield network
