"""Do a comparison's figures of published networks equal those of another program?

`python -m tests.trials.published FOLDER LABELS [--without LIST]`: a folder of JSON lists of
predicted classes, the file `test_batch` of CIFAR-10 or a JSON list of true classes, and perhaps a
CSV file of suspects whose first column is an image's index. Accuracies, exact McNemar tests,
Holm's p values, and the intervals of Bonett and Price are counted anew here, with Python's own
arithmetic alone, image by image. Exits with 1 where one differs.
"""

import argparse
import csv
import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table


class Counted(NamedTuple):
    """A pair: fractions, and exact p."""

    difference: float
    low: float
    high: float
    p: float


def read_labels(path: Path) -> list[int]:
    """Of a file that the user names; `test_batch` is a pickle, as CIFAR-10 is published."""
    if path.suffix == ".json":
        return list(json.loads(path.read_text()))
    return list(pickle.loads(path.read_bytes(), encoding="latin1")["labels"])


def count_pair(only_a: int, only_b: int, num_images: int, level: float) -> Counted:
    discordant, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(discordant, k) for k in range(fewer + 1))
    p = min(Fraction(1), Fraction(2 * tail, 2**discordant))
    share_a, share_b = (Fraction(n + 1, num_images + 2) for n in (only_a, only_b))
    centre = share_a - share_b
    variance = (share_a + share_b - centre**2) / (num_images + 2)
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    low, high = float(centre) - half, float(centre) + half
    return Counted((only_a - only_b) / num_images, low, high, float(p))


def adjust(p_values: list[float]) -> list[float]:
    """Holm, step by step."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - step)))
        adjusted[place] = highest
    return adjusted


def compare(folder: Path, labels: Path, room: Path, suspects: Path | None) -> dict[str, Any]:
    """What `verdict.json` says."""
    named, environment = str(labels), dict(os.environ)
    if labels.suffix != ".json":
        named, environment["DATA_DIR"] = "cifar10", str(labels.resolve().parents[1])
    command = [sys.executable, "-m", "triptych", "compare", f"predictions={folder}/*.json"]
    settings = [f"labels={named}", f"out={room}", *([f"suspects={suspects}"] if suspects else [])]
    subprocess.run([*command, *settings], env=environment, check=True, stdout=subprocess.DEVNULL)
    verdict: dict[str, Any] = json.loads((room / "verdict.json").read_text())
    return verdict


def list_differing(right: dict[str, list[bool]], verdict: dict[str, Any]) -> list[str]:
    """A line for each figure of the verdict that is not counted here."""
    num_images = len(next(iter(right.values())))
    lines = []

    def check(name: str, ours: float, theirs: float) -> None:
        if not math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-15):
            lines.append(f"{name}: {theirs!r}, counted {ours!r}")

    shown = {run["name"]: run["value"] for run in verdict["runs"]}
    if shown.keys() != right.keys():
        return [f"networks: {sorted(shown.keys() ^ right.keys())} are in one alone"]
    for name, each in right.items():
        check(f"accuracy of {name}", sum(each) / num_images, shown[name])
    pairs = {(p["a"], p["b"]): p for p in verdict["pairs"] if p["kind"] == "networks"}
    twos = [*combinations(sorted(right), 2)]
    counted = []
    for a, b in twos:
        both = [*zip(right[a], right[b], strict=True)]
        counts = both.count((True, False)), both.count((False, True))
        counted.append(count_pair(*counts, num_images, 1 - 0.05 / len(twos)))
    adjusted = adjust([each.p for each in counted])
    for two, each, p_adjusted in zip(twos, counted, adjusted, strict=True):
        sign, pair = (1, pairs[two]) if two in pairs else (-1, pairs[two[::-1]])
        check(f"difference of {two}", each.difference, sign * pair["difference"])
        low, high = sorted((sign * pair["low"], sign * pair["high"]))
        check(f"low end of {two}", each.low, low)
        check(f"high end of {two}", each.high, high)
        check(f"p of {two}", each.p, pair["p"])
        check(f"adjusted p of {two}", p_adjusted, pair["p_adjusted"])
    return lines


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--without", type=Path)
    options = parser.parse_args()
    labels = read_labels(options.labels)
    right = {}
    for path in sorted(options.folder.glob("*.json")):
        answers = json.loads(path.read_text())
        right[path.stem] = [a == label for a, label in zip(answers, labels, strict=True)]
    with tempfile.TemporaryDirectory() as room:
        verdict = compare(options.folder, options.labels, Path(room), options.without)
    suspects = set()
    if options.without:
        rows = list(csv.reader(options.without.read_text().splitlines()))
        suspects = {int(row[0]) for row in rows[1:]}
    kept = [place for place in range(len(labels)) if place not in suspects]
    columns = ("network", "accuracy, %", f"without {len(suspects)}, %")
    table = Table(*(columns if suspects else columns[:2]))
    for name, each in right.items():
        shares = [sum(each) / len(each), sum(each[place] for place in kept) / len(kept)]
        table.add_row(name, *(f"{100 * s:.2f}" for s in shares[: 1 + bool(suspects)]))
    Console().print(table)
    lines = list_differing(right, verdict)
    num_pairs = math.comb(len(right), 2)
    print(*lines, f"{len(right)} networks, {num_pairs} pairs, {len(lines)} differ", sep="\n")
    return 1 if lines or num_pairs == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
