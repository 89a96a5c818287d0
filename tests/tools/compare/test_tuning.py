"""The section on tuning: studies as `tune` writes them, runs that name them, without training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from tests.run_folders import write_run
from tests.verdict_schema import check_verdict
from triptych.tools.compare.command import build_comparison
from triptych.tools.compare.content import Comparison
from triptych.tools.compare.runs import Problem, read_runs
from triptych.tools.compare.searches import count_candidates
from triptych.tools.compare.tuning import Tuning
from triptych.tools.report.page import render_markdown, render_page
from triptych.tools.statistics.best_of_trials import best_beats, expected_best, median_best
from triptych.tools.tune.spending import write_spent

RATE = {"low": 1e-5, "high": 1e-2, "log": True}


def write_study(
    root: Path,
    study: str,
    scores: Sequence[float | None],
    *,
    direction: str = "maximize",
    num_pruned: int = 0,
    space: str = "optim.lr",
    **search: Any,
) -> dict[str, Any]:
    """A study in `tune/`, the last trials pruned; what a run trained from it says of it."""
    about = {
        "study": study,
        "search_hash": study.partition("_search")[0],
        "space_hash": space,
        "budget": f"{len(scores)} trials",
        "sampler": "random",
        "sampler_seed": 0,
        "monitor": "val/accuracy",
        **search,
    }
    made = optuna.create_study(direction=direction)
    for number, score in enumerate(scores):
        is_pruned = number >= len(scores) - num_pruned
        trial = create_trial(
            params={space: 0.001},
            distributions={space: FloatDistribution(1e-5, 1)},
            state=TrialState.PRUNED if is_pruned else TrialState.COMPLETE,
            value=score,
            intermediate_values={} if score is None else {1: score},
        )
        made.add_trial(trial)
    folder = root / "tune" / study
    folder.mkdir(parents=True)
    write_spent(folder, about | {"space": {space: RATE}}, made)
    return about | {"num_trials": len(scores), "seconds": 60.0 * len(scores), "seed": 0}


def compare(root: Path) -> tuple[Comparison, list[Problem]]:
    folders = sorted(path.parent for path in root.rglob("run.json"))
    runs, problems = read_runs(folders)
    return build_comparison(runs, problems), problems


def tuning_of(comparison: Comparison) -> Tuning:
    section = comparison.sections["tuning"]
    assert isinstance(section, Tuning)
    return section


def describe(section: Tuning) -> Any:
    """As verdict.json has it."""
    return check_verdict(section.describe(), "tuning")


def draw_scores(seed: int, number: int, mean: float = 0.8) -> list[float]:
    return np.random.default_rng(seed).normal(mean, 0.02, number).tolist()


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks, three searches of eight random trials each, a run of each winner."""
    root = tmp_path_factory.mktemp("replicated")
    for model, skill in (("alexnet", 1.5), ("googlenet", 2.5)):
        for number in range(3):
            study = f"{model}_shapes" + f"_search{number}" * bool(number)
            scores = draw_scores(number + 10 * len(model), 8)
            tuned = write_study(root, study, scores, sampler_seed=number)
            settings = {"tuned": tuned, "optim.lr": 0.001 * (1 + number)}
            write_run(root, model, 1 + number, skill=skill, settings=settings)
    return root


def test_the_winners_of_three_searches_are_one_recipe_whatever_settings_won(
    replicated: Path,
) -> None:
    comparison, problems = compare(replicated)
    assert problems == []
    labels = ["alexnet tuned", "googlenet tuned"]
    assert sorted(recipe.label for recipe in comparison.recipes) == labels
    assert [len(recipe.networks) for recipe in comparison.recipes] == [3, 3]
    [pair] = comparison.recipe_pairs.pairs
    assert (pair.a, pair.b, pair.num_seeds) == (*labels, (3, 3))
    section = tuning_of(comparison)
    assert len(section.sentences) == 1, "the budgets are equal"
    assert "8 trials" in section.sentences[0]
    assert section.sentences[0] in comparison.verdict
    described = describe(section)
    assert described["equal_budgets"]
    assert not described["not_tuned"]
    assert [len(each["searches"]) for each in described["recipes"]] == [3, 3]


