"""What is foretold is what the statistics say, and a plan is one that nobody changed since."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from tests.run_folders import write_run
from triptych.config import CONFIGS
from triptych.errors import UserError
from triptych.tools.plan.command import plan
from triptych.tools.plan.document import Plan, read_plan
from triptych.tools.statistics.planning import count_seeds, draw_looks, guess_scatter
from triptych.tools.sweep.jobs import compose_jobs

MODELS = ("alexnet", "googlenet", "resnet50")
Planner = Callable[..., Plan]


@cache
def compose_once(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("plan", [*overrides])


@pytest.fixture
def make_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    """Plans as its command line would, and reads the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOG_DIR", "logs")

    def make(*typed: str, models: tuple[str, ...] = MODELS, seeds: tuple[int, ...] = ()) -> Plan:
        overrides = [
            [*f"model={model}".split(), *typed, *(f"seed={seed}" for seed in chosen)]
            for model in models
            for chosen in ([(seed,) for seed in seeds] or [()])
        ]
        plan(compose_jobs(lambda each: compose_once(*each), overrides, "plan"))
        return read_plan(Path("plan.yaml"))

    return make


def test_a_plan_promises_what_the_drawn_intervals_show(
    make_plan: Planner, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ("looks=[3,5,10]", "difference=1", "margin=0.5", "churn=5", "skill_sd=0.3")
    made = make_plan(*typed)
    scatter = guess_scatter(0.05, 0.12, 0.003, 0.01)
    drawn = draw_looks(scatter, [3, 5, 10], 10_000, num_pairs=3)
    promised = made.promised["assumed"]
    assert promised["detectable"] == drawn.detectable
    assert promised["power"] == drawn.power(0.01)
    assert promised["seeds"] == count_seeds(scatter, 0.01, 10_000, 3)
    assert promised["non_inferiority_power"] == drawn.non_inferiority_power(0.005)
    assert (made.looks, made.seeds, made.num_images) == ([3, 5, 10], [*range(10)], 10_000)
    assert [recipe.label for recipe in made.recipes] == [*MODELS]
    assert made.recipes[0].overrides == ["model=alexnet"]
    assert made.is_intact
    assert (made.split_hash, made.test_hash) == (None, None)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert "not known yet" in shown, "nobody trained these here"


def test_a_difference_that_the_test_images_hide_needs_no_number_of_seeds(
    make_plan: Planner, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_plan("difference=0.5", seeds=(4, 2, 0))
    assert made.promised["assumed"]["seeds"] is None
    assert made.promised["assumed"]["limit"] > 0.005
    assert "no number of seeds" in capsys.readouterr().out
    assert (made.seeds, made.looks) == ([4, 2, 0], [3]), "in the order in which they were declared"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("margin=0", "margin=0: "),
        ("margin=101", "margin=101: "),
        ("looks=[5,3]", r"looks=\[5, 3\]: "),
        ("looks=[2,5]", r"looks=\[2, 5\]: "),
        ("looks=[3,3]", r"looks=\[3, 3\]: "),
        ("looks=[3,5]", "seed: 3 of them, the last look takes 5"),
        ("model=alexnet", "model=alexnet.*: one recipe and seed twice"),
        ("data=torchvision data.set=STL10", "num_images: must be given"),
        ("data=folder data.root=. data.separator=;", "data.separator=;: "),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(
    make_plan: Planner, typed: str, says: str
) -> None:
    models = ("alexnet", "alexnet") if typed.startswith("model=") else ("alexnet", "resnet50")
    more = [] if typed.startswith("model=") else typed.split()
    with pytest.raises(UserError, match=says):
        make_plan(*more, models=models, seeds=(0, 1, 2))
    assert not Path("plan.yaml").exists()


def test_recipes_of_other_images_and_a_single_one_are_no_plan(make_plan: Planner) -> None:
    with pytest.raises(UserError, match="model: one recipe"):
        make_plan(models=("alexnet",))
    with pytest.raises(UserError, match=r"data\.split_seed: 0 and 1"):
        make_plan(models=("alexnet", "resnet50 data.split_seed=1"))


def test_another_plan_is_replaced_only_where_that_is_said(make_plan: Planner) -> None:
    first = make_plan("difference=1")
    assert make_plan("difference=1").written_at == first.written_at, "the same once more"
    with pytest.raises(UserError, match=r"out=plan\.yaml: another plan"):
        make_plan("difference=2")
    assert make_plan("difference=2", "overwrite=true").difference == 2.0


def test_an_edit_by_hand_shows_and_a_broken_plan_is_refused(make_plan: Planner) -> None:
    make_plan("margin=0.5")
    path = Path("plan.yaml")
    text = path.read_text()
    path.write_text(text.replace("margin: 0.5", "margin: 5"))
    assert not read_plan(path).is_intact
    for broken in (
        "recipes: [",
        "a: 2020-01-01",
        text.replace("looks:\n- 3", "looks:\n- 30"),
        "a: &a 1\nb: *a",
        "[]",
    ):
        path.write_text(broken)
        with pytest.raises(UserError, match=r"plan\.yaml"):
            read_plan(path)


def test_three_earlier_runs_of_each_recipe_are_a_pilot(
    make_plan: Planner, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_plan("data=shapes")
    for recipe in made.recipes[:2]:
        for seed in range(3):
            write_run(Path("logs"), recipe.label, seed, group_hash=recipe.group_hash)
    typed = ("data=shapes", "overwrite=true", "difference=5")
    capsys.readouterr()
    piloted = make_plan(*typed, models=MODELS[:2])
    assert len(piloted.promised) == 2, "at the skill that was seen, and at its upper limit"
    seen, upper = piloted.promised.values()
    assert seen["detectable"] < upper["detectable"]
    assert (piloted.split_hash, piloted.num_images) == ("5" * 16, 200)
    larger = make_plan(*typed, "num_images=2000", models=MODELS[:2]).promised
    assert larger["assumed"]["detectable"] < seen["detectable"], "more images show more"
    shown = capsys.readouterr().out
    assert "80 % limit" in shown
    assert "1 min 10 s to the first look (6 runs), at most 8 min (40 runs)" in shown, "12 s each"
    assert piloted.seeds == [*range(3, 23)], "those of the pilot are seen already"
    chosen = make_plan(*typed, "churn=5", models=MODELS[:2], seeds=(2, 3, 4))
    assert len(chosen.promised) == 1, "what is typed holds"
    assert "2 were trained before this plan" in capsys.readouterr().out
    with pytest.raises(UserError, match="churn: "):
        make_plan("churn=5", "metric=nll")
