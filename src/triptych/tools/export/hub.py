"""What an export folder says to programs: the head of README.md, which model hubs read, and which
files of which exports lie there."""

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from triptych.config import NAMES, TEXT, Rule
from triptych.runs.predictions import Predictions
from triptych.runs.reader import MAPPING, sanitize
from triptych.tools.compare.deployments import TEXTS, read_answers, read_record
from triptych.tools.compare.runs import (
    Problem,
    TrainedNetwork,
    hash_file,
    read_entries,
    read_optional,
)
from triptych.tools.export.checks import Deployment, Network
from triptych.tools.export.formats import FORMATS
from triptych.tools.statistics.groups import share_interval
from triptych.tools.statistics.inference import WithInterval

log = logging.getLogger(__name__)

README, CONFIG = "README.md", "config.json"
TASK = "image-classification"
TAGS = {  # the first is the library's name
    **{"onnx": ["onnx"], "onnx_int8": ["onnx", "int8"], "openvino": ["openvino"]},
    **{"torch": ["pytorch"], "safetensors": ["pytorch", "safetensors"]},
}
DATASETS = {  # by our names those of https://huggingface.co/datasets
    **{"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "MNIST": "ylecun/mnist"},
    **{"FashionMNIST": "zalando-datasets/fashion_mnist", "SVHN": "ufldl-stanford/svhn"},
    "Food101": "ethz/food101",
}
NAMES_OF_METRICS = {each: f"macro {each}" for each in ("f1", "precision", "recall")}
EXPORTS = Rule(
    "the files, and what was checked, of each format",
    lambda v: (
        MAPPING.holds(v)
        and all(
            MAPPING.holds(e) and TEXTS.holds(e.get("files")) and NAMES.holds(e.get("checks"))
            for e in v.values()
        )
    ),
)


class ShippedFile(NamedTuple):
    name: str
    num_bytes: int
    sha256: str


class Measured(NamedTuple):
    """`record` is that of `deployments/<format>.json`."""

    record: Mapping[str, Any]
    accuracy: WithInterval
    agreement: float


@dataclass(frozen=True)
class Shipped:
    """A format's files in a folder; `checks` are sentences, and `measured` may be None."""

    name: str
    files: Sequence[ShippedFile]
    checks: Sequence[str]
    measured: Measured | None

    @property
    def words(self) -> str:
        return FORMATS[self.name].words


def list_shipped(network: Network, deployments: Sequence[Deployment], out: Path) -> list[Shipped]:
    """What the folder holds once these lie there."""
    new = {
        each.name: Shipped(
            each.name,
            [*map(describe_file, each.files)],
            each.checks,
            measure(network.trained, each.record, each.answers),
        )
        for each in deployments
        if each.files
    }
    found = new | {each.name: each for each in read_shipped(network, out, [*new])}
    return [found[name] for name in FORMATS if name in found]


def read_shipped(network: Network, out: Path, replaced: Sequence[str]) -> Iterator[Shipped]:
    """Of earlier exports of the run into the folder, the files that are as they were then."""
    rules = {"exports": EXPORTS.or_null(), "config_hash": TEXT.or_null()}
    [config] = read_entries(out / CONFIG, rules) or [dict.fromkeys(rules)]
    own_hash = sanitize(network.run.record.metadata["config_hash"])
    exports = config["exports"] or {} if config["config_hash"] == own_hash else {}
    for name in (each for each in FORMATS if each in exports and each not in replaced):
        recorded = {out / Path(path).name: each for path, each in exports[name]["files"].items()}
        files = [describe_file(path) for path in recorded if path.is_file()]
        digests = [file.sha256 for file in files]
        if digests != [*recorded.values()]:
            log.warning("left out of %s: %s, as it has changed since", README, FORMATS[name].words)
            continue
        measured = read_measured(network.trained, name, digests) if network.trained else None
        yield Shipped(name, files, exports[name]["checks"], measured)


def read_measured(network: TrainedNetwork, name: str, digests: Sequence[str]) -> Measured | None:
    """Of the files with these digests; None without a sound record of them."""
    problems: list[Problem] = []
    record = read_optional(partial(read_record, key=name), network, problems)
    if not record or [*record["digests"].values()] != [*digests]:
        return None
    answers = read_optional(partial(read_answers, key=name), network, problems)
    return measure(network, record, answers)


def describe_file(path: Path) -> ShippedFile:
    return ShippedFile(path.name, path.stat().st_size, hash_file(path))


def measure(
    network: TrainedNetwork | None, record: Mapping[str, Any], answers: Predictions | None
) -> Measured | None:
    if network is None or answers is None:
        return None
    right, agreement = answers.correct, float((answers.classes == network.test.classes).mean())
    accuracy = WithInterval(float(right.mean()), *share_interval(right, network.test.groups))
    return Measured(record, accuracy, agreement)


def write_head(
    config: Mapping[str, Any],
    shipped: Sequence[Shipped],
    scores: Mapping[str, float],
    license_name: str | None,
) -> str:
    """YAML between lines of `---`.

    `config` is of config.json; `scores` are of the test images, by the hub's names of metrics.
    """
    data, tags = config["data"], [tag for each in shipped for tag in TAGS[each.name]]
    named = re.sub(r"[^\w.-]+", "-", data, flags=re.ASCII).strip("-.") or "unknown"
    metrics = [
        {"type": kind, "name": NAMES_OF_METRICS.get(kind, kind), "value": value, "verified": False}
        for kind, value in scores.items()
    ]
    result = {
        "task": {"type": TASK, "name": "Image classification"},
        "dataset": {"name": data, "type": DATASETS.get(data, named), "split": "test"},
        "metrics": metrics,
    }
    head = {
        "license": license_name or "unknown",
        "library_name": tags[0],
        "pipeline_tag": TASK,
        "tags": [*dict.fromkeys([TASK, config["architecture"] or config["model"], *tags])],
        "datasets": [DATASETS[data]] if data in DATASETS else None,
        "metrics": [*scores] or None,
        "model-index": [{"name": config["model"], "results": [result]}] if scores else None,
    }
    known = {name: value for name, value in head.items() if value is not None}
    text = yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=math.inf)
    return f"---\n{text}---\n"


def list_scores_of_network(network: TrainedNetwork) -> dict[str, float]:
    """By the hub's names of metrics."""
    macro = network.scores.macro._asdict()
    return {"accuracy": network.scores.accuracy} | {name: macro[name] for name in NAMES_OF_METRICS}