def test_a_line_is_the_expected_best_of_all_trials_and_its_band_ends_where_it_is_open(
    replicated: Path,
) -> None:
    comparison, _ = compare(replicated)
    section = tuning_of(comparison)
    pooled = [
        np.concatenate([draw_scores(number + 10 * length, 8) for number in range(3)])
        for length in (9, 7)  # of googlenet, of alexnet: the better one stands first
    ]
    for recipe, scores in zip(describe(section)["recipes"], pooled, strict=True):
        [curve] = recipe["curves"]
        assert curve["k"] == [*range(1, 25)]
        expected = [expected_best(scores, k) for k in range(1, 25)]
        assert curve["best"] == pytest.approx(expected, abs=1e-9)
        bounded = [k for k, high in zip(curve["k"], curve["high"], strict=True) if high is not None]
        assert bounded == [1, 2, 3, 4]  # 24 / 5.3
        assert (curve["low"][3], curve["high"][3]) == pytest.approx(median_best(scores, 4)[1:])
    assert f"with chance {best_beats(*pooled, 4):.2f}" in section.notes[-1]
    page, text = render_page(comparison), render_markdown(comparison)
    assert page.count('aria-label="Best val/accuracy by') == 4
    for each in (page, text):
        assert "Tuning" in each
        assert "With 4 random trials" in each


def test_of_a_search_one_network_stands_and_others_are_named(
    replicated: Path, tmp_path: Path
) -> None:
    tuned = write_study(tmp_path, "a_shapes", draw_scores(0, 8))
    for number, seed in ((0, 1), (1, 2), (2, 3), (2, 9)):
        settings = {"tuned": tuned | {"sampler_seed": number}, "optim.lr": 0.001 * (1 + number)}
        write_run(tmp_path, "a", seed, settings=settings)
    comparison, problems = compare(tmp_path)
    [recipe] = comparison.recipes
    assert [network.metadata["seed"] for network in recipe.networks] == [1, 2, 3]
    assert "seed 3" in problems[0].what


def test_unequal_budgets_other_spaces_and_untuned_networks_are_said_to_be_so(
    tmp_path: Path,
) -> None:
    few = write_study(tmp_path, "alexnet_shapes", draw_scores(0, 6))
    many = write_study(tmp_path, "googlenet_shapes", draw_scores(1, 9), space="optim.weight_decay")
    for model, tuned in (("alexnet", few), ("googlenet", many)):
        for seed in (1, 2, 3):
            write_run(tmp_path, model, seed, settings={"tuned": tuned})
    write_run(tmp_path, "resnet50", 1)
    section = tuning_of(compare(tmp_path)[0])
    assert describe(section)["not_tuned"] == ["resnet50"]
    assert not describe(section)["equal_budgets"]
    untuned, unequal, spaces, single = section.sentences
    assert "resnet50" in untuned
    assert "6 trials (alexnet)" in unequal
    assert "9 trials (googlenet)" in unequal
    assert "ranges" in spaces
    assert "searches=3" in single


def test_tpe_has_its_best_so_far_and_no_interval(tmp_path: Path) -> None:
    tuned = write_study(tmp_path, "a", [0.5, 0.7, 0.6, 0.8], sampler="tpe")
    write_run(tmp_path, "a", 1, settings={"tuned": tuned})
    comparison, _ = compare(tmp_path)
    section = tuning_of(comparison)
    [recipe] = describe(section)["recipes"]
    [curve] = recipe["curves"]
    assert curve["best"] == [0.5, 0.7, 0.7, 0.8]
    assert curve["low"] == curve["high"] == [None] * 4
    assert "sampler=random" in section.notes[0]
    assert "one search, without an interval" in render_page(comparison)


