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
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, nct

from triptych.runs.predictions import Predictions
from triptych.tools.compare.pairs import adjust_in_margin
from triptych.tools.statistics import best_of_trials, conformal, planning, ranks, suspects
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

Case = dict[str, Any]
RELATIVE, ABSOLUTE = 1e-10, 1e-14
LOOSER = {"df": 1e-9, "shift_df": 1e-9} | dict.fromkeys(
    ("p", "p_above_minus_0_1", "p_flips_alone"), 1e-9
)
NUM_DRAWS = 1_000_000


def summarize(case: Case) -> tuple[Trainings, Trainings]:
    return summarize_trainings(case["a"]), summarize_trainings(case["b"])


def describe(estimate: Estimate) -> Case:
    return {"value": estimate.value, "variance": estimate.variance, "df": estimate.df} | {
        "interval": estimate.interval()
    }


def estimate_unbiased(by_image: NDArray[np.float64], *recipes: Trainings) -> float:
    """The variance without a part held at 0: it may be negative."""
    repeated = [each for each in recipes if each.num_seeds > 1]
    parts = [(r.seed_variance - r.flips / r.num_images) / r.num_seeds for r in repeated]
    return float(by_image.var(ddof=1)) / len(by_image) + sum(parts)


def crossed(case: Case) -> Case:
    a, b = summarize(case)
    estimate = crossed_difference(a, b, pseudo_images=case["pseudo_images"] > 0)
    return describe(estimate) | {
        "centre": estimate.centre,
        "image": estimate.image,
        "seed": estimate.seed,
        "floor": estimate.flips,
        "unbiased_variance": estimate_unbiased(a.by_image - b.by_image, a, b),
        "interval_99": estimate.interval(0.99),
        "p": estimate.p(),
        "p_above_minus_0_1": estimate.p_above(-0.1),
    }


def one_recipe(case: Case) -> Case:
    return describe(crossed_mean(summarize_trainings(case["correct"])))


def enumerate_population(case: Case) -> Case:
    """Two seeds and images drawn with replacement, in every way."""
    population = np.array(case["population"])
    seeds, images = ([*product(range(len(population)), repeat=case[name])] for name in ("n", "N"))
    drawn = [population[np.ix_(some, others)] for some in seeds for others in images]
    trainings = [summarize_trainings(values) for values in drawn]
    unbiased = [estimate_unbiased(each.by_image, each) for each in trainings]
    variance = np.var([values.mean() for values in drawn])
    return {"variance_of_mean": variance, "mean_of_unbiased_variance": np.mean(unbiased)}


def components(case: Case) -> Case:
    parts = split_variance(leave_out_seeds(case["correct"]))
    trainings = summarize_trainings(case["correct"])
    return {
        "seed_variance": parts.skill.value,
        "seed_interval": parts.skill[1:],
        "residual": parts.flips.value,
        "image": parts.image.value,
        "p_flips_alone": parts.p_flips_alone,
        "image_interval": parts.image[1:],
        "residual_interval": parts.flips[1:],
        "mean_square_seeds": trainings.seed_variance,
    }


def pair(case: Case) -> Case:
    both = [leave_out_seeds(case[name]) for name in "ab"]
    parts = [split_variance(each) for each in both]
    return {
        "image": estimate_image(*both).value,
        "seed": [each.skill.value for each in parts],
        "residual": [each.flips.value for each in parts],
    }


def read_scatter(case: Case) -> planning.Scatter:
    skill, flips = (np.broadcast_to(case[name], 2).tolist() for name in ("seed", "residual"))
    return planning.Scatter(case["image"], tuple(skill), tuple(flips))


def what_to_buy(case: Case) -> Case:
    estimate = expect_estimate(read_scatter(case), case["n"], case["N"])
    low, high = estimate.interval()
    return {"variance": estimate.variance, "df": estimate.df, "half_width": (high - low) / 2}


def detectable(case: Case) -> Case:
    """As drawn for a plan; and by the closed form, too hopeful, of the same variance and df."""
    scatter, n, alpha = read_scatter(case), case["n"], case["alpha"]
    num_pairs = round(planning.ALPHA / alpha)
    drawn = planning.draw_looks(scatter, [n], case["N"], num_pairs, NUM_DRAWS).detectable
    expected = expect_estimate(scatter, (n, n), case["N"])
    t = expected.interval(1 - alpha).high / expected.standard_error

    def miss(noncentral: float) -> float:
        return float(nct.sf(t, expected.df, noncentral)) - planning.POWER

    formula = brentq(miss, 0, 20, xtol=1e-14) * expected.standard_error
    return {"detectable_drawn": drawn, "detectable_formula": formula}


