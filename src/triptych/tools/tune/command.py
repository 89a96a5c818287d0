"""Search the settings that suit one network, by its `checkpoint.monitor`, on validation images
alone; or find its rate, or the largest batch, by a short training (`finders`).

Every trial is a training of its own. The study counts its trials, pruned ones included, however
many workers share it: so networks get equal budgets.
"""

import logging
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from triptych.config import Config
from triptych.distributed.processes import copy_env
from triptych.errors import UserError
from triptych.tools.tune.settings import RULES, check_method, recipe_path

if TYPE_CHECKING:
    from triptych.tools.sweep.jobs import Job

log = logging.getLogger(__name__)


def tune(config: Config, overrides: list[str]) -> None:
    """Run trials until the budget is spent, then write the best settings as a recipe; as often as
    there are `searches`. Or find what `search.method` names.

    Raises UserError where the search cannot be started or resumed as requested.
    """
    if config["minutes"]:
        raise UserError("minutes: a search takes timeout_minutes=")
    if config["num_trials"] is None and config["seconds"] is None:
        raise UserError("num_trials=null: a search needs a budget; give seconds=")
    if config["resume"]:
        raise UserError("resume: a search is resumed by its own command, given again")
    training = {name: value for name, value in config.items() if name not in RULES}
    # What imports torch comes after the settings are checked.
    if "method" in config["search"]:
        check_method(config["search"])
        from triptych.tools.tune.finders import find

        return find(config, training, overrides)
    if find_spec("optuna") is None:
        raise UserError("tune: Optuna is not installed; pip install 'optuna>=4'")
    from triptych.tools.tune.space import read_space

    space = read_space(config["search"], training)
    from triptych.tools.tune.search import search

    for each in list_searches(config):
        search(each, training, space, overrides)
    log_command([config])


def list_searches(config: Config) -> list[Config]:
    """The config of each search: the first has the study's own name, the others a number, too."""
    study, seed = config["study"], config["sampler_seed"]
    names = [study, *(f"{study}_search{number}" for number in range(1, config["searches"]))]
    return [config | {"study": n, "sampler_seed": seed + k} for k, n in enumerate(names)]


def tune_each(jobs: "Sequence[Job]") -> None:
    """Tune one network after the other, each in a process of its own; exits with 1 if one fails.

    Raises UserError where two would share a study.
    """
    studies = [(job.config["log_dir"], job.config["study"]) for job in jobs]
    for place, study in enumerate(studies):
        if study in studies[:place] and "method" not in jobs[place].config["search"]:
            raise UserError(
                f"study={study[1]}: two jobs of -m have it, and would share its trials\n"
                "give each its own, study='${model.name}_<setting>'; searches=3 repeats a search"
            )
    program = [sys.executable, "-m", "triptych", "tune"]
    ended = [subprocess.run([*program, *job.overrides], env=copy_env()).returncode for job in jobs]
    if any(ended):
        raise SystemExit(1)
    log_command([job.config for job in jobs])


def log_command(configs: Sequence[Config]) -> None:
    """Say how the winners of several searches are trained, those that have a recipe."""
    searches = [s for c in configs if "method" not in c["search"] for s in list_searches(c)]
    names = [path.stem for path in map(recipe_path, searches) if path.exists()]
    if len(names) > 1:
        log.info("next  python train.py -m experiment=%s", ",".join(names))
