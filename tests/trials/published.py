"""Do a comparison's figures of published networks equal those of another program?

`python -m tests.trials.published FOLDER LABELS [--without LIST]`: a folder of JSON lists of
predicted classes, the file `test_batch` of CIFAR-10 or a JSON list of true classes, and perhaps a
CSV file of suspects whose first column is an image's index. Accuracies, exact McNemar tests,
Holm's p values, the intervals of Bonett and Price, ranks, and what changes without the suspects
are counted anew here, with Python's own arithmetic, image by image. Exits with 1 where one differs.
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
from statistics import NormalDist, fmean, stdev
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from scipy.stats import t


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


class Checked:
    """Figures counted here beside those of the verdict; a line for each that differs."""

    def __init__(self) -> None:
        self.num_figures = 0
        self.lines: list[str] = []

    def __call__(self, name: str, ours: float, theirs: float) -> None:
        self.num_figures += 1
        if not math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-15):
            self.lines.append(f"{name}: {theirs!r}, counted {ours!r}")


def check_verdict(right: dict[str, list[bool]], verdict: dict[str, Any], check: Checked) -> None:
    """Accuracies, and every pair."""
    num_images = len(next(iter(right.values())))
    shown = {run["name"]: run["value"] for run in verdict["runs"]}
    assert shown.keys() == right.keys()
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
    told = [
        two if each.difference > 0 else two[::-1]
        for two, each, p in zip(twos, counted, adjusted, strict=True)
        if p < 0.05 and each.difference
    ]
    [ranking] = verdict["ranks"]["rankings"]
    for rank in ranking["ranks"]:
        name = rank["label"]
        check(f"best rank of {name}", 1 + sum(worse == name for _, worse in told), rank["best"])
        worst = len(right) - sum(better == name for better, _ in told)
        check(f"worst rank of {name}", worst, rank["worst"])


def check_suspects(
    answers: dict[str, list[int]],
    right: dict[str, list[bool]],
    suspects: set[int],
    verdict: dict[str, Any],
    check: Checked,
) -> None:
    """Every pair without the suspects, and what any labels of these could make of it."""
    pairs, num_images = verdict["suspects"]["network_pairs"], len(next(iter(right.values())))
    assert len(pairs) == math.comb(len(right), 2)
    kept = [place not in suspects for place in range(num_images)]
    share = sum(kept) / num_images
    quantile = float(t.ppf(1 - 0.025 / len(pairs), num_images - 1))
    for pair in pairs:
        a, b = (pair[side] for side in "ab")
        differences = [int(x) - int(y) for x, y in zip(right[a], right[b], strict=True)]
        without = sum(d for d, keep in zip(differences, kept, strict=True) if keep) / sum(kept)
        values = [
            (d - without) * keep / share + without
            for d, keep in zip(differences, kept, strict=True)
        ]
        check(f"{a} less {b} without suspects", without, pair["without"])
        check("its low end", without - quantile * error(values), pair["without_low"])
        changes = [value - d for value, d in zip(values, differences, strict=True)]
        check(f"change of {a} less {b}", fmean(changes), pair["shift_value"])
        check("its high end", fmean(changes) + quantile * error(changes), pair["shift_high"])
        unlike = sum(answers[a][place] != answers[b][place] for place in suspects)
        rest = sum(d for d, keep in zip(differences, kept, strict=True) if keep)
        for sign, end in zip((-1, 1), pair["any_labels"], strict=True):
            check("an end by any labels", (rest + sign * unlike) / num_images, end)


def error(values: list[float]) -> float:
    return stdev(values) / math.sqrt(len(values))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--without", type=Path)
    options = parser.parse_args()
    labels = read_labels(options.labels)
    paths = sorted(options.folder.glob("*.json"))
    answers = {path.stem: json.loads(path.read_text()) for path in paths}
    right = {
        name: [a == label for a, label in zip(each, labels, strict=True)]
        for name, each in answers.items()
    }
    with tempfile.TemporaryDirectory() as room:
        verdict = compare(options.folder, options.labels, Path(room), options.without)
    check = Checked()
    check_verdict(right, verdict, check)
    columns = {"accuracy, %": right}
    if options.without:
        rows = csv.reader(options.without.read_text().splitlines()[1:])
        suspects = {int(row[0]) for row in rows}
        check_suspects(answers, right, suspects, verdict, check)
        columns[f"without {len(suspects)}, %"] = {
            name: [each[place] for place in range(len(each)) if place not in suspects]
            for name, each in right.items()
        }
    table = Table("network", *columns)
    for name in right:
        table.add_row(name, *(f"{100 * fmean(each[name]):.2f}" for each in columns.values()))
    Console().print(table)
    num_pairs, num_differing = math.comb(len(right), 2), len(check.lines)
    counted = f"{len(right)} networks, {num_pairs} pairs, {check.num_figures} figures"
    print(*check.lines, f"{counted}: {num_differing} differ", sep="\n")
    return 1 if check.lines or num_pairs == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
