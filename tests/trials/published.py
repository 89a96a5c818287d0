"""Do a comparison's figures of published networks equal those of another program?

`python -m tests.trials.published FOLDER LABELS [--without LIST]`: a folder of JSON lists of
predicted classes, the file `test_batch` of CIFAR-10 or a JSON list of true classes, and perhaps a
CSV file of suspects whose first column is an image's index. Accuracies, exact McNemar tests,
Holm's p values, the intervals of Bonett and Price, ranks, and what changes without the suspects
are counted anew here. Exits with 1 where one differs.
"""

import argparse
import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

Array = NDArray[Any]


class Checked:
    """Figures counted here beside those of the verdict; a line for each that differs."""

    def __init__(self) -> None:
        self.num_figures = 0
        self.lines: list[str] = []

    def __call__(self, name: str, ours: float, theirs: float) -> None:
        self.num_figures += 1
        if not math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-15):
            self.lines.append(f"{name}: {theirs!r}, counted {ours!r}")


def read_labels(path: Path) -> Array:
    """Of a file that the user names; `test_batch` is a pickle, as CIFAR-10 is published."""
    if path.suffix == ".json":
        return np.array(json.loads(path.read_text()))
    return np.array(pickle.loads(path.read_bytes(), encoding="latin1")["labels"])


def compare(folder: Path, labels: Path, suspects: Path | None) -> dict[str, Any]:
    """What `verdict.json` says."""
    named, environment = str(labels), dict(os.environ)
    if labels.suffix != ".json":
        named, environment["DATA_DIR"] = "cifar10", str(labels.resolve().parents[1])
    command = [sys.executable, "-m", "triptych", "compare", f"predictions={folder}/*.json"]
    with tempfile.TemporaryDirectory() as out:
        settings = [f"labels={named}", f"out={out}", f"suspects={suspects or 'null'}"]
        subprocess.run([*command, *settings], env=environment, check=True, stdout=sys.stderr)
        verdict: dict[str, Any] = json.loads(Path(out, "verdict.json").read_text())
    return verdict


def count_p(only_a: int, only_b: int) -> float:
    """Exact, of a fair coin."""
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**discordant)))


def adjust(p_values: list[float]) -> list[float]:
    """Holm, step by step."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - step)))
        adjusted[place] = highest
    return adjusted


def check_verdict(right: dict[str, Array], verdict: dict[str, Any], check: Checked) -> None:
    """Accuracies, every pair, and ranks."""
    shown = {run["name"]: run["value"] for run in verdict["runs"]}
    assert shown.keys() == right.keys()
    for name, each in right.items():
        check(f"accuracy of {name}", each.mean(), shown[name])
    pairs = [pair for pair in verdict["pairs"] if pair["kind"] == "networks"]
    assert len(pairs) == math.comb(len(right), 2) > 0
    p_values, won = [], []
    for pair in pairs:
        a, b = right[pair["a"]], right[pair["b"]]
        only_a, only_b, n = int((a & ~b).sum()), int((b & ~a).sum()), len(a) + 2
        p_values.append(count_p(only_a, only_b))
        centre = (only_a - only_b) / n
        variance = ((only_a + only_b + 2) / n - centre**2) / n
        half = NormalDist().inv_cdf(1 - 0.025 / len(pairs)) * math.sqrt(variance)
        counted = ((only_a - only_b) / len(a), centre - half, centre + half, p_values[-1])
        for name, value in zip(("difference", "low", "high", "p"), counted, strict=True):
            check(f"{name} of {pair['a']} less {pair['b']}", value, pair[name])
    for pair, p in zip(pairs, adjust(p_values), strict=True):
        check(f"adjusted p of {pair['a']} less {pair['b']}", p, pair["p_adjusted"])
        if p < 0.05:
            won.append((pair["a"], pair["b"])[:: 1 if pair["difference"] > 0 else -1])
    for rank in verdict["ranks"]["rankings"][0]["ranks"]:
        name = rank["name"]
        check(f"best rank of {name}", 1 + sum(worse == name for _, worse in won), rank["best"])
        worst = len(right) - sum(better == name for better, _ in won)
        check(f"worst rank of {name}", worst, rank["worst"])


def check_suspects(
    answers: dict[str, Array], right: dict[str, Array], kept: Array, pairs: Any, check: Checked
) -> None:
    """Every pair without the suspects, and what any labels of these could make of it."""
    n, error = len(kept), lambda values: values.std(ddof=1) / math.sqrt(len(values))
    quantile = float(t.ppf(1 - 0.025 / len(pairs), n - 1))
    for pair in pairs:
        a, b = pair["a"], pair["b"]
        difference = right[a].astype(float) - right[b]
        without = difference[kept].mean()
        values = (difference - without) * kept / kept.mean() + without
        change = values - difference
        unlike = (answers[a] != answers[b])[~kept].sum()
        ends = [(difference[kept].sum() + sign * unlike) / n for sign in (-1, 1)]
        check(f"{a} less {b} without suspects", without, pair["without"])
        check("its low end", without - quantile * error(values), pair["without_low"])
        check("its change", change.mean(), pair["shift_value"])
        check("its high end", change.mean() + quantile * error(change), pair["shift_high"])
        check("its lowest by any labels", ends[0], pair["any_labels"][0])
        check("its highest by any labels", ends[1], pair["any_labels"][1])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--without", type=Path)
    options = parser.parse_args()
    labels, check = read_labels(options.labels), Checked()
    paths = sorted(options.folder.glob("*.json"))
    answers = {path.stem: np.array(json.loads(path.read_text())) for path in paths}
    right = {name: each == labels for name, each in answers.items()}
    verdict = compare(options.folder, options.labels, options.without)
    check_verdict(right, verdict, check)
    kept = np.ones(len(labels), dtype=bool)
    if options.without:
        rows = options.without.read_text().splitlines()[1:]
        kept[[int(row.partition(",")[0]) for row in rows]] = False
        check_suspects(answers, right, kept, verdict["suspects"]["network_pairs"], check)
    for name, each in right.items():
        print(f"{name:30} {each.mean():8.2%}, without suspects {each[kept].mean():8.2%}")
    print(*check.lines, f"{check.num_figures} figures, {len(check.lines)} differ", sep="\n")
    return 1 if check.lines else 0


if __name__ == "__main__":
    sys.exit(main())
