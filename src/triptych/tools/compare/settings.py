"""The settings of this command, by the keys of its YAML."""

from triptych.config import FLAG, FOLDERS, PATH, Rule

RULES: dict[str, Rule] = {"runs": FOLDERS, "out": PATH.or_null(), "allow_mixed": FLAG}