def test_losses_are_least_and_trials_without_a_score_count_as_the_worst(tmp_path: Path) -> None:
    scores = [0.9, 0.4, 0.45, 0.6, 0.5, 0.7, 0.8, None]
    options = {"direction": "minimize", "monitor": "val/loss", "num_pruned": 1}
    tuned = write_study(tmp_path, "a", scores, **options)
    write_run(tmp_path, "a", 1, settings={"tuned": tuned})
    section = tuning_of(compare(tmp_path)[0])
    [recipe] = describe(section)["recipes"]
    [curve] = recipe["curves"]
    assert curve["best"][0] == pytest.approx(np.mean([*scores[:-1], 0.9]))
    assert curve["best"][-1] == pytest.approx(0.4)
    assert curve["low"][0] <= curve["high"][0]
    assert sum("1 of 8 trials" in note for note in section.notes) == 1


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("gone", "study a, whose spent.json is gone"),
        ("edited", "trials.csv: is not as tune wrote it"),
        ("torn", "trials.csv: score must be"),
        ("half", "spent.json: cannot be read"),
        ("other", "not those that tuned this run"),
    ],
)
def test_a_study_that_is_gone_or_was_changed_is_named_and_the_page_goes_on(
    harm: str, says: str, tmp_path: Path
) -> None:
    tuned = write_study(tmp_path, "a", draw_scores(0, 6))
    spent, trials = (tmp_path / "tune" / "a" / name for name in ("spent.json", "trials.csv"))
    if harm == "gone":
        spent.unlink()
    elif harm == "edited":
        trials.write_text(trials.read_text().replace("0.7", "0.9").replace("0.8", "0.9"))
    elif harm == "torn":
        trials.write_text("number,state,score\n0,complete,1e99\n")
    elif harm == "half":
        spent.write_text(spent.read_text()[:40])
    else:
        tuned["search_hash"] = "another"
    write_run(tmp_path, "a", 1, settings={"tuned": tuned})
    comparison, problems = compare(tmp_path)
    assert [says in problem.what for problem in problems] == [True]
    section = tuning_of(comparison)
    assert describe(section)["recipes"][0]["curves"] == []
    assert "6 trials" in render_markdown(comparison)


def test_without_a_tuned_run_there_is_no_section(tmp_path: Path) -> None:
    write_run(tmp_path, "a", 1, settings={"tuned": {"study": "../../secret", "seed": 0}})
    write_run(tmp_path, "b", 1)
    assert "tuning" not in compare(tmp_path)[0].sections


@pytest.mark.parametrize(
    ("score", "callbacks", "num_trials", "expected"),
    [
        ("best", [], None, 8),
        ("last", [], None, 1),
        ("last", ["EMAWeightAveraging", "SWA"], None, 1),
        ("last", ["EarlyStopping"], None, 12),  # of 12 epochs it might have ended after any
        ("last", ["Mine"], None, 8),
        ("best", ["Soup"], None, 8 + 56),  # or the mean of any 3 of them
        ("best", [], 5, 40),
        ("last", [], 5, 5),
    ],
)
def test_validation_chose_among_the_epochs_it_saw_of_every_trial(
    score: str, callbacks: list[str], num_trials: int | None, expected: int
) -> None:
    nodes = [{"_target_": f"somewhere.{name}", "k": 3} for name in callbacks]
    trainer = {"max_epochs": 12, "callbacks": nodes}
    config: dict[str, Any] = {"checkpoint": {"score": score}, "trainer": trainer}
    if num_trials:
        words = dict.fromkeys(("search_hash", "space_hash", "budget", "sampler", "monitor"), "a")
        numbers = {"sampler_seed": 0, "num_trials": num_trials, "seconds": 1.0}
        config["tuned"] = {"study": "a", **words, **numbers}
    assert count_candidates(config, {"num_epochs": 8}) == expected
    chosen_at_quarters = config | {"trainer": trainer | {"val_check_interval": 0.25}}
    if expected == 8:
        assert count_candidates(chosen_at_quarters, {"num_epochs": 8}) == 32


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"checkpoint": None, "trainer": "x", "callbacks": 1}, 8),
        ({"trainer": {"val_check_interval": 0.0}}, 8),
        ({"trainer": {"val_check_interval": float("nan")}}, 8),
        ({"trainer": {"max_epochs": "x"}, "callbacks": [{"_target_": "a.EarlyStopping"}]}, 8),
        ({"callbacks": [{"_target_": "a.Soup", "k": -1}]}, 8 + 8),
        ({"callbacks": [{"_target_": "a.Soup", "k": "x"}]}, 8 + 8),
    ],
)
def test_what_no_training_takes_counts_nothing(config: dict[str, Any], expected: int) -> None:
    assert count_candidates(config, {"num_epochs": 8}) == expected


def test_of_any_number_of_candidates_the_number_can_be_written() -> None:
    soup = {"callbacks": [{"_target_": "a.Soup", "k": 50_000}]}
    assert len(f"{count_candidates(soup, {'num_epochs': 10**18}):,}") > 1000
