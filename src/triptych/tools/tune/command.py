"""Search the settings that suit one network, by its `checkpoint.monitor`, on validation images
alone; or find its rate, or the largest batch, by a short training (`finders`).

Every trial is a training of its own. The study counts its trials, pruned ones included, however
many workers share it: so networks get equal budgets.
"""

from importlib.util import find_spec

from triptych.config import Config
from triptych.errors import UserError
from triptych.tools.tune.settings import RULES, check_method


def tune(config: Config, overrides: list[str]) -> None:
    """Run trials until the study has all of them; then write the best settings as a recipe. Or find
    what `search.method` names.

    Raises UserError where the search cannot be started or resumed as requested.
    """
    is_short = "method" in config["search"]
    if is_short:
        check_method(config["search"])
    elif find_spec("optuna") is None:
        raise UserError("tune: Optuna is not installed; pip install 'optuna>=4'")
    if config["minutes"]:
        raise UserError("minutes: a search takes timeout_minutes=")
    if config["resume"]:
        raise UserError("resume: a search is resumed by its own command, given again")
    training = {name: value for name, value in config.items() if name not in RULES}
    if is_short:
        from triptych.tools.tune.finders import find

        return find(config, training, overrides)
    from triptych.tools.tune.space import read_space

    space = read_space(config["search"], training)

    from triptych.tools.tune.search import search  # imports torch: after the settings are checked

    search(config, training, space, overrides)
