"""Answers that are a set of classes, or "none of these": by thresholds of validation images.

Shapes: N validation images, C classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from triptych.config import Config
from triptych.errors import UserError
from triptych.runs.predictions import read_validation
from triptych.runs.reader import sanitize
from triptych.tools.compare.formats import join_words, pluralize, rate
from triptych.tools.compare.searches import count_candidates
from triptych.tools.evaluate.rebuild import RebuiltRun
from triptych.tools.statistics.abstention import ClassSets, Rejection
from triptych.tools.statistics.conformal import Array, find_least_images, guarantee_coverage

NONE = "none of these"
MAX_NAMES = 4  # of classes, where space is short


class Answer(NamedTuple):
    """The classes of a set, the most probable first; without `coverage` that one alone."""

    classes: tuple[str, ...]
    is_accepted: bool  # else the answer is `NONE`; an empty set is never accepted
    coverage: float | None = None

    def format(self, most: int | None = None) -> str:
        """cat, dog or ship; of more than `most` classes the first, and how many more."""
        return join_words(self.classes, most, "or") if self.is_accepted else NONE

    @property
    def line(self) -> str:
        """cat or dog, 95 %."""
        level = f", {rate(self.coverage)}" if self.coverage and self.is_accepted else ""
        return self.format(MAX_NAMES) + level

    def describe(self) -> dict[str, Any]:
        return {
            "text": self.format(MAX_NAMES),
            "classes": [*self.classes],
            "coverage": self.coverage,
            "accepted": self.is_accepted,
        }


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Of a network, or of the mean of several, that the same images chose among `num_candidates`;
    for sets of classes, for rejection, or for both."""

    classes: Sequence[str]
    sets: ClassSets | None
    rejection: Rejection | None
    num_images: int
    num_candidates: int
    has_groups: bool = False  # whether images belong together, as photos of one object

    def answer(self, probabilities: Array) -> Answer:
        """Of an image, (C,)."""
        order = np.argsort(-probabilities, kind="stable")
        chosen = order[:1]
        if self.sets:
            chosen = order[self.sets.select(probabilities[None])[0][order]]
        is_sure = self.rejection is None or bool(self.rejection.accept(probabilities[None])[0])
        level = self.sets.level if self.sets else None
        return Answer(tuple(self.classes[c] for c in chosen), len(chosen) > 0 and is_sure, level)

    @property
    def promise(self) -> str:
        """On how many images they are calibrated, and what that guarantees."""
        text = f"Calibrated on {pluralize(self.num_images, 'validation image')}."
        if levels := [*self.list_levels()]:
            chances = [guarantee_coverage(n, level, self.num_candidates) for level, _, n in levels]
            what = join_words([f"{rate(level)} {what}" for level, what, _ in levels])
            text += f" Of images like them at least {what}, on average."
            if self.has_groups:
                text += " They come in groups of similar images, so no rate is guaranteed."
            elif self.num_candidates > 1:
                left = join_words([rate(math.floor(1000 * chance) / 1000) for chance in chances])
                text += f" They also chose the weights, among {self.num_candidates:,} candidates,"
                text += f" which leaves a guarantee of {left}."
        return " ".join([text, *self.find_shortages()])

    def list_levels(self) -> Iterator[tuple[float, str, int]]:
        """What happens how often, and by how many images at least, where these are enough."""
        if self.sets and np.isfinite(self.sets.thresholds).any():
            of = "of every class " if self.sets.method == "classwise" else ""
            yield self.sets.level, f"{of}have their class in the set", self.sets.num_images
        if self.rejection and math.isfinite(self.rejection.max_doubt):
            yield self.rejection.keep, "are answered", self.num_images

    def find_shortages(self) -> Iterator[str]:
        """What too few images leave without a threshold."""
        if self.sets and (lacks := np.isinf(self.sets.thresholds)).any():
            rare = [name for name, is_rare in zip(self.classes, lacks, strict=True) if is_rare]
            least, what = find_least_images(self.sets.level), join_words(rare, MAX_NAMES)
            of = "images of each class" if self.sets.method == "classwise" else "images"
            yield f"coverage={self.sets.level} takes {least:,} {of}: every set has {what}."
        if self.rejection and math.isinf(self.rejection.max_doubt):
            keep = self.rejection.keep
            yield f"keep={keep} takes {find_least_images(keep):,} images: every image is answered."


def calibrate(
    runs: Sequence[RebuiltRun],
    temperatures: Sequence[float],
    config: Config,
    num_rivals: int = 1,
) -> Thresholds | None:
    """For the mean of the runs' probabilities; None where neither `coverage` nor `keep` is set.

    `num_rivals`: how many such runs they are the best of, by the same images.

    Raises UserError where a run is of another task, lacks its predictions of validation images, or
    has those of other images than the first.
    """
    coverage, keep = config["coverage"], config["keep"]
    if coverage is None and keep is None:
        return None
    setting = f"keep={keep}" if coverage is None else f"coverage={coverage}"
    if runs[0].task:
        raise UserError(f"{setting}: takes networks of one label an image; leave it out")
    try:
        vals = [read_validation(run.record.folder, len(run.classes)) for run in runs]
    except UserError as error:
        raise UserError(f"{setting}: is calibrated on validation images\n{error}") from error
    labels = vals[0].labels
    for run, val in zip(runs, vals, strict=True):
        if not val.is_of_images(vals[0]):
            raise UserError(
                f"{setting}: the mean of networks is calibrated on the validation images of all\n"
                f"{run.record.folder} has others than {runs[0].record.folder}: "
                "take runs of one data.split_seed"
            )
    each = zip(runs, vals, temperatures, strict=True)
    shares = [
        run.module.probabilities(torch.from_numpy(v.logits).float() / t) for run, v, t in each
    ]
    mean = torch.stack(shares).double().mean(dim=0).numpy()
    sets = coverage and ClassSets.calibrate(mean, labels, coverage, config["sets"])
    rejection = keep and Rejection.calibrate(mean, keep)
    names = sanitize([*runs[0].classes])
    chosen_among = [num_rivals, *(count_candidates(r.config, r.record.metadata) for r in runs)]
    has_groups = any(run.config["data"].get("groups") for run in runs)
    return Thresholds(names, sets, rejection, len(labels), math.prod(chosen_among), has_groups)
