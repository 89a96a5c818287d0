"""Search the settings that suit one network, by its accuracy on validation images alone.

Every trial is a training of its own. The study counts its trials, pruned ones included, however
many workers share it: so networks get equal budgets.
"""

from importlib.util import find_spec

from triptych import Refused
from triptych.config import Config
from triptych.door import open_door
from triptych.search.space import read_space
from triptych.verbs import VERBS


def tune(config: Config, overrides: list[str]) -> None:
    """Work on the study until its trials are used up; then write the best settings as a recipe.

    Raises Refused where the search cannot be begun or resumed as asked.
    """
    if find_spec("optuna") is None:
        raise Refused("tune: Optuna is not installed; pip install 'optuna>=4'")
    if config["resume"]:
        raise Refused("resume: a search is resumed by its own command, given again")
    training = {name: value for name, value in config.items() if name not in VERBS["tune"]}
    space = read_space(config["search"], training)

    from triptych.search.work import search  # torch and Optuna, after what can be refused

    search(config, training, space, overrides)


if __name__ == "__main__":
    open_door("tune", "triptych.tune:tune")
