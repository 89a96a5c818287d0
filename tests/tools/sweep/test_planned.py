"""A sweep that follows its plan: when it stops, what it repeats, what it refuses.

Jobs are imitated: each writes the run folder that it would leave, of a recipe's skill.
"""

import logging
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.triptych.launchers import SlurmLauncher
from tests.composing import composed
from tests.run_folders import change_record, write_run
from tests.verdict_schema import check_verdict
from triptych.config import CONFIGS
from triptych.errors import UserError
from triptych.runs.predictions import read_predictions
from triptych.runs.record import Record, config_hash
from triptych.tools.compare import content, uncertainty
from triptych.tools.compare.command import ask
from triptych.tools.compare.pairs import compare_recipes
from triptych.tools.compare.planned import Planned, build
from triptych.tools.compare.recipes import group_by_recipe
from triptych.tools.compare.runs import read_runs
from triptych.tools.plan.command import plan
from triptych.tools.plan.document import FILE, Plan, read_plan, write_plan
from triptych.tools.statistics.planning import look_weights
from triptych.tools.statistics.scores import score_predictions
from triptych.tools.sweep.jobs import Job, compose_jobs, find_run_of_job
from triptych.tools.sweep.planned import find_plan, follow

CLEAR, NULL = (0.5, 1.5, 3.0), (1.0, 1.0, 1.0)  # skills of three recipes
RATES = ("0.1", "0.01", "0.001")
DIVERGED = "the training loss is nan at epoch 1 batch 2, optim.lr=0.1"


class Sweep(NamedTuple):
    """A plan of three recipes in the current folder, and the seeds that were run of each."""

    path: Path
    started: list[tuple[float, int]]  # rate and seed, in order
    go: Callable[..., None]

    @property
    def plan(self) -> Plan:
        return read_plan(self.path)

    def count_seeds(self) -> list[int]:
        return [sum(rate == float(each) for rate, _ in self.started) for each in RATES]


Compose = Callable[[list[str]], DictConfig]


@pytest.fixture(scope="module")
def composers() -> dict[str, Compose]:
    """By command: Hydra composes once, for it takes its time."""

    def make(command: str) -> Compose:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            base = compose(command, ["data=shapes"])
        return lambda each: OmegaConf.merge(base, OmegaConf.from_dotlist(each))  # type: ignore

    return {command: make(command) for command in ("plan", "train")}


