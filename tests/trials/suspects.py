"""How much of a published list of suspects a list of ours has, and how much of ours is published.

`python -m tests.trials.suspects duplicates.csv published.csv` counts test images with a duplicate
in training or validation, `--within` pairs of test images. The published list has the columns
TestID, TrainID and Judgment, of which those up to 1, near duplicates, are counted apart.

`python -m tests.trials.suspects suspect_labels.csv votes.npy --labels test.npz` takes for wrong the
labels that most of the people's votes (N, C) are against; the labels are those of a run.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np


def read_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


def find_wrong(votes: Path, labels: Path) -> set[object]:
    with np.load(labels) as arrays:
        is_wrong = np.load(votes)[arrays["index"]].argmax(axis=1) != arrays["labels"]
        return {*arrays["index"][is_wrong].tolist()}


def report(what: str, ours: set[object], published: set[object]) -> None:
    both = len(ours & published)
    shares = (both / max(1, len(each)) for each in (published, ours))
    shown = "recall {:.1%}, precision {:.1%}".format(*shares)
    print(f"{what}: {len(ours)} of ours, {len(published)} published, {both} in both: {shown}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("ours", type=Path)
    parser.add_argument("published", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--within", action="store_true")
    given = parser.parse_args()
    rows = read_rows(given.ours)
    if given.labels:
        wrong = find_wrong(given.published, given.labels)
        return report("labels", {int(row["index"]) for row in rows}, wrong)
    rows = [row for row in rows if (row["partner_split"] == "test") == given.within]
    sides = ("index", "partner_index"), ("TestID", "TrainID")
    listed = read_rows(given.published)
    for what, some in (("all", listed), ("near", [r for r in listed if int(r["Judgment"]) <= 1])):
        ours, published = (
            {frozenset(int(row[name]) for name in names[: 1 + given.within]) for row in each}
            for each, names in zip((rows, some), sides, strict=True)
        )
        report(what, {*ours}, {*published})


if __name__ == "__main__":
    main()
