"""When a network should name several classes, or none: by thresholds of its validation images,
measured on the test images, which chose nothing.

Shapes: C classes, N test images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from triptych.runs.predictions import Predictions
from triptych.tools.compare.content import Question, Section, Tested, describe
from triptych.tools.compare.formats import interval, percent, pluralize, rate
from triptych.tools.compare.out_of_set import StrangeSet, list_sets
from triptych.tools.compare.recipes import Recipe
from triptych.tools.compare.runs import read_optional, read_val_predictions
from triptych.tools.compare.searches import count_candidates
from triptych.tools.statistics.abstention import METHODS, ClassSets, Method, Rejection
from triptych.tools.statistics.conformal import find_least_images, guarantee_coverage
from triptych.tools.statistics.groups import Groups
from triptych.tools.statistics.inference import LEVEL, WithInterval
from triptych.tools.statistics.selective import (
    RiskCurve,
    choose_confidence,
    draw_uniform,
    exact_interval,
    trace_risk,
)

MAX_RECIPES = 10  # shown: the best
VAL, TEST = 0, 1  # streams of numbers that are drawn for images


class SetRates(NamedTuple):
    """Of the sets of one method on the test images."""

    method: Method
    coverage: WithInterval  # the share of images whose class is in their set
    size: float  # mean number of classes
    empty: float  # shares of sets of no class, of one, and of more
    single: float
    larger: float
    guarantee: float | None  # of the chance of coverage, of class-wise sets within each class


class ClassRates(NamedTuple):
    """Of the test images of a class; intervals hold over all classes at once."""

    name: str
    num_val: int
    num_test: int
    coverage: WithInterval  # by LAC
    size: float
    classwise: WithInterval
    has_threshold: bool  # of its own, from validation images of this class


class Answers(NamedTuple):
    """What is answered of the test images, from a confidence that validation images chose."""

    rule: str  # "risk": their errors at most so many; "coverage": so many of them answered
    confidence: float  # infinite where nothing is answered
    share: WithInterval
    num_errors: int
    num_answered: int
    bound: float | None  # one-sided, 95 %, of the share of errors; None of nothing answered

    @property
    def risk(self) -> float | None:
        return self.num_errors / self.num_answered if self.num_answered else None


@dataclass(frozen=True, eq=False)
class Measured:
    """The first network of a recipe."""

    label: str
    recipe: str
    num_val: int
    num_candidates: int  # networks that validation images chose it from
    has_groups: bool  # validation images belong together
    sets: Sequence[SetRates]
    classes: Sequence[ClassRates]  # those with test images, by the upper end of coverage
    answers: Sequence[Answers]
    curve: RiskCurve

    @property
    def without_threshold(self) -> list[str]:
        """Classes that are in every class-wise set: of too few validation images."""
        return [each.name for each in self.classes if not each.has_threshold]

    def describe(self) -> dict[str, Any]:
        own = {"network": self.label, "recipe": self.recipe, "num_val": self.num_val}
        lists = {name: describe(getattr(self, name)) for name in ("sets", "classes", "answers")}
        return own | {"num_candidates": self.num_candidates} | lists


@dataclass(frozen=True, kw_only=True)
class Abstention(Section):
    heading: ClassVar[str] = "When it should not answer"
    coverage: float
    risk: float
    measured: Sequence[Measured]
    missing: Sequence[str]  # labels of networks without predictions of validation images
    num_more: int  # recipes that are not measured
    strange_sets: Sequence[StrangeSet]  # images of other classes
    least_images: int  # for a threshold, of all validation images or of a class

    @property
    def has_empty_sets(self) -> bool:
        return any(sets.empty for each in self.measured for sets in each.sets)

    def describe(self) -> dict[str, Any]:
        return {
            **{"coverage": self.coverage, "risk": self.risk, "not_measured": [*self.missing]},
            "networks": [each.describe() for each in self.measured],
            "out_of_set": [each.describe() for each in self.strange_sets],
        }


def build(tested: Tested) -> Abstention | None:
    """Of the first network of the best recipes; None where none has what it takes."""
    recipes, question = tested.recipes[:MAX_RECIPES], tested.question
    measured, missing, scored = [], [], []
    for recipe in recipes:
        network = recipe.first
        usable = not network.is_guest and network.has_probabilities
        val = read_optional(read_val_predictions, network, tested.problems) if usable else None
        if val:
            measured.append(measure(recipe, val, question))
            scored.append(network.val_score or 0)
        else:
            missing.append(network.label)
    if not measured:
        return None
    chosen = measured[int(np.argmax(scored))]  # by validation, so that no test image chose it
    strange_sets = [*list_sets(recipes, question.coverage, tested.problems)]
    return Abstention(
        sentences=(
            *write_sentences(chosen, question.coverage, question.risk),
            *(each.write_sentence(chosen.recipe) for each in strange_sets),
        ),
        strange_sets=strange_sets,
        coverage=question.coverage,
        risk=question.risk,
        measured=measured,
        missing=missing,
        num_more=len(tested.recipes) - len(recipes),
        least_images=find_least_images(question.coverage),
    )


def measure(recipe: Recipe, val: Predictions, question: Question) -> Measured:
    network, level = recipe.first, question.coverage
    test, p, q = network.test, network.test.probabilities, val.probabilities
    u, v = draw_uniform(test.index, TEST), draw_uniform(val.index, VAL)
    sets = {m: ClassSets.calibrate(q, val.labels, level, m, v) for m in METHODS}
    selected = {m: each.select(p, u) for m, each in sets.items()}
    num_candidates = count_candidates(network.config, network.metadata)
    has_groups = test.groups is not None  # then those of validation belong together as well
    guarantees = {
        m: None if has_groups else guarantee_coverage(each.num_images, level, num_candidates)
        for m, each in sets.items()
    }
    confidence, certain = p.max(axis=1), Rejection.calibrate(q, level)
    least = choose_confidence(trace_risk(q.max(axis=1), val.correct), question.risk)
    return Measured(
        label=network.label,
        recipe=recipe.label,
        num_val=len(q),
        num_candidates=num_candidates,
        has_groups=has_groups,
        sets=[rate_sets(m, selected[m], test, guarantees[m]) for m in METHODS],
        classes=rate_classes(recipe, selected, sets["classwise"]),
        answers=[
            rate_answers("risk", least, confidence >= least, test),
            rate_answers("coverage", 1 - certain.max_doubt, certain.accept(p), test),
        ],
        curve=trace_risk(confidence, test.correct),
    )


def rate_sets(
    method: Method, selected: NDArray[np.bool_], test: Predictions, guarantee: float | None
) -> SetRates:
    """`selected` (N, C): which classes are in the set of each image."""
    coverage = estimate_share(selected[np.arange(len(selected)), test.labels], test.groups)
    sizes = selected.sum(axis=1)
    empty, single, larger = (float(each.mean()) for each in (sizes == 0, sizes == 1, sizes > 1))
    return SetRates(method, coverage, float(sizes.mean()), empty, single, larger, guarantee)


def rate_classes(
    recipe: Recipe, selected: dict[Method, NDArray[np.bool_]], classwise: ClassSets
) -> list[ClassRates]:
    """Those with test images, those first that are surely covered less."""
    test, rates = recipe.first.test, []
    known = np.unique(test.labels).tolist()
    level = 1 - (1 - LEVEL) / len(known)
    for c in known:
        own = test.labels == c
        groups = None if test.groups is None else test.groups[own]
        lac, within = (
            estimate_share(selected[m][own, c], groups, level) for m in ("lac", "classwise")
        )
        counts = int(classwise.num_by_class[c]), int(own.sum())
        size = float(selected["lac"][own].sum(axis=1).mean())
        has_threshold = bool(np.isfinite(classwise.thresholds[c]))
        rates.append(ClassRates(recipe.classes[c], *counts, lac, size, within, has_threshold))
    return sorted(rates, key=lambda each: each.coverage[::-1])


def rate_answers(
    rule: str, confidence: float, answered: NDArray[np.bool_], test: Predictions
) -> Answers:
    wrong = ~test.correct[answered]
    groups = None if test.groups is None else test.groups[answered]
    bound = exact_interval(wrong, groups, 2 * LEVEL - 1).high if len(wrong) else None
    share = estimate_share(answered, test.groups)
    return Answers(rule, confidence, share, int(wrong.sum()), len(wrong), bound)


def estimate_share(
    right: NDArray[np.bool_], groups: Groups = None, level: float = LEVEL
) -> WithInterval:
    return WithInterval(float(right.mean()), *exact_interval(right, groups, level))


def write_sentences(each: Measured, coverage: float, risk: float) -> Iterator[str]:
    """Of one network: what its sets hold, and how often it errs where it answers."""
    sets, answers, level = each.sets[0], each.answers[0], rate(coverage)
    images = pluralize(each.num_val, "validation image")
    if each.num_val < (least := find_least_images(coverage)):
        yield (
            f"{images} of {each.label} are too few for sets of classes at {level}, which take "
            f"{least}: every set has every class."
        )
    else:
        share, low, high = sets.coverage
        yield (
            f"Sets of classes by {each.label}, calibrated for {level} on {images}, hold the label "
            f"of {percent(share, 1)} % of the test images ({interval(low, high, digits=1)}), "
            f"{sets.size:.2f} classes on average."
        )
    if answers.bound is None:
        why = f"no confidence keeps its errors on validation images at {rate(risk)} or below"
        yield f"{each.label} answers for no test image: {why}."
    else:
        yield (
            f"Answering for the {percent(answers.share.value, 1)} % of test images it is surest "
            f"of, {each.label} errs in at most {percent(answers.bound)} % (95 % bound)."
        )