@pytest.fixture
def sweep(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    composers: dict[str, Compose],
    request: pytest.FixtureRequest,
) -> Sweep:
    """`request`: the margin, in points."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOG_DIR", "logs")
    caplog.set_level(logging.INFO)
    margin = getattr(request, "param", 0.5)
    overrides = [[f"optim.lr={rate}", "looks=[3,4]", f"margin={margin}"] for rate in RATES]
    plan(compose_jobs(composers["plan"], overrides, "plan"))
    started: list[tuple[float, int]] = []

    def go(*typed: str, skills: Sequence[float] = NULL, ends: dict[int, str] | None = None) -> None:
        """Follow the plan; `ends`: of seeds of the first recipe, whose runs do not finish."""

        def run(jobs: Sequence[Job]) -> None:
            statuses = set()
            for job in jobs:
                rate, seed = job.config["optim"]["lr"], job.config["seed"]
                started.append((rate, seed))
                status = (ends or {}).pop(seed, "") if rate == float(RATES[0]) else ""
                if find_run_of_job(job):  # it failed before
                    status = "failed"
                else:
                    imitate(job, skills[RATES.index(str(rate))], status)
                statuses.add(status)
            if statuses - {"", "out of time"}:
                raise SystemExit(1)

        follow(Path("plan.yaml"), typed, composers["train"], run)

    return Sweep(Path("plan.yaml"), started, go)


def imitate(job: Job, skill: float, status: str) -> None:
    """The folder of a run that finished, or failed; of some that ended otherwise there is none."""
    if status in ("killed", "out of time"):
        return
    folder = write_run(
        Path("logs"),
        job.config["model"]["name"],
        seed=job.config["seed"],
        skill=skill,
        num_images=1000,
        settings={"optim.lr": job.config["optim"]["lr"]},
        config_hash=job.config_hash,
        group_hash=config_hash(job.config, less=("seed",)),
        code=job.code,
        started_at="2999-01-01T00:00:00+00:00",
    )
    scores = score_predictions(read_predictions(folder / "predictions" / "test.npz"))
    metrics = Record.open(folder).metadata["metrics"] | {"test/f1": scores.macro.f1}
    change_record(folder, metrics=metrics)
    if status:
        change_record(folder, status="failed", error=status)


def compare_pairs(path: str | None = None) -> content.Tested:
    networks, problems = read_runs(p.parent for p in sorted(Path("logs").rglob("run.json")))
    config = {"metric": "accuracy", "margin": None, "suspects": None, "plan": path, "runs": "logs"}
    config |= {"coverage": 0.95, "risk": 0.05}
    recipes, question = group_by_recipe(networks), ask(config, networks, problems)
    pairs = compare_recipes(recipes, question)
    return content.Tested(recipes, pairs, pairs, question, problems)


def compare(path: str | None = None) -> tuple[Planned, dict[str, float]]:
    """The section of a page of all runs, and p by pair, adjusted."""
    tested = compare_pairs(path)
    section = build(tested)
    assert section is not None
    return section, {f"{p.a}, {p.b}": p.p_holm for p in tested.recipe_pairs.pairs}


def test_a_clear_case_stops_at_the_first_look(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    sweep.go(skills=CLEAR)
    assert sweep.count_seeds() == [3, 3, 3]
    assert "further seeds are not needed" in caplog.text
    assert sweep.plan.noted["test_hash"] == f"{4:06d}{1000:010d}"
    assert sweep.plan.is_intact, "what is noted is no edit"
    assert len([*Path("logs").rglob(FILE)]) == 9, "each run carries its plan"
    sweep.go(skills=CLEAR)
    assert len(sweep.started) == 9, "the same command again has nothing to run"


@pytest.mark.parametrize("sweep", [15], indirect=True)
def test_recipes_that_are_alike_stop_as_soon_as_they_are_within_the_margin(sweep: Sweep) -> None:
    sweep.go(skills=NULL)
    assert sweep.count_seeds() == [3, 3, 3]


def test_a_null_case_goes_to_the_last_look_and_the_page_says_so(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    sweep.go(skills=NULL)
    assert sweep.count_seeds() == [4, 4, 4]
    assert "last look" in caplog.text
    section, p = compare()
    assert set(map(tuple, section.looks.values())) == {(3, 4)}
    assert list(section.departures) == []
    assert min(p.values()) > 0.05
    assert "3 and 4 of the planned 3 and 4 seeds" in section.sentences[0]


def test_a_recipe_whose_pairs_are_decided_needs_no_more_seeds(sweep: Sweep) -> None:
    sweep.go(skills=(1.0, 1.0, 3.0))
    assert sweep.count_seeds() == [4, 4, 3]
    section, p = compare()
    assert [len(each) for each in section.looks.values()] == [1, 2, 2]
    assert sorted(value < 0.05 for value in p.values()) == [False, True, True]
    assert list(section.departures) == []


def test_a_run_that_diverged_counts_and_one_that_was_lost_is_repeated(sweep: Sweep) -> None:
    sweep.go(skills=(3.0, 1.0, 1.0), ends={1: DIVERGED, 2: "killed"})
    assert sweep.started.count((0.1, 1)) == 1
    assert sweep.started.count((0.1, 2)) == 2
    section, p = compare()
    [departure] = section.departures
    assert "seed 1 diverged" in departure
    assert len(section.looks["googlenet lr=0.1"]) == 2, "without it no look were complete"
    assert min(p.values()) > 0.05, "a recipe that diverges is not told to be better"


def test_a_recipe_whose_runs_all_diverged_is_in_no_pair_and_that_is_said(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    sweep.go(skills=CLEAR, ends=dict.fromkeys(range(3), DIVERGED))
    assert sweep.count_seeds() == [3, 3, 3]
    assert "optim.lr=0.1: every run diverged" in caplog.text
    section, p = compare()
    said = " ".join(section.departures)
    assert [f"seed {n} diverged" in said for n in range(4)] == [True, True, True, False]
    assert len(p) == 1


def test_a_run_that_failed_otherwise_stops_the_plan_until_it_is_mended(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        sweep.go(skills=CLEAR, ends={1: "out of memory"})
    assert "further seeds" not in caplog.text
    [failed] = [p.parent for p in Path("logs").rglob("run.json") if "memory" in p.read_text()]
    change_record(failed, status="finished", error=None)
    sweep.started.clear()
    sweep.go(skills=CLEAR)
    assert sweep.count_seeds() == [0, 0, 0], "all had ended"
    assert "further seeds are not needed" in caplog.text


def test_a_budget_that_is_over_leaves_the_rest_to_the_same_command(sweep: Sweep) -> None:
    sweep.go(skills=CLEAR, ends={0: "out of time"})
    section, p = compare()
    assert sorted(map(len, section.looks.values())) == [0, 1, 1], "the page knows of the plan"
    assert len(p) == 1, "of three pairs"
    sweep.go(skills=CLEAR)
    assert sweep.started == [*sweep.started[:9], (0.1, 0)]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("seed=3", "seed=3: the plan sets it"),
        ("optim.lr=0.5", "optim.lr=0.5: the plan sets it"),
        ("data.batch_size=7", "^data.batch_size=7: "),
        ("fresh=true", "fresh=true: "),
    ],
)
def test_what_contradicts_the_plan_is_refused_by_name(sweep: Sweep, typed: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        sweep.go("data.num_workers=0", typed)
    assert sweep.started == []


def test_a_sweep_besides_a_plan_is_refused() -> None:
    assert find_plan([["plan=a.yaml"]]) == Path("a.yaml")
    with pytest.raises(UserError, match=r"optim.lr=1,2: "):
        find_plan([["plan=a.yaml", "optim.lr=1"], ["plan=a.yaml", "optim.lr=2"]])


def test_departures_from_a_plan_are_said_on_the_page(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    sweep.go(skills=CLEAR)
    usual = compare()[1]
    job_of = {"optim.lr": 0.1}
    group = sweep.plan.recipes[0].group_hash
    extra = {"settings": job_of, "group_hash": group, "started_at": "2020-01-01T00:00:00+00:00"}
    write_run(Path("logs"), seed=9, skill=0.5, num_images=1000, **extra)
    write_run(Path("logs"), "alexnet", skill=0.5, num_images=1000)
    section, p = compare()
    assert p == usual, "the p values are those of the planned look"
    said = " ".join(section.departures)
    for words in ("alexnet: not in the plan", "1 of its 10 runs began before", "0, 1, 2 and 9"):
        assert words in said
    assert said.count("without a p") == 2, "two pairs have that recipe"
    tested = compare_pairs()
    parts = uncertainty.build(tested)
    assert parts is not None
    assert {each.num_seeds for each in parts.recipes} == {3}, "those of the look"
    share = look_weights([3, 4])[0]
    assert [pair.level for pair in tested.recipe_pairs.pairs] == pytest.approx(
        [1 - 0.05 / 3 * share] * 3
    )
    made = sweep.plan
    edited = made.__class__(**{**vars(made), "margin": 5, "noted": {"test_hash": "other"}})
    write_plan(edited, Path("edited.yaml"))
    said = " ".join(compare("edited.yaml")[0].departures)
    assert "edited" in said
    assert "test_hash" in said
    described = check_verdict(compare()[0].describe(), "plan")
    assert described["looks"] == [3, 4]
    assert described["departures"]


def test_the_commands_of_the_guide_plan_sweep_and_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/plan.md, whose trainings are imitated; what it shows is what is printed."""
    guide = (CONFIGS.parent / "docs" / "plan.md").read_text()
    commands = re.findall("^    (?:triptych |python )([^ \n]+)(.*)$", guide, re.MULTILINE)
    assert [name for name, _ in commands] == ["plan", "train.py", "compare.py"]
    [(_, typed), (_, sweep), _] = commands
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOG_DIR", "logs")
    models, *rest = typed.split()
    each = [[f"model={model}", *rest] for model in models.partition("=")[2].split(",")]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        plan(compose_jobs(partial(compose, "plan"), each, "plan"))
        shown = capsys.readouterr().out
        assert shown in guide

        def run(jobs: Sequence[Job]) -> None:
            for job in jobs:
                imitate(job, 1.0 + len(job.config["model"]["name"]), "")

        @cache
        def compose_model(model: str) -> DictConfig:
            return compose("train", [model])

        def compose_each(each: list[str]) -> Any:
            model, seed = each
            return OmegaConf.merge(compose_model(model), OmegaConf.from_dotlist([seed]))

        follow(find_plan([sweep.split()[1:]]), [], compose_each, run)
    section, _ = compare()
    assert section.describe()["looks"] == [3, 5, 10, 20]
    assert [*section.departures] == ["1,000 test images, 10,000 were planned."]


def test_a_single_run_and_a_sweep_that_does_not_wait_take_no_plan() -> None:
    with pytest.raises(UserError, match=r"plan=plan\.yaml: must be null"):
        composed("train", "data=shapes", plan="plan.yaml")
    launcher = SlurmLauncher("local", "logs", 1, OmegaConf.create({}), 1, detach=True)
    with pytest.raises(UserError, match="detach=true: a plan"):
        launcher.launch([["plan=plan.yaml"]], 0)
