"""Jobs: frozen and checked, all before the first starts."""

import json
from collections.abc import Iterator

import pytest
from hydra import compose, initialize_config_dir

from hydra_plugins.triptych.processes import ProcessLauncher
from triptych.config import CONFIGS, check_config
from triptych.errors import UserError
from triptych.tools.sweep.jobs import Job, compose_jobs, labels


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def frozen(*overrides: list[str]) -> list[Job]:
    return compose_jobs(lambda job: compose("train", job), overrides)


def test_every_job_has_the_config_of_its_overrides() -> None:
    first, second = frozen(["model=alexnet", "seed=1"], ["model=resnet50", "seed=2"])
    assert (first.config["model"]["name"], first.config["seed"]) == ("alexnet", 1)
    assert (second.config["model"]["name"], second.config["seed"]) == ("resnet50", 2)
    assert first.overrides == ["model=alexnet", "seed=1"]


def test_jobs_share_nothing_and_keep_the_environment_they_were_asked_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOG_DIR", "before")
    first, second = frozen(["seed=1"], ["seed=2"])
    monkeypatch.setenv("LOG_DIR", "after")
    first.config["trainer"]["max_epochs"] = 1
    assert second.config["trainer"]["max_epochs"] == 40
    assert second.config["log_dir"] == "before"
    assert "${" not in json.dumps(second.config)


@pytest.mark.parametrize(
    "wrong",
    [
        ["seed=abc"],
        ["optim.lr=-1", "seed=-1", "data.batch_size=0"],
        ["model=nope"],
        ["optim.learning_rate=1"],
        ["log_dir=${oc.env:NOT_SET_ANYWHERE}"],
        ["experiment=demo", "model=torchvision"],
    ],
)
def test_a_refusal_names_the_job_in_its_last_line_of_three(wrong: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        frozen(["seed=0"], wrong)
    lines = str(refused.value).splitlines()
    assert lines[-1] == f"in the job {' '.join(wrong)}"
    assert 2 <= len(lines) <= 3


def test_two_folders_of_photos_that_have_one_name_are_not_taken_for_one() -> None:
    a, b = (["data=folder", f"data.root={place}/photos"] for place in "ab")
    with pytest.raises(
        UserError, match=r"^data\.root=b/photos: data\.name=photos is also that of a/"
    ):
        frozen(a, b)
    frozen(a, [*b, "data.name=others"])
    frozen(a, a)


def test_what_is_asked_of_the_sweep_is_no_part_of_the_job() -> None:
    usual, asked = frozen(["seed=1"], ["seed=1", "fresh=true", "++retry_failed=true"])
    assert (usual.fresh, usual.retry_failed) == (False, False)
    assert (asked.fresh, asked.retry_failed) == (True, True)
    assert (asked.overrides, asked.config) == (usual.overrides, usual.config)
    assert asked.config_hash == usual.config_hash


@pytest.mark.parametrize("name", ["fresh", "retry_failed"])
def test_a_single_run_is_not_asked_what_a_sweep_is(name: str) -> None:
    config = frozen(["seed=1"])[0].config | {name: True}
    with pytest.raises(UserError, match=rf"{name}=true: must be false, or true in a sweep \(-m\)"):
        check_config(config)


def test_what_is_asked_of_the_sweep_is_true_or_false() -> None:
    with pytest.raises(UserError, match="fresh=maybe: must be false, or true in a sweep"):
        frozen(["fresh=maybe"])


def test_jobs_are_named_by_what_they_do_not_share() -> None:
    both = ["trainer.max_epochs=1"]
    named = labels(frozen(["model=alexnet", "seed=0", *both], ["model=alexnet", "seed=1", *both]))
    assert named == ["seed=0", "seed=1"]
    assert labels(frozen(["model=alexnet", "seed=0"])) == ["model=alexnet seed=0"]
    assert labels(frozen([])) == ["as configured"]


def test_a_sweep_that_torchrun_started_on_every_rank_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(UserError, match="torchrun"):
        ProcessLauncher(num_jobs=1).launch([["seed=0"], ["seed=1"]], 0)
