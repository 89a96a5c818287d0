import re

import pytest

from triptych.config import RULES, TRAINING
from triptych.usage import CONFIGS, usage
from triptych.verbs import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_every_setting_of_a_command_by_what_is_typed(verb: str) -> None:
    said = usage(verb)
    named = set(re.findall(r"^  ([\w.]+)(?:: |=)", said, flags=re.MULTILINE))
    own = {name.removesuffix(".types") for name in VERBS[verb]}
    assert own <= named
    of_a_training = {path.name for path in CONFIGS.iterdir()} | RULES.keys()
    assert named - own <= (of_a_training if verb in TRAINING else set())


def test_a_default_out_of_the_environment_is_said_in_words() -> None:
    assert "  runs: logs, or $LOG_DIR  # a folder" in usage("compare")
    assert "${" not in usage("compare")
