"""The files that ship: each against the network that it was exported from, on the same test images.

`triptych export` leaves a file's record and its answers in `deployments/`; they are read here, and
a file that is another one since is refused. Nothing is run.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from triptych.config import NAMES, TEXT, Rule, count, number, one_of
from triptych.errors import UserError
from triptych.runs.predictions import Predictions, read_predictions
from triptych.runs.reader import MAPPING, MEASURED, check_entries
from triptych.tools.compare.content import ACCURACY, SIGNIFICANT, Section, Tested
from triptych.tools.compare.formats import MAX_WORDS, fixed, join_words, p_statement, pluralize
from triptych.tools.compare.pairs import Adjusted, adjust
from triptych.tools.compare.runs import (
    Problem,
    TrainedNetwork,
    describe_hardware,
    hash_file,
    read_entries,
    read_optional,
)
from triptych.tools.export.formats import FORMATS
from triptych.tools.statistics.crossed import Estimate
from triptych.tools.statistics.groups import network_difference, share_interval
from triptych.tools.statistics.inference import WithInterval

KEYS = {f"{name}{device}": name for name in FORMATS for device in ("", "_gpu")}  # of records
MAX_SENTENCES = 3  # of more networks one sentence tells of all
POSITIVE = number(1e-6, 1e12)  # of what is divided and drawn on a logarithmic scale
TEXTS = Rule("a mapping of texts", lambda v: MAPPING.holds(v) and all(map(TEXT.holds, v.values())))
SPEED: dict[str, Rule] = {
    **dict.fromkeys(("latency_ms_p50", "latency_ms_p95"), POSITIVE),
    **{"throughput_images_per_second": POSITIVE, "throughput_batch_size": count(1)},
    **{"load_seconds": MEASURED.or_null(), "peak_memory_bytes": count(0).or_null()},
    "precision": TEXT,
}
RECORD: dict[str, Rule] = {
    "schema": Rule("1", lambda value: type(value) is int and value == 1),
    **{"file": TEXT.or_null(), "file_bytes": count(0).or_null()},
    **dict.fromkeys(("runtime", "device", "measured_at", "predictions_sha256"), TEXT),
    **{"digests": TEXTS, "versions": TEXTS, "num_threads": count(1), "network": MAPPING},
    **{"float_layers": NAMES, "calibration_images": count(1).or_null(), **SPEED},
}
OF_READING = ("schema", "digests", "predictions_sha256")  # the verdict has all others


@dataclass(frozen=True, eq=False)
class Deployment:
    """A network in one format. `record` is of `RECORD`, its `network` of `SPEED`."""

    network: TrainedNetwork
    recipe: str
    record: dict[str, Any]
    state: str  # of the file, unless it lies where it was measured
    accuracy: WithInterval
    agreement: float  # the share of test images that get the network's own class
    test: Adjusted  # of the file's accuracy minus the network's

    @property
    def key(self) -> str:
        """Of its record."""
        return f"{self.record['format']}{'_gpu' * (self.record['device'] != 'cpu')}"

    @property
    def words(self) -> str:
        return FORMATS[self.record["format"]].words

    @property
    def speedup(self) -> float:
        """How many times as fast as the network in the same rounds, by their median latencies."""
        return float(self.record["network"]["latency_ms_p50"] / self.record["latency_ms_p50"])

    @property
    def place(self) -> str:
        """What latencies depend on besides the file: cpu, 2 threads."""
        return describe_hardware(self.record["device"], None, self.record["num_threads"])

    @property
    def is_significant(self) -> bool:
        return self.test.p_holm < SIGNIFICANT and self.test.difference.value != 0

    @property
    def note(self) -> str:
        """How INT8 was made; nothing of other formats."""
        num_images, layers = self.record["calibration_images"], self.record["float_layers"]
        if not num_images:
            return ""
        floats = join_words(layers, MAX_WORDS) or "no layer"
        return f"calibrated on {pluralize(num_images, 'training image')}; in float stays {floats}"

    def describe(self) -> dict[str, Any]:
        """For verdict.json."""
        (value, low, high), p, p_holm, level = self.test
        known = {name: each for name, each in self.record.items() if name not in OF_READING}
        return {
            **{"name": self.network.label, "recipe": self.recipe, **known},
            "file": None if self.state else known["file"],
            **{"num_images": self.network.num_test, "accuracy": self.accuracy.value},
            **{"difference": value, "low": low, "high": high, "level": level},
            **{"p": p, "p_adjusted": p_holm, "agreement": self.agreement, "speedup": self.speedup},
        }


class Block(NamedTuple):
    """A network and its files, measured in one place."""

    network: TrainedNetwork
    files: Sequence[Deployment]

    @property
    def newest(self) -> Deployment:
        """The one whose rounds say how fast the network itself is."""
        return max(self.files, key=lambda each: str(each.record["measured_at"]))


@dataclass(frozen=True, kw_only=True)
class Deployments(Section):
    heading: ClassVar[str] = "The files that ship"
    blocks: Sequence[Block]

    @property
    def files(self) -> list[Deployment]:
        return [each for block in self.blocks for each in block.files]

    def describe(self) -> dict[str, Any]:
        return {"files": [each.describe() for each in self.files]}


def build(tested: Tested) -> Deployments | None:
    """Of every network that was exported; None without any.

    Raises UserError where a file, or its answers, are not those that were measured.
    """
    found = [
        each
        for recipe in tested.recipes
        for network in recipe.networks
        for each in read_deployments(network, recipe.label, tested.problems)
    ]
    blocks: dict[tuple[TrainedNetwork, str], list[Deployment]] = {}
    for (make, _), test in zip(found, adjust([difference for _, difference in found]), strict=True):
        deployment = make(test=test)
        blocks.setdefault((deployment.network, deployment.place), []).append(deployment)
    rows = [Block(network, files) for (network, _), files in blocks.items()]
    return Deployments(sentences=tuple(write_sentences(rows)), blocks=rows) if rows else None


def read_deployments(
    network: TrainedNetwork, recipe: str, problems: list[Problem]
) -> Iterator[tuple[Callable[..., Deployment], Estimate]]:
    """Each but for its test, with what is tested; `problems` gains what is broken."""
    for key in () if network.is_guest else KEYS:
        record = read_optional(partial(read_record, key=key), network, problems)
        if not record:
            continue
        state = check_digests(network.folder, record, key)
        if answers := read_optional(partial(read_answers, key=key), network, problems):
            right, groups = answers.correct, network.test.groups
            accuracy = WithInterval(float(right.mean()), *share_interval(right, groups))
            agreement = float((answers.classes == network.test.classes).mean())
            make = partial(Deployment, network, recipe, record, state, accuracy, agreement)
            yield make, network_difference(right, network.test.correct, groups)


def read_record(network: TrainedNetwork, key: str) -> dict[str, Any] | None:
    """What was measured of a format; None where it was not exported."""
    path = network.folder / "deployments" / f"{key}.json"
    for record in read_entries(path, RECORD | {"format": one_of(KEYS[key])}) or ():
        check_entries(path, record["network"], SPEED)
        return record | {"network": {key: record["network"][key] for key in SPEED}}
    return None


def check_digests(folder: Path, record: Mapping[str, Any], key: str) -> str:
    """What is to be said of a file: that it is gone; or that it lies elsewhere, where it is left
    alone, for a stranger's record may name any.

    Raises UserError where it, or its answers, have another SHA-256 than was recorded.
    """
    states = []
    answers = {f"deployments/{key}.npz": record["predictions_sha256"]}
    for place, recorded in (record["digests"] | answers).items():
        path = folder / place
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            states.append("elsewhere, not checked")
        elif not os.path.isfile(path):  # answers that are gone are named when they are read
            states += ["gone"] if place in record["digests"] else []
        elif (digest := hash_file(path)) != recorded:
            raise UserError(
                f"{path}: SHA-256 is {digest[:12]}…, but {recorded[:12]}… was measured\n"
                f"triptych export run={folder} format={record['format']} overwrite=true"
                f"{' device=cuda' * (key not in FORMATS)}  # measures it anew"
            )
    return states[0] if states else ""


def read_answers(network: TrainedNetwork, key: str) -> Predictions:
    """Raises UserError unless they are for the test images of the network, and of its classes."""
    path, test = network.folder / "deployments" / f"{key}.npz", network.test
    answers = read_predictions(path)
    if not answers.is_of_images(test) or answers.num_classes != test.num_classes:
        raise UserError(f"{path}: index, labels or classes are not those of test.npz")
    return answers


def write_sentences(blocks: Sequence[Block]) -> list[str]:
    """Of each network's fastest file; of many networks how many files differ, and by how much."""
    files = [each for block in blocks for each in block.files]
    if len(blocks) <= MAX_SENTENCES:
        return [write_sentence(block, len(files)) for block in blocks]
    num_networks = len({block.network for block in blocks})
    lost = [each.test.difference.value < 0 for each in files if each.is_significant]
    speedups = sorted(each.speedup for each in files)
    return [
        f"Of {len(files)} files of {num_networks} networks, {sum(lost)} are "
        f"significantly less accurate than their network in torch and {len(lost) - sum(lost)} "
        f"more; they answer between {speedups[0]:.1f} and {speedups[-1]:.1f} times as fast; see "
        "the table of files."
    ]


