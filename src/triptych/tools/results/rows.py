"""Rows of the tables, read from run folders and measurements, with a digest of every file read.

`docs/results.json` holds them: the tables are written from it alone.
"""

import hashlib
import json
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from triptych.errors import UserError
from triptych.runs.storage import check_regular_file
from triptych.tools.compare.deployments import read_deployments
from triptych.tools.compare.pairs import adjust
from triptych.tools.compare.recipes import Recipe, group_by_recipe
from triptych.tools.compare.runs import Problem, TrainedNetwork, read_curve, read_runs
from triptych.tools.results.parts import BENCHMARK, KILLED, Part, find_exported, find_finished
from triptych.tools.statistics.scores import TABLE_1

Row = dict[str, Any]
OF_RUN = ("run.json", "config.yaml", "metrics.csv", "predictions/test.npz")
OF_BENCHMARK = """
    batch_size input_size compile images_per_second ratios peak_memory_bytes
""".split()
OF_FILE = """
    latency_ms_p50 throughput_images_per_second load_seconds peak_memory_bytes precision
""".split()
ORIGIN = ("precision", "versions", "git_commit")
OF_PART = ("kind", "device", "part", "table", "command", "model")
UNMEASURED: Row = {"figures": None, "sources": {}}


class Device(NamedTuple):
    """What is measured: `kind` is cpu or gpu, `name` that of its product."""

    kind: str
    name: str


def build_rows(
    parts: Sequence[Part], device: Device, folder: Path, problems: list[str]
) -> list[Row]:
    """The rows of every part, in order; one that was not measured has no figures and no sources.

    `folder`: the device's, below log_dir. `problems` gains what is wrong with its files.
    """
    rows = []
    for part in parts:
        place = folder / part.place
        measured = READERS[part.program](part, place, folder.parent, problems)
        common = {"kind": device.kind, "device": device.name, "part": part.name}
        common |= {"table": part.table, "command": part.command}
        # What a command trains is known once it has: an experiment may choose another network.
        found = dict.fromkeys(row["model"] for row in measured)
        lacking = [model for model in part.models if model not in found]
        lacking = lacking[: max(0, len(part.models) - len(found))]
        measured += [{"model": model, **UNMEASURED} for model in lacking]
        names = [*part.models, *found]
        rows += [common | row for row in sorted(measured, key=lambda r: names.index(r["model"]))]
    return rows


def read_rows(path: Path) -> list[Row]:
    """What was recorded before; raises UserError where it cannot be read."""
    try:
        rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"]
        for row in rows:
            _ = [row[name] for name in (*OF_PART, *UNMEASURED)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error!r}); delete it to write it anew"
        ) from error
    return rows


def find_changed(rows: Iterable[Row], log_dir: Path) -> list[str]:
    """The files that figures were read from and that are not what they were then."""
    sources = {name: value for row in rows for name, value in row["sources"].items()}
    return [
        name
        for name, value in sources.items()
        if (path := log_dir / name).exists() and digest([path], log_dir) != {name: value}
    ]


def merge(
    recorded: Sequence[Row],
    new: Sequence[Row],
    changed: Sequence[str],
    lists: Mapping[str, Sequence[Part]],
) -> list[Row]:
    """The rows of every device that has figures; of a kind of devices without any, empty ones.

    Recorded rows stay where their runs are not here, or fewer of them; where one of their files has
    `changed`; and where no new row is of a part of that name.
    """
    known = group_rows(row for row in recorded if row["figures"])
    rows = []
    for name, same in group_rows(new).items():
        before = known.get(name, [])
        sources = {source for row in before for source in row["sources"]}
        is_older = before and (count_seeds(same) < count_seeds(before) or sources & {*changed})
        rows += before if is_older else same
    by_device: dict[str, list[Row]] = {}
    for row in recorded:
        by_device.setdefault(row["device"], []).append(row)
    for device in {row["device"] for row in new}:  # one, or none
        parts = {row["part"] for row in new}
        kept = (row for row in by_device.get(device, []) if row["part"] not in parts)
        by_device[device] = rows + [row for row in kept if row["figures"]]
    merged = [
        row for same in by_device.values() if any(row["figures"] for row in same) for row in same
    ]
    measured = {row["kind"] for row in merged}
    for kind in (kind for kind in lists if kind not in measured):
        merged += build_rows(lists[kind], Device(kind, ""), Path("nowhere"), [])
    return merged


def count_seeds(rows: Iterable[Row]) -> int:
    """The least of any row; a row without figures has none, one that is of no training has one."""
    return min(row["figures"].get("num_seeds", 1) if row["figures"] else 0 for row in rows)


