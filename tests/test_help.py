import re

import pytest

from triptych.cli import CONFIGS, format_help, list_commands
from triptych.config import RULES, extends_training, own_rules


@pytest.mark.parametrize("verb", list_commands()[1:])
def test_help_names_every_setting_of_a_command_by_what_is_typed(verb: str) -> None:
    said = format_help(verb)
    named = set(re.findall(r"^  ([\w.]+)(?:: |=)", said, flags=re.MULTILINE))
    own = {name.removesuffix(".types") for name in own_rules(verb)}
    assert own <= named
    of_a_training = {path.name for path in CONFIGS.iterdir()} | RULES.keys()
    assert named - own <= (of_a_training if extends_training(verb) else set())


def test_a_default_out_of_the_environment_is_said_in_words() -> None:
    assert "  runs: logs, or $LOG_DIR  # a folder" in format_help("compare")
    assert "${" not in format_help("compare")
