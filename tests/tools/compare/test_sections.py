"""What a page says of uncertainty and ranks, and where it says nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.run_folders import write_run
from tests.verdict_schema import check_verdict
from triptych.tools.compare.content import MEASURES, Comparison
from triptych.tools.compare.formats import chance
from triptych.tools.compare.ranks import Ranks
from triptych.tools.compare.uncertainty import Uncertainty, warn_of_unstable
from triptych.tools.compare.verdict import SECTIONS
from triptych.tools.report.page import render_markdown, render_page
from triptych.tools.statistics.inference import WithInterval

Compare = Callable[[Path], Comparison]
MODELS = {"alexnet": 2.0, "googlenet": 2.1, "resnet50": 2.0, "vgg11": 6.0}


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, compare_below: Compare) -> Comparison:
    """Recipes of three seeds, the last of them far better than the others."""
    root = tmp_path_factory.mktemp("four")
    for model, skill in MODELS.items():
        for seed in range(3):
            write_run(root, model, seed, skill=skill)
    return compare_below(root)


def test_no_estimated_chance_is_shown_as_certain() -> None:
    shown = [chance(p) for p in (0.0, 0.0049, 0.006, 0.5, 0.994, 0.996, 1.0)]
    assert shown == ["< 0.01", "< 0.01", "0.01", "0.50", "0.99", "> 0.99", "> 0.99"]


def test_two_single_runs_have_no_section_but_that_of_their_validation_images(
    tmp_path: Path, compare_below: Compare
) -> None:
    for model in ("alexnet", "googlenet"):
        write_run(tmp_path, model)
    assert [*compare_below(tmp_path).sections] == ["abstention"]


def test_parts_of_the_uncertainty_sum_to_one_and_say_what_would_narrow_it(four: Comparison) -> None:
    section = four.sections["uncertainty"]
    assert isinstance(section, Uncertainty)
    assert len(section.recipes) == 4
    assert len(section.pairs) == 6
    for parts in (*section.recipes, *section.pairs):
        shares = (parts.images, parts.seeds, parts.flips)
        assert sum(share.value for share in shares) == pytest.approx(1)
        assert all(share.low <= share.value <= share.high for share in shares)
    for pair in section.pairs:
        now, one_more, _, any_seeds, _, three, *_ = pair.designs.values()
        assert now.num_seeds == (3, 3)
        assert now == three
        assert any_seeds.half_width < one_more.half_width < now.half_width
        assert all(each.half_width <= each.at_skill_limit for each in pair.designs.values())
    table = zip(section.pairs, four.rank_pairs(four.recipe_pairs), strict=True)
    undecided = [parts for parts, pair in table if pair.verdict == "undecided"]
    for pair, sentence in zip(undecided, section.sentences[:3], strict=True):
        width = MEASURES["accuracy"].write_width(pair.designs["5 seeds"].half_width)
        assert f"with 5 seeds expect ±{width} points" in sentence
        assert sentence in four.verdict


def test_few_seeds_of_unstable_trainings_and_many_pairs_are_warned_of(four: Comparison) -> None:
    section = four.sections["uncertainty"]
    assert isinstance(section, Uncertainty)
    unstable = [section.recipes[0]._replace(skill_sd=WithInterval(0.01))]
    accuracy = MEASURES["accuracy"]
    assert warn_of_unstable(unstable, 6, accuracy)
    assert not warn_of_unstable(unstable, 3, accuracy)
    assert not warn_of_unstable([unstable[0]._replace(num_seeds=5)], 6, accuracy)
    assert not warn_of_unstable(unstable, 6, MEASURES["nll"])


def test_ranks_agree_with_the_significant_pairs(four: Comparison) -> None:
    section = four.sections["ranks"]
    assert isinstance(section, Ranks)
    [ranking] = section.rankings
    assert ranking.of == "recipes"
    assert ranking.may_be_best == ["vgg11"]
    assert {(each.best, each.worst) for each in ranking.ranks[1:]} == {(2, 4)}
    assert sum(each.p_best for each in ranking.ranks) == pytest.approx(1)
    assert len(section.wins) == 6
    assert any("vgg11 is the best" in sentence for sentence in four.verdict)


def test_trained_networks_are_ranked_where_recipes_have_too_few_seeds(
    tmp_path: Path, compare_below: Compare
) -> None:
    for model, skill in MODELS.items():
        write_run(tmp_path, model, skill=skill)
    comparison = compare_below(tmp_path)
    section = comparison.sections["ranks"]
    assert isinstance(section, Ranks)
    assert [each.of for each in section.rankings] == ["trained networks"]
    assert not section.wins
    assert "\n\n\n" not in render_markdown(comparison)


def test_networks_on_other_images_are_ranked_apart(tmp_path: Path, compare_below: Compare) -> None:
    for model in MODELS:
        write_run(tmp_path, model)
    for model in ("alexnet", "googlenet", "resnet50"):
        write_run(tmp_path, model, 1, num_images=100, settings={"data.batch_size": 32})
    section = compare_below(tmp_path).sections["ranks"]
    assert isinstance(section, Ranks)
    assert sorted(len(each.ranks) for each in section.rankings) == [3, 4]


def test_of_two_recipes_the_chance_of_a_new_training_is_said(
    tmp_path: Path, compare_below: Compare
) -> None:
    for model in ("alexnet", "googlenet"):
        for seed in range(3):
            write_run(tmp_path, model, seed, skill=2.0 if model == "alexnet" else 3.0)
    comparison = compare_below(tmp_path)
    section = comparison.sections["ranks"]
    assert isinstance(section, Ranks)
    assert not section.rankings
    assert any("A new training of googlenet would beat" in each for each in comparison.verdict)


def test_sections_are_on_the_page_in_the_text_and_plain_numbers_for_programs(
    four: Comparison,
) -> None:
    page, text = render_page(four), render_markdown(four)
    keys = {name: key for key, name in SECTIONS.items()}
    for name, section in four.sections.items():
        assert section.heading in page
        assert f"## {section.heading}" in text
        check_verdict(section.describe(), keys[name])
    assert "\n\n\n" not in text