def look_weights(case: Case) -> Case:
    weights = planning.look_weights(case["looks"])
    return {"weights": weights, "nominal_at_5_percent": planning.ALPHA * weights}


def sequential_p(case: Case) -> Case:
    running = planning.sequential_p(case["p"], planning.look_weights(case["looks"]))
    return {"running": running, "told_at_5_percent": running < planning.ALPHA}


def margin(case: Case) -> Case:
    estimate = combine(case["centre"], [case["variance"]], [case["df"]])
    low, high = estimate.interval()
    [(not_inferior, other)] = adjust_in_margin([estimate], case["margin"], 1)
    within = case["margin"]
    return {
        "interval": (low, high),
        "p_noninferior_two_sided": not_inferior,
        "p_equivalent_two_sided": max(not_inferior, other),
        "noninferior": not_inferior < planning.ALPHA,
        "equivalent": max(not_inferior, other) < planning.ALPHA and -within < low < high < within,
        "better": estimate.p() < planning.ALPHA and low > 0,
    }


def new_training_beats(case: Case) -> Case:
    value, low, high = ranks.estimate_win(case["a"], case["b"])
    return {"p": value, "low": low, "high": high}


def rank_intervals(case: Case) -> Case:
    adjusted = holm(case["p"])
    wins = [
        (a, b) if d > 0 else (b, a)
        for (a, b), d, p in zip(case["pairs"], case["differences"], adjusted, strict=True)
        if p < planning.ALPHA
    ]
    intervals = ranks.find_rank_intervals(case["recipes"], wins)
    best = [place for place, interval in enumerate(intervals) if interval.best == 1]
    return {"p_holm": adjusted, "intervals": intervals, "may_be_best": best}


def best(case: Case) -> Case:
    """Of accuracies that are drawn as the case says."""
    random = np.random.default_rng(5)
    drawn = [random.random((3, 400)) < p for p in (0.80, 0.86, 0.87)]
    return {"p": ranks.estimate_best([summarize_trainings(each) for each in drawn])}


def expected_best(case: Case) -> Case:
    rows = [
        {"expected": best_of_trials.expected_best(case["values"], r["k"])} for r in case["rows"]
    ]
    return {"rows": rows}


def median_best(case: Case) -> Case:
    rows = []
    for row in case["rows"]:
        num_trials = len(case["values"])
        order_low, order_high = best_of_trials.bound_median(num_trials, row["k"])
        value, low, high = best_of_trials.median_best(case["values"], row["k"])
        rows.append(
            {"median": value, "low": low, "high": high}
            | {"order_low": order_low or None}
            | {"order_high": order_high if order_high <= num_trials else None}
        )
    return {"rows": rows}


def best_beats(case: Case) -> Case:
    return {"p": best_of_trials.best_beats(case["a"], case["b"], case["k"])}


def scores(case: Case) -> Case:
    labels, predicted = np.array(case["labels"]), np.array(case["predicted"])
    one_hot = np.eye(case["classes"])[predicted]
    f1 = image_f1(Predictions(one_hot, labels, np.arange(len(labels))))
    logits, logit_labels = np.array(case["logits"]), np.array(case["logit_labels"])
    predictions = Predictions(logits, logit_labels, np.arange(len(logits)))
    return {
        "macro_f1": f1.mean(),
        "macro_f1_values": f1,
        "nll": image_nll(predictions),
        "brier": image_brier(predictions),
    }


def count(case: Case) -> Case:
    [counted] = count_better([case["p"]], [case["differences"]])
    return {"holm": holm(case["p"]), "better_and_worse": counted}


def mean(case: Case) -> Case:
    columns = zip(case["differences"], case["variances"], case["dfs"], strict=True)
    return describe(mean_over_sets([combine(d, [v], [df]) for d, v, df in columns]))


def without_suspects(case: Case) -> Case:
    keep = np.array(case["keep"], dtype=bool)
    whole = [np.array(case[name], dtype=np.float64) for name in "ab"]
    kept = [suspects.spread_over_all(values[:, keep], keep) for values in whole]
    shifts = [one - other for one, other in zip(kept, whole, strict=True)]
    left = describe(crossed_difference(*map(summarize_trainings, kept)))
    shift = describe(crossed_difference(*map(summarize_trainings, shifts)))
    del left["interval"]
    left["difference"] = left.pop("value")
    return left | {f"shift_{n}".removesuffix("_value"): each for n, each in shift.items()}