def group_rows(rows: Iterable[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows by what was measured; of a network, a command may have several recipes."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        name = tuple(row[name] for name in ("device", "part", "command", "model"))
        groups.setdefault(name, []).append(row)
    return groups


def read_benchmark(part: Part, place: Path, log_dir: Path, problems: list[str]) -> list[Row]:
    path = place / BENCHMARK
    try:
        measured = json.loads(check_regular_file(path).read_text())
        figures = {name: measured[name] for name in OF_BENCHMARK}
        origin = {name: measured[name] for name in ORIGIN}
        model, measured_at = measured["model"], measured["measured_at"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"{path}: cannot be read ({error!r}); delete it to measure again")
        return []
    row = {"model": model, "figures": figures, "sources": digest([path], log_dir)}
    return [row | origin | {"measured_at": measured_at}]


def read_training(part: Part, place: Path, log_dir: Path, problems: list[str]) -> list[Row]:
    """A row a recipe, of its finished runs."""
    networks, unusable = read_runs(run.folder for run in find_finished(place))
    problems += [f"{problem.folder}: {problem.what}" for problem in unusable]
    rows = []
    for recipe in group_by_recipe(networks):
        metadata = [network.metadata for network in recipe.networks]
        files = [n.folder / name for n in recipe.networks for name in OF_RUN]
        row = {name: metadata[0][name] for name in ORIGIN}
        row["precision"] = " or ".join(sorted({str(run["precision"]) for run in metadata}))
        row |= {"model": recipe.model, "figures": SUMMARIES[part.table](recipe, place)}
        row |= {"measured_at": max(run["finished_at"] for run in metadata)}
        rows.append(row | {"sources": digest(files, log_dir)})
    return rows


def read_exports(part: Part, place: Path, log_dir: Path, problems: list[str]) -> list[Row]:
    """A row of the network in torch, and one a file."""
    run = find_exported(part, place)
    networks, unusable = read_runs([run.folder] if run else [])
    problems += [f"{problem.folder}: {problem.what}" for problem in unusable]
    return [row for network in networks for row in describe_files(network, part, log_dir, problems)]


def describe_files(
    network: TrainedNetwork, part: Part, log_dir: Path, problems: list[str]
) -> Iterator[Row]:
    broken: list[Problem] = []
    found = [*read_deployments(network, network.label, broken)]
    problems += [f"{problem.folder}: {problem.what}" for problem in broken]
    tests = adjust([difference for _, difference in found])
    files = [make(test=test) for (make, _), test in zip(found, tests, strict=True)]
    files = [each for each in files if each.key in part.records]
    of_network = {name: files[-1].record["network"][name] for name in OF_FILE} if files else {}
    rows = [{"format": None, "accuracy": network.accuracy.value, **of_network}] if files else []
    for each in files:
        figures = {name: each.record[name] for name in (*OF_FILE, "file_bytes")}
        figures |= {"format": each.words, "accuracy": each.accuracy.value}
        figures |= {"difference": [*each.test.difference], "agreement": each.agreement}
        rows.append(figures)
    for figures in rows:
        file = next((each for each in files if each.words == figures["format"]), files[-1])
        paths = [network.folder / "deployments" / f"{file.key}.{kind}" for kind in ("json", "npz")]
        record = file.record
        yield {
            **{"model": network.metadata["model"], "figures": figures},
            **{name: record[name] for name in ("precision", "versions", "measured_at")},
            **{"git_commit": None, "sources": digest(paths, log_dir)},
        }


def digest(paths: Iterable[Path], log_dir: Path) -> dict[str, str]:
    """SHA-256 of each file, by its path below log_dir."""
    return {
        path.relative_to(log_dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def summarize_accuracy(recipe: Recipe, _: Path) -> dict[str, Any]:
    """How a recipe trained, how accurate it is on the test images, and what one run takes."""
    runs, first = [network.metadata for network in recipe.networks], recipe.first
    minutes = [run["seconds_total"] / 60 for run in runs]
    shares = [find_share_to_published(network) for network in recipe.networks]
    frozen = first.config["model"].get("freeze") == "backbone"
    low, high = recipe.accuracy[1:]
    settings = ("data", "weights", "input_size", "num_epochs", "num_train")
    return {name: first.metadata[name] for name in settings} | {
        "frozen": frozen,
        "accuracy": recipe.accuracy.value,
        "interval": None if math.isnan(low) else [low, high],
        "num_seeds": len(runs),
        "num_test": first.num_test,
        "minutes": max(minutes) if frozen else median(minutes),  # one computed the features
        "minutes_to_published": median(map(operator.mul, minutes, shares)) if all(shares) else None,
    }


def find_share_to_published(network: TrainedNetwork) -> float | None:
    """The share of a run's epochs after which it is as accurate in validation as the study's
    network of that name on test images; None where it never is."""
    curve, published = read_curve(network), TABLE_1.get(network.metadata["model"])
    if not curve or not published:
        return None
    reached = curve.epochs[curve.metrics["val/accuracy"] >= published.accuracy]
    return float(reached[0] / curve.epochs[-1]) if len(reached) else None


def summarize_runs(recipe: Recipe, place: Path) -> dict[str, Any]:
    """How long all took, from the first start to the last end; and whether the same command of
    another part, which was not killed, made the same predictions to the last bit."""
    runs = [network.metadata for network in recipe.networks]
    started, finished = (
        [datetime.fromisoformat(run[f"{n}_at"]) for run in runs] for n in ("started", "finished")
    )
    others = [p for p in place.parent.glob(f"*_{place.name[-6:]}") if not (p / KILLED).exists()]
    networks, _ = read_runs(run.folder for run in chain(*map(find_finished, others)))
    seeds = {network.metadata["seed"]: network.test.logits.tobytes() for network in networks}
    equal = [seeds.get(n.metadata["seed"]) == n.test.logits.tobytes() for n in recipe.networks]
    return {
        "num_jobs": len(runs),
        "minutes": (max(finished) - min(started)).total_seconds() / 60,
        "equal": all(equal) if (place / KILLED).exists() and networks else None,
    }


READERS = {"train": read_training, "benchmark": read_benchmark, "export": read_exports}
SUMMARIES = {"accuracy": summarize_accuracy, "runs": summarize_runs}
