"""Every value of a file of statistics, computed once more by this package's functions.

`python -m tests.trials.oracle FILE.json` says how many values of how many groups it compared and
which differ by more than ten digits (p values and degrees of freedom nine, draws what the file
allows), and exits with 1 where one does, or where a value of the file has no function here.

The file has groups of cases, a case the inputs of a method beside its results, both by name.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, nct

from triptych.runs.predictions import Predictions
from triptych.tools.compare.pairs import adjust_in_margin
from triptych.tools.statistics import best_of_trials, conformal, planning, ranks
from triptych.tools.statistics.components import (
    estimate_image,
    expect_estimate,
    leave_out_seeds,
    split_variance,
)
from triptych.tools.statistics.crossed import (
    Estimate,
    Trainings,
    combine,
    crossed_difference,
    crossed_mean,
    summarize_trainings,
)
from triptych.tools.statistics.inference import holm
from triptych.tools.statistics.scores import image_brier, image_f1, image_nll
from triptych.tools.statistics.several_sets import count_better, mean_over_sets
from triptych.tools.statistics.suspects import bound_by_labels, spread_over_all

Case = dict[str, Any]
RELATIVE, ABSOLUTE = 1e-10, 1e-14
LOOSER = dict.fromkeys("df shift_df p p_above_minus_0_1 p_flips_alone".split(), 1e-9)
NUM_DRAWS = 1_000_000


def describe(estimate: Estimate) -> Case:
    numbers = {name: getattr(estimate, name) for name in ("value", "variance", "df")}
    return numbers | {"interval": estimate.interval()}


def estimate_unbiased(by_image: NDArray[np.float64], *recipes: Trainings) -> float:
    """The variance without a part held at 0: it may be negative."""
    repeated = [each for each in recipes if each.num_seeds > 1]
    parts = [(r.seed_variance - r.flips / r.num_images) / r.num_seeds for r in repeated]
    return float(by_image.var(ddof=1)) / len(by_image) + sum(parts)


def crossed(a: Any, b: Any, pseudo_images: int) -> Case:
    a, b = map(summarize_trainings, (a, b))
    estimate = crossed_difference(a, b, pseudo_images=pseudo_images > 0)
    repeated = [each for each in (a, b) if each.num_seeds > 1]
    return describe(estimate) | {
        "centre": estimate.centre,
        "image": estimate.image,
        "seed": [each.seed_variance / each.num_seeds for each in repeated],
        "floor": [each.flips / each.num_seeds / each.num_images for each in repeated],
        "unbiased_variance": estimate_unbiased(a.by_image - b.by_image, a, b),
        "interval_99": estimate.interval(0.99),
        "p": estimate.p(),
        "p_above_minus_0_1": estimate.p(-0.1) / 2,  # all centres lie above
    }


def enumerate_population(population: Any, n: int, N: int) -> Case:
    """Two seeds and images drawn with replacement, in every way."""
    values = np.array(population)
    seeds, images = ([*product(range(len(values)), repeat=number)] for number in (n, N))
    drawn = [values[np.ix_(some, others)] for some in seeds for others in images]
    trainings = [summarize_trainings(each) for each in drawn]
    unbiased = [estimate_unbiased(each.by_image, each) for each in trainings]
    variance = np.var([each.mean() for each in drawn])
    return {"variance_of_mean": variance, "mean_of_unbiased_variance": np.mean(unbiased)}


def components(correct: Any) -> Case:
    parts = split_variance(leave_out_seeds(correct))
    return {
        "seed_variance": parts.skill.value,
        "seed_interval": parts.skill[1:],
        "residual": parts.flips.value,
        "image": parts.image.value,
        "p_flips_alone": parts.p_flips_alone,
        "image_interval": parts.image[1:],
        "residual_interval": parts.flips[1:],
        "mean_square_seeds": summarize_trainings(correct).seed_variance,
    }


def pair(a: Any, b: Any) -> Case:
    both = [leave_out_seeds(each) for each in (a, b)]
    parts = [split_variance(each) for each in both]
    return {
        "image": estimate_image(*both).value,
        "seed": [each.skill.value for each in parts],
        "residual": [each.flips.value for each in parts],
    }


def read_scatter(image: float, seed: Any, residual: Any) -> planning.Scatter:
    skill, flips = (np.broadcast_to(each, 2).tolist() for each in (seed, residual))
    return planning.Scatter(image, tuple(skill), tuple(flips))


def what_to_buy(image: float, seed: Any, residual: Any, n: Any, N: int) -> Case:
    estimate = expect_estimate(read_scatter(image, seed, residual), n, N)
    low, high = estimate.interval()
    return {"variance": estimate.variance, "df": estimate.df, "half_width": (high - low) / 2}


def detectable(image: float, seed: Any, residual: Any, n: int, N: int, alpha: float) -> Case:
    """As drawn for a plan; and by the closed form, too hopeful, of the same variance and df."""
    scatter, num_pairs = read_scatter(image, seed, residual), round(planning.ALPHA / alpha)
    drawn = planning.draw_looks(scatter, [n], N, num_pairs, NUM_DRAWS).detectable
    expected = expect_estimate(scatter, (n, n), N)
    t = expected.interval(1 - alpha).high / expected.standard_error

    def miss(noncentral: float) -> float:
        return float(nct.sf(t, expected.df, noncentral)) - planning.POWER

    formula = brentq(miss, 0, 20, xtol=1e-14) * expected.standard_error
    return {"detectable_drawn": drawn, "detectable_formula": formula}


def look_weights(looks: Any) -> Case:
    weights = planning.look_weights(looks)
    return {"weights": weights, "nominal_at_5_percent": planning.ALPHA * weights}


def sequential_p(looks: Any, p: Any) -> Case:
    running = planning.sequential_p(p, planning.look_weights(looks))
    return {"running": running, "told_at_5_percent": running < planning.ALPHA}


def decide_margin(centre: float, variance: float, df: float, margin: float) -> Case:
    estimate = combine(centre, [variance], [df])
    low, high = estimate.interval()
    [(not_inferior, other)] = adjust_in_margin([estimate], margin, 1)
    p_equivalent = max(not_inferior, other)
    return {
        "interval": (low, high),
        "p_noninferior_two_sided": not_inferior,
        "p_equivalent_two_sided": p_equivalent,
        "noninferior": not_inferior < planning.ALPHA,
        "equivalent": p_equivalent < planning.ALPHA and -margin < low < high < margin,
        "better": estimate.p() < planning.ALPHA and low > 0,
    }


def rank_intervals(recipes: int, pairs: Any, differences: Any, p: Any) -> Case:
    adjusted = holm(p)
    wins = [
        (a, b) if d > 0 else (b, a)
        for (a, b), d, each in zip(pairs, differences, adjusted, strict=True)
        if each < planning.ALPHA
    ]
    intervals = ranks.find_rank_intervals(recipes, wins)
    best = [place for place, interval in enumerate(intervals) if interval.best == 1]
    return {"p_holm": adjusted, "intervals": intervals, "may_be_best": best}


def best() -> Case:
    """Of accuracies that are drawn as the case says."""
    random = np.random.default_rng(5)
    drawn = [random.random((3, 400)) < p for p in (0.80, 0.86, 0.87)]
    return {"p": ranks.estimate_best([summarize_trainings(each) for each in drawn])}


def median_best(values: Any, rows: Any) -> Case:
    computed = []
    for row in rows:
        order_low, order_high = best_of_trials.bound_median(len(values), row["k"])
        value, low, high = best_of_trials.median_best(values, row["k"])
        computed.append(
            {"median": value, "low": low, "high": high}
            | {"order_low": order_low or None}
            | {"order_high": order_high if order_high <= len(values) else None}
        )
    return {"rows": computed}


def scores(labels: Any, predicted: Any, classes: int, logits: Any, logit_labels: Any) -> Case:
    one_hot = np.eye(classes)[predicted]
    f1 = image_f1(Predictions(one_hot, np.array(labels), np.arange(len(labels))))
    places = np.arange(len(logits))
    predictions = Predictions(np.array(logits), np.array(logit_labels), places)
    return {
        "macro_f1": f1.mean(),
        "macro_f1_values": f1,
        "nll": image_nll(predictions),
        "brier": image_brier(predictions),
    }


def count(p: Any, differences: Any) -> Case:
    [counted] = count_better([p], [differences])
    return {"holm": holm(p), "better_and_worse": counted}


def mean(differences: Any, variances: Any, dfs: Any) -> Case:
    columns = zip(differences, variances, dfs, strict=True)
    return describe(mean_over_sets([combine(d, [v], [df]) for d, v, df in columns]))


def without_suspects(a: Any, b: Any, keep: Any) -> Case:
    keep = np.array(keep, dtype=bool)
    whole = [np.array(values, dtype=np.float64) for values in (a, b)]
    kept = [spread_over_all(values[:, keep], keep) for values in whole]
    shifts = [one - other for one, other in zip(kept, whole, strict=True)]
    left = crossed_difference(*map(summarize_trainings, kept))
    shift = describe(crossed_difference(*map(summarize_trainings, shifts)))
    return {
        **{"difference": left.value, "variance": left.variance, "df": left.df},
        **{"shift": shift.pop("value")},
        **{f"shift_{name}": each for name, each in shift.items()},
    }


def any_relabelling(
    predicted_a: Any, predicted_b: Any, labels: Any, suspects: Any, classes: int
) -> Case:
    a, b, of_images = map(np.array, (predicted_a, predicted_b, labels))
    suspect = np.isin(np.arange(len(of_images)), suspects)
    low, high = bound_by_labels(a, b, of_images, suspect, classes)
    return {"low": low, "high": high}


def sets(
    probabilities: Any,
    labels: Any,
    u: Any,
    alpha: float,
    raps: Any,
    new_probabilities: Any,
    new_u: Any,
) -> Case:
    p, of_labels = np.array(probabilities), (np.arange(len(labels)), np.array(labels))
    new_p, settings = np.array(new_probabilities), (raps["lam"], raps["kreg"])
    lac = conformal.find_threshold(1 - p[of_labels], keep(alpha))
    scores = conformal.raps_scores(p, np.array(u), *settings)
    threshold = conformal.find_threshold(scores[of_labels], keep(alpha))
    new_scores = conformal.raps_scores(new_p, np.array(new_u), *settings)
    return {
        "lac_threshold": lac,
        "lac_sets": 1 - new_p <= lac,
        "raps": {"threshold": threshold},
        "raps_scores": new_scores,
        "raps_sets": new_scores <= threshold,
    }


def keep(alpha: float) -> float:
    """1 less alpha, as it is written."""
    return float(1 - Fraction(str(alpha)))


def coverage_law(n: int, alpha: float) -> Case:
    k = conformal.find_rank(n, keep(alpha))
    law = beta(k, n + 1 - k)
    return {"beta": law.args, "mean": law.mean(), "low_5_percent": law.ppf(0.05)}


def selective(errors: int, accepted: int) -> Case:
    bound = conformal.clopper_pearson(errors, accepted, level=0.9).high
    interval = conformal.clopper_pearson(errors, accepted)
    return {"upper_one_sided_95": bound, "interval": interval}


# What computes the results of a group's cases; its parameters are their inputs, by name.
GROUPS: dict[str, Callable[..., Case]] = {
    "1_crossed": crossed,
    "1_one_recipe": lambda correct: describe(crossed_mean(summarize_trainings(correct))),
    "1_unbiased_by_enumeration": enumerate_population,
    "2_components": components,
    "2_pair": pair,
    "2_what_to_buy": what_to_buy,
    "3_detectable": detectable,
    "3_look_weights": look_weights,
    "3_sequential_p": sequential_p,
    "4_margin": decide_margin,
    "5_new_training_beats": lambda a, b: dict(
        zip(("p", "low", "high"), ranks.estimate_win(a, b), strict=True)
    ),
    "5_rank_intervals": rank_intervals,
    "5_best": best,
    "6_expected_best": lambda values, rows: {
        "rows": [{"expected": best_of_trials.expected_best(values, row["k"])} for row in rows]
    },
    "6_median_best": median_best,
    "6_best_beats": lambda a, b, k: {"p": best_of_trials.best_beats(a, b, k)},
    "7_scores": scores,
    "8_count": count,
    "8_mean": mean,
    "9_without_suspects": without_suspects,
    "9_any_relabelling": any_relabelling,
    "10_rank": lambda n, alpha: {"rank": conformal.find_rank(n, keep(alpha))},
    "10_sets": sets,
    "10_coverage_law": coverage_law,
    "10_slack": lambda n, checkpoints: {"slack": conformal.selection_slack(n, checkpoints)},
    "10_selective": selective,
}
# Of a case, besides: words, tolerances, and inputs within others.
BESIDES = {"name", "how", "tolerance", "drawn_tolerance", "k", "lam", "kreg"}
# Values that no function gives: an estimate that is biased, and what others are computed from,
# which are compared.
LEFT_OUT = {
    "6_expected_best": "with_replacement_biased",
    "5_new_training_beats": "df",
    "5_best": "shrink",
}
TOLERANT = {"5_new_training_beats": ("low", "high"), "5_best": ("p",)}


def iterate_leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers, flags and texts by where they stand; infinite is None, as in JSON."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from iterate_leaves(inner, f"{place}.{name}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from iterate_leaves(inner, f"{place}[{number}]")
    else:
        is_open = isinstance(value, float) and not math.isfinite(value)
        yield place, None if is_open else value


def find_tolerance(group: str, case: Case, name: str) -> tuple[float, float]:
    """Relative and absolute."""
    if name == "detectable_drawn":
        return 0.005, 0.0
    if name in TOLERANT.get(group, ()):
        return 0.0, case["tolerance"]
    return LOOSER.get(name, RELATIVE), ABSOLUTE


def check_case(group: str, case: Case) -> tuple[int, list[str]]:
    """How many values agree, and what is wrong with the others, in a line each."""
    compute = GROUPS[group]
    inputs = {name: case[name] for name in signature(compute).parameters}
    ours, num_equal, wrong = dict(iterate_leaves(compute(**inputs))), 0, []
    for place, expected in iterate_leaves(case):
        name = place.rpartition(".")[2].partition("[")[0]
        if name in {*inputs, *BESIDES, LEFT_OUT.get(group)}:
            continue
        if place not in ours:
            wrong.append(f"{place}: nothing computes it")
            continue
        found = ours[place]
        if expected is None or found is None:
            is_equal = expected is found
        else:
            relative, absolute = find_tolerance(group, case, name)
            is_equal = math.isclose(found, expected, rel_tol=relative, abs_tol=absolute)
        num_equal += is_equal
        if not is_equal:
            wrong.append(f"{place}: {found!r}, expected {expected!r}")
    return num_equal, wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("file", type=Path)
    groups = json.loads(parser.parse_args().file.read_text())
    total, num_wrong = 0, 0
    for name, cases in groups.items():
        if name not in GROUPS:
            print(f"{name}: no function here")
            num_wrong += 1
            continue
        checked = [check_case(name, case) for case in np.atleast_1d(cases)]
        num_equal = sum(num for num, _ in checked)
        print(f"{name}: {num_equal} values of {len(checked)} cases")
        for place, (_, wrong) in enumerate(checked):
            for line in wrong:
                print(f"  case {place}{line}")
                num_wrong += 1
        total += num_equal
    print(f"{total} values of {len(groups)} groups agree, {num_wrong} do not")
    print("without a function here:", ", ".join(f"{n} of {g}" for g, n in LEFT_OUT.items()))
    return 1 if num_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