def any_relabelling(case: Case) -> Case:
    a, b, labels = (np.array(case[n]) for n in ("predicted_a", "predicted_b", "labels"))
    suspect = np.isin(np.arange(len(labels)), case["suspects"])
    low, high = suspects.bound_by_labels(a, b, labels, suspect, case["classes"])
    return {"low": low, "high": high}


def rank(case: Case) -> Case:
    return {"rank": conformal.find_rank(case["n"], case["alpha"])}


def sets(case: Case) -> Case:
    names = ("probabilities", "labels", "u", "new_probabilities", "new_u")
    p, labels, u, new_p, new_u = (np.array(case[name]) for name in names)
    settings = case["raps"]["lam"], case["raps"]["kreg"]

    of_labels = np.arange(len(labels)), labels
    lac = conformal.find_threshold(1 - p[of_labels], case["alpha"])
    raps = conformal.find_threshold(
        conformal.raps_scores(p, u, *settings)[of_labels], case["alpha"]
    )
    new_scores = conformal.raps_scores(new_p, new_u, *settings)
    return {
        "lac_threshold": lac,
        "lac_sets": 1 - new_p <= lac,
        "raps": {"threshold": raps},
        "raps_scores": new_scores,
        "raps_sets": new_scores <= raps,
    }


def coverage_law(case: Case) -> Case:
    rank = conformal.find_rank(case["n"], case["alpha"])
    law = rank, case["n"] + 1 - rank
    return {"beta": law, "mean": beta(*law).mean(), "low_5_percent": beta(*law).ppf(0.05)}


def slack(case: Case) -> Case:
    return {"slack": conformal.selection_slack(case["n"], case["checkpoints"])}


def selective(case: Case) -> Case:
    counts = case["errors"], case["accepted"]
    bound = conformal.clopper_pearson(*counts, level=0.9).high
    return {"upper_one_sided_95": bound, "interval": conformal.clopper_pearson(*counts)}


# Of each group the inputs of a case, and what computes the rest.
GROUPS: dict[str, tuple[str, Callable[[Case], Case]]] = {
    "1_crossed": ("name a b pseudo_images", crossed),
    "1_one_recipe": ("correct", one_recipe),
    "1_unbiased_by_enumeration": ("population n N", enumerate_population),
    "2_components": ("correct", components),
    "2_pair": ("a b", pair),
    "2_what_to_buy": ("image seed residual n N", what_to_buy),
    "3_detectable": ("image seed residual n N alpha drawn_tolerance", detectable),
    "3_look_weights": ("looks", look_weights),
    "3_sequential_p": ("looks p", sequential_p),
    "4_margin": ("centre variance df margin", margin),
    "5_new_training_beats": ("a b tolerance", new_training_beats),
    "5_rank_intervals": ("recipes pairs differences p", rank_intervals),
    "5_best": ("how tolerance", best),
    "6_expected_best": ("values k", expected_best),
    "6_median_best": ("values k", median_best),
    "6_best_beats": ("a b k", best_beats),
    "7_scores": ("labels predicted classes logits logit_labels", scores),
    "8_count": ("p differences", count),
    "8_mean": ("differences variances dfs", mean),
    "9_without_suspects": ("a b keep", without_suspects),
    "9_any_relabelling": ("predicted_a predicted_b labels suspects classes", any_relabelling),
    "10_rank": ("n alpha", rank),
    "10_sets": ("probabilities labels u alpha lam kreg new_probabilities new_u", sets),
    "10_coverage_law": ("n alpha", coverage_law),
    "10_slack": ("n checkpoints", slack),
    "10_selective": ("errors accepted", selective),
}
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
    inputs, compute = GROUPS[group]
    ours, num_equal, wrong = dict(iterate_leaves(compute(case))), 0, []
    for place, expected in iterate_leaves(case):
        names = [part.partition("[")[0] for part in place.split(".")[1:]]
        if {*names} & {*inputs.split(), LEFT_OUT.get(group)}:
            continue
        if place not in ours:
            wrong.append(f"{place}: nothing computes it")
            continue
        found = ours[place]
        if expected is None or found is None:
            is_equal = expected is found
        else:
            relative, absolute = find_tolerance(group, case, names[-1])
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