def write_sentence(block: Block, num_tests: int) -> str:
    """What its fastest file loses or gains, or by its interval may lose, and how fast it is."""
    best = max(block.files, key=lambda each: each.speedup)
    difference, speedup, num_files = best.test.difference, best.speedup, len(block.files)
    name = f"{best.network.label} in {best.words}"
    name += f", the fastest of {num_files} formats," if num_files > 1 else ""
    written = ACCURACY.write_interval
    if best.is_significant:
        verb = "loses" if difference.value < 0 else "gains"
        size = difference.negate() if difference.value < 0 else difference
        p = p_statement(best.test.p_holm) + " after Holm" * (num_tests > 1)
        claim = f"{verb} {fixed(100 * size.value, 2)} points (95 % CI {written(size)}; {p})"
    elif math.isnan(difference.low):
        claim = f"differs by {ACCURACY.write_amount(difference.value)} (no interval)"
    else:
        most = fixed(100 * max(-difference.low, 0), 2)
        claim = f"loses at most {most} points (95 % CI {written(difference)}; no difference shown)"
    speed = f"answers {speedup:.1f} times as fast"
    if speedup < 1:
        speed = f"takes {1 / speedup:.1f} times as long"
    return f"{name} {claim} and {speed} as in torch ({best.place})."
